"""Packs that somebody could send to break a run: no error, and memory as counted."""

import subprocess
import sys

import pytest
import torch

from hnet_kernels import backend, chunk, ema, route, upsample

# In a process of its own, as a process that has freed memory before hides what it takes.
RUN = """
import sys
import torch
from hnet.bench.memory import PeakMemory
from hnet.model.accounting import activation_bytes
from hnet.model.config import ModelConfig
from hnet.model.language_model import LanguageModel
from hnet.training.allocator import keep_freed_memory

kind, num_units = sys.argv[1], int(sys.argv[2])
keep_freed_memory()
torch.manual_seed(0)
repeated = torch.full((num_units,), 97)
ids = repeated if kind == "repeated" else torch.randint(0, 256, (num_units,))
lengths = torch.ones(num_units, dtype=torch.int) if kind == "documents" else torch.tensor([num_units])
cu_seqlens = torch.cat([torch.zeros(1), lengths.cumsum(0)]).int()
ssm, attention = {"d_state": 8, "head_dim": 8}, {"num_heads": 1, "rotary_dim": 8, "window": 31}
outer = {"d_model": 16, "encoder": "m1", "decoder": "m1", "ssm": ssm}
model = LanguageModel(ModelConfig(stages=[outer, {"d_model": 16, "main": "T1", "attention": attention}]))
model.loss(ids[:64]).total.backward()
memory = PeakMemory(torch.device("cpu"))
losses = model.loss(ids, cu_seqlens)
losses.total.backward()
chunks = losses.output.stages[0].num_chunks
finite = all(bool(p.grad.isfinite().all()) for p in model.parameters())
print(chunks, finite, memory.growth(), activation_bytes(model.config, [num_units, chunks]))
"""


@pytest.mark.parametrize(
    ("kind", "num_units", "fewest", "most"),
    [
        ("random", 100_000, 20_000, 80_000),
        ("repeated", 100_000, 1, 10),
        ("documents", 100_000, 100_000, 100_000),
        ("random", 1_000_000, 200_000, 800_000),
    ],
    ids=["random bytes", "one byte repeated", "documents of one byte", "one document of a million bytes"],
)
def test_trains_on_the_pack_in_the_memory_that_was_counted(kind, num_units, fewest, most):
    code = [sys.executable, "-W", "ignore", "-c", RUN, kind, str(num_units)]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    chunks, finite, measured, counted = done.stdout.split()
    assert fewest <= int(chunks) <= most and finite == "True"
    assert 0.5 * int(counted) < int(measured) < 1.5 * int(counted)


@pytest.mark.parametrize(
    ("lengths", "same"), [([1] * 300, False), ([300], True), ([300], False)], ids=["short", "repeated", "random"]
)
def test_kernels_chunk_the_pack_as_the_reference_does(lengths, same):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    num_units, cu_seqlens = sum(lengths), torch.tensor([0, *lengths]).cumsum(0).int().to(device)
    x = torch.ones(num_units, 4) if same else torch.randn(num_units, 4)

    def path(x: torch.Tensor) -> list[torch.Tensor]:
        x = x.to(device).requires_grad_()
        routing = route(x, x, cu_seqlens)
        chunks = chunk(x, routing.mask, cu_seqlens)
        smoothed = ema(chunks.values, routing.prob[chunks.chunk_offsets[:-1]], chunks.cu_seqlens, at_least_half=True)
        out = upsample(smoothed, chunks.chunk_index, routing.confidence, x, chunk_offsets=chunks.chunk_offsets)
        out.square().sum().backward()
        return [out.detach(), x.grad, chunks.cu_seqlens]

    with backend("triton"):
        got = path(x)
    with backend("reference"):
        want = path(x)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
