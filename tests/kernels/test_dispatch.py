"""Operations run on the device of their tensors, whichever is the current one."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from packs import bounds

from hnet_kernels import chunk, ema, route, upsample
from hnet_kernels.dispatch import implementation
from hnet_kernels.route import triton as kernels


def test_kernels_are_launched_on_the_device_of_the_tensors(monkeypatch):
    current = [torch.device("cuda", 0)]

    @contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        before, current[0] = current[0], wanted
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0].index)
    monkeypatch.setattr(kernels, "route_forward", lambda *args, **kwargs: (current[0], args, kwargs))
    for index in (0, 1):
        x = SimpleNamespace(is_cuda=True, device=torch.device("cuda", index), dtype=torch.float32)
        assert implementation("route", x).route_forward(x, other=3) == (x.device, (x,), {"other": 3})
        assert current[0].index == 0


@pytest.mark.parametrize("device", ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))])
def test_operations_work_beside_the_current_device(device):
    lengths = [300, 1, 700]
    x = torch.randn(sum(lengths), 64, dtype=torch.float64)

    def path(x: torch.Tensor) -> list[torch.Tensor]:
        x, cu_seqlens = x.requires_grad_(), bounds(lengths).to(x.device)
        routing = route(x, x, cu_seqlens)
        chunks = chunk(x, routing.mask, cu_seqlens)
        smooth = ema(chunks.values, routing.prob[chunks.chunk_offsets[:-1]], chunks.cu_seqlens)
        out = upsample(smooth, chunks.chunk_index, routing.confidence, x, chunk_offsets=chunks.chunk_offsets)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), x)]

    # The current GPU, if there is one, stays the first.
    for got, want in zip(path(x.float().to(device)), path(x), strict=True):
        torch.testing.assert_close(got.cpu().double(), want, rtol=1e-4, atol=1e-4)
