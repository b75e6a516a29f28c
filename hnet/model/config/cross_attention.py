"""Configurations of cross-attention between units and chunks, in both directions."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from hnet.model.config.layers import PositiveInt
from hnet.model.config.part import Cost, PartSizes, PoolConfig, UnpoolConfig, Weight


class CrossAttentionPoolConfig(PoolConfig):
    """Queries of a chunk look at its units (BLT, arXiv 2412.09871, section 3.2.2; TFree-HAT's word connector).

    A chunk's vector is its queries' results side by side, projected where that is not the width of the stage inside.
    """

    type: Literal["cross_attention"] = "cross_attention"
    query: Literal["max", "mean", "learned"] = "max"
    """From the elementwise maximum or mean of the chunk's units, or the same learned vectors for all chunks."""
    num_queries: PositiveInt = 1
    """k, of each chunk. Learned ones divide the width of the stage inside among them; others have the units' width."""
    num_heads: PositiveInt = 8
    """Of every query; must divide its width."""
    rotary_dim: Annotated[int, Field(ge=0)] = 0
    """Rotated channels of each head, even: queries by their chunk's index in the document, keys by their unit's."""
    rotary_base: Annotated[float, Field(gt=1)] = 10000.0
    norms: bool = True
    """RMSNorm of the queries and of the units before they are projected."""
    residual: Annotated[float, Field(ge=0)] = 1.0
    """The queries are added to the result, times this. BLT as released has 2; 0 for none."""

    @model_validator(mode="after")
    def _even(self) -> "CrossAttentionPoolConfig":
        if self.rotary_dim % 2:
            raise ValueError(f"rotary_dim {self.rotary_dim} must be even")
        return self

    def query_width(self, width: int, inner_width: int) -> int:
        """Channels of a query. Raises ValueError where the sizes do not divide."""
        divisible = self.query != "learned" or inner_width % self.num_queries == 0
        query_width = inner_width // self.num_queries if self.query == "learned" else width
        if not divisible or query_width % self.num_heads or self.rotary_dim > query_width // self.num_heads:
            raise ValueError(
                f"pool: {self.num_queries} queries of type {self.query}, {self.num_heads} heads and rotary_dim "
                f"{self.rotary_dim} do not fit units of width {width} and an inner width of {inner_width}: num_heads "
                "must divide a query's width, and rotary_dim is at most a head's"
            )
        return query_width

    def weights(self, sizes: PartSizes) -> list[Weight]:
        width, inner = sizes.width, sizes.inner_width
        query_width = self.query_width(width, inner)
        joined = self.num_queries * query_width
        queries = Weight(joined, is_linear=False) if self.query == "learned" else Weight(width * joined)
        norms = [Weight(query_width, is_linear=False), Weight(width, is_linear=False)] if self.norms else []
        projections = [Weight(query_width**2), Weight(2 * width * query_width), Weight(query_width**2)]
        return [queries, *norms, *projections, *([Weight(joined * inner)] if joined != inner else [])]

    def flops(self, sizes: PartSizes) -> Cost:
        width, inner = sizes.width, sizes.inner_width
        query_width = self.query_width(width, inner)
        joined = self.num_queries * query_width
        unit = 4.0 * width * query_width + 4.0 * joined
        made = 0.0 if self.query == "learned" else 2.0 * width * joined + 2.0 * joined * query_width
        return Cost(unit, made + 2.0 * joined * query_width + (2.0 * joined * inner if joined != inner else 0.0))

    def activations(self, sizes: PartSizes, dtype_bytes: int) -> Cost:
        query_width = self.query_width(sizes.width, sizes.inner_width)
        joined = self.num_queries * query_width
        learned = self.query == "learned"
        unit = (sizes.width * (2 if self.norms else 1) + 2.0 * query_width) * dtype_bytes
        chunk = (0 if learned else sizes.width + joined * (2 if self.norms else 1)) + 3.0 * joined
        return Cost(unit, chunk * dtype_bytes + 4.0 * self.num_queries * self.num_heads)


class CrossAttentionUnpoolConfig(UnpoolConfig):
    """Units look at k keys of the latest chunk that they may see, before each layer of the decoder (BLT, arXiv
    2412.09871, section 3.3.1). With one key that is an addition to every unit (TFree-HAT).

    Before a document's first whole chunk, units see a learned vector.
    """

    takes_positions: ClassVar[bool] = True
    follows_runs: ClassVar[bool] = True

    type: Literal["cross_attention"] = "cross_attention"
    num_keys: PositiveInt = 1
    """k, made of each position of a chunk."""
    num_heads: PositiveInt = 8
    """Must divide the units' width."""
    project_keys: bool = True
    """One projection for all layers from a chunk's vector to k keys of the units' width; otherwise the vector is cut
    into k keys."""
    every_layer: bool = True
    """Before every layer of the decoder; otherwise before the first alone."""
    norms: bool = True
    """RMSNorm of the units and of the keys before they are projected."""
    residual: Annotated[float, Field(ge=0)] = 1.0
    """The units are added to the result, times this. BLT as released has 2."""

    def key_width(self, width: int, in_width: int) -> int:
        """Channels of a key. Raises ValueError where the sizes do not divide."""
        if width % self.num_heads or (not self.project_keys and in_width % self.num_keys):
            raise ValueError(
                f"unpool: {self.num_heads} heads and {self.num_keys} keys do not fit units of width {width} and chunks "
                f"of width {in_width}: num_heads must divide the one and, without project_keys, num_keys the other"
            )
        return width if self.project_keys else in_width // self.num_keys

    def num_injections(self, num_layers: int) -> int:
        """Cross-attentions. Raises ValueError for a decoder without layers: nothing would tell units of chunks."""
        if not num_layers:
            raise ValueError("unpool: cross_attention acts before the decoder's layers, of which there are none")
        return num_layers if self.every_layer else 1

    def weights(self, sizes: PartSizes) -> list[Weight]:
        width, chunk = sizes.width, sizes.chunk_width
        keys = self.key_width(width, chunk)
        norms = [Weight(width, is_linear=False), Weight(keys, is_linear=False)] if self.norms else []
        layer = [*norms, Weight(width**2), Weight(2 * keys * width), Weight(width**2)]
        shared = [Weight(chunk * self.num_keys * width)] if self.project_keys else []
        start = Weight(sizes.positions * chunk, is_linear=False)
        return [start, *shared, *layer * self.num_injections(sizes.num_layers)]

    def flops(self, sizes: PartSizes) -> Cost:
        width, keys = sizes.width, self.key_width(sizes.width, sizes.chunk_width)
        layers, num_keys = self.num_injections(sizes.num_layers), self.num_keys * sizes.positions
        shared = 2.0 * sizes.chunk_width * num_keys * width if self.project_keys else 0.0
        return Cost(layers * (4.0 * width**2 + 4.0 * num_keys * width), shared + layers * 4.0 * num_keys * keys * width)

    def activations(self, sizes: PartSizes, dtype_bytes: int) -> Cost:
        width, keys = sizes.width, self.key_width(sizes.width, sizes.chunk_width)
        layers, num_keys = self.num_injections(sizes.num_layers), self.num_keys * sizes.positions
        unit = layers * width * (4.0 + 3.0 * dtype_bytes)
        made = sizes.chunk_width * sizes.positions + num_keys * keys
        return Cost(unit, (made + layers * num_keys * (keys * self.norms + 2.0 * width)) * dtype_bytes)
