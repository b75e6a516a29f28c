"""HAT, Learn Your Tokens, TFree-HAT and MEGABYTE are what their papers say, against one word or patch at a time."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import hnet
from hnet.config import load_config
from hnet.model.config import ModelConfig
from hnet.model.language_model import LanguageModel
from hnet.model.stack import Stack
from hnet.segmentation.layout import IGNORE
from hnet.segmentation.rule import chunk_starts
from hnet.testing.strategies import random_model

CLOSE = {"atol": 1e-9, "rtol": 1e-7}
TEXT = np.array([254, *"A naïve (x+1) end.  Zwei\n日本!".encode(), 255], dtype=np.int64)


def normed(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rotated(x: Tensor, dim: int, base: float) -> Tensor:
    """(n, heads, head width), positions 0 to n - 1, halves of the first `dim` channels."""
    position = torch.arange(len(x), dtype=torch.float32)[:, None]
    angle = position * base ** -(torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    cos, sin = angle.cos()[:, None].to(x.dtype), angle.sin()[:, None].to(x.dtype)
    a, b, rest = x[..., : dim // 2], x[..., dim // 2 : dim], x[..., dim:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def run(stack: Stack, x: Tensor, *, causal: bool) -> Tensor:
    """One sequence (n, D) through a stack's weights, with whole attention matrices."""
    for block in stack.layers:
        config, mixer = block.mixer.config, block.mixer
        heads = mixer.qkv(normed(x, block.norm1.weight)).view(len(x), 3, config.num_heads, -1)
        q, k, v = heads.unbind(1)
        q, k = rotated(q, config.rotary_dim, config.rotary_base), rotated(k, config.rotary_dim, config.rotary_base)
        scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf)
        x = x + mixer.out_proj(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1))
        value, gate = block.mlp.fc1(normed(x, block.norm2.weight)).chunk(2, -1)
        x = x + block.mlp.fc2(F.silu(gate) * value)
    return x if stack.norm is None else normed(x, stack.norm.weight)


@dataclass
class Case:
    model: LanguageModel
    chunks: list[list[int]]
    """Of the text, without separators."""
    units: Tensor
    labels: Tensor
    logits: Tensor

    def predictions(self) -> Tensor:
        """Logits where there is a label."""
        return self.logits[self.labels != IGNORE]


def case(name: str) -> Case:
    model = random_model(load_config(ModelConfig, name), seed=11)
    layout = model.layout()
    laid = layout.lay_out(TEXT)
    starts = chunk_starts(layout.rule.mark(TEXT))
    starts = [int(start) for start in starts if start < len(TEXT)]
    chunks = [TEXT[a:b].tolist() for a, b in zip(starts, [*starts[1:], len(TEXT)], strict=True)]
    with torch.no_grad():
        logits = model(torch.from_numpy(laid.ids), marks=torch.from_numpy(laid.marks)).logits
    return Case(model, chunks, torch.from_numpy(laid.ids), torch.from_numpy(laid.labels), logits)


@torch.no_grad()
@pytest.mark.parametrize("name", ["hat_small", "etok_small"])
def test_words_one_at_a_time(name: str) -> None:
    """[W] c_1 .. c_n of a word are encoded alone; [p_i, emb(c_1), .., emb(c_n)] of the next predict c_1, .., c_n, [W].
    With p vectors of a word they are p positions of the causal main model, and logits count from slot p."""
    found = case(name)
    model, stage = found.model, found.model.stage
    separators = torch.tensor(model.layout().separators)
    num = len(separators)
    widen, narrow = stage.pool.project or torch.nn.Identity(), stage.unpool.project
    canvases = [model.embedding(torch.cat([separators, torch.tensor(word)])) for word in found.chunks]
    represented = [widen(run(stage.encoder, canvas, causal=False)[:num]) for canvas in canvases]
    main = narrow(run(stage.inner.main, torch.cat(represented), causal=True)).split(num)
    expected, targets = [], []
    for index, (canvas, word) in enumerate(zip(canvases, found.chunks, strict=True)):
        before = main[index - 1] if index else stage.unpool.seen.start
        decoded = run(stage.decoder, torch.cat([before, canvas[num:]]), causal=True)
        expected.append(model.head(decoded)[num - 1 :])
        targets.append(torch.tensor([*word, int(separators[0])]))
    # Nothing predicts the first unit of a sequence, and no separator follows the last word.
    assert torch.equal(torch.cat(targets)[1:-1], found.labels[found.labels != IGNORE])
    torch.testing.assert_close(found.predictions(), torch.cat(expected)[1:-1], **CLOSE)


