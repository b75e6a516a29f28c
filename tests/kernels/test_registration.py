"""What holds for every op: half precision, validation, packing, gradcheck, and capture by torch.compile."""

from collections.abc import Callable

import pytest
import torch
from packs import bounds, randn
from torch import Tensor

import hnet_kernels

LENGTHS = [9, 1, 6]
CU_SEQLENS = bounds(LENGTHS)
NUM_UNITS = sum(LENGTHS)
INDEX = torch.arange(NUM_UNITS) // 2
EVERY_UNIT = torch.ones(NUM_UNITS, dtype=torch.bool)
Op = Callable[..., Tensor]


def attention(window: int) -> Op:
    return lambda q, k, v, cu: hnet_kernels.varlen_attention(q, k, v, cu, window=window)


def scan(*inputs: Tensor) -> Tensor:
    return hnet_kernels.ssd_scan(*inputs)


def final_states(*inputs: Tensor) -> Tensor:
    return hnet_kernels.ssd_scan(*inputs, return_final_states=True)[1]


def route(q: Tensor, k: Tensor, cu: Tensor) -> Tensor:
    return hnet_kernels.route(q, k, cu)[0]


def scan_inputs() -> list[Tensor]:
    dt, decay = torch.rand(NUM_UNITS, 2, dtype=torch.float64), -torch.rand(2, dtype=torch.float64) - 0.1
    return [randn(NUM_UNITS, 2, 4), dt, decay, randn(NUM_UNITS, 3), randn(NUM_UNITS, 3), randn(2)]


def qkv() -> list[Tensor]:
    return [randn(NUM_UNITS, 2, 4) for _ in range(3)]


# name: (op on inputs and cu_seqlens, the inputs)
PACKED: dict[str, tuple[Op, Callable[[], list[Tensor]]]] = {
    "attention": (attention(-1), qkv),
    "window": (attention(3), qkv),
    "ssd_scan": (scan, scan_inputs),
    "final_states": (final_states, scan_inputs),
    "causal_conv1d": (hnet_kernels.causal_conv1d, lambda: [randn(NUM_UNITS, 5), randn(5, 4), randn(5)]),
    "route": (route, lambda: [randn(NUM_UNITS, 4), randn(NUM_UNITS, 4)]),
    "ema": (hnet_kernels.ema, lambda: [randn(NUM_UNITS, 4), torch.rand(NUM_UNITS, dtype=torch.float64)]),
}
LOOSE: dict[str, tuple[Op, Callable[[], list[Tensor]]]] = {
    "upsample": (
        lambda zbar, confidence, residual: hnet_kernels.upsample(zbar, INDEX, confidence, residual),
        lambda: [randn(NUM_UNITS // 2, 4), torch.rand(NUM_UNITS, dtype=torch.float64), randn(NUM_UNITS, 4)],
    ),
    "rms_norm": (lambda x, w: hnet_kernels.rms_norm(x, w, 1e-5), lambda: [randn(NUM_UNITS, 4), randn(4)]),
    "gated_rms_norm": (
        lambda y, z, w: hnet_kernels.gated_rms_norm(y, z, w, 1e-5),
        lambda: [randn(NUM_UNITS, 4), randn(NUM_UNITS, 4), randn(4)],
    ),
}
EVERY = {name: (lambda *t, op=op: op(*t, CU_SEQLENS), make) for name, (op, make) in PACKED.items()} | LOOSE
every_op = pytest.mark.parametrize("name", EVERY)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "upsample"])
def test_gradcheck(name):
    # The straight-through estimator of `upsample` is not the derivative of its forward pass.
    op, make = EVERY[name]
    assert torch.autograd.gradcheck(op, [t.requires_grad_() for t in make()], fast_mode=True)


@every_op
def test_is_captured_as_one_graph_with_its_backward(name):
    op, make = EVERY[name]
    inputs = [t.requires_grad_() for t in make()]
    compiled = torch.compile(op, backend="aot_eager", fullgraph=True)(*inputs)
    grads = torch.autograd.grad(compiled.square().sum(), inputs, materialize_grads=True)
    eager = op(*inputs)
    expected = torch.autograd.grad(eager.square().sum(), inputs, materialize_grads=True)
    torch.testing.assert_close(compiled, eager)
    for got, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, want)


@every_op
def test_half_precision_is_computed_in_float32(name):
    op, make = EVERY[name]
    inputs = [t.bfloat16() for t in make()]
    wide = op(*(t.float() for t in inputs))
    narrow = op(*inputs)
    if narrow.dtype == torch.float32:
        torch.testing.assert_close(narrow, wide, rtol=1e-5, atol=1e-6)
    else:
        torch.testing.assert_close(narrow, wide.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in PACKED if name != "final_states"])
def test_a_pack_equals_its_documents_alone(name):
    op, make = PACKED[name]
    inputs = make()
    packed = op(*inputs, CU_SEQLENS)
    for start, stop in zip(CU_SEQLENS.tolist(), CU_SEQLENS.tolist()[1:], strict=False):
        alone = [t[start:stop] if t.shape[0] == NUM_UNITS else t for t in inputs]
        torch.testing.assert_close(packed[start:stop], op(*alone, bounds([stop - start])))


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("wrong", [[0, 9, 9, 16], [0, 9, 15], [1, 9, 16], [0]], ids=["empty", "short", "late", "none"])
def test_wrong_bounds_are_refused(name, wrong):
    op, make = PACKED[name]
    with pytest.raises(ValueError, match="cu_seqlens"):
        op(*make(), torch.tensor(wrong, dtype=torch.int32))


OPCHECK = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("varlen_attention", lambda: (*qkv(), CU_SEQLENS, -1)),
        ("varlen_attention", lambda: (*qkv(), CU_SEQLENS, 3)),
        ("ssd_scan", lambda: (*scan_inputs(), CU_SEQLENS)),
        ("ssd_final_states", lambda: (*scan_inputs()[:4], CU_SEQLENS)),
        ("causal_conv1d", lambda: (*PACKED["causal_conv1d"][1](), CU_SEQLENS)),
        ("route", lambda: (*PACKED["route"][1](), CU_SEQLENS)),
        ("ema", lambda: (*PACKED["ema"][1](), CU_SEQLENS)),
        ("rms_norm", lambda: (*LOOSE["rms_norm"][1](), 1e-5)),
        ("gated_rms_norm", lambda: (*LOOSE["gated_rms_norm"][1](), 1e-5)),
        ("chunk", lambda: (randn(NUM_UNITS, 4), EVERY_UNIT, CU_SEQLENS, None)),
        (
            "chunk_with_residual",
            lambda: (randn(NUM_UNITS, 4), EVERY_UNIT, CU_SEQLENS, randn(4, 4), randn(4), "fp32", None),
        ),
        ("residual_linear", lambda: (randn(NUM_UNITS, 4), randn(4, 4), randn(4), "fp32")),
    ],
)
def test_registration_of_the_op(name, make):
    inputs = [t.requires_grad_() if isinstance(t, Tensor) and t.is_floating_point() else t for t in make()]
    # The number of chunks is known at run time only, so a graph with static shapes cannot hold the op.
    capture = "test_aot_dispatch_dynamic" if name.startswith("chunk") else "test_aot_dispatch_static"
    checks = torch.library.opcheck(getattr(torch.ops.hnet, name).default, inputs, test_utils=(*OPCHECK, capture))
    assert set(checks) == {*OPCHECK, capture} and set(checks.values()) == {"SUCCESS"}
