"""A pack in pieces over ranks gives the logits, gradients and statistics of one process that holds all of it."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hnet.distributed.collectives import gather_objects, sum_over_ranks
from hnet.distributed.sequence_parallel import open_sequence_group
from hnet.model.config import ModelConfig
from hnet.model.language_model import LanguageModel, ModelOutput
from hnet.model.losses import IGNORE, cross_entropy_sum
from hnet.model.packed import next_in_document
from hnet.model.sharding import Peers, Shard
from hnet.testing.ranks import run_distributed
from hnet.testing.strategies import lengths, model_configs, random_model, random_pack

ATTENTION = {"num_heads": 4, "rotary_dim": 4, "window": -1}
SSM = {"d_state": 4, "d_conv": 4, "expand": 2, "head_dim": 8}
STAGE = {"d_model": 16, "attention": ATTENTION, "ssm": SSM, "boundary": {"ratio": 2.0}}
WINDOW = {**ATTENTION, "window": 3}
BOUND = {"max_chunk_fraction": 0.3}
FILLED = {"max_chunk_fraction": 0.5, "fill_chunks": True}
MODELS: dict[str, list[dict[str, Any]]] = {
    "flat, attention": [{"main": "T2"}],
    "flat, Mamba-2": [{"main": "m1M1"}],
    "1 stage, Mamba-2": [{"encoder": "m2", "decoder": "m2"}, {"main": "T1m1"}],
    "1 stage, attention": [{"encoder": "T1", "decoder": "t1", "attention": WINDOW}, {"main": "m1", "d_model": 32}],
    "2 stages, Mamba-2": [{"encoder": "m1", "decoder": "m1"}] * 2 + [{"main": "m1T1"}],
    "2 stages, attention": [{"encoder": "t1m1", "decoder": "T1"}] * 2 + [{"main": "T1"}],
    "1 stage, bounded": [{"encoder": "m1", "decoder": "m1", "boundary": BOUND}, {"main": "T1"}],
    "2 stages, filled": [{"encoder": "m1", "decoder": "t1", "boundary": FILLED}] * 2 + [{"main": "T1"}],
}
RAGGED = [3, 11, 1, 17, 9, 2, 1, 6]
BORDERS = {
    "one that begins late": [9, 31],
    "documents of one unit": [1] * 9,
    "pieces shorter than the convolution": [5],
    "fewer units than ranks": [2, 1],
}
CASES: dict[str, tuple[str, list[list[int]], dict[str, Any]]] = {
    **{name: (name, [RAGGED, [50]], {}) for name in MODELS},
    **{border: ("2 stages, Mamba-2", [pack], {"checkpointing": True}) for border, pack in BORDERS.items()},
    "all boundaries": ("2 stages, attention", [RAGGED, [50]], {"bytes_per_chunk": 1.0}),
    "one chunk a document": ("2 stages, attention", [RAGGED, [50]], {"bytes_per_chunk": 1e9}),
    "float32, Mamba-2": ("2 stages, Mamba-2", [RAGGED, [300, 500]], {"float32": True}),
    "float32, attention": ("2 stages, attention", [RAGGED, [300, 500]], {"float32": True}),
}
DOUBLE = {"atol": 1e-9, "rtol": 1e-7}
Result = dict[str, torch.Tensor]


def build(name: str) -> ModelConfig:
    return ModelConfig.model_validate({"stages": [{**STAGE, **stage} for stage in MODELS[name]]})


def objective(output: ModelOutput, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy and some of every stage's probabilities, as sums over the units at hand."""
    total = cross_entropy_sum(output.logits, labels)
    for index, stage in enumerate(output.stages):
        total = total + (0.3 + index) * stage.boundaries.prob_sum
    return total


def statistics(output: ModelOutput) -> torch.Tensor:
    rows = [
        [b.prob_sum.item(), int(b.num_wanted), int(b.num_dropped), b.mask.numel(), stage.num_chunks]
        for stage in output.stages
        for b in [stage.boundaries]
    ]
    return torch.tensor(rows, dtype=torch.float64)


def in_one(model: LanguageModel, ids: torch.Tensor, cu_seqlens: torch.Tensor) -> Result:
    """Logits, statistics, and gradients by parameter, of one process that holds the pack."""
    model.zero_grad()
    output = model(ids, cu_seqlens)
    objective(output, next_in_document(ids, cu_seqlens, IGNORE)).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"logits": output.logits.detach(), "statistics": statistics(output), **gradients}


