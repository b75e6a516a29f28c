"""Pools of one reduction, widening, and unpools that repeat, scatter or go by offset, against their definitions."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import hnet
from hnet.config import load_config
from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.chunking import ChunkMap
from hnet.model.config import ModelConfig
from hnet.model.config.part import PartSizes
from hnet.model.config.pools import MaxConfig, MeanConfig, SelectConfig
from hnet.model.config.unpools import OffsetLinearConfig, RepeatConfig, ScatterConfig
from hnet.model.packed import Packed
from hnet.model.pools.reduce import ReducePool
from hnet.model.pools.select import SelectPool
from hnet.model.unpools.offset_linear import OffsetLinearUnpool
from hnet.model.unpools.repeat import RepeatUnpool
from hnet.model.unpools.scatter import ScatterUnpool
from hnet.testing.combinations import narrowed
from hnet.testing.strategies import random_model

WIDTH, INNER = 4, 6
OFFSETS = torch.tensor([0, 3, 4, 9], dtype=torch.int32)
DOCUMENTS = torch.tensor([0, 4, 9], dtype=torch.int32)
OVER_CHUNKS = torch.tensor([0, 2, 3], dtype=torch.int32)
OWN = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2])
LATE = torch.tensor([-1, -1, 0, 1, -1, -1, -1, 2, 2])
"""Chunks that are whole at their last unit, or two units before it."""


def sizes(inner: int = INNER, *, reads_whole: bool = False) -> PartSizes:
    return PartSizes(WIDTH, INNER, 0, 3.0, 1, inner, 1e-5, reads_whole)


def chunk_map(visible: Tensor) -> ChunkMap:
    return ChunkMap(OWN, OFFSETS, OVER_CHUNKS, OWN if visible is OWN else visible)


def filled(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module.double()


def boundaries(confidence: Tensor | None = None) -> Boundaries:
    mask = torch.zeros(9, dtype=torch.bool).index_fill(0, OFFSETS[:-1].long(), True)
    given = Boundaries.given(mask)
    if confidence is None:
        return given
    return Boundaries(given.prob, mask, confidence, given.prob_sum, given.num_wanted, given.num_dropped)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def units() -> Tensor:
    return torch.randn(9, WIDTH, dtype=torch.float64)


def test_pools(units: Tensor) -> None:
    pack, firsts = Packed(units, DOCUMENTS), units[OFFSETS[:-1].long()]
    pieces = [units[a:b] for a, b in zip(OFFSETS.tolist(), OFFSETS[1:].tolist(), strict=False)]
    same = sizes(WIDTH, reads_whole=True)
    assert_close(ReducePool(same, MeanConfig())(pack, firsts, chunk_map(OWN)), torch.stack([p.mean(0) for p in pieces]))
    assert_close(ReducePool(same, MaxConfig())(pack, firsts, chunk_map(OWN)), torch.stack([p.amax(0) for p in pieces]))
    wider = filled(ReducePool(sizes(reads_whole=True), MaxConfig()))
    maxima = torch.stack([p.amax(0) for p in pieces])
    assert_close(wider(pack, firsts, chunk_map(OWN)), maxima @ wider.widen.weight.T)


def test_widening_of_selected_states(units: Tensor) -> None:
    pack, firsts = Packed(units, DOCUMENTS), units[OFFSETS[:-1].long()]
    given = SelectPool(sizes(), SelectConfig(widening="zero_left"))(pack, firsts, chunk_map(OWN))
    assert given.shape == (3, INNER) and not given[:, : INNER - WIDTH].any()
    assert torch.equal(given[:, INNER - WIDTH :], firsts)
    linear = filled(SelectPool(sizes(), SelectConfig(widening="linear")))
    assert_close(linear(pack, firsts, chunk_map(OWN)), firsts @ linear.widen.weight.T)
    assert SelectPool(sizes(WIDTH), SelectConfig())(pack, firsts, chunk_map(OWN)) is firsts


@pytest.mark.parametrize("visible", [OWN, LATE])
def test_repeat(units: Tensor, visible: Tensor) -> None:
    late = visible is LATE
    unpool = filled(RepeatUnpool(sizes(reads_whole=late), RepeatConfig()))
    chunks = torch.randn(3, INNER, dtype=torch.float64)
    confidence = torch.rand(9, dtype=torch.float64, requires_grad=True)
    start, injection = unpool(
        Packed(chunks, OVER_CHUNKS), boundaries(confidence), chunk_map(visible), units, torch.float64
    )
    narrow = chunks @ unpool.narrow.weight.T
    seen = torch.stack([narrow[v] if v >= 0 else unpool.seen.start[0] for v in visible.tolist()])
    assert injection is None
    assert_close(start, units + seen)
    start.sum().backward()
    assert_close(confidence.grad, seen.sum(1).detach())


@pytest.mark.parametrize("visible", [OWN, LATE])
def test_scatter_gives_a_chunk_to_the_first_unit_that_sees_it(units: Tensor, visible: Tensor) -> None:
    """SpaceByte: the last channels of the global state, at the byte that opened the chunk and nowhere else."""
    unpool = ScatterUnpool(sizes(reads_whole=visible is LATE), ScatterConfig(narrowing="last"))
    chunks = torch.randn(3, INNER, dtype=torch.float64)
    start, _ = unpool(Packed(chunks, OVER_CHUNKS), boundaries(), chunk_map(visible), units, torch.float64)
    expected = units.clone()
    for chunk, unit in enumerate([0, 3, 4] if visible is OWN else [2, 3, 7]):
        expected[unit] += chunks[chunk, INNER - WIDTH :]
    assert_close(start, expected)


@pytest.mark.parametrize("visible", [OWN, LATE])
def test_offset_linear_is_that_of_au_net(units: Tensor, visible: Tensor) -> None:
    """u = W n + W_{off mod K} n with n = RMSNorm(coarse), off from the first unit that has the coarse vector."""
    unpool = filled(OffsetLinearUnpool(sizes(reads_whole=visible is LATE), OffsetLinearConfig(num_offsets=3)))
    chunks = torch.randn(3, INNER, dtype=torch.float64)
    start, _ = unpool(Packed(chunks, OVER_CHUNKS), boundaries(), chunk_map(visible), units, torch.float64)
    common, *by_offset = unpool.maps.weight.view(4, WIDTH, INNER)
    offset, before = 0, None
    for unit, row in enumerate(visible.tolist()):
        offset = 0 if row != before or unit in DOCUMENTS else offset + 1
        before = row
        if row < 0:
            coarse = unpool.seen.start[0]
        else:
            coarse = chunks[row] * (chunks[row].square().mean() + 1e-5).rsqrt() * unpool.norm.weight
        assert_close(start[unit], units[unit] + common @ coarse + by_offset[offset % 3] @ coarse)


@pytest.mark.parametrize("name", ["spacebyte_small", "hnet_space_small", "hnet_fixed6_small"])
def test_small_models_are_small(name: str) -> None:
    count = sum(parameter.numel() for parameter in hnet.build(name, device="meta").parameters())
    assert 1e6 < count < 3.6e6


def test_spacebyte_is_the_published_model() -> None:
    """The whole once more: gather, zeros on the left, global blocks, and their last channels added where they began."""
    config = narrowed(load_config(ModelConfig, "spacebyte_small"))
    model = random_model(config, 0)
    text = list("Hi, the cat's 2nd café — 世界!\n\nok".encode())
    starts = [t for t, byte in enumerate(text) if t == 0 or (spacelike(byte) and not spacelike(text[t - 1]))]
    stage, width = model.stage, config.stages[0].d_model
    with torch.no_grad():
        cu_seqlens = torch.tensor([0, len(text)], dtype=torch.int32)
        x = stage.encoder(Packed(model.embedding(torch.tensor(text)), cu_seqlens))
        z = torch.cat([x.new_zeros(len(starts), config.stages[1].d_model - width), x[starts]], 1)
        y = stage.inner.main(Packed(z, torch.tensor([0, len(starts)], dtype=torch.int32)))
        x = x.index_add(0, torch.tensor(starts), y[:, -width:])
        expected = model.head(stage.decoder(Packed(x, cu_seqlens)))
        assert_close(model(torch.tensor(text)).logits, expected)


def spacelike(byte: int) -> bool:
    """As in the published code: below '0', between digits and letters, above 'z', or the first byte of a character."""
    between = byte < ord("0") or ord("9") < byte < ord("A") or ord("Z") < byte < ord("a") or ord("z") < byte < 0x80
    return between or byte >= 0xC0
