"""Exponential smoothing of chunks over packed documents, in Triton: walks down the rows, one warp per tile."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hnet_kernels.ema import reference

MIN_PROB = tl.constexpr(reference.MIN_PROB)
# Below this share of a row's size float32 no longer notices what is added to it.
NEGLIGIBLE = tl.constexpr(2.0**-40)
# With P >= 1/2 a row's share is below 2^-32 after this many rows.
HALO = 32


def columns(width: int) -> int:
    """Columns of one warp: 16 bytes of bfloat16 a thread for each row."""
    return min(256, triton.next_power_of_2(width))


def tile_rows(num_rows: int, width: int) -> int:
    """Rows of a tile: long, so that few rows are read twice, unless that leaves processors without work."""
    blocks = triton.cdiv(width, columns(width))
    return 256 if triton.cdiv(num_rows, 256) * blocks >= 2048 else 128


@triton.jit
def load_rows(ptr, first, low, high, d, D: tl.constexpr, STEP: tl.constexpr, COUNT: tl.constexpr):
    """Rows first, first+STEP, ... in float32, zero outside low <= row < high. None waits for the one before."""
    rows = ()
    for i in tl.static_range(COUNT):
        k = first + STEP * i
        row = tl.load(ptr + tl.cast(k, tl.int64) * D + d, mask=(d < D) & (k >= low) & (k < high), other=0.0)
        rows += (row,)  # type: ignore[assignment]
    return rows


@triton.jit
def load_scalars(ptr, first, low, high, STEP: tl.constexpr, COUNT: tl.constexpr):
    values = ()
    for i in tl.static_range(COUNT):
        k = first + STEP * i
        values += (tl.load(ptr + k, mask=(k >= low) & (k < high), other=0.0).to(tl.float32),)  # type: ignore[assignment]
    return values


@triton.jit
def decay_of(gate):
    """1-P, or zero at a document's first chunk, which `mark_kernel` made negative."""
    return tl.where(gate < 0, 0.0, 1.0 - gate)


@triton.jit(do_not_specialize=["num_rows", "num_documents"])
def mark_kernel(prob_ptr, cu_ptr, gate_ptr, num_rows, num_documents, search_steps, BLOCK: tl.constexpr):
    """gate = the clamped P, negative at a document's first chunk. The document is found by bisection."""
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    low = tl.zeros((BLOCK,), tl.int32)
    high = tl.zeros((BLOCK,), tl.int32) + num_documents - 1
    for _ in range(search_steps):
        middle = (low + high + 1) // 2
        begun = tl.load(cu_ptr + middle) <= k
        low = tl.where(begun, middle, low)
        high = tl.where(begun, high, middle - 1)
    prob = tl.load(prob_ptr + k, mask=k < num_rows, other=0.5).to(tl.float32)
    # By default a GPU's maximum of a NaN and a number is the number.
    prob = tl.clamp(prob, MIN_PROB, 1.0 - MIN_PROB, propagate_nan=tl.PropagateNan.ALL)
    tl.store(gate_ptr + k, tl.where(tl.load(cu_ptr + low) == k, -prob, prob), mask=k < num_rows)


@triton.jit
def state_before(z_ptr, gate_ptr, low, high, d, D: tl.constexpr, BLOCK: tl.constexpr):
    """The state after row high-1 had it been zero before row low, and the product of the decays on the way.

    Walks up the rows and stops where nothing of a row would be left.
    """
    state = tl.zeros((BLOCK,), tl.float32)
    passed = tl.full((), 1.0, tl.float32)
    k = high - 1
    while (k >= low) & (passed > NEGLIGIBLE):
        gates = load_scalars(gate_ptr, k, low, high, -1, 8)
        rows = load_rows(z_ptr, k, low, high, d, D, -1, 8)
        for i in tl.static_range(8):
            state += passed * tl.abs(gates[i]) * rows[i].to(tl.float32)
            passed *= decay_of(gates[i])
        k -= 8
    return state, passed


@triton.jit
def gradient_after(grad_ptr, gate_ptr, low, high, d, D: tl.constexpr, BLOCK: tl.constexpr):
    """What reaches row low-1 from the gradients of rows low to high-1, and the product of the decays on the way."""
    state = tl.zeros((BLOCK,), tl.float32)
    passed = tl.full((), 1.0, tl.float32)
    k = low
    while (k < high) & (passed > NEGLIGIBLE):
        gates = load_scalars(gate_ptr, k, low, high, 1, 8)
        rows = load_rows(grad_ptr, k, low, high, d, D, 1, 8)
        for i in tl.static_range(8):
            passed *= decay_of(gates[i])
            state += passed * rows[i].to(tl.float32)
        k += 8
    return state, passed


