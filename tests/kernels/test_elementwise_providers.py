"""Norms, rotary, SwiGLU and cross-entropy: the same numbers from every provider, and the one that is chosen."""

from contextlib import nullcontext
from types import SimpleNamespace

import libraries
import pytest
import torch
from packs import assert_same, both_precisions, randn
from torch import Tensor

from hnet_kernels import gated_rms_norm, providers, rms_norm
from hnet_kernels.cross_entropy.op import cross_entropy_sum
from hnet_kernels.providers import provider
from hnet_kernels.rotary.op import rotate
from hnet_kernels.swiglu.op import swiglu

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
LABELS = torch.tensor([3, 0, -100, 6, 6, -100, 1])
ANGLES = torch.linspace(-4, 9, 21, dtype=torch.float64).view(7, 1, 3)


def normalised(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight


def turned(x: Tensor) -> Tensor:
    plane = torch.complex(x[..., :3], x[..., 3:6]) * torch.exp(1j * ANGLES)
    return torch.cat([plane.real, plane.imag, x[..., 6:]], -1)


def surprise(logits: Tensor) -> Tensor:
    rows = [row.exp().sum().log() - row[label] for row, label in zip(logits, LABELS, strict=True) if label >= 0]
    return torch.stack(rows).sum()


# op: (itself, its inputs, an independent definition)
OPS = {
    "rms_norm": (lambda *t: rms_norm(*t, 1e-5), lambda: [randn(7, 10), randn(10)], normalised),
    "gated_rms_norm": (
        lambda *t: gated_rms_norm(*t, 1e-5),
        lambda: [randn(7, 10), randn(7, 10), randn(10)],
        lambda y, z, weight: normalised(y * z * torch.sigmoid(z), weight),
    ),
    "swiglu": (
        swiglu,
        lambda: [randn(7, 10)],
        lambda packed: packed[:, 5:] * torch.sigmoid(packed[:, 5:]) * packed[:, :5],
    ),
    "rotary": (lambda x: rotate(x, ANGLES.cos().to(x), ANGLES.sin().to(x)), lambda: [randn(7, 2, 8)], turned),
    "cross_entropy": (
        lambda logits: cross_entropy_sum(logits, LABELS.to(logits.device), -100),
        lambda: [randn(7, 9)],
        surprise,
    ),
}
FLA = "flash-linear-attention"
LIBRARIES = {
    ("rms_norm", FLA): ("fla.modules.layernorm", {"rms_norm": libraries.fla_rms_norm}),
    ("gated_rms_norm", "mamba-ssm"): ("mamba_ssm.ops.triton.layernorm_gated", {"rmsnorm_fn": libraries.rmsnorm_fn}),
    ("swiglu", FLA): ("fla.modules.activations", {"swiglu": libraries.fla_swiglu}),
    ("rotary", FLA): ("fla.modules.rotary", {"rotary_embedding": libraries.rotary_embedding}),
    ("cross_entropy", FLA): (
        "fla.modules.fused_cross_entropy",
        {"cross_entropy_loss": libraries.cross_entropy_loss},
    ),
}
OWN = [(op, None) for op in OPS] + [("rms_norm", "torch-fused")] + [(op, "torch") for op in OPS]


@pytest.mark.parametrize("device", DEVICES)
@both_precisions
@pytest.mark.parametrize(("op", "name"), OWN)
def test_own_and_plain_code_agree_with_the_definition(op, name, dtype, device):
    run, make, definition = OPS[op]

    def under_test(*t: Tensor) -> Tensor:
        with provider(op, name) if name else nullcontext():
            return run(*(part.to(device) for part in t)).to("cpu")

    assert_same(under_test, definition, make(), dtype)


@pytest.mark.parametrize(("op", "name"), LIBRARIES)
def test_libraries_are_given_what_makes_them_agree_with_the_definition(op, name):
    run, make, definition = OPS[op]
    module, contents = LIBRARIES[op, name]

    def through_library(*t: Tensor) -> Tensor:
        with libraries.stand_in(module, **contents), provider(op, name):
            return run(*t)

    assert_same(through_library, definition, make(), torch.float64)


@pytest.mark.parametrize(("op", "name"), [*OWN, *LIBRARIES])
def test_half_precision_comes_back_in_its_dtype_and_is_close(op, name):
    run, make, definition = OPS[op]
    inputs = [t.bfloat16() for t in make()]
    module, contents = LIBRARIES.get((op, name), ("no_such_module", {}))
    with libraries.stand_in(module, **contents), provider(op, name) if name else nullcontext():
        out = run(*inputs)
    assert out.dtype == (torch.float32 if op == "cross_entropy" else torch.bfloat16)
    torch.testing.assert_close(out.double(), definition(*(t.double() for t in inputs)), rtol=0.02, atol=0.05)


@pytest.mark.parametrize(("op", "name"), OWN)
def test_is_captured_as_one_graph_with_its_backward(op, name):
    run, make, _ = OPS[op]
    inputs = [t.requires_grad_() for t in make()]
    with provider(op, name) if name else nullcontext():
        compiled = torch.compile(run, backend="aot_eager", fullgraph=True)(*inputs)
        grads = torch.autograd.grad(compiled.square().sum(), inputs)
        eager = run(*inputs)
        expected = torch.autograd.grad(eager.square().sum(), inputs)
    torch.testing.assert_close(compiled, eager)
    for got, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, want)


