import naive
import torch
from packs import assert_same, both_precisions, bounds, every_pack, randn

from hnet_kernels import chunk


def random_mask(lengths: list[int]) -> torch.Tensor:
    mask = torch.rand(sum(lengths)) > 0.7
    mask[bounds(lengths)[:-1].long()] = True
    return mask


@every_pack
@both_precisions
def test_chunks_and_their_gradient(lengths, dtype):
    cu_seqlens, mask = bounds(lengths), random_mask(lengths)
    assert_same(
        lambda x: chunk(x, mask, cu_seqlens)[0],
        lambda x: naive.chunk(x, mask, cu_seqlens)[0],
        [randn(sum(lengths), 3)],
        dtype,
    )


@every_pack
def test_bounds_and_index_of_chunks(lengths):
    cu_seqlens, mask = bounds(lengths), random_mask(lengths)
    _, chunk_cu_seqlens, chunk_index, _ = chunk(randn(sum(lengths), 3), mask, cu_seqlens)
    _, want_bounds, want_index = naive.chunk(randn(sum(lengths), 3), mask, cu_seqlens)
    assert chunk_cu_seqlens.dtype == torch.int32 and chunk_cu_seqlens.tolist() == want_bounds
    assert chunk_index.dtype == torch.int64 and chunk_index.tolist() == want_index