@triton.jit(do_not_specialize=["num_rows"])
def tile_kernel(
    value_ptr, gate_ptr, state_ptr, passed_ptr, num_rows,
    D: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """What a tile hands on if it is handed nothing, and the product of its decays. The end tile is left out."""
    BLOCKS: tl.constexpr = (D + BLOCK - 1) // BLOCK
    block = tl.program_id(0) % BLOCKS
    tile = tl.program_id(0) // BLOCKS + (1 if REVERSE else 0)
    d = block * BLOCK + tl.arange(0, BLOCK)
    low = tile * TILE
    high = tl.minimum(low + TILE, num_rows)
    if REVERSE:
        state, passed = gradient_after(value_ptr, gate_ptr, low, high, d, D, BLOCK)
    else:
        state, passed = state_before(value_ptr, gate_ptr, low, high, d, D, BLOCK)
    tl.store(state_ptr + tl.cast(tile, tl.int64) * D + d, state, mask=d < D)
    tl.store(passed_ptr + tile, passed, mask=block == 0)


@triton.jit(do_not_specialize=["num_tiles"])
def carry_kernel(
    state_ptr, passed_ptr, carry_ptr, num_tiles, D: tl.constexpr, BLOCK: tl.constexpr, REVERSE: tl.constexpr
):
    """What every tile is handed: the recurrence over the tiles."""
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    carry = tl.zeros((BLOCK,), tl.float32)
    STEP: tl.constexpr = -1 if REVERSE else 1
    low = 1 if REVERSE else 0
    high = num_tiles if REVERSE else num_tiles - 1
    for step in range(0, num_tiles, 16):
        first = num_tiles - 1 - step if REVERSE else step
        passed = load_scalars(passed_ptr, first, low, high, STEP, 16)
        states = load_rows(state_ptr, first, low, high, d, D, STEP, 16)
        for i in tl.static_range(16):
            tile = first + STEP * i
            mask = (d < D) & (tile >= 0) & (tile < num_tiles)
            tl.store(carry_ptr + tl.cast(tile, tl.int64) * D + d, carry, mask=mask)
            carry = passed[i] * carry + states[i]


@triton.jit(do_not_specialize=["num_rows"])
def forward_kernel(
    z_ptr, gate_ptr, carry_ptr, out_ptr, num_rows,
    D: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, HALO: tl.constexpr,
):  # fmt: skip
    BLOCKS: tl.constexpr = (D + BLOCK - 1) // BLOCK
    tile = tl.program_id(0) // BLOCKS
    d = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    low = tile * TILE
    high = tl.minimum(low + TILE, num_rows)
    if HALO > 0:
        state, _ = state_before(z_ptr, gate_ptr, tl.maximum(low - HALO, 0), low, d, D, BLOCK)
    else:
        state = tl.load(carry_ptr + tl.cast(tile, tl.int64) * D + d, mask=d < D, other=0.0)
    for k in range(low, high, 8):
        gates = load_scalars(gate_ptr, k, low, high, 1, 8)
        rows = load_rows(z_ptr, k, low, high, d, D, 1, 8)
        for i in tl.static_range(8):
            state = decay_of(gates[i]) * state + tl.abs(gates[i]) * rows[i].to(tl.float32)
            tl.store(out_ptr + tl.cast(k + i, tl.int64) * D + d, state, mask=(d < D) & (k + i < high))


@triton.jit(do_not_specialize=["num_rows"])
def backward_kernel(
    grad_ptr, z_ptr, prob_ptr, zbar_ptr, gate_ptr, carry_ptr, dz_ptr, dprob_ptr, num_rows,
    D: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, HALO: tl.constexpr,
):  # fmt: skip
    """Walks up the rows. dprob (blocks of columns, M) holds the share of every block."""
    BLOCKS: tl.constexpr = (D + BLOCK - 1) // BLOCK
    tile = tl.program_id(0) // BLOCKS
    block = tl.program_id(0) % BLOCKS
    d = block * BLOCK + tl.arange(0, BLOCK)
    low = tile * TILE
    high = tl.minimum(low + TILE, num_rows)
    if HALO > 0:
        carry, _ = gradient_after(grad_ptr, gate_ptr, high, tl.minimum(high + HALO, num_rows), d, D, BLOCK)
    else:
        carry = tl.load(carry_ptr + tl.cast(tile, tl.int64) * D + d, mask=d < D, other=0.0)
    for step in range(0, high - low, 4):
        first = high - 1 - step
        gates = load_scalars(gate_ptr, first, low, high, -1, 4)
        probs = load_scalars(prob_ptr, first, low, high, -1, 4)
        grads = load_rows(grad_ptr, first, low, high, d, D, -1, 4)
        rows = load_rows(z_ptr, first, low, high, d, D, -1, 4)
        before = load_rows(zbar_ptr - D, first, tl.maximum(low, 1), high, d, D, -1, 4)
        for i in tl.static_range(4):
            k = first - i
            dstate = grads[i].to(tl.float32) + carry
            carry = decay_of(gates[i]) * dstate
            dz = tl.abs(gates[i]) * dstate
            tl.store(dz_ptr + tl.cast(k, tl.int64) * D + d, dz, mask=(d < D) & (k >= low))
            # The row before a document's first one belongs to another document.
            change = rows[i].to(tl.float32) - tl.where(gates[i] < 0, 0.0, before[i].to(tl.float32))
            inside = (probs[i] >= MIN_PROB) & (probs[i] <= 1.0 - MIN_PROB)
            dprob = tl.where(inside, tl.sum(dstate * change, 0), 0.0)
            tl.store(dprob_ptr + tl.cast(block, tl.int64) * num_rows + k, dprob, mask=k >= low)


def mark(prob: Tensor, cu_seqlens: Tensor) -> Tensor:
    """(M,) float32: the clamped P, negative at the first chunk of every document."""
    gate = torch.empty(prob.shape, dtype=torch.float32, device=prob.device)
    num_rows, num_documents = prob.shape[0], cu_seqlens.shape[0] - 1
    grid = (triton.cdiv(num_rows, 256),)
    mark_kernel[grid](
        prob, cu_seqlens.contiguous(), gate, num_rows, num_documents, num_documents.bit_length(), BLOCK=256
    )
    return gate


def carries(value: Tensor, gate: Tensor, tile: int, reverse: bool) -> Tensor:
    """(tiles, D) float32: the state (or its gradient, from the end) that every tile starts from."""
    num_rows, width = value.shape
    num_tiles, block = triton.cdiv(num_rows, tile), columns(width)
    state = torch.empty(num_tiles, width, dtype=torch.float32, device=value.device)
    passed = torch.empty(num_tiles, dtype=torch.float32, device=value.device)
    shape = {"D": width, "REVERSE": reverse, "num_warps": 1}
    if num_tiles > 1:
        grid = ((num_tiles - 1) * triton.cdiv(width, block),)
        tile_kernel[grid](value, gate, state, passed, num_rows, BLOCK=block, TILE=tile, **shape)
    carry = torch.empty_like(state)
    narrow = min(block, 128)
    carry_kernel[(triton.cdiv(width, narrow),)](state, passed, carry, num_tiles, BLOCK=narrow, **shape)
    return carry


def ema_forward(z: Tensor, prob: Tensor, cu_seqlens: Tensor, at_least_half: bool = False) -> Tensor:
    z, prob = z.contiguous(), prob.contiguous()
    num_rows, width = z.shape
    tile, block = tile_rows(num_rows, width), columns(width)
    gate, out = mark(prob, cu_seqlens), torch.empty_like(z)
    carry = gate if at_least_half else carries(z, gate, tile, reverse=False)
    grid = (triton.cdiv(num_rows, tile) * triton.cdiv(width, block),)
    shape = {"D": width, "BLOCK": block, "TILE": tile, "HALO": HALO if at_least_half else 0}
    forward_kernel[grid](z, gate, carry, out, num_rows, **shape, num_warps=1)
    return out


def ema_backward(
    grad: Tensor, z: Tensor, prob: Tensor, cu_seqlens: Tensor, zbar: Tensor, at_least_half: bool = False
) -> tuple[Tensor, Tensor]:
    grad, z, prob, zbar = (t.contiguous() for t in (grad, z, prob, zbar))
    num_rows, width = z.shape
    tile, block = tile_rows(num_rows, width), columns(width)
    num_blocks = triton.cdiv(width, block)
    gate, dz = mark(prob, cu_seqlens), torch.empty_like(z)
    dprob = torch.empty(num_blocks, num_rows, dtype=torch.float32, device=z.device)
    carry = gate if at_least_half else carries(grad, gate, tile, reverse=True)
    grid = (triton.cdiv(num_rows, tile) * num_blocks,)
    shape = {"D": width, "BLOCK": block, "TILE": tile, "HALO": HALO if at_least_half else 0}
    backward_kernel[grid](grad, z, prob, zbar, gate, carry, dz, dprob, num_rows, **shape, num_warps=1)
    return dz, dprob.sum(0).to(prob.dtype)
