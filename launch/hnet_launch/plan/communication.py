"""What a GPU sends in one optimizer step, and how long the links take.

N ranks that pass B bytes around a ring send B (N - 1) / N each in an all-gather or a reduce-scatter, twice that in an
all-reduce.
"""

from dataclasses import dataclass
from typing import Literal

from hnet.model.accounting import count_lookup_and_linear_weights, count_parameters
from hnet.model.config import ModelConfig
from hnet.training.gpus import GPU
from hnet_launch.cluster import ClusterConfig
from hnet_launch.plan.layout import Layout
from hnet_launch.plan.memory import FLOAT

Kind = Literal["all-gather", "reduce-scatter", "all-reduce", "all-to-all", "to and from host"]


@dataclass(frozen=True, slots=True)
class Transfer:
    """One kind of transfer of one optimizer step."""

    kind: Kind
    of: str
    bytes_per_gpu: float
    """Sent by each GPU."""
    ranks: int
    """That take part together; 1 for the host."""
    spread: bool = False
    """Each of these ranks is on a node of its own."""


def transfers_per_step(model: ModelConfig, layout: Layout, num_micro_batches: int, num_units: int) -> list[Transfer]:
    """What a GPU sends per step of `num_micro_batches` of `num_units` units of text each on every rank.

    Counters, norms and statistics (a few hundred bytes) are left out. ZeRO-3 gathers the weights of linear layers and
    embeddings in bf16 where the run computes in it; the host holds and is sent fp32.
    """
    ranks, weights = layout.world_size, FLOAT * count_parameters(model)
    gradients = layout.gradient_bytes * count_parameters(model)
    transfers = []
    if ranks > 1 and layout.stage < 3:
        # ZeRO 1 and 2 all-reduce their buckets and keep a part of each; stage 2 after every micro-batch.
        times = num_micro_batches if layout.stage == 2 else 1
        transfers.append(_ring("all-reduce", "gradients", times * gradients, ranks))
        if layout.stage:
            transfers.append(_ring("all-gather", "updated parameters", weights, ranks))
    elif ranks > 1:
        gathered = weights - (FLOAT - layout.gather_bytes) * count_lookup_and_linear_weights(model)
        transfers += _sharded(layout, num_micro_batches * gathered, num_micro_batches * gradients)
    if layout.sequence_parallel > 1:
        transfers.append(_sequence(model, layout, num_micro_batches * num_units))
    if layout.offload_optimizer:
        there_and_back = (weights + gradients) / ranks
        if layout.offload_parameters:
            there_and_back += 2 * num_micro_batches * weights / ranks
        transfers.append(Transfer("to and from host", "gradients and parameters", there_and_back, 1))
    return transfers


def _sharded(layout: Layout, weights: float, gradients: float) -> list[Transfer]:
    """Every micro-batch gathers the parameters once for each pass. In groups, FSDP2 gathers and scatters within the
    group and adds up across groups; hpZ gathers within the group in the backward pass alone."""
    ranks, group = layout.world_size, layout.shard_group
    if layout.kind == "fsdp" and group < ranks:
        return [
            _ring("all-gather", "parameters, both passes", 2 * weights, group),
            _ring("reduce-scatter", "gradients", gradients, group),
            _ring("all-reduce", "gradients across groups", gradients / group, ranks // group, spread=True),
        ]
    return [
        _ring("all-gather", "parameters, forward", weights, ranks),
        _ring("all-gather", "parameters, backward", weights, group),
        _ring("reduce-scatter", "gradients", gradients, ranks),
    ]


def _ring(kind: Kind, of: str, size: float, ranks: int, *, spread: bool = False) -> Transfer:
    passes = 2 if kind == "all-reduce" else 1
    return Transfer(kind, of, passes * size * (ranks - 1) / ranks, ranks, spread)


def _sequence(model: ModelConfig, layout: Layout, num_units: int) -> Transfer:
    """Attention of every stage trades its sequence shard of q, k, v and output for heads, forward and backward.

    `num_units` of a whole group; inner stages have as many units as boundaries are expected to make.
    """
    total, units = 0.0, float(num_units)
    if len(model.stages) > 1:
        boundary = model.stages[0].boundary
        units *= boundary.units_per_chunk / boundary.text_per_chunk
    for stage in model.stages:
        total += 2 * 4 * sum(kind in "tT" for kind in stage.layers) * units * stage.d_model * FLOAT
        units *= 1.0 if stage.is_innermost else stage.pool.positions / stage.boundary.units_per_chunk
    group = layout.sequence_parallel
    return Transfer("all-to-all", "attention heads", total / group * (group - 1) / group, group)


def seconds(transfer: Transfer, cluster: ClusterConfig, gpu: GPU, efficiency: float) -> float:
    """Time on the links at this share of their rate.

    Within a node, one GPU's link to the others. Across nodes rings use every node's adapters at once, so a GPU sends
    as fast as all adapters of its node together, unless its link within the node is slower.
    """
    if transfer.kind == "to and from host":
        return transfer.bytes_per_gpu / (gpu.host_bytes_per_s * efficiency)
    across, within = cluster.inter_node_gb_per_s * 1e9, cluster.intra_node_gb_per_s * 1e9
    if transfer.spread:
        rate = across
    elif transfer.ranks <= cluster.gpus_per_node:
        rate = within
    else:
        rate = min(within, across * cluster.gpus_per_node)
    return transfer.bytes_per_gpu / (rate * efficiency)
