"""Cross-attention in both directions against dense attention with a mask, in float64; costs against the modules."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.cache import StateCache
from hnet.model.chunking import ChunkMap
from hnet.model.config.cross_attention import CrossAttentionPoolConfig, CrossAttentionUnpoolConfig
from hnet.model.config.part import PartSizes
from hnet.model.loading import build
from hnet.model.packed import Packed, positions
from hnet.model.pools.cross_attention import CrossAttentionPool
from hnet.model.unpools.cross_attention import CrossAttentionUnpool

WIDTH, INNER = 16, 24
DOCUMENTS = ([3, 1, 4], [2], [1, 1, 5])
"""Units of the chunks of three documents."""


def layout() -> tuple[Packed, ChunkMap]:
    """A pack and its chunks. Units see the chunk before their own, and a chunk's last unit its own."""
    lengths = torch.tensor([length for document in DOCUMENTS for length in document])
    offsets = nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
    of_chunks = torch.tensor([0, *[len(document) for document in DOCUMENTS]]).cumsum(0).int()
    index = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    first = of_chunks[:-1].long().repeat_interleave(of_chunks.diff().long())
    visible = (index - 1).where(index > first[index], -1)
    visible[offsets[1:].long() - 1] = torch.arange(len(lengths))
    torch.manual_seed(0)
    values = torch.randn(len(index), WIDTH, dtype=torch.float64, requires_grad=True)
    return Packed(values, offsets[of_chunks.long()]), ChunkMap(index, offsets, of_chunks, visible)


def sizes(num_layers: int = 2, num_positions: int = 1) -> PartSizes:
    return PartSizes(WIDTH, INNER, num_layers, 4.0, num_positions, INNER, 1e-5, True)


def boundaries(num_units: int) -> Boundaries:
    return Boundaries.given(torch.ones(num_units, dtype=torch.bool))


def drawn(module: nn.Module) -> Any:
    """In float64, every parameter random."""
    module = module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def norm(x: Tensor, module: Any) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + module.eps).sqrt() * module.weight


def turned(x: Tensor, position: Tensor, channels: int) -> Tensor:
    """Channel pairs (i, i + channels / 2) of (..., N, P) turned as complex numbers."""
    half = channels // 2
    angle = position[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float32) * 2 / channels)
    pair = torch.complex(x[..., :half], x[..., half:channels]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pair.real, pair.imag, x[..., channels:]], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Dense attention of queries (N, D) and keys (M, D) that `mask` (N, M) allows."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in (q, k, v))
    score = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    return (score.softmax(-1) @ v).transpose(0, 1).flatten(1)


def naive_pool(pool: Any, pack: Packed, chunk_map: ChunkMap) -> Tensor:
    config, x, index = pool.config, pack.values, chunk_map.index
    num_chunks = chunk_map.num_chunks
    if config.query == "learned":
        queries = pool.queries.repeat(num_chunks, 1)
    else:
        reduce = (lambda part: part.amax(0)) if config.query == "max" else (lambda part: part.mean(0))
        reduced = torch.stack([reduce(x[index == chunk]) for chunk in range(num_chunks)])
        queries = (reduced @ pool.expand.weight.T).view(num_chunks * config.num_queries, -1)
    q = (norm(queries, pool.query_norm) if config.norms else queries) @ pool.q_proj.weight.T
    k, v = ((norm(x, pool.unit_norm) if config.norms else x) @ pool.kv_proj.weight.T).chunk(2, -1)
    of_query = torch.arange(num_chunks).repeat_interleave(config.num_queries)
    if config.rotary_dim:
        of_chunks, of_units = positions(chunk_map.cu_seqlens, num_chunks), positions(pack.cu_seqlens, len(x))
        turn = [(q, of_chunks[of_query]), (k, of_units)]
        q, k = (
            turned(part.unflatten(-1, (config.num_heads, -1)).transpose(0, 1), position, config.rotary_dim)
            .transpose(0, 1)
            .flatten(1)
            for part, position in turn
        )
    out = attend(q, k, v, of_query[:, None] == index, config.num_heads) @ pool.out_proj.weight.T
    joined = (config.residual * queries + out).view(num_chunks, -1)
    return joined @ pool.project.weight.T if hasattr(pool, "project") else joined


