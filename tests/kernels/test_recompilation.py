"""Packs of every length run through the same compiled graphs."""

import pytest
import torch
from packs import bounds
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from hnet.model.blocks.context import PackContext
from hnet.model.config import StageConfig
from hnet.model.packed import Packed
from hnet.model.stack import Block
from hnet_kernels import chunk_with_residual, ema, route, upsample

PACKS = [[40, 3], [17], [9, 9, 9, 30], [2, 64, 1], [5] * 11, [90]]


def chunking_path(x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Everything between the encoder and the decoder of a stage, with the chunks themselves as the inner stage."""
    routing = route(x, x, cu_seqlens)
    chunks, residual = chunk_with_residual(x, routing.mask, cu_seqlens, weight, bias)
    smoothed = ema(chunks.values, routing.prob[chunks.chunk_offsets[:-1]], chunks.cu_seqlens, at_least_half=True)
    return upsample(smoothed, chunks.chunk_index, routing.confidence, residual, chunk_offsets=chunks.chunk_offsets)


def inputs(lengths: list[int], width: int) -> tuple[Tensor, Tensor]:
    """x (T,D) and cu_seqlens, whose sizes are declared dynamic."""
    torch.manual_seed(sum(lengths))
    x, cu_seqlens = torch.randn(sum(lengths), width, requires_grad=True), bounds(lengths)
    torch._dynamo.maybe_mark_dynamic(x, 0)
    torch._dynamo.maybe_mark_dynamic(cu_seqlens, 0)
    return x, cu_seqlens


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def test_dynamic_chunking_is_one_graph_for_packs_of_every_length():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(chunking_path, backend=counter, fullgraph=True)
    weight, bias = torch.randn(8, 8), torch.randn(8)
    for lengths in PACKS:
        x, cu_seqlens = inputs(lengths, 8)
        out = compiled(x, weight, bias, cu_seqlens)
        (grad,) = torch.autograd.grad(out.square().sum(), x)
        want = chunking_path(x, weight, bias, cu_seqlens)
        torch.testing.assert_close(out, want)
        torch.testing.assert_close(grad, torch.autograd.grad(want.square().sum(), x)[0])
    assert counter.frame_count == 1


@pytest.mark.parametrize("kind", ["T", "M", "t", "m"])
def test_a_block_is_one_graph_for_packs_of_every_length(kind):
    config = StageConfig(
        d_model=16, main=f"{kind}1", attention={"num_heads": 2, "rotary_dim": 4}, ssm={"d_state": 8, "head_dim": 8}
    )
    block = Block(kind, config, 1e-5)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.1)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, backend=counter, fullgraph=True)
    for lengths in PACKS:
        x, cu_seqlens = inputs(lengths, 16)
        context = PackContext(Packed(x, cu_seqlens))
        context.rotary(config.attention.rotary_dim, config.attention.rotary_base)
        out = compiled(x, context)
        (grad,) = torch.autograd.grad(out.sin().sum(), x)
        want = block(x, context)
        torch.testing.assert_close(out, want)
        torch.testing.assert_close(grad, torch.autograd.grad(want.sin().sum(), x)[0])
    assert counter.frame_count <= 2
