"""Learning-rate schedules: pure functions of the step, so that a resumed run continues bit for bit. No torch."""

import math

from hnet.training.config import ScheduleConfig


def learning_rate_factor(config: ScheduleConfig, step: int, num_steps: int) -> float:
    """Learning rate of `step` (1 to `num_steps`) as a share of the largest.

    Linear warm-up over `warmup * num_steps` steps (rounded), reaching 1 at its last step. Then
    `wsd`: 1, and over the last `decay * num_steps` steps from 1 towards `final` by 1 - sqrt(x) or 1 - x;
    `cosine`: half a cosine from 1 to `final`. The last step has x < 1, so it still learns when `final` is 0.
    (H-Net paper, section 3.1: 10 % warm-up, 70 % stable, 20 % decay; the decay shape is that of Haegele et al. 2024.)
    """
    if not 1 <= step <= num_steps:
        raise ValueError(f"step {step} is not in 1..{num_steps}")
    warmup = round(config.warmup * num_steps)
    if step <= warmup:
        return step / warmup
    if config.type == "cosine":
        progress = (step - warmup) / (num_steps - warmup + 1)
        return config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * progress))
    decay = round(config.decay * num_steps)
    progress = max(0, step - (num_steps - decay)) / (decay + 1)
    remaining = 1 - math.sqrt(progress) if config.decay_shape == "one_minus_sqrt" else 1 - progress
    return config.final + (1 - config.final) * remaining
