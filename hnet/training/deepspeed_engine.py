"""DeepSpeed ZeRO through Accelerate's plugin. Parameters stay fp32 and so do master weights and moments.

DeepSpeed 0.19 is used around these traps of its: `gradient_clipping` defaults to 1.0 when left out; an optimizer named
in its config is compiled on a CPU for minutes; stage 0 reports no gradient norm; its shared-memory collectives are
compiled at start-up; Accelerate's own `backward` would take the optimizer step before anyone could look at the loss.
"""

import contextlib
import logging
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import deepspeed
import torch
from accelerate import Accelerator, DeepSpeedPlugin
from deepspeed.utils import (
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from hnet.distributed import environment
from hnet.training.config import RunConfig
from hnet.training.engine import Engine, group_settings
from hnet.training.fragments import MOMENTS, WEIGHT, Fragment, Read
from hnet.training.optimizer import Optimizer, new_adam_state
from hnet.training.training_module import DeviceBatch, ForwardSums, TrainingModule

_BUCKET = 50_000_000
"""Largest communication bucket in elements; DeepSpeed's default of 5e8 reserves 2 GB."""


class DeepSpeedEngine(Engine):
    """ZeRO stage 0 (plain), 1 (sharded moments), 2 (and gradients) or 3 (and parameters)."""

    def __init__(self, config: RunConfig, stage: int) -> None:
        self._stage = stage
        self._clip = config.optimizer.gradient_clip
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+_tensor` is deprecated", FutureWarning)
        environment.set_defaults(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port())
        )
        if not torch.cuda.is_available():
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        plugin = DeepSpeedPlugin(hf_ds_config=self._settings())
        self.accelerator = Accelerator(
            mixed_precision="no", deepspeed_plugin=plugin, kwargs_handlers=[group_settings(config)]
        )

    def _settings(self) -> dict[str, Any]:
        zero = {
            "stage": self._stage,
            "overlap_comm": torch.cuda.is_available(),
            "reduce_bucket_size": _BUCKET,
            "allgather_bucket_size": _BUCKET,
        }
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self._clip if self._stage else 0.0,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 1_000_000_000,
        }

    def describe(self) -> str:
        return f"{self.world_size} processes on {self.device.type}, DeepSpeed ZeRO stage {self._stage}"

    def prepare(self, module: TrainingModule, optimizer: Optimizer) -> None:
        self.module, self.optimizer = module, optimizer
        self._engine, _ = self.accelerator.prepare(module, optimizer.torch_optimizer)

    def accumulate(self, is_last: bool) -> AbstractContextManager[Any]:
        self._engine.set_gradient_accumulation_boundary(is_last)
        return contextlib.nullcontext()

    def forward(self, batch: DeviceBatch) -> ForwardSums:
        return self._engine(batch.input_ids, batch.labels, batch.cu_seqlens, batch.max_seqlen, batch.shard)

    @torch.no_grad()
    def evaluate(self, batch: DeviceBatch) -> ForwardSums:
        return self._engine(batch.input_ids, batch.labels, batch.cu_seqlens, batch.max_seqlen, batch.shard)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        self._engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def update(self, max_norm: float) -> tuple[float, bool]:
        if self._stage == 0:
            return self._update_unsharded(max_norm)
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        return norm, bool(self._engine.was_step_applied())

    def _update_unsharded(self, max_norm: float) -> tuple[float, bool]:
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), max_norm or float("inf"))
        is_finite = bool(torch.isfinite(norm))
        if is_finite:
            self._engine.step()
        else:
            self._engine.zero_grad()
        return float(norm), is_finite

    def set_learning_rates(self, factor: float) -> None:
        groups = self._engine.optimizer.param_groups
        for group, rate in zip(groups, self.optimizer.learning_rates, strict=True):
            group["lr"] = rate * factor

    def shapes(self) -> dict[str, torch.Size]:
        return {
            name: getattr(parameter, "ds_shape", parameter.shape) for name, parameter in self.model.named_parameters()
        }

    def fragments(self) -> Iterator[Fragment]:
        for name, weight in self.gather_weights().items():
            yield Fragment(f"{WEIGHT}/{name}", 0, weight.float().flatten())
        for name, moment in self.gather_moments().items():
            yield Fragment(name, 0, moment.float().flatten())

    def load(self, read: Read, num_updates: int) -> None:
        shapes = self.shapes()
        for name, parameter in self.model.named_parameters():
            weight = read(f"{WEIGHT}/{name}", 0, shapes[name].numel()).view(shapes[name]).to(self.device)
            with self._whole(parameter, modifier_rank=0):
                parameter.data.copy_(weight)
            self._set_master(parameter, weight)
        moments = {
            f"{moment}/{name}": read(f"{moment}/{name}", 0, shape.numel()).view(shape)
            for name, shape in shapes.items()
            for moment in MOMENTS
            if num_updates
        }
        self.load_moments(moments, num_updates)

    def gather_weights(self) -> dict[str, Tensor]:
        weights = {}
        for name, parameter in self.model.named_parameters():
            with self._whole(parameter):
                if self.is_main:
                    weights[name] = parameter.detach().cpu().clone()
        return weights

    def gather_moments(self) -> dict[str, Tensor]:
        states = self._torch_optimizer().state
        if not states:
            return {}
        self._link_moments()
        moments = {}
        for name, parameter in self.model.named_parameters():
            for moment in MOMENTS:
                if self._stage == 0:
                    full = states[parameter][moment]
                else:
                    full = safe_get_full_optimizer_state(parameter, moment)
                if self.is_main:
                    moments[f"{moment}/{name}"] = full.cpu().clone()
        return moments

    def load_moments(self, moments: Mapping[str, Tensor], num_updates: int) -> None:
        if num_updates == 0:
            return
        states = self._torch_optimizer().state
        for flat in self._flat_parameters():
            states[flat] = new_adam_state(flat, num_updates)
        self._link_moments()
        for name, parameter in self.model.named_parameters():
            for moment in MOMENTS:
                self._set_moment(parameter, moment, moments[f"{moment}/{name}"].to(self.device))

    def _set_moment(self, parameter: Any, moment: str, value: Tensor) -> None:
        if self._stage == 0:
            self._torch_optimizer().state[parameter][moment].copy_(value)
        elif self._stage < 3:
            safe_set_full_optimizer_state(parameter, value, moment)
        else:
            safe_set_local_optimizer_state(parameter, self._shard(parameter, value), moment)

    def _set_master(self, parameter: Any, value: Tensor) -> None:
        if self._stage in (1, 2):
            safe_set_full_fp32_param(parameter, value)
        elif self._stage == 3:
            safe_set_local_fp32_param(parameter, self._shard(parameter, value))

    def _shard(self, parameter: Any, value: Tensor) -> Tensor:
        """This rank's part of a full tensor under ZeRO-3, padded as DeepSpeed does."""
        size = parameter.ds_tensor.numel()
        padded = nn.functional.pad(value.flatten(), (0, size * self.world_size - value.numel()))
        return padded[size * self.rank :][:size]

    def _link_moments(self) -> None:
        """Let DeepSpeed find each parameter's moments in the flat ones. Stages 1 and 2 do so by themselves while the
        first group takes its first step, when the other groups have none yet, and then never again."""
        if self._stage in (1, 2):
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _flat_parameters(self) -> list[Tensor]:
        """What the inner AdamW sees: this rank's flat fp32 shards, or the parameters themselves."""
        if self._stage == 0:
            return list(self.model.parameters())
        if self._stage == 3:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return list(self._engine.optimizer.single_partition_of_fp32_groups)

    def _torch_optimizer(self) -> torch.optim.Optimizer:
        return self._engine.optimizer if self._stage == 0 else self._engine.optimizer.optimizer

    def _whole(self, parameter: nn.Parameter, modifier_rank: int | None = None) -> AbstractContextManager[Any]:
        """Under ZeRO-3 the full parameter for as long as the context lasts."""
        if self._stage < 3:
            return contextlib.nullcontext()
        return deepspeed.zero.GatheredParameters([parameter], modifier_rank=modifier_rank)

    def close(self) -> None:
        self._engine.destroy()
        super().close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
