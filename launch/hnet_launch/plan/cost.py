"""Time and energy of a run."""

from dataclasses import dataclass

from hnet.model.accounting import TRAINING_FLOPS, flops_per_byte, training_flops_per_byte
from hnet.training.config import RunConfig
from hnet.training.gpus import GPU
from hnet_launch.cluster import ClusterConfig
from hnet_launch.plan.assumptions import Assumptions
from hnet_launch.plan.communication import Transfer, seconds

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a whole run; times in seconds."""

    forward_flops_per_byte: float
    step_flops: float
    """Of the model, forward and backward, over all GPUs."""
    computing: float
    """Of a step."""
    communicating: float
    """Of a step, on the links."""
    exposed: float
    """Of that, what computation does not hide."""
    step: float
    mfu: float
    """FLOPs of the model over what all GPUs could do in the time of a step."""
    steps: int
    total: float
    gpu_hours: float
    kwh: float
    bytes_per_second: float


def cost_of(
    config: RunConfig, cluster: ClusterConfig, gpu: GPU, assumptions: Assumptions, transfers: list[Transfer]
) -> Cost:
    """Documents are taken to fill their windows, which is the most that attention can cost."""
    training, ranks = config.training, cluster.world_size
    shares = [1.0, *(1 / ratio for ratio in assumptions.bytes_per_chunk)]
    if len(shares) > 1:
        shares[0] += shares[1] * len(config.model.stages[0].boundary.separator_ids)
    context = config.data.sequence_length * shares[0]
    forward = flops_per_byte(config.model, shares, context)
    flops = training_flops_per_byte(config.model, shares, context) * training.global_batch_bytes
    computed = flops * (1 + 1 / TRAINING_FLOPS) if training.activation_checkpointing else flops
    computing = computed / (ranks * gpu.flops * assumptions.utilization)
    communicating = sum(seconds(transfer, cluster, gpu, assumptions.link_efficiency) for transfer in transfers)
    hidden = min(assumptions.overlap * communicating, computing)
    step = (computing + communicating - hidden) / (1 - assumptions.waiting)
    total = step * training.steps
    return Cost(
        forward_flops_per_byte=forward,
        step_flops=flops,
        computing=computing,
        communicating=communicating,
        exposed=communicating - hidden,
        step=step,
        mfu=flops / (step * ranks * gpu.flops),
        steps=training.steps,
        total=total,
        gpu_hours=total * ranks / 3600,
        kwh=total * ranks * gpu.watts * (1 + assumptions.overhead_power) / JOULES_PER_KWH,
        bytes_per_second=training.global_batch_bytes / step,
    )
