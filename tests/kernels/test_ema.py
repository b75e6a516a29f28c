import naive
import pytest
import torch
from packs import assert_same, both_precisions, bounds, every_pack, randn

from hnet_kernels import ema

# Boundaries have P > 1/2; forced ones and other routers do not, and the clamp has two ends.
RANGES = [(0.5, 1.0), (0.0, 0.02), (0.0, 1.0)]


@every_pack
@both_precisions
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_agrees_with_a_loop_over_chunks(lengths, dtype, low, high):
    cu_seqlens = bounds(lengths)
    prob = low + (high - low) * torch.rand(sum(lengths), dtype=torch.float64)
    prob[cu_seqlens[:-1].long()] = 1.0
    prob[-1] = 0.0
    assert_same(
        lambda *t: ema(*t, cu_seqlens),
        lambda *t: naive.ema(*t, cu_seqlens),
        [randn(sum(lengths), 3), prob],
        dtype,
    )


def test_first_chunk_of_a_document_is_clamped_too():
    z = torch.ones(3, 1, dtype=torch.float64)
    smoothed = ema(z, torch.ones(3, dtype=torch.float64), bounds([2, 1]))
    assert smoothed[0].item() == pytest.approx(1 - 1e-4)
    assert smoothed[2].item() == pytest.approx(1 - 1e-4)


def test_documents_do_not_reach_each_other():
    z, prob = randn(30, 3), torch.full((30,), 0.01, dtype=torch.float64)
    before = ema(z, prob, bounds([20, 10]))[20:]
    z[:20] = 1e9
    torch.testing.assert_close(ema(z, prob, bounds([20, 10]))[20:], before, rtol=0, atol=0)
