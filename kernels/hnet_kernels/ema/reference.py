"""Exponential smoothing of chunks over packed documents, in plain PyTorch."""

import torch
from torch import Tensor

from hnet_kernels.packed import first_positions, widen

MIN_PROB = 1e-4
"""P is kept within [1e-4, 1 - 1e-4], also where a boundary is forced, as the released H-Nets were trained."""


def linear_scan(decay: Tensor, value: Tensor) -> Tensor:
    """s_i = decay_i s_{i-1} + value_i down the rows of value (M,D), decay (M,); both are overwritten.

    Doubling passes (Hillis and Steele): after the pass with shift n every row holds its last 2n inputs.
    """
    decay = decay[:, None]
    spare, spare_decay = torch.empty_like(value), torch.empty_like(decay)
    shift, num_rows = 1, value.shape[0]
    while shift < num_rows:
        # On a CPU the passes stop once no input reaches further; asking an accelerator would stall it.
        if decay.device.type == "cpu" and not bool(decay[shift:].any()):
            break
        spare[:shift] = value[:shift]
        torch.addcmul(value[shift:], decay[shift:], value[:-shift], out=spare[shift:])
        spare_decay[:shift] = 0
        torch.mul(decay[shift:], decay[:-shift], out=spare_decay[shift:])
        value, spare, decay, spare_decay = spare, value, spare_decay, decay
        shift *= 2
    return value


def weights(prob: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """The clamped P (M,) and the decay 1-P (M,), zero where a document starts."""
    clamped = prob.clamp(MIN_PROB, 1 - MIN_PROB)
    return clamped, (1 - clamped).index_fill_(0, first_positions(cu_seqlens), 0.0)


def ema_forward(z: Tensor, prob: Tensor, cu_seqlens: Tensor, at_least_half: bool = False) -> Tensor:
    """zbar (M,D) in z's dtype. Any P is handled alike: `at_least_half` changes nothing here."""
    (wide,) = widen(z)
    clamped, decay = weights(prob.to(wide.dtype), cu_seqlens)
    return linear_scan(decay, wide * clamped[:, None]).to(z.dtype)


def ema_backward(
    grad: Tensor, z: Tensor, prob: Tensor, cu_seqlens: Tensor, zbar: Tensor, at_least_half: bool = False
) -> tuple[Tensor, Tensor]:
    """Gradients of z (M,D) and prob (M,), each in the dtype of its input; the clamp stops the latter."""
    wide_grad, wide_z, wide_zbar = widen(grad, z, zbar)
    wide_prob = prob.to(wide_z.dtype)
    clamped, decay = weights(wide_prob, cu_seqlens)
    # The state's gradient runs backward: g_i = grad_i + decay_{i+1} g_{i+1}.
    following = torch.cat([decay.new_zeros(1), decay[1:].flip(0)])
    dstate = linear_scan(following, wide_grad.flip(0)).flip(0)
    change = wide_z.clone()
    change[1:].addcmul_(wide_zbar[:-1], (decay[1:, None] != 0).to(wide_z.dtype), value=-1)
    dprob = change.mul_(dstate).sum(-1)
    inside = (wide_prob >= MIN_PROB) & (wide_prob <= 1 - MIN_PROB)
    return dstate.mul_(clamped[:, None]).to(z.dtype), dprob.mul_(inside).to(prob.dtype)