@pytest.mark.parametrize(
    "settings",
    [
        {"query": "max", "num_queries": 2, "residual": 2.0},
        {"query": "mean", "num_queries": 1, "num_heads": 2},
        {"query": "learned", "num_queries": 2, "norms": False, "residual": 0.0, "num_heads": 3, "rotary_dim": 4},
        {"query": "learned", "num_heads": 2, "rotary_dim": 8},
    ],
)
def test_pool_is_dense_attention_within_chunks(settings: dict[str, Any]) -> None:
    config = CrossAttentionPoolConfig(**{"num_heads": 4, **settings})
    pack, chunk_map = layout()
    pool = drawn(CrossAttentionPool(sizes(), config))
    firsts = pack.values[chunk_map.offsets[:-1].long()]
    ours, expected = pool(pack, firsts, chunk_map), naive_pool(pool, pack, chunk_map)
    # Angles are float32 in both, but rounded in another order.
    torch.testing.assert_close(ours, expected, rtol=1e-5 if config.rotary_dim else 1e-10, atol=1e-6)
    weights = [pack.values, *pool.parameters()]
    probe = torch.randn_like(ours)
    grads = (torch.autograd.grad((y * probe).sum(), weights) for y in (ours, expected))
    for mine, reference in zip(*grads, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4 if config.rotary_dim else 1e-8, atol=1e-5)