def in_pieces(model: LanguageModel, ids: torch.Tensor, cu_seqlens: torch.Tensor, shard: Shard) -> Result:
    """The same from the pieces of all ranks, on every rank."""
    labels, part = next_in_document(ids, cu_seqlens, IGNORE), slice(shard.start, shard.stop)
    if shard.is_padding:
        labels, part = torch.full_like(labels, IGNORE), slice(0, 1)
    model.zero_grad()
    output = model(ids[part], shard.cu_seqlens(ids.device), shard=shard)
    objective(output, labels[part]).backward()
    logits = [part for part, is_padding in gather_objects((output.logits.detach(), shard.is_padding)) if not is_padding]
    result = {"logits": torch.cat(logits), "statistics": sum_over_ranks(statistics(output))}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient here, and the ranks would not meet"
        result[name] = sum_over_ranks(parameter.grad)
    return result


def open_group(world_size: int) -> Peers:
    peers = open_sequence_group(world_size, timeout_minutes=1)
    assert peers is not None
    return peers


def check(peers: Peers, name: str, packs: list[list[int]], options: dict[str, Any]) -> None:
    """Every pack in one and in pieces; a difference is an error, on every rank."""
    model = random_model(build(name), 3).train()
    model.set_activation_checkpointing(options.get("checkpointing", False))
    model.force_bytes_per_chunk(options.get("bytes_per_chunk"))
    tolerance, scale = DOUBLE, 1.0
    if options.get("float32"):
        model, tolerance = model.float(), {"atol": 1e-5, "rtol": 1e-5}
    for seed, document_lengths in enumerate(packs):
        ids, cu_seqlens = random_pack(document_lengths, seed)
        expected = in_one(model, ids, cu_seqlens)
        result = in_pieces(model, ids, cu_seqlens, Shard.even(peers, cu_seqlens))
        assert result.keys() == expected.keys()
        if options.get("float32"):
            scale = max(float(value.abs().max()) for value in expected.values())
        for key, value in expected.items():
            where = f"documents {document_lengths}, {key}: "
            torch.testing.assert_close(
                result[key] / scale, value / scale, **tolerance, msg=lambda text, where=where: where + text
            )


def check_all(rank: int, world_size: int) -> dict[str, str]:
    """Case by case the error message, or nothing."""
    peers, messages = open_group(world_size), {}
    for case, (name, packs, options) in CASES.items():
        try:
            check(peers, name, packs, options)
            messages[case] = ""
        except AssertionError as error:
            messages[case] = str(error)
    return messages


@pytest.fixture(scope="module", params=[2, 4])
def messages(request: pytest.FixtureRequest) -> dict[str, str]:
    """All cases in one go, since starting ranks takes longer than most of them."""
    ranks = run_distributed(check_all, request.param, request.param)
    assert all(answer == ranks[0] for answer in ranks)
    return ranks[0]  # type: ignore[no-any-return]


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(model_configs(), lengths(), st.integers(0, 1000), st.data())
def random_splits(
    peers: Peers, config: ModelConfig, document_lengths: list[int], seed: int, data: st.DataObject
) -> None:
    total = sum(document_lengths)
    if total < peers.size:
        document_lengths, total = [*document_lengths, peers.size], total + peers.size
    cuts = data.draw(st.sets(st.integers(1, total - 1), min_size=peers.size - 1, max_size=peers.size - 1))
    ends = [0, *sorted(cuts), total]
    ids, cu_seqlens = random_pack(document_lengths, seed)
    model = random_model(config, seed)
    expected = in_one(model, ids, cu_seqlens)
    result = in_pieces(model, ids, cu_seqlens, Shard(peers, cu_seqlens, list(zip(ends[:-1], ends[1:], strict=True))))
    for key, value in expected.items():
        torch.testing.assert_close(result[key], value, **DOUBLE, msg=lambda message, key=key: f"{key}: {message}")


def split_at_random(rank: int, world_size: int) -> bool:
    # Every rank draws the same examples, and sees the same difference if there is one.
    random_splits(open_group(world_size))
    return True


@pytest.mark.parametrize("case", CASES)
def test_pieces_equal_the_whole(messages: dict[str, str], case: str) -> None:
    assert messages[case] == ""


@pytest.mark.parametrize("world_size", [2, 3])
def test_random_models_packs_and_splits(world_size: int) -> None:
    assert all(run_distributed(split_at_random, world_size, world_size))


def test_groups_that_do_not_divide_the_ranks_are_an_error() -> None:
    with pytest.raises(ValueError, match="groups of 2 ranks do not divide 1"):
        open_sequence_group(2, timeout_minutes=1)
    assert open_sequence_group(1, timeout_minutes=1) is None
