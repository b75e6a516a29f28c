"""How the ranks of a run share one model, read from the very settings that the engine is given."""

from dataclasses import dataclass
from typing import Any, Literal

from hnet.errors import ConfigError
from hnet.training.config import RunConfig
from hnet.training.deepspeed_settings import deepspeed_settings
from hnet_launch.cluster import ClusterConfig


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of buckets and thresholds are in numbers, not bytes."""

    kind: Literal["ddp", "deepspeed", "fsdp"]
    stage: int
    """What is sharded, by ZeRO's names: 0 nothing, 1 optimizer state, 2 and gradients, 3 and parameters."""
    world_size: int
    gpus_per_node: int
    shard_group: int
    """Ranks that hold one copy of the parameters between them, where parameters are sharded."""
    offload_optimizer: bool
    offload_parameters: bool
    gradient_bytes: int
    """Of a number that ranks send each other of gradients."""
    gather_bytes: int
    """Of a number that ranks send each other of the weights of linear layers and embeddings, where parameters are
    sharded; of all other parameters it is 4."""
    bucket: int
    live_parameters: int
    """Parameters that ZeRO-3 lets be whole at a time."""
    persistence_threshold: int
    """Parameters of fewer numbers stay whole on every rank under ZeRO-3."""
    sequence_parallel: int

    @property
    def name(self) -> str:
        """As a user knows it: `DDP`, `ZeRO-3 + offload`, ..."""
        if self.kind == "ddp":
            return "one process" if self.world_size == 1 else "DDP"
        base = "FSDP2" if self.kind == "fsdp" else f"ZeRO-{self.stage}"
        if self.shards_parameters and self.shard_group < self.world_size:
            base += f" in groups of {self.shard_group}"
        if self.offload_parameters:
            return f"{base} + offload"
        return f"{base} + optimizer offload" if self.offload_optimizer else base

    @property
    def shards_parameters(self) -> bool:
        return self.stage == 3


def layout_of(config: RunConfig, cluster: ClusterConfig) -> Layout:
    """The layout that `engine` asks for on a cluster. Raises ConfigError if the two do not fit each other."""
    engine, ranks = config.engine, cluster.world_size
    common = {
        "world_size": ranks,
        "gpus_per_node": cluster.gpus_per_node,
        "sequence_parallel": engine.sequence_parallel,
    }
    if ranks % engine.sequence_parallel:
        raise ConfigError(f"engine.sequence_parallel {engine.sequence_parallel} does not divide {ranks} GPUs")
    group = engine.shard_group or ranks
    if ranks % group:
        raise ConfigError(f"engine.shard_group {group} does not divide {ranks} GPUs; give a divisor")
    if engine.fsdp:
        return _plain("fsdp", 3, group, common)
    if engine.zero_stage is None and engine.deepspeed_config is None:
        return _plain("ddp", 0, ranks, common)
    settings = deepspeed_settings(config, ranks, on_gpu=cluster.gpu != "cpu")
    return _from_deepspeed(settings, 2 if config.training.precision == "bf16" else 4, common)


def _plain(kind: Literal["ddp", "fsdp"], stage: int, group: int, common: dict[str, int]) -> Layout:
    return Layout(
        kind=kind,
        stage=stage,
        shard_group=group,
        offload_optimizer=False,
        offload_parameters=False,
        gradient_bytes=4,
        gather_bytes=4,
        bucket=0,
        live_parameters=0,
        persistence_threshold=0,
        **common,
    )


def _from_deepspeed(settings: dict[str, Any], gather_bytes: int, common: dict[str, int]) -> Layout:
    zero = settings["zero_optimization"]
    group = zero.get("zero_hpz_partition_size", 1)
    return Layout(
        kind="deepspeed",
        stage=zero["stage"],
        shard_group=group if group > 1 else common["world_size"],
        offload_optimizer="offload_optimizer" in zero,
        offload_parameters="offload_param" in zero,
        gradient_bytes=2 if settings.get("communication_data_type") in ("bf16", "fp16") else 4,
        gather_bytes=gather_bytes if zero["stage"] == 3 else 4,
        bucket=int(zero["reduce_bucket_size"]),
        live_parameters=int(zero.get("stage3_max_live_parameters", 0)),
        persistence_threshold=int(zero.get("stage3_param_persistence_threshold", 0)),
        **common,
    )