def naive_unpool(unpool: Any, chunks: Tensor, skip: Tensor, visible: Tensor, layers: int) -> Tensor:
    config = unpool.config
    rows = torch.where((visible >= 0)[:, None, None], chunks[visible.clamp(min=0)], unpool.start)
    keys = rows @ unpool.keys.weight.T if config.project_keys else rows
    keys = keys.reshape(len(skip) * keys[0].numel() // unpool.key_width, unpool.key_width)
    mask = torch.arange(len(skip)).repeat_interleave(len(keys) // len(skip)) == torch.arange(len(skip))[:, None]
    for layer in unpool.layers[:layers]:
        q = (norm(skip, layer.unit_norm) if config.norms else skip) @ layer.q_proj.weight.T
        k, v = ((norm(keys, layer.key_norm) if config.norms else keys) @ layer.kv_proj.weight.T).chunk(2, -1)
        out = attend(q, k, v, mask, config.num_heads)
        skip = config.residual * skip + out @ layer.out_proj.weight.T
    return skip


@pytest.mark.parametrize(
    "settings",
    [
        {"num_keys": 2, "residual": 2.0},
        {"num_keys": 1, "project_keys": False},
        {"num_keys": 3, "project_keys": False, "norms": False, "every_layer": False},
    ],
)
@pytest.mark.parametrize("num_positions", [1, 2])
def test_unpool_is_dense_attention_to_the_visible_chunk(settings: dict[str, Any], num_positions: int) -> None:
    config = CrossAttentionUnpoolConfig(**{"num_heads": 4, **settings})
    pack, chunk_map = layout()
    unpool = drawn(CrossAttentionUnpool(sizes(num_positions=num_positions), config))
    chunks = torch.randn(chunk_map.num_chunks * num_positions, INNER, dtype=torch.float64, requires_grad=True)
    inner = Packed(chunks, chunk_map.cu_seqlens * num_positions)
    ours, inject = unpool(inner, boundaries(len(pack.values)), chunk_map, pack.values, torch.float64)
    for layer in range(2):
        ours = inject(layer, ours)
    expected = naive_unpool(unpool, chunks.view(-1, num_positions, INNER), pack.values, chunk_map.visible, 2)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    weights = [chunks, pack.values, *unpool.parameters()]
    probe = torch.randn_like(ours)
    grads = (torch.autograd.grad((y * probe).sum(), weights) for y in (ours, expected))
    for mine, reference in zip(*grads, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_unpool_steps_as_it_runs_in_full() -> None:
    """The cache of a prefill has what the last unit sees; a new chunk replaces it."""
    pack, chunk_map = layout()
    config = CrossAttentionUnpoolConfig(num_heads=4, num_keys=2)
    unpool: Any = drawn(CrossAttentionUnpool(sizes(num_layers=1), config))
    chunks = torch.randn(chunk_map.num_chunks, INNER, dtype=torch.float64)
    cache, given = StateCache(3), boundaries(len(pack.values))
    unpool(Packed(chunks, chunk_map.cu_seqlens), given, chunk_map, pack.values, torch.float64, cache)
    x, rows = torch.randn(2, WIDTH, dtype=torch.float64), torch.tensor([2, 0])
    last = chunk_map.visible[pack.cu_seqlens[1:].long() - 1][rows]
    for seen, is_new in ((chunks[last, None], False), (torch.randn(2, 1, INNER, dtype=torch.float64), True)):
        if is_new:
            unpool.step_chunk(seen, torch.ones(2), cache, rows)
        start, inject = unpool.step(x, torch.zeros(2), cache, rows)
        expected = naive_unpool(unpool, seen, x, torch.arange(2), 1)
        torch.testing.assert_close(inject(0, start), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("num_positions", [1, 2])
@pytest.mark.parametrize("norms", [True, False])
def test_declared_weights_are_the_modules(num_positions: int, norms: bool) -> None:
    around = sizes(num_layers=3, num_positions=num_positions)
    for query, num_queries in (("max", 2), ("learned", 1)):
        pool = CrossAttentionPoolConfig(query=query, num_queries=num_queries, num_heads=4, norms=norms)
        module: nn.Module = CrossAttentionPool(around, pool, device="meta")
        assert [one.numbers for one in pool.weights(around)] == [one.numel() for one in module.parameters()]
    for project in (True, False):
        unpool = CrossAttentionUnpoolConfig(num_heads=4, num_keys=2, norms=norms, project_keys=project)
        module = CrossAttentionUnpool(around, unpool, device="meta")
        assert [one.numbers for one in unpool.weights(around)] == [one.numel() for one in module.parameters()]


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads must divide"):
        CrossAttentionPool(sizes(), CrossAttentionPoolConfig(num_heads=3), device="meta")
    with pytest.raises(ValueError, match="none"):
        CrossAttentionUnpool(sizes(num_layers=0), CrossAttentionUnpoolConfig(), device="meta")


CROSS = {"type": "cross_attention", "num_heads": 4}
ROTARY_POOL = {**CROSS, "query": "learned", "rotary_dim": 8, "norms": False, "residual": 0.0}


@torch.no_grad()
@pytest.mark.parametrize("boundary", ["words", "space_like", "router"])
@pytest.mark.parametrize("pool", [ROTARY_POOL, {**CROSS, "num_queries": 2}], ids=["learned", "max"])
def test_steps_continue_a_prefill(boundary: str, pool: dict[str, Any]) -> None:
    """Queries and keys are turned by their place in the document in steps too."""
    attention = {"num_heads": 4, "rotary_dim": 8}
    outer = {
        "d_model": WIDTH * 2,
        "encoder": "T1",
        "decoder": "T2",
        "attention": attention,
        "residual": "identity",
        "boundary": {"type": boundary},
        "pool": pool,
        "unpool": {**CROSS, "num_keys": 2},
    }
    model = drawn(build({"stages": [outer, {"d_model": 48, "main": "T1", "attention": attention}]}))
    ids = torch.tensor(list(b"\xfeOne day, two or three words in it\xff"))
    full, length = model(ids).logits, 7
    cache, tracker = model.new_cache(1), model.layout().tracker()
    codes = [tracker.push(unit) for unit in ids.tolist()]
    begun = model.prefill(ids[:length], torch.tensor([0, length], dtype=torch.int32), cache).logits
    steps = [
        model.step(ids[i : i + 1], cache, marks=torch.tensor(codes[i : i + 1]))[0] for i in range(length, len(ids))
    ]
    torch.testing.assert_close(torch.cat([begun, *steps]), full, rtol=1e-9, atol=1e-9)


def test_learned_boundaries_hear_of_the_loss_through_what_units_see() -> None:
    stage = {"d_model": WIDTH, "encoder": "T1", "decoder": "T2", "attention": {"num_heads": 2}}
    parts = {"boundary": {"loss_weight": 0.0}, "unpool": {"type": "cross_attention", "num_heads": 2}}
    inner = {"d_model": WIDTH, "main": "T1", "attention": {"num_heads": 2}}
    model = build({"stages": [stage | parts | {"residual": "identity"}, inner]}).train()
    ids = torch.randint(0, 250, (60,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.loss(ids).total.backward()
    gradient = model.stage.router.k_proj.weight.grad
    assert gradient is not None and gradient.abs().max() > 1e-6
