"""Random models of all registered parts, and text laid out for them."""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from hnet.model.config import ModelConfig
from hnet.model.config.part import UnpoolConfig
from hnet.model.config.registry import BOUNDARIES, EMBEDDINGS, POOLS, UNPOOLS, Part

TABLES: dict[str, Mapping[str, Part]] = {
    "boundary": BOUNDARIES,
    "pool": POOLS,
    "unpool": UNPOOLS,
    "embedding": EMBEDDINGS,
}
"""The registered parts, by the key of a configuration that they stand under."""

Draw = Callable[[random.Random], dict[str, Any]]

SCORER = {"stages": ({"d_model": 8, "main": "m1", "ssm": {"d_state": 4, "head_dim": 8}},), "tie_embeddings": True}
"""Tied, so that random weights are far from indifferent to what comes next."""

SETTINGS: dict[str, Draw] = {
    "boundary.router": lambda draw: {"ratio": draw.choice([1.5, 3.0])},
    "boundary.fixed": lambda draw: {"stride": draw.choice([1, 2, 3, 5]), "separators": draw.choice([0, 0, 1])},
    "boundary.space_like": lambda draw: {"begins": draw.choice(["at", "after"])},
    "boundary.words": lambda draw: {
        "split": draw.choice(["unicode", "white_space"]),
        "max_bytes": draw.choice([4, 100, None]),
        "separators": draw.choice([0, 1, 1, 2, 3]),
    },
    "boundary.entropy": lambda draw: {
        "scorer": SCORER,
        **draw.choice(
            [
                {"method": "threshold", "threshold": 2.4},
                {"method": "monotone", "threshold": 0.2},
                {"method": "global_monotone", "threshold": 2.0, "rise": 0.1},
            ]
        ),
        "max_units": draw.choice([None, 4]),
    },
    "pool.select": lambda draw: {"widening": draw.choice(["learned_pad", "zero_left", "linear"])},
    "pool.cross_attention": lambda draw: {
        "query": draw.choice(["max", "mean", "learned"]),
        "num_queries": draw.choice([1, 2]),
        "num_heads": draw.choice([1, 2]),
        "rotary_dim": draw.choice([0, 4]),
        "norms": draw.choice([True, False]),
        "residual": draw.choice([0.0, 1.0, 2.0]),
    },
    "pool.prefix": lambda draw: {"num_units": draw.choice([1, 2, 3])},
    "unpool.repeat": lambda draw: {"narrowing": draw.choice(["linear", "last"])},
    "unpool.scatter": lambda draw: {"narrowing": draw.choice(["linear", "last"])},
    "unpool.offset_linear": lambda draw: {"num_offsets": draw.choice([1, 3])},
    "unpool.cross_attention": lambda draw: {
        "num_keys": draw.choice([1, 2]),
        "num_heads": draw.choice([1, 2]),
        "project_keys": draw.choice([True, False]),
        "every_layer": draw.choice([True, False]),
        "norms": draw.choice([True, False]),
        "residual": draw.choice([0.0, 1.0, 2.0]),
    },
    "embedding.hash_ngram": lambda draw: {
        "sizes": draw.choice([(3,), (2, 5)]),
        "functions": draw.choice([1, 2]),
        "rows": 31,
    },
}
"""What is drawn for parts that have settings; others, and those registered by others, are taken with their defaults."""

_ANY = ["m1", "t1", "M1", "T1", "m1t1", "T1m1", "T2", ""]
_ATTENTION = ["t1", "T1", "T2", ""]
_TRIES = 20_000


def registered() -> list[tuple[str, str]]:
    """(key, type) of every registered part of models that predict the next unit."""
    return [(key, kind) for key, table in TABLES.items() for kind in table if not _gives_chunks(table[kind])]


def _gives_chunks(part: Part) -> bool:
    return issubclass(part.config, UnpoolConfig) and part.config.gives_chunks


def random_combination(seed: int, wanted: tuple[str, str] | None = None) -> ModelConfig:
    """Two or three stages whose parts, masks, start, residual and norms are drawn until the schema takes them.

    `wanted`: the (key, type) of a part that is to be among them. Raises RuntimeError if the schema refuses it with
    everything that is drawn.
    """
    draw = random.Random(f"{seed} {wanted}")
    for _ in range(_TRIES):
        tree = _tree(draw, wanted)
        try:
            return ModelConfig.model_validate(tree)
        except ValidationError:
            continue
    raise RuntimeError(f"no combination with {wanted} was taken in {_TRIES} tries")


