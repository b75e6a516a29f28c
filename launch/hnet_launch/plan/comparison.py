"""One line for each of several models on several clusters, as a Markdown table."""

from collections.abc import Iterable, Sequence

from hnet.config import load_config
from hnet.model.config import ModelConfig
from hnet.training.config import RunConfig
from hnet_launch.cluster import ClusterConfig
from hnet_launch.plan.assumptions import Assumptions, expected_bytes_per_chunk
from hnet_launch.plan.planner import GIB, Plan, plan_run
from hnet_launch.plan.report import duration

_COLUMNS = (
    "model", "GPUs", "parameters", "engine", "windows per micro-batch", "state, GiB", "peak, GiB", "at worst, GiB",
    "sent per step, GiB", "text, MB/s", "run", "MWh",
)  # fmt: skip


def compare(config: RunConfig, models: Sequence[str], clusters: Sequence[str]) -> list[str]:
    """Lines of the table. Every row has the engine that shards least of those that fit, with the largest micro-batch
    that it can hold whatever the routers do (at the expected chunk counts where none is safe)."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---|" + "---:|" * 2 + "---|" + "---:|" * (len(_COLUMNS) - 4)]
    for model in models:
        loaded = config.model_copy(update={"model": load_config(ModelConfig, model)})
        assumptions = Assumptions(expected_bytes_per_chunk(loaded.model))
        for name in clusters:
            cluster = load_config(ClusterConfig, name)
            lines.append("| " + " | ".join(_cells(model, plan_best(loaded, cluster, assumptions))) + " |")
    return lines


def plan_best(config: RunConfig, cluster: ClusterConfig, assumptions: Assumptions) -> Plan:
    """The plan with the recommended engine and its largest micro-batch; as configured if nothing fits."""
    plan = plan_run(config, cluster, assumptions)
    best = plan.recommended
    if best is None:
        return plan
    size = (best.at_worst or best.at_mean) * config.data.sequence_length
    training = config.training.model_copy(update={"micro_batch_bytes": size})
    return plan_run(config.model_copy(update={"engine": best.config, "training": training}), cluster, assumptions)


def _cells(model: str, plan: Plan) -> Iterable[str]:
    cost = plan.cost
    yield model
    yield str(plan.cluster.world_size)
    yield f"{sum(plan.parameters.values()) / 1e6:,.0f} M"
    yield plan.layout.name if plan.recommended else "none fits"
    yield str(plan.micro_batch)
    yield f"{(plan.mean.state.total - plan.mean.on_host) / GIB:.1f}"
    yield f"{plan.mean.total / GIB:.1f}"
    yield f"{plan.worst.total / GIB:.1f}"
    yield f"{sum(transfer.bytes_per_gpu for transfer in plan.transfers) / GIB:.1f}"
    yield f"{cost.bytes_per_second / 1e6:.2f}"
    yield duration(cost.total)
    yield f"{cost.kwh / 1e3:.1f}"
