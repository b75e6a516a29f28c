"""A pack in pieces over ranks gives the logits, gradients and statistics of one process that holds all of it."""

from collections.abc import Sequence
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
from hnet.model.sharding import Shard
from hnet.testing.compare import relative_error
from hnet.testing.ranks import run_distributed
from hnet.testing.strategies import lengths, model_configs, random_model, random_pack

ATTENTION = {"num_heads": 4, "rotary_dim": 4, "window": -1}
SSM = {"d_state": 4, "d_conv": 4, "expand": 2, "head_dim": 8}
STAGE = {"d_model": 16, "attention": ATTENTION, "ssm": SSM, "boundary": {"ratio": 2.0}}
WINDOW = {"attention": {**ATTENTION, "window": 3}}
CONFIGS = {
    "flat, attention": [{"main": "T2"}],
    "flat, windows and one head": [{"main": "t2", "attention": {"num_heads": 1, "rotary_dim": 8, "window": 3}}],
    "flat, Mamba-2": [{"main": "m1M1"}],
    "1 stage, Mamba-2": [{"encoder": "m2", "decoder": "m2"}, {"main": "T1m1"}],
    "1 stage, attention": [{"encoder": "T1", "decoder": "t1", **WINDOW}, {"main": "m1", "d_model": 32}],
    "2 stages, Mamba-2": [{"encoder": "m1", "decoder": "m1"}] * 2 + [{"main": "m1T1"}],
    "2 stages, attention": [{"encoder": "t1m1", "decoder": "T1"}] * 2 + [{"main": "T1"}],
    "1 stage, a bound": [
        {"encoder": "m1", "decoder": "m1", "boundary": {"ratio": 2.0, "max_chunk_fraction": 0.3}},
        {"main": "T1"},
    ],
    "2 stages, filled up": [
        {"encoder": "m1", "decoder": "m1", "boundary": {"max_chunk_fraction": 0.5, "fill_chunks": True}},
        {"encoder": "t1", "decoder": "t1", "boundary": {"max_chunk_fraction": 0.5, "fill_chunks": True}},
        {"main": "T1"},
    ],
}
PACKS = {
    "ragged": [3, 11, 1, 17, 9, 2, 1, 6],
    "one document": [40],
    "one that begins late": [9, 31],
    "documents of one unit": [1] * 9,
    "short pieces": [5],
    "fewer units than ranks": [2, 1],
}


def build(name: str) -> ModelConfig:
    return ModelConfig.model_validate({"stages": [{**STAGE, **stage} for stage in CONFIGS[name]]})


def objective(output: ModelOutput, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy and something of every stage's probabilities, as sums over the units at hand."""
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


def whole(model: LanguageModel, document_lengths: Sequence[int], seed: int) -> dict[str, torch.Tensor]:
    """What one process says of the pack: logits, gradients by parameter, statistics."""
    ids, cu_seqlens = random_pack(list(document_lengths), seed)
    model.zero_grad()
    output = model(ids, cu_seqlens)
    objective(output, next_in_document(ids, cu_seqlens, IGNORE)).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"logits": output.logits.detach(), "statistics": statistics(output), **gradients}


def pieces(
    rank: int, model: LanguageModel, document_lengths: Sequence[int], seed: int, cuts: Sequence[int] | None
) -> dict[str, torch.Tensor]:
    """The same over all ranks, which call it together; `cuts` are where ranks from the second begin."""
    ids, cu_seqlens = random_pack(list(document_lengths), seed)
    labels = next_in_document(ids, cu_seqlens, IGNORE)
    peers = pieces.peers  # type: ignore[attr-defined]
    if cuts is None:
        shard = Shard.even(peers, cu_seqlens)
    else:
        ends = [0, *cuts, ids.numel()]
        shard = Shard(peers, cu_seqlens, list(zip(ends[:-1], ends[1:], strict=True)))
    part = slice(shard.start, shard.stop)
    if shard.is_padding:
        ids, labels, part = torch.zeros(1, dtype=torch.long), torch.full((1,), IGNORE), slice(0, 1)
    model.zero_grad()
    output = model(ids[part], shard.cu_seqlens(ids.device), shard=shard)
    objective(output, labels[part]).backward()
    logits = [value for value, is_real in gather_objects((output.logits.detach(), not shard.is_padding)) if is_real]
    gradients = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient on rank {rank}"
        gradients[name] = sum_over_ranks(parameter.grad)
    return {"logits": torch.cat(logits), "statistics": sum_over_ranks(statistics(output)), **gradients}
