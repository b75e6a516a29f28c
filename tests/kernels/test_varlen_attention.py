import math

import pytest
import torch
from packs import assert_same, both_precisions, bounds, every_pack, randn
from torch import Tensor

from hnet_kernels import varlen_attention
from hnet_kernels.providers import provider
from hnet_kernels.varlen_attention import reference

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
WINDOWS = [-1, 0, 1, 7, 32, 50, 300]
both_directions = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])


def loop(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, causal: bool = True) -> Tensor:
    """Unit by unit and head by head."""
    group = q.shape[1] // k.shape[1]
    documents = list(zip(cu_seqlens.tolist(), cu_seqlens.tolist()[1:], strict=False))
    rows = []
    for start, stop in documents:
        for i in range(start, stop):
            low = start if window < 0 else max(start, i - window)
            high = i + 1 if causal else (stop if window < 0 else min(stop, i + window + 1))
            heads = []
            for head in range(q.shape[1]):
                keys, values = k[low:high, head // group], v[low:high, head // group]
                heads.append((keys @ q[i, head] / math.sqrt(q.shape[-1])).softmax(0) @ values)
            rows.append(torch.stack(heads))
    return torch.stack(rows)


@every_pack
@both_precisions
@both_directions
@pytest.mark.parametrize("window", WINDOWS)
def test_agrees_with_a_loop_over_units(lengths, dtype, causal, window):
    cu_seqlens = bounds(lengths)
    assert_same(
        lambda *t: varlen_attention(*t, cu_seqlens, window=window, causal=causal),
        lambda *t: loop(*t, cu_seqlens, window, causal),
        [randn(sum(lengths), 2, 8) for _ in range(3)],
        dtype,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@both_directions
@pytest.mark.parametrize("window", [-1, 7, 40])
@pytest.mark.parametrize("name", [None, "torch"])
def test_query_heads_share_the_heads_of_keys_and_values(name, window, causal, kv_heads, device):
    cu_seqlens = bounds([33, 1, 50])
    inputs = [randn(84, 4, 8), randn(84, kv_heads, 8), randn(84, kv_heads, 8)]

    def ours(*t: Tensor) -> Tensor:
        on_device = (part.to(device) for part in t)
        return varlen_attention(*on_device, cu_seqlens.to(device), window=window, causal=causal).to("cpu")

    def under_test(*t: Tensor) -> Tensor:
        if name is None:
            return ours(*t)
        with provider("varlen_attention", name):
            return ours(*t)

    assert_same(under_test, lambda *t: loop(*t, cu_seqlens, window, causal), inputs, torch.float64)


@every_pack
@both_directions
@pytest.mark.parametrize("window", [-1, 0, 7, 50, 300])
def test_plain_definition_agrees_with_the_cpu_form(lengths, causal, window):
    cu_seqlens = bounds(lengths)
    assert_same(
        lambda *t: reference.attend(*t, cu_seqlens, window, causal),
        lambda *t: varlen_attention(*t, cu_seqlens, window=window, causal=causal),
        [randn(sum(lengths), 2, 8) for _ in range(3)],
        torch.float64,
    )


@both_directions
@pytest.mark.parametrize("window", [-1, 7])
def test_slices_of_one_projection_need_no_copy_by_the_caller(causal, window):
    cu_seqlens = bounds([40, 25])
    projection = randn(65, 3, 2, 8)
    assert_same(
        lambda t: varlen_attention(*t.unbind(1), cu_seqlens, window=window, causal=causal),
        lambda t: loop(*t.unbind(1), cu_seqlens, window, causal),
        [projection],
        torch.float64,
    )


@both_directions
@pytest.mark.parametrize("window", [-1, 7])
def test_documents_do_not_see_each_other(causal, window):
    cu_seqlens = bounds([40, 25])
    q, k, v = (randn(65, 2, 8) for _ in range(3))
    before = varlen_attention(q, k, v, cu_seqlens, window=window, causal=causal)
    k[:40], v[:40] = 1e6, 1e6
    after = varlen_attention(q, k, v, cu_seqlens, window=window, causal=causal)
    torch.testing.assert_close(after[40:], before[40:], rtol=0, atol=0)
    assert not torch.equal(after[:40], before[:40])


@pytest.mark.parametrize("causal", [True, False])
def test_memory_of_a_window_is_linear_in_units(causal):
    mask = reference.Window(4096, 64, causal).mask(bounds([3000, 1096]))
    assert mask.numel() == 4096 * (64 * (1 if causal else 2) + reference.QUERY_BLOCK)


@pytest.mark.parametrize("window", [-1, 7])
@both_directions
def test_bidirectional_and_shared_heads_are_captured_as_one_graph(causal, window):
    cu_seqlens = bounds([9, 1, 20])
    inputs = [randn(30, heads, 8).requires_grad_() for heads in (4, 2, 2)]

    def run(*t: Tensor) -> Tensor:
        return varlen_attention(*t, cu_seqlens, window=window, causal=causal)

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)(*inputs)
    grads = torch.autograd.grad(compiled.square().sum(), inputs)
    eager = run(*inputs)
    torch.testing.assert_close(compiled, eager)
    for got, want in zip(grads, torch.autograd.grad(eager.square().sum(), inputs), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("causal", [True, False])
def test_registration_with_shared_heads(causal):
    inputs = [randn(30, heads, 8).requires_grad_() for heads in (4, 2, 2)]
    checks = torch.library.opcheck(torch.ops.hnet.varlen_attention.default, (*inputs, bounds([9, 1, 20]), 5, causal))
    assert set(checks.values()) == {"SUCCESS"}


def test_bad_window_is_named():
    q = randn(4, 1, 8)
    with pytest.raises(ValueError, match="window must be -1"):
        varlen_attention(q, q, q, bounds([4]), window=-2)


@pytest.mark.parametrize(
    ("kv_shape", "v_shape"), [((4, 3, 8), (4, 3, 8)), ((4, 2, 8), (4, 1, 8)), ((5, 2, 8), (5, 2, 8)), ((4, 2, 4),) * 2]
)
def test_heads_that_do_not_fit_are_refused(kv_shape, v_shape):
    with pytest.raises(ValueError, match="Hkv dividing H"):
        varlen_attention(randn(4, 4, 8), randn(*kv_shape), randn(*v_shape), bounds([4]))
