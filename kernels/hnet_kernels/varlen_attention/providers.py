"""The libraries that run packed attention on an accelerator, one adapter each, best first.

1. `flash-attn-4`  fp16, bf16; Hopper and Blackwell; P a multiple of 8, at most 128.
2. `flash-attn`    fp16, bf16; version 2, Ampere and later; P at most 256.
3. `torch-varlen`  fp16, bf16; the flash attention inside PyTorch (2.10 and later); P a multiple of 8, at most 256.
4. `flex`          also fp32; FlexAttention compiled by Triton, with a mask of documents, window and causality; P >= 16.
5. `torch`         everything: the plain definition, one call a document without a window.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hnet_kernels.packed import segment_ids
from hnet_kernels.providers import Face, Provider, constant, is_half, opaque, per_pack
from hnet_kernels.varlen_attention import reference
from hnet_kernels.varlen_attention.reference import with_heads

FLEX_BLOCK = 128


def longest(cu_seqlens: Tensor, num_units: int, max_seqlen: int | None) -> int:
    """`max_seqlen`, or the units of the longest document, for which the host waits once per pack."""
    if max_seqlen is not None:
        return max_seqlen
    if torch.compiler.is_compiling():
        return num_units
    return per_pack(cu_seqlens, ("max_seqlen",), lambda: int(cu_seqlens.diff().max()))


@constant
def capability(device: torch.device) -> int:
    """Major compute capability."""
    return torch.cuda.get_device_capability(device)[0]


def suits_flash_4(q: Tensor, *_: Any) -> bool:
    return is_half(q) and q.shape[2] % 8 == 0 and q.shape[2] <= 128 and capability(q.device) in (9, 10, 11)


# The library compiles its kernels by its own means, which torch.compile cannot look into.
@opaque
def flash_4(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, causal: bool, max_seqlen: int | None
) -> Tensor:
    from flash_attn.cute import flash_attn_varlen_func

    max_seqlen = longest(cu_seqlens, q.shape[0], max_seqlen)
    side = None if window < 0 else window
    result = flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_k=cu_seqlens,
        max_seqlen_q=max_seqlen,
        max_seqlen_k=max_seqlen,
        causal=causal,
        window_size=(side, 0 if causal and side is not None else side),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    out: Tensor = result[0] if isinstance(result, tuple) else result
    return out


def suits_flash_2(q: Tensor, *_: Any) -> bool:
    return is_half(q) and q.shape[2] <= 256 and (torch.version.hip is not None or capability(q.device) >= 8)


def flash_2(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, causal: bool, max_seqlen: int | None
) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    max_seqlen = longest(cu_seqlens, q.shape[0], max_seqlen)
    out: Tensor = flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        causal=causal,
        window_size=(window, 0 if causal else window),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    return out


@constant
def varlen_knows(option: str) -> bool:
    """Whether this PyTorch's varlen_attn does: it had `is_causal` first, then `window_size`, then `enable_gqa`."""
    return option in varlen_options()


@cache
def varlen_options() -> frozenset[str]:
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def suits_torch_varlen(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, *_: Any) -> bool:
    fits = is_half(q) and q.shape[2] % 8 == 0 and q.shape[2] <= 256
    return fits and (window < 0 or varlen_knows("window_size"))


def torch_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, causal: bool, max_seqlen: int | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    max_seqlen = longest(cu_seqlens, q.shape[0], max_seqlen)
    options: dict[str, Any] = {}
    if varlen_knows("window_size"):
        options["window_size"] = (window, 0 if causal else window)
    elif window < 0:
        options["is_causal"] = causal
    else:
        raise ValueError("varlen_attn of this PyTorch knows no window")
    if varlen_knows("enable_gqa"):
        options["enable_gqa"] = k.shape[1] != q.shape[1]
    else:
        k, v = with_heads(k, q.shape[1]), with_heads(v, q.shape[1])
    run: Callable[..., Any] = varlen_attn
    out: Tensor = run(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **options)
    return out


def suits_flex(q: Tensor, *_: Any) -> bool:
    return q.is_cuda and q.dtype in (torch.float16, torch.bfloat16, torch.float32) and q.shape[2] >= 16


def block_mask(cu_seqlens: Tensor, num_units: int, window: int, causal: bool) -> Any:
    """FlexAttention's mask. The blocks come from the documents' bounds: to find them from the mask takes T^2 bytes."""
    from torch.nn.attention.flex_attention import BlockMask

    documents = segment_ids(cu_seqlens, num_units)

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = documents[query] == documents[key]
        if causal:
            seen = seen & (query >= key)
        if window >= 0:
            seen = seen & (query - key <= window)
            if not causal:
                seen = seen & (key - query <= window)
        return seen

    num_blocks = (num_units + FLEX_BLOCK - 1) // FLEX_BLOCK
    numbers = torch.arange(num_blocks, device=cu_seqlens.device)
    first = numbers * FLEX_BLOCK
    last = (first + FLEX_BLOCK - 1).clamp(max=num_units - 1)
    bounds = cu_seqlens.long()
    low, high = bounds[documents[first]], bounds[documents[last] + 1] - 1
    if causal:
        high = last
    if window >= 0:
        low, high = torch.maximum(low, first - window), torch.minimum(high, last + window)
    low, high = low // FLEX_BLOCK, high // FLEX_BLOCK
    count = (high - low + 1).int()[None, None]
    blocks = (low[:, None] + numbers).clamp(max=num_blocks - 1).int()[None, None]
    lengths = (num_units, num_units)
    return BlockMask.from_kv_blocks(count, blocks, BLOCK_SIZE=FLEX_BLOCK, mask_mod=sees, seq_lengths=lengths)


@cache
def compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=True)
    return compiled


def flex(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, causal: bool, max_seqlen: int | None
) -> Tensor:
    """Uncompiled on a CPU, where it has no backward pass and forms the whole matrix of scores."""
    from torch.nn.attention.flex_attention import flex_attention

    num_units = q.shape[0]
    key = ("block_mask", num_units, window, causal)
    mask = per_pack(cu_seqlens, key, lambda: block_mask(cu_seqlens, num_units, window, causal))
    run: Callable[..., Any] = flex_attention
    if q.is_cuda and not torch.compiler.is_compiling():
        run = compiled_flex()
    heads = (t.transpose(0, 1)[None] for t in (q, k, v))
    out: Tensor = run(*heads, block_mask=mask, enable_gqa=k.shape[1] != q.shape[1])
    return out[0].transpose(0, 1).contiguous()


def plain(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, causal: bool, max_seqlen: int | None
) -> Tensor:
    return reference.attend(q, k, v, cu_seqlens, window, causal)


face = Face(
    "varlen_attention",
    Provider("flash-attn-4", flash_4, suits_flash_4, ("flash_attn.cute",), "pip install flash-attn-4"),
    Provider(
        "flash-attn",
        flash_2,
        suits_flash_2,
        ("flash_attn.flash_attn_interface",),
        "pip install --no-build-isolation flash-attn",
    ),
    Provider("torch-varlen", torch_varlen, suits_torch_varlen, ("torch.nn.attention.varlen",), "install torch>=2.10"),
    Provider("flex", flex, suits_flex, ("torch.nn.attention.flex_attention", "triton"), "pip install triton"),
    Provider("torch", plain),
)