def test_registration_of_swiglu():
    checks = torch.library.opcheck(torch.ops.hnet.swiglu.default, (randn(7, 10).requires_grad_(),))
    assert set(checks.values()) == {"SUCCESS"}


def test_swiglu_keeps_leading_axes():
    packed = randn(2, 3, 10)
    torch.testing.assert_close(swiglu(packed), swiglu(packed.flatten(0, 1)).unflatten(0, (2, 3)))


def test_ignored_labels_have_no_gradient():
    logits = randn(7, 9).requires_grad_()
    cross_entropy_sum(logits, LABELS, -100).backward()
    assert torch.equal(logits.grad.abs().sum(1) == 0, LABELS == -100)


HALF, FULL, DOUBLE = torch.bfloat16, torch.float32, torch.float64


def on_gpu(dtype: torch.dtype, *shape: int) -> SimpleNamespace:
    """As much of a tensor as a choice looks at."""
    count = torch.Size(shape).numel()
    stride = lambda axis: torch.Size(shape[axis + 1 :]).numel()  # noqa: E731
    return SimpleNamespace(is_cuda=True, dtype=dtype, shape=shape, numel=lambda: count, stride=stride)


@pytest.mark.parametrize(
    ("op", "present", "dtypes", "width", "expected"),
    [
        ("rms_norm", {"fla"}, (HALF, HALF), 64, "torch-fused"),
        ("rms_norm", {"fla"}, (FULL, FULL), 64, "torch-fused"),
        ("rms_norm", {"fla"}, (HALF, FULL), 64, FLA),
        ("rms_norm", {"fla"}, (HALF, FULL), 40000, "torch"),
        ("rms_norm", set(), (HALF, FULL), 64, "torch"),
        ("gated_rms_norm", {"mamba_ssm"}, (HALF, HALF, FULL), 64, "mamba-ssm"),
        ("gated_rms_norm", {"mamba_ssm"}, (HALF, FULL, FULL), 64, "torch"),
        ("gated_rms_norm", {"mamba_ssm"}, (DOUBLE, DOUBLE, DOUBLE), 64, "torch"),
        ("gated_rms_norm", {"fla"}, (HALF, HALF, FULL), 64, "torch"),
        ("swiglu", {"fla"}, (HALF,), 64, FLA),
        ("swiglu", {"fla"}, (DOUBLE,), 64, "torch"),
        ("swiglu", set(), (HALF,), 64, "torch"),
        ("rotary", {"fla"}, (HALF, FULL, FULL), 64, FLA),
        ("rotary", {"fla"}, (HALF, FULL, FULL), 512, "torch"),
        ("rotary", set(), (HALF, FULL, FULL), 64, "torch"),
        ("cross_entropy", {"fla"}, (HALF, torch.int64), 256, FLA),
        ("cross_entropy", {"fla"}, (DOUBLE, torch.int64), 256, "torch"),
    ],
)
def test_order_of_choice_on_a_gpu(monkeypatch, op, present, dtypes, width, expected):
    monkeypatch.setattr(providers, "_found", lambda module: module.split(".")[0] in present)
    shape = (7, 2, width) if op == "rotary" else (7, width)
    tensors = [on_gpu(dtype, *shape) for dtype in dtypes]
    numbers = {"rms_norm": (1e-5,), "gated_rms_norm": (1e-5,), "cross_entropy": (-100,)}.get(op, ())
    assert providers._faces[op].choose(*tensors, *numbers).name == expected


@pytest.mark.parametrize(("op", "name"), LIBRARIES)
def test_compiler_gets_plain_code_to_fuse(monkeypatch, op, name):
    monkeypatch.setattr(providers, "_found", lambda module: True)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    weight = {"rms_norm": 1, "gated_rms_norm": 2, "rotary": 2, "cross_entropy": 1}.get(op, 0)
    tensors = [on_gpu(HALF, 7, 2, 64), *(on_gpu(FULL, 7, 2, 64) for _ in range(weight))]
    numbers = {"rms_norm": (1e-5,), "gated_rms_norm": (1e-5,), "cross_entropy": (-100,)}.get(op, ())
    assert providers._faces[op].choose(*tensors, *numbers).name == "torch" != name


@pytest.mark.parametrize(("op", "name"), LIBRARIES)
def test_missing_library_is_named(monkeypatch, op, name):
    monkeypatch.setattr(providers, "_found", lambda module: False)
    with pytest.raises(ImportError, match=rf"pip install.*{name}"):
        provider(op, name).__enter__()
