from contextlib import ExitStack
from types import SimpleNamespace

import naive
import pytest
import torch
from libraries import causal_conv1d_fn, fla_causal_conv1d, stand_in
from packs import assert_same, both_precisions, bounds, every_pack, randn

from hnet_kernels import causal_conv1d
from hnet_kernels.causal_conv1d.providers import face
from hnet_kernels.providers import provider


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


DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
LIBRARIES = {
    "causal-conv1d": [
        ("causal_conv1d.causal_conv1d_interface", {}),
        ("causal_conv1d", {"causal_conv1d_fn": causal_conv1d_fn}),
    ],
    "flash-linear-attention": [("fla.modules.causal_conv1d", {"causal_conv1d": fla_causal_conv1d})],
}


@pytest.mark.parametrize("device", DEVICES)
@every_pack
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_plain_definition_agrees_with_a_loop_over_units(lengths, taps, device):
    cu_seqlens = bounds(lengths)

    def plain(*t):
        with provider("causal_conv1d", "torch"):
            return causal_conv1d(*(part.to(device) for part in t), cu_seqlens.to(device)).to("cpu")

    inputs = [randn(sum(lengths), 6), randn(6, taps), randn(6)]
    assert_same(plain, lambda *t: naive.causal_conv1d(*t, cu_seqlens), inputs, torch.float64)


@pytest.mark.parametrize("width", [16, 19], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries_are_given_what_makes_them_agree_with_our_op(name, width):
    cu_seqlens = bounds([9, 1, 30])

    def first_channels(wide, *t):
        return causal_conv1d(wide[:, :8], *t, cu_seqlens)

    def through_library(*t):
        with ExitStack() as stack:
            for module, contents in LIBRARIES[name]:
                stack.enter_context(stand_in(module, **contents))
            stack.enter_context(provider("causal_conv1d", name))
            return first_channels(*t)

    assert_same(through_library, first_channels, [randn(40, width), randn(8, 4), randn(8)], torch.float64)


@pytest.mark.parametrize(
    ("present", "dtype", "shape", "taps", "expected"),
    [
        ({"causal_conv1d", "fla"}, torch.bfloat16, (100, 64), 4, "causal-conv1d"),
        ({"causal_conv1d", "fla"}, torch.float32, (100, 64), 2, "causal-conv1d"),
        ({"causal_conv1d", "fla"}, torch.bfloat16, (100, 64), 5, "flash-linear-attention"),
        ({"causal_conv1d", "fla"}, torch.bfloat16, (100, 60), 4, "flash-linear-attention"),
        ({"causal_conv1d", "fla"}, torch.bfloat16, (2**25, 64), 4, "flash-linear-attention"),
        ({"causal_conv1d"}, torch.bfloat16, (100, 64), 5, "torch"),
        ({"causal_conv1d", "fla"}, torch.float64, (100, 64), 4, "torch"),
        (set(), torch.bfloat16, (100, 64), 4, "torch"),
    ],
)
def test_order_of_choice_on_a_gpu(monkeypatch, present, dtype, shape, taps, expected):
    monkeypatch.setattr("hnet_kernels.providers._found", lambda module: module.split(".")[0] in present)
    x = SimpleNamespace(is_cuda=True, dtype=dtype, shape=shape, stride=lambda axis: (shape[1], 1)[axis])
    weight = SimpleNamespace(shape=(shape[1], taps))
    assert face.choose(x, weight, None, None).name == expected


@pytest.mark.parametrize("name", LIBRARIES)
def test_missing_library_is_named(monkeypatch, name):
    monkeypatch.setattr("hnet_kernels.providers._found", lambda module: False)
    with pytest.raises(ImportError, match=f"pip install.*{name}"):
        provider("causal_conv1d", name).__enter__()
