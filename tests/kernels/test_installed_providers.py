"""Every provider that is really installed and suits this machine's device, in the precision it is made for."""

from collections.abc import Callable, Sequence

import pytest
import torch
from packs import bounds, randn, results
from torch import Tensor

from hnet_kernels import causal_conv1d, gated_rms_norm, providers, rms_norm, ssd_scan, varlen_attention
from hnet_kernels.cross_entropy.op import cross_entropy_sum
from hnet_kernels.providers import installed, provider
from hnet_kernels.rotary.op import rotate
from hnet_kernels.swiglu.op import swiglu

LENGTHS = [300, 1, 130, 64]
UNITS = sum(LENGTHS)
ANGLES = torch.linspace(-4, 9, UNITS * 16).view(UNITS, 1, 16)
LABELS = torch.arange(UNITS) % 256
HALF, FULL = torch.bfloat16, torch.float32


def scan_inputs() -> list[Tensor]:
    dt, decay = 10 ** (-3 * torch.rand(UNITS, 4)), -1 - 15 * torch.rand(4)
    return [randn(UNITS, 4, 64), dt, decay, randn(UNITS, 64), randn(UNITS, 64), randn(4)]


def attention(window: int, causal: bool) -> Callable[..., Tensor]:
    return lambda q, k, v, cu: varlen_attention(q, k, v, cu, window=window, causal=causal)


# op: (its runs on inputs and cu_seqlens, its inputs, their dtypes)
OPS = {
    "varlen_attention": (
        [attention(-1, True), attention(100, True), attention(-1, False), attention(100, False)],
        lambda: [randn(UNITS, heads, 64) for heads in (4, 2, 2)],
        [HALF] * 3,
    ),
    "ssd_scan": ([ssd_scan], scan_inputs, [HALF, FULL, FULL, HALF, HALF, FULL]),
    "causal_conv1d": ([causal_conv1d], lambda: [randn(UNITS, 64), randn(64, 4), randn(64)], [HALF, FULL, FULL]),
    "rms_norm": ([lambda x, w, cu: rms_norm(x, w, 1e-5)], lambda: [randn(UNITS, 64), randn(64)], [HALF, FULL]),
    "gated_rms_norm": (
        [lambda y, z, w, cu: gated_rms_norm(y, z, w, 1e-5)],
        lambda: [randn(UNITS, 64), randn(UNITS, 64), randn(64)],
        [HALF, HALF, FULL],
    ),
    "swiglu": ([lambda packed, cu: swiglu(packed)], lambda: [randn(UNITS, 128)], [HALF]),
    "rotary": (
        [lambda x, cu: rotate(x, ANGLES.cos().to(x.device), ANGLES.sin().to(x.device))],
        lambda: [randn(UNITS, 4, 64)],
        [HALF],
    ),
    "cross_entropy": (
        [lambda logits, cu: cross_entropy_sum(logits, LABELS.to(logits.device), -100)],
        lambda: [randn(UNITS, 256)],
        [HALF],
    ),
}


def arguments(op: str, device: str) -> list[object]:
    """What the face of `op` passes to its providers."""
    _, make, dtypes = OPS[op]
    tensors = [t.to(device, dtype) for t, dtype in zip(make(), dtypes, strict=True)]
    cu_seqlens = bounds(LENGTHS).to(device)
    rest: dict[str, list[object]] = {
        "varlen_attention": [cu_seqlens, 100, True, None],
        "ssd_scan": [cu_seqlens, False],
        "causal_conv1d": [cu_seqlens],
        "rms_norm": [1e-5],
        "gated_rms_norm": [1e-5],
        "rotary": [ANGLES, ANGLES],
        "cross_entropy": [LABELS, -100],
    }
    return [*tensors, *rest.get(op, [])]


def runnable() -> list[tuple[str, str, str]]:
    """(op, provider, device); on a CPU only what needs no library."""
    found = [(op, list(providers._faces[op].providers)[-1], "cpu") for op in OPS]
    for op in OPS if torch.cuda.is_available() else ():
        for name, candidate in providers._faces[op].providers.items():
            last = name == list(providers._faces[op].providers)[-1]
            if installed(candidate.modules) and (last or candidate.suits(*arguments(op, "cuda"))):
                found.append((op, name, "cuda"))
    return found


def difference(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """Largest error over the largest element of its tensor, or over a tenth of the largest of all."""
    floor = 0.1 * max(float(t.abs().max()) for t in want)
    errors = [
        float((a.double() - b).abs().max()) / max(float(b.abs().max()), floor) for a, b in zip(got, want, strict=True)
    ]
    return max(errors)


@pytest.mark.parametrize(("op", "name", "device"), runnable())
def test_half_precision_agrees_with_float64_on_a_cpu(op, name, device):
    runs, make, dtypes = OPS[op]
    cu_seqlens = bounds(LENGTHS)
    inputs = [t.to(dtype).double() for t, dtype in zip(make(), dtypes, strict=True)]
    for run in runs:
        with torch.no_grad():
            grad = torch.randn_like(run(*inputs, cu_seqlens)).bfloat16().double()

        def narrow(*leaves: Tensor, run: Callable[..., Tensor] = run) -> Tensor:
            on_device = (t.to(device, dtype) for t, dtype in zip(leaves, dtypes, strict=True))
            with provider(op, name):
                return run(*on_device, cu_seqlens.to(device)).to("cpu", torch.float64)

        want = results(lambda *t, run=run: run(*t, cu_seqlens), inputs, grad)
        assert difference(results(narrow, inputs, grad), want) < 0.04
