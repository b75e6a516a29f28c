"""One line for each of several models on several clusters, as a Markdown table."""

from collections.abc import Callable, Iterator, Sequence

from hnet.config import load_config
from hnet.errors import ConfigError
from hnet.model.config import ModelConfig
from hnet.training.config import RunConfig
from hnet_launch.cluster import ClusterConfig
from hnet_launch.plan.assumptions import Assumptions
from hnet_launch.plan.planner import GIB, Plan, plan_run
from hnet_launch.plan.report import duration

_COLUMNS = (
    "model", "GPUs", "parameters", "engine", "windows per micro-batch", "state, GiB", "peak, GiB", "at worst, GiB",
    "sent per step, GiB", "text, MB/s", "run", "MWh",
)  # fmt: skip


def compare(
    config: RunConfig,
    models: Sequence[str],
    clusters: Sequence[ClusterConfig],
    assume: Callable[[RunConfig], Assumptions],
) -> Iterator[tuple[str, Plan]]:
    """Every model's name and plan on every cluster, with the engine that shards least of those that fit and the largest
    micro-batch that it can hold whatever the routers do (at the expected chunk counts where none is safe).

    Raises ConfigError if a model is not one, or the assumptions of a run cannot be made for it.
    """
    for model in models:
        loaded = config.model_copy(update={"model": load_config(ModelConfig, model)})
        try:
            assumptions = assume(loaded)
        except ConfigError as error:
            raise ConfigError(f"{model}: {error}") from error
        for cluster in clusters:
            yield model, plan_best(loaded, cluster, assumptions)


def table(plans: Sequence[tuple[str, Plan]]) -> list[str]:
    """The lines of a Markdown table, a row for each plan."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---|" + "---:|" * 2 + "---|" + "---:|" * (len(_COLUMNS) - 4)]
    return lines + ["| " + " | ".join(_cells(model, plan)) + " |" for model, plan in plans]


def plan_best(config: RunConfig, cluster: ClusterConfig, assumptions: Assumptions) -> Plan:
    """The plan with the recommended engine and its largest micro-batch; as configured if nothing fits."""
    plan = plan_run(config, cluster, assumptions)
    best = plan.recommended
    if best is None:
        return plan
    size = (best.at_worst or best.at_mean) * config.data.sequence_length
    training = config.training.model_copy(update={"micro_batch_bytes": size})
    return plan_run(config.model_copy(update={"engine": best.config, "training": training}), cluster, assumptions)


def _cells(model: str, plan: Plan) -> Iterator[str]:
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
