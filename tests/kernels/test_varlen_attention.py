import naive
import pytest
import torch
from packs import assert_same, both_precisions, bounds, every_pack, randn

from hnet_kernels import varlen_attention
from hnet_kernels.varlen_attention import reference

WINDOWS = [-1, 0, 1, 7, 32, 50, 300]


@every_pack
@both_precisions
@pytest.mark.parametrize("window", WINDOWS)
def test_agrees_with_a_loop_over_units(lengths, dtype, window):
    cu_seqlens = bounds(lengths)
    inputs = [randn(sum(lengths), 2, 8) for _ in range(3)]
    assert_same(
        lambda *t: varlen_attention(*t, cu_seqlens, window=window),
        lambda *t: naive.varlen_attention(*t, cu_seqlens, window),
        inputs,
        dtype,
    )


@every_pack
@pytest.mark.parametrize("window", [-1, 7, 50])
def test_accelerator_form_agrees_with_the_cpu_form(lengths, window):
    cu_seqlens = bounds(lengths)
    inputs = [randn(sum(lengths), 2, 8) for _ in range(3)]
    assert_same(
        lambda *t: reference.attend(*t, cu_seqlens, window),
        lambda *t: varlen_attention(*t, cu_seqlens, window=window),
        inputs,
        torch.float64,
    )


@pytest.mark.parametrize("window", [-1, 7])
def test_slices_of_one_projection_need_no_copy_by_the_caller(window):
    cu_seqlens = bounds([40, 25])
    projection = randn(65, 3, 2, 8)
    assert_same(
        lambda t: varlen_attention(*t.unbind(1), cu_seqlens, window=window),
        lambda t: naive.varlen_attention(*t.unbind(1), cu_seqlens, window),
        [projection],
        torch.float64,
    )


@pytest.mark.parametrize("window", [-1, 7])
def test_documents_do_not_see_each_other(window):
    cu_seqlens = bounds([40, 25])
    q, k, v = (randn(65, 2, 8) for _ in range(3))
    before = varlen_attention(q, k, v, cu_seqlens, window=window)[40:]
    k[:40], v[:40] = 1e6, 1e6
    torch.testing.assert_close(varlen_attention(q, k, v, cu_seqlens, window=window)[40:], before, rtol=0, atol=0)


def test_memory_of_a_window_is_linear_in_units():
    mask = reference.window_mask(bounds([3000, 1096]), 4096, 64)
    assert mask.numel() == 4096 * (64 + reference.QUERY_BLOCK)


def test_bad_window_is_named():
    q = randn(4, 1, 8)
    with pytest.raises(ValueError, match="window must be -1"):
        varlen_attention(q, q, q, bounds([4]), window=-2)
