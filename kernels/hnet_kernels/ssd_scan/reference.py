"""Chunked (matrix) form of Mamba-2's selective scan over packed documents, in plain PyTorch.

Decays are kept as base-2 logarithms: `torch.exp2` runs several times as fast as `torch.exp` on a CPU
and has no slow path where it underflows. Only differences <= 0 of their running sums are raised.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_kernels.packed import segment_ids

BLOCK = 64
# Below this a step adds nothing in any of our dtypes, and its logarithm is still finite.
MIN_DT = 1e-20


@dataclass(frozen=True)
class Blocks:
    """Decays of a pack cut into `num_blocks` blocks of BLOCK units; H leads, so a head is contiguous.

    row, column: (H, num_blocks, BLOCK): the step j -> i inside a block weighs exp2(row_i - column_j), dt_j included.
    mask: (num_blocks, BLOCK, BLOCK), 0 where i may see j, -inf elsewhere.
    to_end: (num_blocks, BLOCK, H): weight of input j in the state that leaves its block.
    from_start: (num_blocks, BLOCK, H): weight at i of the state that enters its block.
    through: (num_blocks, H): weight of the entering state in the leaving one.
    """

    row: Tensor
    column: Tensor
    mask: Tensor
    to_end: Tensor
    from_start: Tensor
    through: Tensor


def cut(t: Tensor, num_blocks: int) -> Tensor:
    """View (T, ...) as (num_blocks, BLOCK, ...), padded with zeros if T is not a multiple of BLOCK."""
    pad = num_blocks * BLOCK - t.shape[0]
    if pad:
        t = F.pad(t, (0, 0) * (t.dim() - 1) + (0, pad))
    return t.view(num_blocks, BLOCK, *t.shape[1:])


def decay_blocks(dt: Tensor, A: Tensor, cu_seqlens: Tensor) -> Blocks:
    num_units, num_heads = dt.shape
    num_blocks = -(-num_units // BLOCK)
    padded = num_blocks * BLOCK
    segments = F.pad(segment_ids(cu_seqlens, num_units), (0, padded - num_units), value=-1).view(num_blocks, BLOCK)
    steps = F.pad(dt, (0, 0, 0, padded - num_units)).t().contiguous().view(num_heads, num_blocks, BLOCK)
    row = (steps * (A * math.log2(math.e))[:, None, None]).cumsum(-1)
    column = row - steps.clamp_min(MIN_DT).log2()
    same = (segments[:, :, None] == segments[:, None, :]).tril()
    mask = torch.zeros(same.shape, dtype=dt.dtype, device=dt.device).masked_fill_(~same, -math.inf)
    continued = F.pad(segments[1:, 0] == segments[:-1, -1], (1, 0))
    end = row[:, :, -1:]
    to_end = torch.exp2(end - column) * (segments == segments[:, -1:])
    from_start = torch.exp2(row) * (continued[:, None] & (segments == segments[:, :1]))
    through = torch.exp2(end[:, :, 0]) * (continued & (segments[:, 0] == segments[:, -1]))
    return Blocks(row, column, mask, to_end.permute(1, 2, 0), from_start.permute(1, 2, 0), through.t())


def carry(states: Tensor, through: Tensor, *, backward: bool) -> Tensor:
    """In place: states[c] += through * states[c -+ 1], from the first block on or, backward, from the last."""
    num_blocks, _, width = states.shape
    weights = through[:, None, :, None].expand(-1, 1, -1, width // through.shape[1]).reshape(num_blocks, 1, width)
    order = list(zip(states.unbind(0), weights.unbind(0), strict=True))
    if backward:
        order.reverse()
    previous = order[0][0]
    for state, weight in order[1:]:
        torch.addcmul(state, previous, weight, out=state)
        previous = state
    return states


def scan_forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor]:
    """y (T,H,P) and the states (num_blocks, N, H*P) that leave the blocks, which the backward pass reads."""
    num_units, num_heads, width = x.shape
    blocks = decay_blocks(dt, A, cu_seqlens)
    num_blocks = blocks.mask.shape[0]
    x, B, C = (cut(t, num_blocks) for t in (x, B, C))
    y = torch.empty(num_blocks, BLOCK, num_heads, width, dtype=x.dtype, device=x.device)
    flat = y.view(num_blocks, BLOCK, num_heads * width)
    torch.mul(x, blocks.to_end[..., None], out=y)
    states = carry(torch.bmm(B.transpose(1, 2), flat), blocks.through, backward=False)
    flat[0].zero_()
    torch.bmm(C[1:], states[:-1], out=flat[1:])
    scores = torch.bmm(C, B.transpose(1, 2))
    weights = torch.empty_like(scores)
    inside = torch.empty(num_blocks, BLOCK, width, dtype=x.dtype, device=x.device)
    for head in range(num_heads):
        block_weights(blocks, head, out=weights).mul_(scores)
        weights.diagonal(dim1=1, dim2=2).add_(D[head])
        torch.bmm(weights, x[:, :, head], out=inside)
        part = y[:, :, head]
        torch.addcmul(inside, part, blocks.from_start[:, :, head, None], out=part)
    return y.view(-1, num_heads, width)[:num_units], states


def block_weights(blocks: Blocks, head: int, *, out: Tensor) -> Tensor:
    torch.sub(blocks.row[head, :, :, None], blocks.column[head, :, None, :], out=out)
    return out.add_(blocks.mask).exp2_()


def scan_backward(
    dy: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    cu_seqlens: Tensor,
    y: Tensor,
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, dt, A, B, C, D."""
    num_units, num_heads, width = x.shape
    blocks = decay_blocks(dt, A, cu_seqlens)
    num_blocks = blocks.mask.shape[0]
    x, B, C, dy, y = (cut(t, num_blocks) for t in (x, B, C, dy, y))
    scratch = torch.empty(num_blocks, BLOCK, num_heads, width, dtype=x.dtype, device=x.device)
    flat = scratch.view(num_blocks, BLOCK, num_heads * width)
    output_dot = torch.mul(dy, y, out=scratch).sum(-1)
    torch.mul(dy, blocks.from_start[..., None], out=scratch)
    dstates = carry(torch.bmm(C.transpose(1, 2), flat), blocks.through, backward=True)
    dC = torch.zeros_like(C, memory_format=torch.contiguous_format)
    torch.bmm(flat[1:], states[:-1].transpose(1, 2), out=dC[1:])
    torch.mul(x, blocks.to_end[..., None], out=scratch)
    dB = torch.zeros_like(dC)
    torch.bmm(flat[:-1], dstates[1:].transpose(1, 2), out=dB[:-1])
    dx = scratch
    flat[-1].zero_()
    torch.bmm(B[:-1], dstates[1:], out=flat[:-1])
    scores = torch.bmm(C, B.transpose(1, 2))
    dscores = torch.zeros_like(scores)
    weights, dweights = torch.empty_like(scores), torch.empty_like(scores)
    inside = torch.empty(num_blocks, BLOCK, width, dtype=x.dtype, device=x.device)
    skip_dot, input_dot = (torch.empty(num_blocks, BLOCK, num_heads, dtype=x.dtype, device=x.device) for _ in range(2))
    for head in range(num_heads):
        block_weights(blocks, head, out=weights)
        dy_head, x_head, dx_head = dy[:, :, head], x[:, :, head], dx[:, :, head]
        torch.bmm(dy_head, x_head.transpose(1, 2), out=dweights)
        skip_dot[:, :, head] = dweights.diagonal(dim1=1, dim2=2)
        dscores.addcmul_(dweights, weights)
        torch.bmm(weights.mul_(scores).transpose(1, 2), dy_head, out=inside)
        torch.addcmul(inside, dx_head, blocks.to_end[:, :, head, None], out=dx_head)
        torch.sum(torch.mul(dx_head, x_head, out=inside), -1, out=input_dot[:, :, head])
        dx_head.addcmul_(dy_head, D[head])
    dC.baddbmm_(dscores, B)
    dB.baddbmm_(dscores.transpose(1, 2), C)
    skip_dot, input_dot, output_dot = (t.view(-1, num_heads)[:num_units] for t in (skip_dot, input_dot, output_dot))
    ddt, dA = decay_gradients(output_dot - skip_dot * D, input_dot, dt, A, cu_seqlens)
    dx, dB, dC = (t.flatten(0, 1)[:num_units] for t in (dx, dB, dC))
    return dx, ddt, dA, dB, dC, skip_dot.sum(0)


