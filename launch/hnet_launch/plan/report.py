"""A plan as JSON and as tables."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from hnet.model.accounting import count_lookup_parameters
from hnet_launch.plan.communication import seconds
from hnet_launch.plan.memory import GPUMemory
from hnet_launch.plan.planner import GIB, Plan

_PARTS = ("parameters", "gradients", "optimizer")


def as_json(plan: Plan) -> dict[str, Any]:
    """Everything in the tables: bytes, seconds, FLOPs; shares between 0 and 1."""
    recommended = plan.recommended
    return {
        "model_parameters": plan.parameters | {"total": sum(plan.parameters.values())},
        "lookup_parameters": count_lookup_parameters(plan.config.model),
        "cluster": plan.cluster.model_dump(mode="json"),
        "gpu": asdict(plan.gpu),
        "engine": plan.layout.name,
        "micro_batch_windows": plan.micro_batch,
        "micro_batches_per_step": plan.num_micro_batches,
        "usable_bytes": plan.usable,
        "memory": {name: _memory(memory) for name, memory in (("mean", plan.mean), ("worst", plan.worst))},
        "communication": [
            asdict(transfer) | {"seconds": seconds(transfer, plan.cluster, plan.gpu, plan.assumptions.link_efficiency)}
            for transfer in plan.transfers
        ],
        "cost": asdict(plan.cost),
        "fits": [asdict(fit) | {"config": fit.config.model_dump(mode="json")} for fit in plan.fits],
        "recommended_engine": None if recommended is None else recommended.engine,
        "assumptions": asdict(plan.assumptions),
    }


def _memory(memory: GPUMemory) -> dict[str, Any]:
    return asdict(memory) | {"total": memory.total}


def print_plan(plan: Plan, console: Console) -> None:
    """Tables for a reader, with every assumption."""
    cluster, total = plan.cluster, sum(plan.parameters.values())
    console.print(
        f"{total:,} parameters on {cluster.world_size} x {cluster.gpu.upper()} "
        f"({cluster.nodes} x {cluster.gpus_per_node}), {plan.layout.name}, "
        f"{plan.num_micro_batches} micro-batches of {plan.micro_batch} windows per GPU and step",
        highlight=False,
    )
    for table in (_parameters(plan), _memory_table(plan), _communication(plan), _fits(plan), _cost(plan)):
        console.print()
        console.print(table, highlight=False)
    console.print()
    for line in assumption_lines(plan):
        console.print(f"assumed: {line}", style="dim", highlight=False, markup=False)
    console.print(verdict(plan), highlight=False, markup=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _parameters(plan: Plan) -> Table:
    table = _table("parameters", "millions", "share")
    total = sum(plan.parameters.values())
    for name, count in plan.parameters.items():
        table.add_row(name, f"{count / 1e6:,.2f}", f"{count / total:.1%}")
    lookup = count_lookup_parameters(plan.config.model)
    table.add_row("of these, looked up by rows", f"{lookup / 1e6:,.2f}", f"{lookup / total:.1%}", style="dim")
    return table


def _memory_table(plan: Plan) -> Table:
    table = _table("GiB on one GPU", "expected chunks", "worst chunks")
    pairs = (plan.mean, plan.worst)
    for name in _PARTS:
        table.add_row(name, *(_gib(getattr(memory.state, name)) for memory in pairs))
    if plan.mean.on_host:
        table.add_row("of these in host memory", *(f"-{_gib(memory.on_host)}" for memory in pairs))
    table.add_row("communication buffers", *(_gib(memory.buffers) for memory in pairs))
    table.add_row("weights in bf16", *(_gib(memory.half_copies) for memory in pairs))
    for name in plan.mean.activations:
        label = f"activations, {name}" if name.startswith("stages") else name
        table.add_row(label, *(_gib(memory.activations[name]) for memory in pairs))
    table.add_row("total", *(_gib(memory.total) for memory in pairs), style="bold")
    table.add_row("usable", *[_gib(plan.usable)] * 2)
    return table


def _communication(plan: Plan) -> Table:
    table = _table("sent by one GPU per step", "GiB", "ranks", "ms on the links")
    for transfer in plan.transfers:
        time = seconds(transfer, plan.cluster, plan.gpu, plan.assumptions.link_efficiency)
        row = (_gib(transfer.bytes_per_gpu), str(transfer.ranks), f"{1e3 * time:,.1f}")
        table.add_row(f"{transfer.kind}: {transfer.of}", *row)
    if not plan.transfers:
        table.add_row("nothing", "0.00", "1", "0.0")
    return table


def _fits(plan: Plan) -> Table:
    table = _table("engine", "GiB of state", "windows that fit, expected chunks", "worst chunks")
    for fit in plan.fits:
        table.add_row(fit.engine, _gib(fit.state), _windows(fit.at_mean), _windows(fit.at_worst))
    return table


def _cost(plan: Plan) -> Table:
    cost, table = plan.cost, _table("time and energy", "", "")
    for label, value, unit in (
        ("forward pass", f"{cost.forward_flops_per_byte / 1e6:,.0f}", "MFLOP/byte"),
        ("step, computing", f"{cost.computing:,.3f}", "s"),
        ("step, communication not hidden", f"{cost.exposed:,.3f}", "s"),
        ("step", f"{cost.step:,.3f}", "s"),
        ("text", f"{cost.bytes_per_second / 1e6:,.2f}", "MB/s"),
        ("MFU", f"{100 * cost.mfu:.1f}", "%"),
        (f"run of {cost.steps:,} steps", duration(cost.total), ""),
        ("GPU hours", f"{cost.gpu_hours:,.0f}", "h"),
        ("energy", f"{cost.kwh:,.0f}", "kWh"),
    ):
        table.add_row(label, value, unit)
    return table


def assumption_lines(plan: Plan) -> list[str]:
    """Each assumption as a sentence."""
    given, gpu = plan.assumptions, plan.gpu
    chunks = " and ".join(f"{value:.2f}" for value in given.bytes_per_chunk)
    lines = [f"{chunks} bytes per chunk after the chunking stages; worst: every unit a chunk"] if chunks else []
    return [
        *lines,
        f"{given.utilization:.0%} of {gpu.flops / 1e12:,.0f} TFLOP/s while a GPU computes ({gpu.source})",
        f"links at {given.link_efficiency:.0%} of {plan.cluster.intra_node_gb_per_s:g} GB/s within a node and "
        f"{plan.cluster.inter_node_gb_per_s:g} GB/s per GPU between nodes; computation hides {given.overlap:.0%} of it",
        f"{given.waiting:.0%} of the time lost to the slowest rank; documents fill their windows",
        f"{given.usable_memory:.0%} of {gpu.memory_gib:g} GiB usable",
        f"{gpu.watts:,.0f} W per GPU and {given.overhead_power:.0%} on top for hosts, network and cooling",
    ]


def verdict(plan: Plan) -> str:
    """Whether it fits, and what to do if not."""
    best = plan.recommended
    if best is None:
        return (
            "does not fit: not one window does with any engine; use more GPUs, set "
            "training.activation_checkpointing: true, or lower data.sequence_length"
        )
    if plan.worst.total <= plan.usable:
        state = "fits, whatever the routers do"
    elif plan.mean.total <= plan.usable:
        state = (
            "fits at the expected chunk counts but not at the worst: bound them with boundary.max_chunk_fraction, or "
            "lower training.micro_batch_bytes"
        )
    else:
        state = "does not fit as configured: lower training.micro_batch_bytes, or shard more"
    size = f"{best.at_worst} windows" if best.at_worst else f"{best.at_mean} windows at the expected chunk counts"
    return f"{state}. Least sharding that fits: {best.engine}, micro-batches of up to {size}"


def duration(time: float) -> str:
    """`12.3 days`, `4.5 hours`, `6.7 minutes`."""
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if time >= 2 * size:
            return f"{time / size:,.1f} {name}"
    return f"{time:.1f} seconds"


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f}"


def _windows(count: int) -> str:
    return f"{count} windows" if count else "none fits"
