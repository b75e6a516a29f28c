"""`plan_run`: everything that is known of a run on a cluster before it starts."""

from dataclasses import dataclass
from typing import Any

from hnet.config import load_config
from hnet.errors import ConfigError
from hnet.model.accounting import parameter_breakdown
from hnet.training.config import EngineConfig, RunConfig
from hnet.training.gpus import GPU, GPUS
from hnet_launch.cluster import ClusterConfig
from hnet_launch.plan.assumptions import Assumptions
from hnet_launch.plan.communication import Transfer, transfers_per_step
from hnet_launch.plan.cost import Cost, cost_of
from hnet_launch.plan.layout import Layout, layout_of
from hnet_launch.plan.memory import GPUMemory, gpu_memory, units_at_ratio, worst_units

GIB = 1 << 30

_ENGINES: tuple[dict[str, Any], ...] = (
    {},
    {"zero_stage": 1},
    {"zero_stage": 2},
    {"zero_stage": 3},
    {"zero_stage": 3, "offload": "all"},
)
"""By how much they shard, least first: each needs less memory than the one before, and the later ones send more."""
_ALONE: tuple[dict[str, Any], ...] = (
    {},
    {"zero_stage": 2, "offload": "optimizer"},
    {"zero_stage": 3, "offload": "all"},
)
"""One GPU has nobody to share with but its host."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The largest micro-batches of one engine, in windows of one rank; 0 where not one fits."""

    engine: str
    config: EngineConfig
    state: int
    """Bytes of state on one GPU, with the largest micro-batches that fit whatever the routers do; else those that fit
    at the mean, else single windows."""
    at_mean: int
    """At the expected bytes per chunk."""
    at_worst: int
    """If every unit opens a chunk."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run on a cluster. Bytes, seconds."""

    config: RunConfig
    cluster: ClusterConfig
    gpu: GPU
    assumptions: Assumptions
    layout: Layout
    parameters: dict[str, int]
    micro_batch: int
    """Windows of one micro-batch of a rank."""
    num_micro_batches: int
    mean: GPUMemory
    worst: GPUMemory
    transfers: list[Transfer]
    cost: Cost
    fits: list[Fit]

    @property
    def usable(self) -> int:
        """Bytes of a GPU that the run may use."""
        return round(self.gpu.memory_gib * GIB * self.assumptions.usable_memory)

    @property
    def recommended(self) -> Fit | None:
        """The engine that shards least of those that hold a window whatever the routers do; else at the mean."""
        safe = [fit for fit in self.fits if fit.at_worst]
        return next(iter(safe), None) or next((fit for fit in self.fits if fit.at_mean), None)


def plan_run(config: RunConfig, cluster: ClusterConfig, assumptions: Assumptions) -> Plan:
    """Raises ConfigError if run, engine and cluster do not fit each other, or the GPU is not in the table."""
    gpu = _gpu(cluster)
    layout = layout_of(config, cluster)
    micro_batch, num_micro_batches = _micro_batches(config, layout)
    num_units = micro_batch * config.data.sequence_length
    transfers = transfers_per_step(config.model, layout, num_micro_batches, num_units)
    engines = _ALONE if cluster.world_size == 1 else _ENGINES
    return Plan(
        config=config,
        cluster=cluster,
        gpu=gpu,
        assumptions=assumptions,
        layout=layout,
        parameters=parameter_breakdown(config.model),
        micro_batch=micro_batch,
        num_micro_batches=num_micro_batches,
        mean=_memory(config, layout, assumptions, micro_batch, num_micro_batches),
        worst=_memory(config, layout, None, micro_batch, num_micro_batches),
        transfers=transfers,
        cost=cost_of(config, cluster, gpu, assumptions, transfers),
        fits=[_fit(config, cluster, gpu, assumptions, engine) for engine in engines],
    )


def _gpu(cluster: ClusterConfig) -> GPU:
    if cluster.gpu.upper() not in GPUS:
        raise ConfigError(f"gpu: '{cluster.gpu}' is not in the planner's table; there are: {', '.join(GPUS)}")
    return GPUS[cluster.gpu.upper()]


def _micro_batches(config: RunConfig, layout: Layout) -> tuple[int, int]:
    """Windows of the largest micro-batch of a rank (of a sequence-parallel group), and micro-batches per step."""
    window, groups = config.data.sequence_length, layout.world_size // layout.sequence_parallel
    per_rank = -(-config.training.global_batch_bytes // (window * groups))
    most = per_rank if config.training.micro_batch_bytes is None else config.training.micro_batch_bytes // window
    number = -(-per_rank // most)
    return -(-per_rank // number), number


def _memory(
    config: RunConfig, layout: Layout, assumptions: Assumptions | None, micro_batch: int, num_micro_batches: int
) -> GPUMemory:
    """At the expected bytes per chunk, or without `assumptions` at the worst."""
    num_units = -(-micro_batch * config.data.sequence_length // layout.sequence_parallel)
    if assumptions is None:
        units = worst_units(config.model, num_units)
    else:
        units = units_at_ratio(config.model, num_units, assumptions.bytes_per_chunk)
    return gpu_memory(config, layout, units, num_micro_batches)


def _fit(config: RunConfig, cluster: ClusterConfig, gpu: GPU, assumptions: Assumptions, engine: dict[str, Any]) -> Fit:
    kept = {"sequence_parallel": config.engine.sequence_parallel}
    tried = config.model_copy(update={"engine": load_config(EngineConfig, engine | kept)})
    layout = layout_of(tried, cluster)
    usable = gpu.memory_gib * GIB * assumptions.usable_memory
    per_rank, _ = _micro_batches(
        tried.model_copy(update={"training": tried.training.model_copy(update={"micro_batch_bytes": None})}), layout
    )

    def largest(given: Assumptions | None) -> int:
        for size in range(per_rank, 0, -1):
            divides = config.training.global_batch_bytes % (size * config.data.sequence_length) == 0
            if divides and _memory(tried, layout, given, size, -(-per_rank // size)).total <= usable:
                return size
        return 0

    at_mean, at_worst = largest(assumptions), largest(None)
    size = at_worst or at_mean or 1
    # ZeRO-1 shards no gradients over several micro-batches: the state depends on their number.
    memory = _memory(tried, layout, assumptions, size, -(-per_rank // size))
    return Fit(layout.name, tried.engine, memory.state.total - memory.on_host, at_mean, at_worst)