def decay_gradients(
    output_dot: Tensor, input_dot: Tensor, dt: Tensor, A: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of dt and A from <dy_i, y_i> and <dx_j, x_j> (T,H), both without the skip.

    With s the running sum of dt A in a document, y_i holds a factor exp(s_i) and x_j enters with exp(-s_j);
    so dL/ds_i = <dy_i, y_i> - <dx_i, x_i>, and the gradient of one step's decay is the sum over what follows it.
    """
    tail = (output_dot - input_dot).double().flip(0).cumsum(0).flip(0)
    after = F.pad(tail, (0, 0, 0, 1)).index_select(0, cu_seqlens[1:].long())
    ddecay = (tail - after.index_select(0, segment_ids(cu_seqlens, dt.shape[0]))).to(dt.dtype)
    return torch.addcmul(input_dot / dt.clamp_min(MIN_DT), ddecay, A), (ddecay * dt).sum(0)


def state_weights(dt: Tensor, A: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Weight (T,H), without dt, of every input in the final state of its document."""
    decay = dt.double() * (A.double() * math.log2(math.e))
    total = decay.cumsum(0)
    ends = cu_seqlens[1:].long() - 1
    return torch.exp2(total.index_select(0, ends[segment_ids(cu_seqlens, dt.shape[0])]) - total).to(dt.dtype)


def final_states(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, cu_seqlens: Tensor) -> Tensor:
    """State (B,H,P,N) after the last unit of every document."""
    inputs = x * (dt * state_weights(dt, A, cu_seqlens))[..., None]
    lengths = cu_seqlens.diff().tolist()
    parts = zip(inputs.flatten(1).split(lengths), B.split(lengths), strict=True)
    return torch.stack([part.t() @ keys for part, keys in parts]).view(-1, *x.shape[1:], B.shape[1])


def final_states_backward(
    dstates: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, dt, A, B."""
    weights = state_weights(dt, A, cu_seqlens)
    lengths = cu_seqlens.diff().tolist()
    dstates = dstates.flatten(1, 2)
    dinputs = torch.cat([keys @ d.t() for keys, d in zip(B.split(lengths), dstates, strict=True)]).view(x.shape)
    inputs = (x * (dt * weights)[..., None]).flatten(1)
    dB = torch.cat([part @ d for part, d in zip(inputs.split(lengths), dstates, strict=True)])
    dot = (dinputs * x).sum(-1) * weights
    # A step's decay multiplies every input before it.
    before = (dot * dt).double().cumsum(0) - (dot * dt).double()
    starts = cu_seqlens[:-1].long()
    ddecay = (before - before.index_select(0, starts[segment_ids(cu_seqlens, dt.shape[0])])).to(dt.dtype)
    return dinputs * (dt * weights)[..., None], dot + ddecay * A, (ddecay * dt).sum(0), dB
