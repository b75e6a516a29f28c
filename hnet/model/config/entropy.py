"""Configuration of entropy boundaries."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from hnet.config.base import Allowed, Config
from hnet.model.config.layers import PositiveInt
from hnet.model.config.part import BoundaryConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hnet.model.config.model import ModelConfig
    from hnet.segmentation.entropy import EntropyRule, ScorerTracker

SCORER_FOLDER = "scorer"
"""In a checkpoint: the scorer, as a checkpoint of its own."""
COUNTED_CONTEXT = 4096.0
"""Units of the documents for which the scorer's FLOPs are counted."""


class EntropyConfig(BoundaryConfig):
    """Chunks begin where a small language model is uncertain of the next unit (BLT, arXiv 2412.09871, section 2.3)."""

    reads_marks: ClassVar[bool] = True

    type: Literal["entropy"] = "entropy"
    scorer: Annotated[SerializeAsAny[Config], Allowed("a mapping with the keys of a model")]
    """The small language model, on bytes. What it costs is known without its weights."""
    scorer_weights: str = "random"
    """The scorer's run or checkpoint folder. "random": weights drawn from a fixed seed, to try things out with; its
    boundaries mean nothing. A checkpoint keeps a copy of the scorer, which is read where the checkpoint is."""
    method: Literal["threshold", "monotone", "global_monotone"] = "threshold"
    """threshold: H_i > threshold; monotone: H_i - H_{i-1} > threshold; global_monotone: both, the second with rise."""
    threshold: float = 1.335442066192627
    """Nats; `hnet data calibrate` finds it for a number of bytes per chunk. The default is the released BLT's."""
    rise: float = 0.0
    """Nats by which the entropy must rise, for global_monotone."""
    max_units: PositiveInt | None = None
    """Longest chunk. Null: no bound."""
    expected: Annotated[float, Field(gt=1)] = 4.5
    """Units per chunk that the threshold gives, for plans and learning rates."""
    device: Literal["cpu", "accelerator"] = "cpu"
    """Where the scorer runs, in the thread that prepares batches: on the CPU, or on the rank's accelerator if any."""

    @field_validator("scorer", mode="before")
    @classmethod
    def _model(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        # Imported here: a model's configuration has boundaries, and so this class, among its parts.
        from hnet.model.config.model import ModelConfig

        return ModelConfig.model_validate(value, strict=True)

    @model_validator(mode="after")
    def _reads_bytes(self) -> EntropyConfig:
        if not hasattr(self.scorer, "needs_marks"):
            raise ValueError(f"scorer must be a model's configuration, got {type(self.scorer).__name__}")
        if self.model.needs_marks or not self.model.is_causal or self.model.vocab_size < 256:
            raise ValueError(
                "scorer must be a causal model of bytes (vocab_size 256 or more) that needs no boundaries itself"
            )
        return self

    @property
    def model(self) -> ModelConfig:
        """The scorer's configuration."""
        scorer: ModelConfig = self.scorer  # type: ignore[assignment]
        return scorer

    @property
    def look_ahead(self) -> int:
        return -1

    @property
    def units_per_chunk(self) -> float:
        return self.expected

    def rule(self) -> EntropyRule:
        from hnet.segmentation.entropy import EntropyRule

        scorer = LazyScorer(self)
        if self.device == "accelerator":
            # Here and not in the thread that prepares batches: which accelerator is this rank's, its main thread knows.
            scorer.open()
        return EntropyRule(scorer, self.method, self.threshold, self.rise, self.max_units)

    @property
    def rule_flops(self) -> float:
        from hnet.model.accounting import flops_per_byte

        shares = [1.0]
        for stage in self.model.stages[:-1]:
            shares.append(shares[-1] / stage.boundary.units_per_chunk)
        return flops_per_byte(self.model, shares, COUNTED_CONTEXT)

    def kept_in(self, folder: Path) -> Self:
        kept = folder / SCORER_FOLDER
        return self.model_copy(update={"scorer_weights": str(kept)}) if kept.is_dir() else self

    def keep(self, folder: Path) -> list[str]:
        names: list[str] = import_module("hnet.model.boundaries.scorer").save_scorer(self, folder)
        return names


class LazyScorer:
    """The scorer of a configuration; its weights are read when it is first asked. Imports torch only then."""

    def __init__(self, config: EntropyConfig) -> None:
        self._config = config

    def __repr__(self) -> str:
        """By what it is, not by where it lies: a run that is resumed needs the same scorer, wherever that is now."""
        settings = zlib.crc32(self._config.model.model_dump_json().encode())
        return f"scorer({settings:08x}, weights {self.open().checksum:08x})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LazyScorer) and other._config == self._config

    def __hash__(self) -> int:
        return hash(self._config.scorer_weights)

    def entropies(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N,) nats of the prediction after each of the units (N,)."""
        found: NDArray[np.float32] = self.open().entropies(ids)
        return found

    def tracker(self) -> ScorerTracker:
        """The same, unit by unit."""
        tracker: ScorerTracker = self.open().tracker()
        return tracker

    def open(self) -> Any:
        """The scorer itself."""
        return import_module("hnet.model.boundaries.scorer").open_scorer(self._config)
