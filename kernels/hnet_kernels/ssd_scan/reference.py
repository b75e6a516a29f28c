"""Chunked (matrix) form of Mamba-2's selective scan over packed documents, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_kernels.packed import segment_ids

BLOCK = 64


def ssd_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, cu_seqlens: Tensor,
    *, return_final_states: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    T, H, P = x.shape
    dtype = x.dtype
    x, dt, B, C = (t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in (x, dt, B, C))
    N, Q = B.shape[1], BLOCK
    seg = segment_ids(cu_seqlens, T)
    nc = -(-T // Q)
    pad = nc * Q - T
    la = dt * A
    xd = x * dt[..., None]
    xc = F.pad(xd, (0, 0, 0, 0, 0, pad)).view(nc, Q, H, P).transpose(1, 2)
    la = F.pad(la, (0, 0, 0, pad)).view(nc, Q, H).transpose(1, 2)
    Bc, Cc = (F.pad(t, (0, 0, 0, pad)).view(nc, Q, N) for t in (B, C))
    s = F.pad(seg, (0, pad), value=-1).view(nc, Q)
    cs = la.cumsum(-1)
    m = (s[:, :, None] == s[:, None, :]) & torch.ones(Q, Q, dtype=torch.bool, device=x.device).tril()
    L = (cs[..., :, None] - cs[..., None, :]).masked_fill(~m[:, None], float("-inf")).exp()
    y = ((Cc @ Bc.transpose(1, 2))[:, None] * L) @ xc
    last = s == s[:, -1:]
    dte = (cs[..., -1:] - cs).masked_fill(~last[:, None], float("-inf")).exp()
    st = (xc * dte[..., None]).transpose(2, 3) @ Bc[:, None]
    cont = torch.cat([s.new_zeros(1, dtype=torch.bool), s[1:, 0] == s[:-1, -1]])
    whole = cont & (s[:, 0] == s[:, -1])
    dec = torch.where(whole[:, None], cs[..., -1].exp(), torch.zeros_like(cs[..., -1]))
    h = x.new_zeros(H, P, N)
    hs = []
    for d_, s_ in zip(dec.unbind(0), st.unbind(0), strict=True):
        hs.append(h)
        h = h * d_[:, None, None] + s_
    hin = torch.stack(hs)
    first = (s == s[:, :1]) & cont[:, None]
    yo = (Cc[:, None] @ hin.transpose(2, 3)) * torch.where(first[:, None], cs.exp(), torch.zeros_like(cs))[..., None]
    y = ((y + yo).transpose(1, 2).reshape(nc * Q, H, P)[:T] + D[:, None] * x).to(dtype)
    if not return_final_states:
        return y
    e = cu_seqlens[1:].long() - 1
    c, j = e // Q, e % Q
    wgt = torch.where((s[c] == seg[e][:, None]) & (torch.arange(Q, device=x.device) <= j[:, None]), 1.0, 0.0)
    cse = cs[c].gather(2, j[:, None, None].expand(-1, H, 1))
    w = (cse - cs[c]).clamp(max=0).exp() * wgt[:, None]
    fin = (xc[c] * w[..., None]).transpose(2, 3) @ Bc[c][:, None]
    carry = first[c, j][:, None, None, None] * cse.exp()[..., None] * hin[c]
    return y, fin + carry