@torch.no_grad()
def test_learn_your_tokens_sequence() -> None:
    found = case("etok_small")
    separators = found.model.layout().separators
    assert separators == (253, 252, 251, 250)
    expected = [unit for word in found.chunks for unit in [*separators, *word]]
    assert found.units.tolist() == expected
    stage = found.model.stage
    assert stage.pool.num_units == stage.unpool.num_positions == 4
    assert stage.config.d_model == stage.inner.config.d_model and stage.pool.project is None


@torch.no_grad()
def test_megabyte_one_patch_at_a_time() -> None:
    """Bytes of width D/P side by side are a patch of the global model; its outputs, cut into P slots of D/P and
    projected, are added to a patch's bytes, of which the first is a pad and the last is left out."""
    found = case("megabyte_small")
    model, stage, size = found.model, found.model.stage, 8
    local, width = stage.config.d_model, stage.inner.config.d_model
    generator = torch.Generator().manual_seed(0)
    embed = torch.randn(width // size, local, generator=generator, dtype=torch.float64) / 8
    to_local = torch.randn(local, width // size, generator=generator, dtype=torch.float64) / 8
    stage.pool.project.weight.copy_(torch.block_diag(*[embed] * size))
    stage.unpool.project.weight.copy_(torch.block_diag(*[to_local] * size))
    logits = model(found.units).logits
    table = model.embedding.weight
    padded = [patch + [-1] * (size - len(patch)) for patch in found.chunks]
    rows = torch.tensor(padded)
    vectors = (table[rows] @ embed.T).masked_fill((rows < 0)[..., None], 0.0).flatten(1)
    slots = run(stage.inner.main, vectors, causal=True).view(-1, size, width // size) @ to_local.T
    expected = []
    for index, patch in enumerate(found.chunks):
        shifted = table[torch.tensor([253, *patch])][: len(patch)]
        before = slots[index - 1] if index else stage.unpool.seen.start
        expected.append(model.head(run(stage.decoder, shifted + before[: len(patch)], causal=True)))
    assert torch.equal(torch.cat([torch.tensor(patch) for patch in found.chunks])[1:], found.labels[found.labels >= 0])
    torch.testing.assert_close(logits[found.labels != IGNORE], torch.cat(expected)[1:], **CLOSE)


def test_tfree_hat_8b_has_the_parameters_of_the_report() -> None:
    model = hnet.build("tfree_hat_8b", device="meta")
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.stage.named_children()}
    byte_layer, llama_layer = 12_847_104, 218_112_000
    assert counts == {
        "encoder": 6 * byte_layer,
        "router": 0,
        "pool": 2 * 4096 * 4096 + 2 * 1024 * 4096 + 4096,
        "residual": 0,
        "inner": 32 * llama_layer,
        "unpool": 4096 + 4 * (2 * 1024 * 1024 + 2 * 4096 * 1024 + 1024 + 4096),
        "decoder": 4 * byte_layer + 1024,
    }
    assert model.embedding.weight.numel() == model.head.weight.numel() == 262_144
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_192_495_104


@torch.no_grad()
def test_tfree_hat_reads_the_word_before_with_one_byte_of_lag() -> None:
    """The first byte of a word is predicted from what precedes the word that has just ended; its second from that."""
    model = random_model(load_config(ModelConfig, "tfree_hat_small"), seed=5)
    seen = []
    model.stage.unpool.register_forward_hook(lambda module, given, result: seen.append(given[2].visible))
    text = torch.tensor([254, *b"a bc def"])
    model(text)
    #                                    BOS  a  _  b  c  _  d  e  f
    assert torch.cat(seen).tolist() == [-1, 0, 1, 1, 1, 2, 2, 2, 2]


def test_hat_1b_has_the_sizes_of_the_paper() -> None:
    model = hnet.build("hat_1b", device="meta")
    backbone = sum(parameter.numel() for parameter in model.stage.inner.parameters())
    coders = [model.embedding, model.stage.encoder, model.stage.pool]
    assert round(backbone / 1e9, 1) == 1.1
    assert round(sum(p.numel() for part in coders for p in part.parameters()) / 1e6) == 23