def _tree(draw: random.Random, wanted: tuple[str, str] | None) -> dict[str, Any]:
    num_stages = draw.choice([2, 2, 2, 3])
    place = draw.randrange(num_stages - 1)
    width, stages = 16, []
    for index in range(num_stages):
        width += draw.choice([0, 0, 16]) if index else 0
        heads = draw.choice([1, 2])
        stage: dict[str, Any] = {
            "d_model": width,
            "attention": {
                "num_heads": heads,
                "num_kv_heads": draw.choice([None, 1]),
                "rotary_dim": draw.choice([0, 4, 8]),
                "window": draw.choice([-1, 0, 2, 5]),
            },
            "ssm": {"d_state": 4, "d_conv": draw.choice([2, 4]), "expand": 2, "head_dim": 8},
            "final_norms": [stack for stack in ("encoder", "main", "decoder") if draw.random() < 0.8],
        }
        if index == num_stages - 1:
            stage["main"] = draw.choice(["T1", "M1", "t1m1", "T1M1"])
        else:
            stage |= _outer(draw, wanted if index == place else None)
        stages.append(stage)
    return {
        "stages": stages,
        "embedding": _part(draw, "embedding", wanted),
        "tie_embeddings": draw.choice([True, False]),
    }


def _outer(draw: random.Random, wanted: tuple[str, str] | None) -> dict[str, Any]:
    encoder_mask = draw.choice(["causal", "causal", "chunk_causal", "chunk_bidirectional"])
    return {
        "encoder": draw.choice(_ATTENTION if "bidirectional" in encoder_mask else _ANY),
        "decoder": draw.choice(_ANY),
        "encoder_mask": encoder_mask,
        "decoder_mask": draw.choice(["causal", "chunk_causal"]),
        "start": draw.choice(["encoded", "encoded", "input"]),
        "residual": draw.choice(["linear", "identity"]),
        **{key: _part(draw, key, wanted) for key in ("boundary", "pool", "unpool")},
    }


def _part(draw: random.Random, key: str, wanted: tuple[str, str] | None) -> dict[str, Any]:
    kind = wanted[1] if wanted is not None and wanted[0] == key else draw.choice(list(TABLES[key]))
    settings = SETTINGS.get(f"{key}.{kind}")
    return {"type": kind, **(settings(draw) if settings is not None else {})}


def narrowed(config: ModelConfig) -> ModelConfig:
    """The same architecture in miniature: one layer of each kind in a row, widths of 16 and 32, short windows."""
    tree = config.model_dump()
    widest = config.stages[0].d_model
    for stage in tree["stages"]:
        stage |= {"d_model": 16 if stage["d_model"] == widest else 32, "d_intermediate": 0}
        for stack in ("encoder", "main", "decoder"):
            stage[stack] = None if stage[stack] is None else re.sub(r"\d+", "1", stage[stack])
        stage["ssm"] |= {"d_state": 4, "head_dim": 8}
        for attention in (stage["attention"], stage["pool"], stage["unpool"]):
            attention |= {key: value for key, value in _NARROW.items() if attention.get(key)}
        attention = stage["attention"]
        attention["window"] = min(attention["window"], 5)
        if "scorer" in stage["boundary"]:
            stage["boundary"] |= {"scorer": SCORER, "scorer_weights": "random", "threshold": 2.4}
    if "rows" in tree["embedding"]:
        tree["embedding"]["rows"] = 31
    return ModelConfig.model_validate(tree)


_NARROW = {"num_heads": 2, "num_kv_heads": 1, "rotary_dim": 4}


@dataclass(frozen=True, slots=True)
class TextPack:
    """Documents as a model reads them."""

    ids: Tensor
    """(T,) int64, separators included."""
    cu_seqlens: Tensor
    """(B + 1,) int32."""
    marks: Tensor | None
    """(T,) uint8, for models whose boundaries are known from the text."""

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First unit and the one after the last, of every document."""
        ends = self.cu_seqlens.tolist()
        return list(zip(ends[:-1], ends[1:], strict=True))


_PIECES = ["a", "bc", "def", "ghijkl", " ", "  ", ", ", ". ", "'", "1", "23", "é", "世", "\n", "-", "don't", "_"]


def random_text(num_bytes: int, draw: random.Random) -> list[int]:
    """Bytes of words, spaces, signs and characters of several bytes; they may end inside a character."""
    text = b""
    while len(text) < num_bytes:
        text += draw.choice(_PIECES).encode()
    return list(text[:num_bytes])


def text_pack(config: ModelConfig, documents: list[list[int]]) -> TextPack:
    """Text units, laid out for a model of `config`."""
    layout = config.layout()
    laid_out = [layout.lay_out(np.array(document)) for document in documents]
    ids = torch.from_numpy(np.concatenate([document.ids for document in laid_out]))
    cu_seqlens = torch.tensor([0, *(len(document.ids) for document in laid_out)]).cumsum(0).int()
    if not config.needs_marks:
        return TextPack(ids, cu_seqlens, None)
    marks = np.concatenate([layout.marks_of(document.ids) for document in laid_out])
    return TextPack(ids, cu_seqlens, torch.from_numpy(marks))
