"""What parts and layers declare to cost is what they cost: for every shipped model, and every combination of parts."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from hnet.config import load_config
from hnet.config.library import config_names
from hnet.data.sample_text import FOLDER
from hnet.model.accounting import (
    activation_bytes,
    count_lookup_parameters,
    count_parameters,
    flops_per_byte,
    parameter_sizes,
    rule_flops,
    stage_flops,
    training_flops_per_byte,
)
from hnet.model.config import ModelConfig
from hnet.model.config.registry import BOUNDARIES, EMBEDDINGS, OBJECTIVES, POOLS, UNPOOLS
from hnet.model.language_model import LanguageModel

NAMES = config_names("models")
SMALL = [name for name in NAMES if name.endswith("_small") and name != "bpe_transformer_small"]
TEXT = np.frombuffer((FOLDER / "macbeth.en.txt").read_bytes()[:1024], dtype=np.uint8).astype(np.int64)


def module_name(part: str) -> str:
    """`stages.1.encoder.0` -> `stage.inner.encoder.layers.0.`"""
    words = part.split(".")
    if words[0] != "stages":
        return f"{part}."
    path = ["stage", *["inner"] * int(words[1]), words[2]]
    if words[2] == "width_pad":
        return ".".join(path)
    return ".".join([*path, *(["layers"] if words[-1].isdigit() else []), *words[3:]]) + "."


def check_sizes(config: ModelConfig) -> None:
    built = dict(LanguageModel(config, device="meta").named_parameters())
    declared = parameter_sizes(config)
    for part, sizes in declared.items():
        own = [weight.numel() for name, weight in built.items() if name.startswith(module_name(part))]
        assert sizes == own, part
    assert sum(map(len, declared.values())) == len(built)
    assert count_parameters(config) == sum(weight.numel() for weight in built.values())


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_shipped_models(name: str) -> None:
    config = load_config(ModelConfig, name)
    check_sizes(config)
    tables = config.embedding.lookup(config.stages[0].d_model)
    assert count_lookup_parameters(config) - tables in (0, config.vocab_size * config.stages[0].d_model)


SCORER = {"stages": [{"d_model": 16, "main": "T1", "attention": {"num_heads": 2}}]}
SETTINGS: dict[str, dict[str, Any]] = {
    "entropy": {"scorer": SCORER},
    "classification": {"labels": ["a", "b"]},
    "cross_attention": {"num_heads": 2},
    "hash_ngram": {"rows": 31, "sizes": [3, 4]},
    "masked_words": {"vocab_size": 50, "head_width": 24},
}


def parts(table: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """Each part of a table, and with the settings in `more` those that know them."""
    plain = [{"type": name} | SETTINGS.get(name, {}) for name in table]
    knowing = [part | more for part in plain if more and set(more) <= set(table[part["type"]].config.model_fields)]
    return plain + knowing


def combinations() -> Iterator[dict[str, Any]]:
    """Two stages of every boundary, pool and unpool, with masks that suit some of them, and every other axis."""
    boundaries = [*parts(BOUNDARIES), *parts(BOUNDARIES, separators=2)[len(BOUNDARIES) :]]
    masks = [("causal", "causal"), ("chunk_bidirectional", "chunk_causal"), ("causal", "chunk_causal")]
    axes = itertools.product(boundaries, parts(POOLS, num_units=2), parts(UNPOOLS, num_keys=2), masks)
    others = itertools.cycle(itertools.product(parts(EMBEDDINGS), [16, 32], ["linear", "identity"], [None, 1]))
    for (boundary, pool, unpool, (encoder_mask, decoder_mask)), (embedding, inner, residual, kv) in zip(
        axes, others, strict=False
    ):
        attention = {"num_heads": 2, "num_kv_heads": kv}
        outer = {
            "d_model": 16, "encoder": "t1T1", "decoder": "T2", "boundary": boundary, "pool": pool, "unpool": unpool,
            "encoder_mask": encoder_mask, "decoder_mask": decoder_mask, "residual": residual, "attention": attention,
            "start": "input" if encoder_mask == "chunk_bidirectional" and residual == "identity" else "encoded",
            "final_norms": ["encoder", "decoder"] if residual == "linear" else [],
        }  # fmt: skip
        yield {
            "stages": [outer, {"d_model": inner, "main": "T1", "attention": attention}],
            "embedding": embedding,
            "tie_embeddings": kv is None,
        }


def test_parameters_of_all_combinations_of_parts() -> None:
    configs, refused = [], []
    for tree in combinations():
        try:
            config = ModelConfig.model_validate(tree)
            LanguageModel(config, device="meta")
        except ValueError as refusal:
            refused.append(str(refusal))
            continue
        configs.append(config)
    for config in configs:
        check_sizes(config)
    assert len(configs) > 100
    assert not [words for words in refused if "stages" not in words and not words.startswith(("pool:", "unpool:"))]
    used = {part.type for config in configs for stage in config.stages[:-1] for part in (stage.pool, stage.unpool)}
    assert used >= set(POOLS) | set(UNPOOLS) - {"none"}


@pytest.mark.parametrize("objective", parts(OBJECTIVES), ids=lambda objective: objective["type"])
def test_parameters_of_every_objective(objective: dict[str, Any]) -> None:
    unpool = {"type": "none"} if OBJECTIVES[objective["type"]].config.of_chunks else {"type": "ema"}
    pool, boundary = ({"type": "mean"}, {"type": "words"}) if unpool["type"] == "none" else ({}, {})
    outer = {"d_model": 16, "encoder": "", "decoder": "", "boundary": boundary, "pool": pool, "unpool": unpool}
    if unpool["type"] == "none":
        outer |= {"residual": "identity", "final_norms": []}
    check_sizes(
        ModelConfig.model_validate(
            {
                "stages": [outer, {"d_model": 16, "main": "T1", "attention": {"num_heads": 2}}],
                "objective": objective,
            }
        )
    )


def laid_out(config: ModelConfig, pieces: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Ids, cu_seqlens and marks of the text as documents of equal length."""
    documents = [config.layout().lay_out(text) for text in np.split(TEXT, pieces)]
    ids = np.concatenate([document.ids for document in documents])
    marks = [document.marks for document in documents if document.marks is not None]
    ends = np.cumsum([0, *(len(document.ids) for document in documents)])
    given = torch.from_numpy(np.concatenate(marks)) if marks else None
    return torch.from_numpy(ids), torch.from_numpy(ends).int(), given


