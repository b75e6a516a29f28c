"""The adapters of `varlen_attention`, with stand-ins for the libraries that need a GPU."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from libraries import FlashAttention, stand_in
from packs import assert_same, bounds, randn
from torch import Tensor
from torch.nn.attention import varlen as torch_module

from hnet_kernels import varlen_attention
from hnet_kernels.providers import installed, provider
from hnet_kernels.varlen_attention import providers
from hnet_kernels.varlen_attention.providers import block_mask, face

LENGTHS = [9, 1, 20]
MODES = [(-1, True), (4, True), (-1, False), (4, False), (0, False)]
every_mode = pytest.mark.parametrize(("window", "causal"), MODES)


@contextmanager
def library(name: str) -> Iterator[FlashAttention]:
    """`name` as if it were installed: flash-attn-4, flash-attn, or PyTorch of some release."""
    fake = FlashAttention()
    if name == "flash-attn-4":
        with stand_in("flash_attn.cute", flash_attn_varlen_func=fake.version_4):
            yield fake
    elif name == "flash-attn":
        with stand_in("flash_attn.flash_attn_interface"):
            sys.modules["flash_attn"].flash_attn_varlen_func = fake.version_2  # type: ignore[attr-defined]
            yield fake
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch_module, "varlen_attn", getattr(fake, name))
            providers.varlen_options.cache_clear()
            yield fake
        providers.varlen_options.cache_clear()


def provider_of(name: str) -> str:
    return "torch-varlen" if name.startswith("torch_") else name


@every_mode
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("name", ["flash-attn-4", "flash-attn", "torch_2_11", "torch_2_13"])
def test_adapter_gives_what_the_cpu_gives(name, kv_heads, window, causal):
    cu_seqlens = bounds(LENGTHS)

    def through_library(*t: Tensor) -> Tensor:
        with library(name), provider("varlen_attention", provider_of(name)):
            return varlen_attention(*t, cu_seqlens, window=window, causal=causal)

    inputs = [randn(30, heads, 8) for heads in (2, kv_heads, kv_heads)]
    own = lambda *t: varlen_attention(*t, cu_seqlens, window=window, causal=causal)  # noqa: E731
    assert_same(through_library, own, inputs, torch.float64)


@pytest.mark.parametrize("causal", [True, False])
def test_first_release_of_varlen_attn_has_no_window(causal):
    cu_seqlens, q = bounds(LENGTHS), randn(30, 2, 8)
    with library("torch_2_10"), provider("varlen_attention", "torch-varlen"):
        out = varlen_attention(q, q, q, cu_seqlens, causal=causal)
        with pytest.raises(ValueError, match="no window"):
            varlen_attention(q, q, q, cu_seqlens, window=3, causal=causal)
        tensors = on_gpu(torch.bfloat16, 64)
        assert providers.suits_torch_varlen(*tensors, -1, causal, None)
        assert not providers.suits_torch_varlen(*tensors, 3, causal, None)
    torch.testing.assert_close(out, varlen_attention(q, q, q, cu_seqlens, causal=causal))


def test_longest_document_is_measured_once_for_a_pack_or_given():
    cu_seqlens, q = bounds(LENGTHS), randn(30, 2, 8)
    measured = []
    with library("flash-attn") as fake, provider("varlen_attention", "flash-attn"):
        with pytest.MonkeyPatch.context() as patch:
            diff = Tensor.diff
            patch.setattr(Tensor, "diff", lambda t: measured.append(1) or diff(t))
            for _ in range(3):
                varlen_attention(q, q, q, cu_seqlens)
        varlen_attention(q, q, q, cu_seqlens, max_seqlen=25)
    assert [call["max_seqlen"] for call in fake.calls] == [20, 20, 20, 25]
    assert len(measured) == 1


@pytest.mark.parametrize("name", ["flash-attn-4", "flash-attn"])
def test_determinism_that_pytorch_is_asked_for_is_passed_on(name):
    q = randn(30, 2, 8)
    with library(name) as fake, provider("varlen_attention", name):
        varlen_attention(q, q, q, bounds(LENGTHS))
        torch.use_deterministic_algorithms(True)
        try:
            varlen_attention(q, q, q, bounds(LENGTHS))
        finally:
            torch.use_deterministic_algorithms(False)
    assert [call["deterministic"] for call in fake.calls] == [False, True]


def test_this_pytorch_takes_the_arguments_that_the_adapter_gives():
    q, cu_seqlens = randn(30, 2, 8), bounds(LENGTHS)
    options = dict.fromkeys({"is_causal", "window_size", "enable_gqa"} & providers.varlen_options())
    inspect.signature(torch_module.varlen_attn).bind(q, q, q, cu_seqlens, cu_seqlens, 20, 20, **options)
    assert {"is_causal", "window_size"} & set(options)


def on_gpu(dtype: torch.dtype, width: int) -> tuple[SimpleNamespace, ...]:
    """q, k, v, cu_seqlens as far as a choice looks at them."""
    t = SimpleNamespace(is_cuda=True, dtype=dtype, shape=(30, 2, width), device="cuda")
    return t, t, t, t


HALF, FULL, DOUBLE = torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize(
    ("present", "dtype", "width", "capability", "expected"),
    [
        ({"flash-attn-4", "flash-attn"}, HALF, 64, (9, 0), "flash-attn-4"),
        ({"flash-attn-4", "flash-attn"}, HALF, 64, (10, 0), "flash-attn-4"),
        ({"flash-attn-4", "flash-attn"}, HALF, 64, (8, 0), "flash-attn"),
        ({"flash-attn-4", "flash-attn"}, HALF, 192, (9, 0), "flash-attn"),
        ({"flash-attn"}, torch.float16, 20, (8, 0), "flash-attn"),
        ({"flash-attn"}, HALF, 64, (7, 5), "torch-varlen"),
        ({"flash-attn-4"}, HALF, 64, (8, 0), "torch-varlen"),
        (set(), HALF, 64, (9, 0), "torch-varlen"),
        (set(), HALF, 20, (9, 0), "flex"),
        (set(), HALF, 512, (9, 0), "flex"),
        ({"flash-attn-4", "flash-attn"}, FULL, 64, (9, 0), "flex"),
        ({"flash-attn-4", "flash-attn"}, FULL, 8, (9, 0), "torch"),
        ({"flash-attn-4", "flash-attn"}, DOUBLE, 64, (9, 0), "torch"),
    ],
)
def test_order_of_choice_on_a_gpu(monkeypatch, present, dtype, width, capability, expected):
    monkeypatch.setattr(providers, "capability", lambda device: capability[0])
    known = {"flash-attn-4": "flash_attn.cute", "flash-attn": "flash_attn.flash_attn_interface"}
    absent = {module for name, module in known.items() if name not in present}
    monkeypatch.setattr("hnet_kernels.providers._found", lambda module: module not in absent)
    assert face.choose(*on_gpu(dtype, width), -1, True, None).name == expected


@pytest.mark.parametrize("name", ["flash-attn-4", "flash-attn"])
def test_missing_library_is_named(name):
    modules = face.providers[name].modules
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hnet_kernels.providers._found", lambda module: not module.startswith("flash_attn"))
        assert not installed(modules)
        with pytest.raises(ImportError, match=f"{name} needs flash_attn.*pip install.*{name}"):
            provider("varlen_attention", name).__enter__()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@every_mode
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("lengths", [LENGTHS, [130, 1, 200], [128, 128]], ids=str)
def test_flex_attention_gives_what_the_cpu_gives(lengths, kv_heads, window, causal):
    cu_seqlens = bounds(lengths)
    q, k, v = (randn(sum(lengths), heads, 16) for heads in (2, kv_heads, kv_heads))
    with torch.no_grad(), provider("varlen_attention", "flex"):
        out = varlen_attention(q, k, v, cu_seqlens, window=window, causal=causal)
    torch.testing.assert_close(out, varlen_attention(q, k, v, cu_seqlens, window=window, causal=causal))


@pytest.mark.parametrize(("window", "causal"), [*MODES, (127, True), (128, True), (129, False), (300, False)])
@pytest.mark.parametrize("lengths", [LENGTHS, [130, 1, 200], [128, 128], [1] * 130, [600], [90, 400, 300]], ids=str)
def test_blocks_of_flex_attention_are_those_that_hold_a_visible_pair(lengths, window, causal):
    num_units = sum(lengths)
    number = torch.arange(num_units)
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    distance = number[:, None] - number
    visible = document[:, None] == document
    if causal:
        visible &= distance >= 0
    if window >= 0:
        visible &= distance.abs() <= window
    padding = -num_units % providers.FLEX_BLOCK
    padded = torch.nn.functional.pad(visible, (0, padding, 0, padding))
    expected = padded.unflatten(0, (-1, providers.FLEX_BLOCK)).unflatten(2, (-1, providers.FLEX_BLOCK)).any(3).any(1)
    mask = block_mask(bounds(lengths), num_units, window, causal)
    assert mask.seq_lengths == (num_units, num_units)
    assert torch.equal(mask.to_dense()[0, 0].bool(), expected)


def test_flex_mask_is_made_once_for_a_pack():
    cu_seqlens, q = bounds(LENGTHS), randn(30, 2, 16)
    with pytest.MonkeyPatch.context() as patch:
        made = []
        patch.setattr(providers, "block_mask", lambda *t: made.append(t) or block_mask(*t))
        with torch.no_grad(), provider("varlen_attention", "flex"):
            for window in (-1, -1, 4, -1, 4):
                varlen_attention(q, q, q, cu_seqlens, window=window)
    assert len(made) == 2
