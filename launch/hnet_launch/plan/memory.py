"""Memory of one GPU: state, buffers, activations. What is counted how is in docs/planner.md."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hnet.model.accounting import activation_breakdown, count_parameters, parameter_sizes
from hnet.model.config import ModelConfig
from hnet.training.config import RunConfig
from hnet_launch.plan.layout import Layout

FLOAT = 4
"""Bytes of a number in parameters, gradients, master weights and moments, in every precision of training."""


@dataclass(frozen=True, slots=True)
class State:
    """Bytes that one rank holds between a step's last backward pass and its update, on the GPU or in host memory."""

    parameters: int
    gradients: int
    optimizer: int
    """AdamW's two moments, and master weights where the engine keeps a copy."""

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer


def state_of(model: ModelConfig, layout: Layout, num_micro_batches: int) -> State:
    """State of the rank that has most.

    ZeRO keeps a float32 copy of the weights that a rank updates, also where the weights are float32 themselves.
    Stages 1 and 2 cut each stage's parameters, laid end to end, into equal pieces; gradients of the tensors that a
    piece touches are kept whole, on a GPU. Stage 1 keeps all gradients until the step's last micro-batch. Stage 3 with
    its optimizer on the host keeps gradients there twice: as they are reduced, and as AdamW takes them. FSDP2 keeps no
    second copy of the weights, and shards everything within its group.
    """
    count, ranks = count_parameters(model), layout.world_size
    if layout.stage == 0:
        return State(FLOAT * count, FLOAT * count, 2 * FLOAT * count)
    if layout.kind == "fsdp":
        shard = FLOAT * _share(count, layout.shard_group)
        return State(shard, shard, 2 * shard)
    shard = FLOAT * _share(count, ranks)
    if layout.stage < 3:
        gradients = FLOAT * (count if ranks == 1 else _touched_by_pieces(model, ranks))
        if layout.stage == 1 and num_micro_batches > 1:
            gradients = FLOAT * count
        elif layout.offload_optimizer:
            gradients = shard
        return State(FLOAT * count, gradients, 3 * shard)
    parameters = sum(_sharded_size(size, layout) for sizes in parameter_sizes(model).values() for size in sizes)
    return State(FLOAT * parameters, 2 * shard if layout.offload_optimizer else shard, 3 * shard)


def _sharded_size(size: int, layout: Layout) -> int:
    """Numbers that a rank keeps of a tensor under stage 3: its shard, what stays whole, and hpZ's second copy."""
    ranks, group = layout.world_size, layout.shard_group
    kept = _share(size, ranks)
    if ranks > 1 and size < layout.persistence_threshold:
        kept += size
    elif group < ranks:
        kept += _share(size, group)
    return kept


def _touched_by_pieces(model: ModelConfig, ranks: int) -> int:
    """Most numbers, over ranks, in the tensors that a rank's piece of every stage's parameters touches."""
    most = [0] * ranks
    for sizes in _sizes_by_stage(model):
        piece = _share(sum(sizes), ranks)
        start = 0
        for size in sizes:
            first, last = start // piece, (start + size - 1) // piece
            for rank in range(first, min(last, ranks - 1) + 1):
                most[rank] += size
            start += size
    return max(most)


def _sizes_by_stage(model: ModelConfig) -> list[list[int]]:
    stages: list[list[int]] = [[] for _ in model.stages]
    for name, sizes in parameter_sizes(model).items():
        stages[int(name.split(".")[1]) if name.startswith("stages.") else 0] += sizes
    return stages


def units_at_ratio(model: ModelConfig, num_units: int, bytes_per_chunk: Sequence[float]) -> list[int]:
    """Units of the outermost stage, and chunks, for `num_units` bytes of text with these bytes per chunk."""
    return _with_separators(model, num_units, [math.ceil(num_units / ratio) for ratio in bytes_per_chunk])


def worst_units(model: ModelConfig, num_units: int) -> list[int]:
    """The same if every unit opens a chunk, as far as `max_chunk_fraction` allows."""
    chunks, entered = [], num_units
    for stage in model.stages[:-1]:
        entered = math.ceil(entered * (stage.boundary.chunk_bound or 1.0))
        chunks.append(entered)
    return _with_separators(model, num_units, chunks)


def _with_separators(model: ModelConfig, num_units: int, chunks: list[int]) -> list[int]:
    separators = len(model.stages[0].boundary.separator_ids) * chunks[0] if chunks else 0
    return [num_units + separators, *chunks]


@dataclass(frozen=True, slots=True)
class GPUMemory:
    """Bytes on one GPU, and in host memory for one rank."""

    state: State
    on_host: int
    """State that lies in host memory."""
    buffers: int
    """Communication buckets, and parameters that are whole only while they are used."""
    half_copies: int
    """Weights in bf16, from their use in the forward pass to that in the backward pass."""
    activations: dict[str, int]

    @property
    def total(self) -> int:
        return self.state.total - self.on_host + self.buffers + self.half_copies + sum(self.activations.values())


def gpu_memory(config: RunConfig, layout: Layout, units: Sequence[int], num_micro_batches: int) -> GPUMemory:
    """Peak of a step whose largest micro-batch has `units` on one rank, every stage."""
    model, training = config.model, config.training
    state = state_of(model, layout, num_micro_batches)
    on_host = state.optimizer if layout.offload_optimizer else 0
    on_host += state.gradients if layout.offload_optimizer and layout.stage >= 2 else 0
    on_host += state.parameters if layout.offload_parameters else 0
    is_half = training.precision == "bf16"
    weights = [sum(sizes) for sizes in parameter_sizes(model).values()]
    # Recomputing, only the block at work has its weights cast; otherwise they wait for the backward pass.
    halves = max(weights) if training.activation_checkpointing else sum(weights)
    return GPUMemory(
        state=state,
        on_host=on_host,
        buffers=FLOAT * _buffer_numbers(model, layout),
        half_copies=2 * halves if is_half else 0,
        activations=activation_breakdown(
            model,
            units,
            dtype_bytes=2 if is_half else 4,
            activation_checkpointing=training.activation_checkpointing,
        ),
    )


def _buffer_numbers(model: ModelConfig, layout: Layout) -> int:
    """Buckets are doubled: one fills while the other travels. At the update ZeRO 1 and 2 flatten a rank's gradients.

    FSDP2: the parameters outside of blocks for the whole pass, two blocks of parameters and two of gradients.
    """
    if layout.kind == "ddp" or layout.world_size == 1 or layout.stage == 0:
        return layout.bucket
    parts = parameter_sizes(model)
    blocks = {name: sum(sizes) for name, sizes in parts.items() if name.rsplit(".", 1)[-1].isdigit()}
    largest, total = max(blocks.values()), count_parameters(model)
    if layout.kind == "fsdp":
        return total - sum(blocks.values()) + min(4 * largest, 2 * sum(blocks.values()))
    if layout.stage < 3:
        update = 0 if layout.offload_optimizer else _share(total, layout.world_size)
        return 2 * layout.bucket + update
    return 2 * layout.bucket + min(total, layout.live_parameters + largest)


def _share(size: int, ranks: int) -> int:
    return -(-size // ranks)