def targets_of(config: ModelConfig, num_chunks: int) -> dict[str, torch.Tensor]:
    """What another objective than the next unit is given, with targets in its own share of the chunks."""
    if not config.objective.of_chunks:
        return {}
    rows = torch.arange(round(float(config.objective.num_rows(0.0, float(num_chunks), 0.0))))
    return {"targets": rows, "labels": torch.zeros(len(rows), config.objective.slots, dtype=torch.int64)}  # type: ignore[attr-defined]


def attention_flops(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, window: int, causal: bool = True,
    out_val: object = None,
) -> int:  # fmt: skip
    """Scores and values of every pair that is seen, counted one by one."""
    pairs = 0
    for length in cu_seqlens.diff().tolist():
        distance = torch.arange(length)[:, None] - torch.arange(length)
        seen = (distance >= 0) if causal else torch.ones_like(distance, dtype=torch.bool)
        pairs += int((seen & (distance.abs() <= window) if window >= 0 else seen).sum())
    return 4 * q.shape[1] * q.shape[2] * pairs


def scan_flops(x: torch.Tensor, dt: object, A: object, B: torch.Tensor, *_: object, out_val: object = None) -> int:
    return 6 * x.numel() * B.shape[-1]


def convolution_flops(x: torch.Tensor, weight: torch.Tensor, *_: object, out_val: object = None) -> int:
    return 2 * x.numel() * weight.shape[1]


def residual_flops(x: torch.Tensor, *rest: object, out_val: object = None) -> int:
    return 2 * x.numel() * x.shape[1]


def pool_flops(q: torch.Tensor, k: torch.Tensor, *_: object, out_val: object = None) -> int:
    return 4 * q.shape[1] * k.numel()


