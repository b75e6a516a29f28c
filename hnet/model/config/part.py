"""What a part of the skeleton declares of itself: the base classes of the configurations of boundaries, pools, unpools
and embeddings. Imports no torch.

A new part is a subclass of one of these, a module that is built from it, and one line in `registry`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from hnet.config.base import Config

if TYPE_CHECKING:
    from pathlib import Path

    from hnet.segmentation.rule import Rule


class Weight(NamedTuple):
    """One parameter tensor."""

    numbers: int
    is_linear: bool = True
    """The weight of a linear layer: training in bf16 multiplies by it in bf16."""


class Cost(NamedTuple):
    """Of one unit of the stage, and of one chunk."""

    unit: float = 0.0
    chunk: float = 0.0


@dataclass(frozen=True, slots=True)
class PartSizes:
    """What a part knows of the stage around it."""

    width: int
    """D of the stage's units."""
    inner_width: int
    """D of the stage inside."""
    num_layers: int
    """Layers of the stage's decoder."""
    units_per_chunk: float
    positions: int
    """Units of the stage inside for each chunk."""
    chunk_width: int
    """Channels of what the pool gives to the stage inside, which gives back as many."""
    norm_eps: float
    reads_whole: bool = False
    """Chunks come when they have ended: a document's first units have none."""
    num_separators: int = 0
    """Units that are put in front of every chunk, and count among its units."""


class PartConfig(Config):
    """Its costs of a part; the module's parameters, in its order, are `weights`."""

    type: str

    def weights(self, sizes: PartSizes) -> list[Weight]:
        return []

    def flops(self, sizes: PartSizes) -> Cost:
        """Forward FLOPs; an (m, k) by (k, n) product counts 2mnk."""
        return Cost()

    def activations(self, sizes: PartSizes, dtype_bytes: int) -> Cost:
        """Bytes that the backward pass needs of the forward pass."""
        return Cost()


class BoundaryConfig(PartConfig):
    """Where chunks begin."""

    reads_encoder: ClassVar[bool] = False
    """Decides by the encoder's states; otherwise before the encoder runs."""
    reads_marks: ClassVar[bool] = False
    """Is known from the text: comes with the units, from the `rule`. Only the outermost stage has text."""

    chunks_are_equal: ClassVar[bool] = False
    """Every chunk but a document's last has `units_per_chunk` units."""

    @property
    def look_ahead(self) -> int:
        """Units after a chunk's first unit at which it is known to be one, at most: 0 at that unit itself, -1 at the
        unit before. More than 0: known late."""
        return 0

    @property
    def units_per_chunk(self) -> float:
        """Expected, for plans and learning rates; what a run sees is in its metrics."""
        raise NotImplementedError

    @property
    def text_per_chunk(self) -> float:
        """`units_per_chunk` without the separators."""
        return self.units_per_chunk - len(self.separator_ids)

    @property
    def weight_of_loss(self) -> float:
        """Weight of a loss that the boundaries themselves have."""
        return 0.0

    @property
    def chunk_bound(self) -> float | None:
        """Most chunks per unit of a pack, where there is a bound."""
        return None

    @property
    def is_learned(self) -> bool:
        """Has a ratio loss."""
        return False

    @property
    def rule_flops(self) -> float:
        """Forward FLOPs for each unit of the model that the `rule` asks, which training leaves as it is."""
        return 0.0

    def rule(self) -> Rule | None:
        """What finds the chunks in text, for boundaries that are known from it alone; None: the module finds them."""
        return None

    @property
    def separator_ids(self) -> tuple[int, ...]:
        """Units that are put in front of every chunk."""
        return ()

    @property
    def predicts_separator(self) -> bool:
        """Whether the first separator is a target: the model then says itself where a chunk ends."""
        return True

    def keep(self, folder: Path) -> list[str]:
        """Write what the rule reads besides the configuration into a checkpoint's `folder`; returns the new files."""
        return []

    def kept_in(self, folder: Path) -> Self:
        """The same, reading what a checkpoint keeps in its `folder`."""
        return self


class PoolConfig(PartConfig):
    """From the units of a chunk to what represents it in the stage inside."""

    needs_equal_chunks: ClassVar[bool] = False
    """Works only with chunks of a fixed number of units."""

    @property
    def reads_whole(self) -> bool:
        """Needs all units of a chunk; otherwise its first alone."""
        return True

    @property
    def positions(self) -> int:
        """Units of the stage inside for each chunk."""
        return 1

    def chunk_width(self, width: int, inner_width: int) -> int:
        """Channels of a chunk's vector; below `inner_width` the stage inside appends learned ones."""
        return inner_width


class UnpoolConfig(PartConfig):
    """From chunks back to units."""

    needs_own_chunk: ClassVar[bool] = False
    """Works only where a unit may see its own chunk, that is with pools that read a chunk's first unit."""
    needs_position: ClassVar[bool] = False
    """Reads how far into its chunk a unit is."""
    needs_equal_chunks: ClassVar[bool] = False
    """Works only with chunks of a fixed number of units."""
    replaces_separators: ClassVar[bool] = False
    """A chunk's vectors take the places of as many units, which must be separators."""
    takes_positions: ClassVar[bool] = False
    """Takes several vectors of a chunk."""
    needs_stage_width: ClassVar[bool] = False
    """Takes chunks of as many channels as the stage's units have."""
    follows_runs: ClassVar[bool] = False
    """Reads since when a unit's chunk is visible, which a process with a piece of the chunk does not know."""
    gives_chunks: ClassVar[bool] = False
    """Gives chunks, not units: nothing is predicted of units."""


class EmbeddingConfig(PartConfig):
    """What is added to the table of units."""

    reads_earlier_units: ClassVar[bool] = False
    """A unit's vector depends on those before it."""

    def lookup(self, width: int) -> int:
        """Numbers in tables that are read a few rows at a time."""
        return 0
