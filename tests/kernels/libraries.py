"""Stand-ins for libraries that need a GPU: modules of the same name and signature that compute by loops."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from hnet_kernels.packed import widen


@contextmanager
def stand_in(module: str, **contents: Any) -> Iterator[None]:
    """Within the block `import module` gives `contents`; its packages exist too."""
    with pytest.MonkeyPatch.context() as patch:
        above: ModuleType | None = None
        parts = module.split(".")
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[:depth])
            made = ModuleType(name)
            made.__path__ = []  # type: ignore[attr-defined]
            if above is not None:
                setattr(above, parts[depth - 1], made)
            patch.setitem(sys.modules, name, made)
            above = made
        for name, value in contents.items():
            setattr(above, name, value)
        yield


def attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, left: int, right: int) -> Tensor:
    """Unit i of a document sees units i-left..i+right of it; negative: no bound."""
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    rows = []
    for start, stop in zip(cu_seqlens.tolist(), cu_seqlens.tolist()[1:], strict=False):
        for i in range(start, stop):
            seen = slice(start if left < 0 else max(start, i - left), stop if right < 0 else min(stop, i + right + 1))
            scores = torch.einsum("hp,jhp->hj", q[i], k[seen]) / q.shape[-1] ** 0.5
            rows.append(torch.einsum("hj,jhp->hp", scores.softmax(-1), v[seen]))
    return torch.stack(rows)


class FlashAttention:
    """`flash_attn_varlen_func` of both versions and `varlen_attn` of three PyTorch releases; `calls` holds options."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def version_2(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
    ) -> Tensor:
        assert type(max_seqlen_q) is int and max_seqlen_q == max_seqlen_k
        assert dropout_p == 0 and softmax_scale is None and softcap == 0 and alibi_slopes is None
        assert torch.equal(cu_seqlens_q, cu_seqlens_k) and cu_seqlens_q.dtype == torch.int32
        self.calls.append({"max_seqlen": max_seqlen_q, "deterministic": deterministic})
        left, right = window_size
        return attention(q, k, v, cu_seqlens_q, left, 0 if causal else right)

    def version_4(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        qv: Tensor | None = None,
        cu_seqlens_q: Tensor | None = None,
        cu_seqlens_k: Tensor | None = None,
        max_seqlen_q: int | None = None,
        max_seqlen_k: int | None = None,
        causal: bool = False,
        window_size: tuple[int | None, int | None] = (None, None),
        deterministic: bool = False,
    ) -> tuple[Tensor, None]:
        assert qv is None and cu_seqlens_q is not None and cu_seqlens_k is not None
        assert all(side is None or side >= 0 for side in window_size)
        assert max_seqlen_q is not None and max_seqlen_k is not None
        left, right = (-1 if side is None else side for side in window_size)
        lengths = cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k
        out = self.version_2(q, k, v, *lengths, causal=causal, window_size=(left, right), deterministic=deterministic)
        return out, None

    def torch_2_10(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        is_causal: bool = False,
        return_aux: None = None,
    ) -> Tensor:
        return self.torch_2_11(
            query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size=(-1, 0 if is_causal else -1)
        )

    def torch_2_11(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        return_aux: None = None,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
    ) -> Tensor:
        assert query.shape[1] == key.shape[1] and scale is None
        return self.version_2(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window_size)

    def torch_2_13(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
    ) -> Tensor:
        assert enable_gqa or query.shape[1] == key.shape[1]
        return self.version_2(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window_size)


def scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, document: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Mamba-2's recurrence over units (T,H,P), B and C (T,G,N) for H / G heads each; the state is zero where
    `document` (T,) changes. Gives y and the state (H,P,N) after every document."""
    assert x.dtype == B.dtype == C.dtype
    dtype = x.dtype
    x, dt, A, B, C, D = widen(x, dt, A, B, C, D)
    B, C = (t.repeat_interleave(x.shape[1] // t.shape[1], 1) for t in (B, C))
    rows: list[Tensor] = []
    states: list[Tensor] = []
    for i, number in enumerate(document.tolist()):
        if i == 0 or number != document[i - 1]:
            states.append(x.new_zeros(*x.shape[1:], B.shape[-1]))
        decay = (dt[i] * A).exp()[:, None, None]
        states[-1] = states[-1] * decay + torch.einsum("h,hp,hn->hpn", dt[i], x[i], B[i])
        rows.append(torch.einsum("hpn,hn->hp", states[-1], C[i]) + D[:, None] * x[i])
    return torch.stack(rows).to(dtype), [state.to(dtype) for state in states]


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    return_final_states: bool = False,
    return_varlen_states: bool = False,
) -> Any:
    assert seq_idx is not None and seq_idx.dtype == torch.int32 and seq_idx.shape == x.shape[:2] and D is not None
    assert z is None and dt_bias is None and initial_states is None and not dt_softplus and not return_final_states
    assert B.dim() == C.dim() == 4 and dt.shape == x.shape[:3] and chunk_size & (chunk_size - 1) == 0
    y, states = scan(x[0], dt[0], A, B[0], C[0], D, seq_idx[0])
    if not return_varlen_states:
        return y[None]
    assert cu_seqlens is not None and cu_seqlens.numel() == len(states) + 1 and not y.requires_grad
    return y[None], torch.stack(states)


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """o_t = scale * S_t^T q_t with S_t = exp(g_t) S_{t-1} + k_t v_t^T; states (N,H,K,V)."""
    assert g is not None and g_gamma is None and initial_state is None and not state_v_first
    assert cu_seqlens is not None and cu_seqlens.dtype == torch.int64
    assert q.dtype == k.dtype == v.dtype
    dtype = v.dtype
    q, k, v, g = widen(q, k, v, g)
    assert q.shape == k.shape and q.shape[:3] == v.shape[:3] == g.shape and q.shape[0] == 1
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    rows, states = [], []
    for start, stop in zip(cu_seqlens.tolist(), cu_seqlens.tolist()[1:], strict=False):
        state = v.new_zeros(q.shape[2], q.shape[3], v.shape[3])
        for i in range(start, stop):
            state = state * g[0, i].exp()[:, None, None] + k[0, i, :, :, None] * v[0, i, :, None, :]
            rows.append(torch.einsum("hkv,hk->hv", state, q[0, i] * scale))
        states.append(state)
    return torch.stack(rows)[None].to(dtype), torch.stack(states) if output_final_state else None


def convolution(x: Tensor, weight: Tensor, bias: Tensor, document: Tensor) -> Tensor:
    """silu of the causal convolution of x (T,C) with weight (C,K), within runs of equal `document` (T,)."""
    rows = []
    for i in range(x.shape[0]):
        row = bias
        for back in range(min(weight.shape[1], i + 1)):
            if document[i - back] == document[i]:
                row = row + weight[:, -1 - back] * x[i - back]
        rows.append(row * torch.sigmoid(row))
    return torch.stack(rows).to(x.dtype)


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """What its C++ code checks of x (B,C,T) when it is given documents."""
    assert seq_idx is not None and seq_idx.dtype == torch.int32 and seq_idx.is_contiguous()
    assert seq_idx.shape == (x.shape[0], x.shape[2])
    assert x.stride(1) == 1 and x.stride(2) > 1 and x.shape[1] % 8 == 0
    assert x.stride(2) % 8 == 0 and x.stride(0) % 8 == 0 and 2 <= weight.shape[1] <= 4
    assert activation == "silu" and bias is not None and bias.dtype == weight.dtype
    assert initial_states is None and not return_final_states and final_states_out is None
    return convolution(x[0].t(), weight, bias, seq_idx[0]).t()[None]


def fla_causal_conv1d(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    activation: str | None = None,
    backend: str = "triton",
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, None]:
    assert weight is not None and bias is not None and cu_seqlens is not None and cu_seqlens.dtype == torch.int64
    assert x.dim() == 3 and residual is None and initial_state is None and activation == "silu"
    document = torch.bucketize(torch.arange(x.shape[1]), cu_seqlens[1:], right=True)
    return convolution(x[0], weight, bias, document)[None], None


def fla_rms_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
) -> Tensor:
    assert bias is None and residual is None and not prenorm and not residual_in_fp32
    wide, weight = widen(x, weight)
    return (wide / torch.sqrt((wide**2).mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:
    assert z is not None and z.shape == x.shape and group_size is None
    wide_x, wide_z = widen(x, z)
    gate = wide_z * torch.sigmoid(wide_z)
    if norm_before_gate:
        return (fla_rms_norm(wide_x, weight, bias, eps=eps) * gate).to(x.dtype)
    return fla_rms_norm(wide_x * gate, weight, bias, eps=eps).to(x.dtype)


def fla_swiglu(x: Tensor, y: Tensor) -> Tensor:
    return x * torch.sigmoid(x) * y


def rotary_embedding(
    x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False, inplace: bool = False, seqlen_offsets: int = 0
) -> Tensor:
    assert x.dim() == 4 and cos.shape == sin.shape and cos.dim() == 2 and cos.dtype == sin.dtype == x.dtype
    assert cos.shape[0] >= x.shape[1] and not interleaved and not inplace and seqlen_offsets == 0
    half = cos.shape[1]
    rows = [
        torch.cat(
            [
                x[:, t, :, :half] * cos[t] - x[:, t, :, half : 2 * half] * sin[t],
                x[:, t, :, :half] * sin[t] + x[:, t, :, half : 2 * half] * cos[t],
                x[:, t, :, 2 * half :],
            ],
            -1,
        )
        for t in range(x.shape[1])
    ]
    return torch.stack(rows, 1)


def cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    label_smoothing: float = 0.0,
    logit_scale: float = 1.0,
    lse_square_scale: float = 0.0,
    logit_softcapping: float | None = None,
    ignore_index: int = -100,
    inplace_backward: bool = False,
) -> tuple[Tensor, Tensor]:
    assert label_smoothing == 0 and logit_scale == 1 and lse_square_scale == 0 and logit_softcapping is None
    assert not inplace_backward
    (wide,) = widen(logits)
    losses = [
        wide.new_zeros(()) if label == ignore_index else row.logsumexp(0) - row[label]
        for row, label in zip(wide, target.tolist(), strict=True)
    ]
    return torch.stack(losses), torch.zeros_like(target)