def unpool_flops(q: torch.Tensor, k: torch.Tensor, *_: object, out_val: object = None) -> int:
    return 4 * q.numel() * k.shape[1]


OPERATIONS = {
    "varlen_attention": attention_flops,
    "ssd_scan": scan_flops,
    "causal_conv1d": convolution_flops,
    "residual_linear": residual_flops,
    "chunk_with_residual": residual_flops,
    "pool_attention": pool_flops,
    "unpool_attention": unpool_flops,
}


def counted_flops(model: LanguageModel, **given: Any) -> tuple[int, list[int]]:
    """FLOPs that PyTorch counts in a forward pass, and units and chunks."""
    for count in OPERATIONS.values():
        count._get_raw = True  # type: ignore[attr-defined]
    operations = {getattr(torch.ops.hnet, name): count for name, count in OPERATIONS.items()}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=operations) as counter:
        stages = model(**given).stages
    return counter.get_total_flops(), [len(given["input_ids"]), *(stage.num_chunks for stage in stages)]


@pytest.mark.parametrize("name", SMALL)
def test_flops_are_those_of_a_forward_pass(name: str) -> None:
    config = load_config(ModelConfig, name)
    model = LanguageModel(config).requires_grad_(False)
    ids, cu_seqlens, marks = laid_out(config, 1)
    with torch.no_grad():
        stages = model(ids, cu_seqlens, marks=marks).stages
    targets = targets_of(config, stages[0].num_chunks if stages else 0)
    targets.pop("labels", None)
    counted, units = counted_flops(model, input_ids=ids, cu_seqlens=cu_seqlens, marks=marks, **targets)
    declared = stage_flops(config, np.array(units), np.array(float(len(ids)))).sum()
    # Chunks that layers stay within are counted as if all were of mean length.
    assert declared == pytest.approx(counted, rel=5e-3)


def peak_allocated(model: LanguageModel, given: dict[str, Any]) -> int:
    """Most bytes that PyTorch allocates in a forward and backward pass."""
    model.loss(**given).total.backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss = model.loss(**given).total
        loss.backward()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@pytest.mark.parametrize("name", SMALL)
def test_activations_are_those_that_are_measured(name: str) -> None:
    config = load_config(ModelConfig, name)
    model = LanguageModel(config)
    ids, cu_seqlens, marks = laid_out(config, 2)
    with torch.no_grad():
        stages = model(ids, cu_seqlens, marks=marks).stages
    units = [len(ids), *(stage.num_chunks for stage in stages)]
    given = {"input_ids": ids, "cu_seqlens": cu_seqlens, "marks": marks} | targets_of(config, units[-1])
    assert 0.85 < peak_allocated(model, given) / activation_bytes(config, units) < 1.15


def test_flops_count_the_model_that_boundaries_ask_once() -> None:
    config = load_config(ModelConfig, "blt_small")
    scorer = config.stages[0].boundary.model  # type: ignore[attr-defined]
    assert rule_flops(config) == flops_per_byte(scorer, [1.0], 4096.0) > 0
    own = stage_flops(config, np.array([1.0, 0.25]), np.array(1000.0)).sum()
    assert flops_per_byte(config, [1.0, 0.25], 1000.0) == pytest.approx(own + rule_flops(config))
    assert training_flops_per_byte(config, [1.0, 0.25], 1000.0) == pytest.approx(3 * own + rule_flops(config))
    flat = load_config(ModelConfig, "byte_transformer_small")
    assert training_flops_per_byte(flat, [1.0], 1000.0) == pytest.approx(3 * flops_per_byte(flat, [1.0], 1000.0))


def test_separators_cost_flops_and_are_no_text() -> None:
    """Eight bytes and a separator: nine units for eight bytes."""
    config = load_config(ModelConfig, "megabyte_small")
    boundary = config.stages[0].boundary
    assert boundary.text_per_chunk == boundary.units_per_chunk - len(boundary.separator_ids) == 8
    nine = stage_flops(config, np.array([9.0, 1.0]), np.array(900.0)).sum()
    assert flops_per_byte(config, [9 / 8, 1 / 8], 900.0) == pytest.approx(nine / 8)
