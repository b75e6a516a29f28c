import naive
import pytest
import torch
from packs import assert_same, both_precisions, bounds, every_pack, randn

from hnet_kernels import causal_conv1d


@every_pack
@both_precisions
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_agrees_with_a_loop_over_units(lengths, dtype, taps):
    cu_seqlens = bounds(lengths)
    assert_same(
        lambda *t: causal_conv1d(*t, cu_seqlens),
        lambda *t: naive.causal_conv1d(*t, cu_seqlens),
        [randn(sum(lengths), 6), randn(6, taps), randn(6)],
        dtype,
    )


def test_agrees_where_a_document_has_several_blocks():
    # 2^14 channels make blocks of 16 rows.
    cu_seqlens = bounds([37, 3])
    assert_same(
        lambda *t: causal_conv1d(*t, cu_seqlens),
        lambda *t: naive.causal_conv1d(*t, cu_seqlens),
        [randn(40, 2**14), randn(2**14, 4), randn(2**14)],
        torch.float64,
    )


def test_taps_do_not_reach_the_document_before():
    x, weight, bias = randn(10, 3), randn(3, 4), randn(3)
    before = causal_conv1d(x, weight, bias, bounds([6, 4]))[6:]
    x[:6] = torch.nan
    torch.testing.assert_close(causal_conv1d(x, weight, bias, bounds([6, 4]))[6:], before, rtol=0, atol=0)
