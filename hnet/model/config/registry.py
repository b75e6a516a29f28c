"""The parts by the names that configurations call them: one line each. Imports no torch; a part's module is imported
when it is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from hnet.config.base import Allowed, Variants
from hnet.model.config.boundaries import FixedConfig, RouterConfig, SpaceLikeConfig, WordsConfig
from hnet.model.config.cross_attention import CrossAttentionPoolConfig, CrossAttentionUnpoolConfig
from hnet.model.config.embeddings import HashNgramConfig, TableConfig
from hnet.model.config.entropy import EntropyConfig
from hnet.model.config.objectives import ClassificationConfig, MaskedWordsConfig, NextUnitConfig, ObjectiveConfig
from hnet.model.config.part import BoundaryConfig, EmbeddingConfig, PartConfig, PoolConfig, UnpoolConfig
from hnet.model.config.pools import ConcatConfig, MaxConfig, MeanConfig, PrefixPoolConfig, SelectConfig
from hnet.model.config.unpools import (
    EMAConfig,
    NoneConfig,
    OffsetLinearConfig,
    PrefixUnpoolConfig,
    RepeatConfig,
    ScatterConfig,
    SlotsConfig,
)


@dataclass(frozen=True, slots=True)
class Part:
    """A configuration, and the class that is built from it, or a function that builds it: `"package.module:Class"`."""

    config: type[PartConfig]
    module: str


BOUNDARIES = {
    "router": Part(RouterConfig, "hnet.model.boundaries.router:Router"),
    "fixed": Part(FixedConfig, "hnet.model.boundaries.fixed:Fixed"),
    "space_like": Part(SpaceLikeConfig, "hnet.model.boundaries.given:Given"),
    "entropy": Part(EntropyConfig, "hnet.model.boundaries.given:Given"),
    "words": Part(WordsConfig, "hnet.model.boundaries.given:Given"),
}
POOLS = {
    "select": Part(SelectConfig, "hnet.model.pools.select:SelectPool"),
    "mean": Part(MeanConfig, "hnet.model.pools.reduce:ReducePool"),
    "max": Part(MaxConfig, "hnet.model.pools.reduce:ReducePool"),
    "cross_attention": Part(CrossAttentionPoolConfig, "hnet.model.pools.cross_attention:CrossAttentionPool"),
    "prefix": Part(PrefixPoolConfig, "hnet.model.pools.prefix:PrefixPool"),
    "concat": Part(ConcatConfig, "hnet.model.pools.concat:ConcatPool"),
}
UNPOOLS = {
    "ema": Part(EMAConfig, "hnet.model.unpools.ema:EMAUnpool"),
    "repeat": Part(RepeatConfig, "hnet.model.unpools.repeat:RepeatUnpool"),
    "scatter": Part(ScatterConfig, "hnet.model.unpools.scatter:ScatterUnpool"),
    "offset_linear": Part(OffsetLinearConfig, "hnet.model.unpools.offset_linear:OffsetLinearUnpool"),
    "cross_attention": Part(CrossAttentionUnpoolConfig, "hnet.model.unpools.cross_attention:CrossAttentionUnpool"),
    "none": Part(NoneConfig, "hnet.model.unpools.none:NoUnpool"),
    "prefix": Part(PrefixUnpoolConfig, "hnet.model.unpools.prefix:PrefixUnpool"),
    "slots": Part(SlotsConfig, "hnet.model.unpools.slots:SlotsUnpool"),
}
EMBEDDINGS = {
    "table": Part(TableConfig, "hnet.model.embeddings.table:NothingAdded"),
    "hash_ngram": Part(HashNgramConfig, "hnet.model.embeddings.hash_ngram:HashNgrams"),
}
OBJECTIVES = {
    "next_unit": Part(NextUnitConfig, "hnet.model.heads.linear:unit_head"),
    "masked_words": Part(MaskedWordsConfig, "hnet.model.heads.masked_words:MaskedWordsHead"),
    "classification": Part(ClassificationConfig, "hnet.model.heads.linear:label_head"),
}


def module_class(table: Mapping[str, Part], config: PartConfig) -> Any:
    """The class that `config` is built into."""
    module, _, name = table[config.type].module.partition(":")
    return getattr(import_module(module), name)


def _parsed(table: Mapping[str, Part], default: str) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        kind = value.get("type", default)
        if kind not in table:
            raise ValueError(f"type {kind!r} is not known; give one of {', '.join(table)}")
        # Strict, as the files are read, where a list stands for a tuple.
        values = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
        return table[kind].config.model_validate({**values, "type": kind}, strict=True)

    return parse


def _field(table: Mapping[str, Part], default: str) -> tuple[BeforeValidator, Allowed, Variants]:
    """How a field is read whose class its `type` chooses from `table`, as that is when a configuration is read."""
    allowed = Allowed(f"a mapping with `type` ({', '.join(table)}) and the keys of that type")

    def of(kind: str | None) -> type[PartConfig] | None:
        part = table.get(kind or default)
        return part.config if part else None

    return BeforeValidator(_parsed(table, default)), allowed, Variants(of)


BoundaryField = Annotated[SerializeAsAny[BoundaryConfig], *_field(BOUNDARIES, "router")]
PoolField = Annotated[SerializeAsAny[PoolConfig], *_field(POOLS, "select")]
UnpoolField = Annotated[SerializeAsAny[UnpoolConfig], *_field(UNPOOLS, "ema")]
EmbeddingField = Annotated[SerializeAsAny[EmbeddingConfig], *_field(EMBEDDINGS, "table")]
ObjectiveField = Annotated[SerializeAsAny[ObjectiveConfig], *_field(OBJECTIVES, "next_unit")]
