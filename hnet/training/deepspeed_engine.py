"""DeepSpeed ZeRO through Accelerate's plugin. Parameters stay fp32 and so do master weights and moments.

DeepSpeed 0.19 is used around these traps of its, besides those that its configuration holds (`deepspeed_settings`):
stage 0 reports no gradient norm; its shared-memory collectives are compiled at start-up; Accelerate's own `backward`
would take the optimizer step before anyone could look at the loss; its bf16 mode takes a step of its own at stage 0,
and no island would stay fp32 in it, so it is never switched on: layers compute in bf16 by themselves.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import deepspeed
import torch
from accelerate import Accelerator, DeepSpeedPlugin
from torch import Tensor, nn

from hnet.distributed import environment
from hnet.model.initialization import Whole
from hnet.model.language_model import LanguageModel
from hnet.training import deepspeed_state
from hnet.training.config import RunConfig
from hnet.training.engine import Engine, group_settings
from hnet.training.fragments import Fragment, Read, load_whole
from hnet.training.mixed_precision import HalfEmbedding, HalfLinear
from hnet.training.optimizer import Optimizer
from hnet.training.training_module import DeviceBatch, ForwardSums, TrainingModule


class DeepSpeedEngine(Engine):
    """ZeRO stage 0 (plain), 1 (sharded moments), 2 (and gradients) or 3 (and parameters)."""

    def __init__(self, config: RunConfig, settings: dict[str, Any]) -> None:
        """`settings` is the configuration of DeepSpeed."""
        self._settings = settings
        self._zero: dict[str, Any] = settings["zero_optimization"]
        self._stage = int(self._zero["stage"])
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # Of modules that return dataclasses; those have no parameters of their own.
        logging.getLogger("DeepSpeed").addFilter(lambda record: "cannot be detected" not in record.getMessage())
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+_tensor` is deprecated", FutureWarning)
        environment.set_rank_defaults()
        if not torch.cuda.is_available():
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        plugin = DeepSpeedPlugin(hf_ds_config=settings, zero3_init_flag=False)
        self.accelerator = Accelerator(
            mixed_precision="no", deepspeed_plugin=plugin, kwargs_handlers=[group_settings(config)]
        )

    def describe(self) -> str:
        text = f"{self.world_size} processes on {self.device.type}, DeepSpeed ZeRO stage {self._stage}"
        group = self._zero.get("zero_hpz_partition_size", 1)
        offloaded = [
            name for name in ("optimizer", "param") if self._zero.get(f"offload_{name}", {}).get("device") == "cpu"
        ]
        return (
            text
            + (f", parameters gathered within groups of {group}" if group > 1 else "")
            + (f", {' and '.join(offloaded)} offloaded to the host" if offloaded else "")
        )

    @property
    def shards_parameters(self) -> bool:
        return self._stage == 3

    def shard(self, model: LanguageModel) -> Whole:
        partitioner = deepspeed.zero.Init(config_dict_or_path=self._settings, dtype=torch.float32)
        sharded: dict[nn.Parameter, nn.Parameter] = {}
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter not in sharded:  # a tied one keeps being one
                    sharded[parameter] = nn.Parameter(torch.empty_like(parameter, device=self.device))
                    partitioner._convert_to_zero_parameters([sharded[parameter]])
                setattr(module, name, sharded[parameter])
            if isinstance(module, (HalfLinear, HalfEmbedding)):
                # Gathered in bf16, as which alone it is used: half the traffic, and the same numbers. Shards stay fp32.
                weight: Any = module.weight
                weight.comm_dtype = torch.bfloat16
        return deepspeed_state.whole

    def prepare(self, module: TrainingModule, optimizer: Optimizer) -> None:
        self.module, self.optimizer = module, optimizer
        self._engine, _ = self.accelerator.prepare(module, optimizer.torch_optimizer)

    @property
    def zero(self) -> Any:
        """DeepSpeed's optimizer of stages 1 to 3; at stage 0 AdamW itself."""
        return self._engine.optimizer

    def accumulate(self, is_last: bool) -> AbstractContextManager[Any]:
        self._engine.set_gradient_accumulation_boundary(is_last)
        return contextlib.nullcontext()

    def forward(self, batch: DeviceBatch) -> ForwardSums:
        return self._engine(*batch.arguments)

    @torch.no_grad()
    def evaluate(self, batch: DeviceBatch) -> ForwardSums:
        return self._engine(*batch.arguments)

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
        for group, rate in zip(self.zero.param_groups, self.optimizer.learning_rates, strict=True):
            group["lr"] = rate * factor

    def shapes(self) -> dict[str, torch.Size]:
        return deepspeed_state.shapes(self.model)

    def fragments(self) -> Iterator[Fragment]:
        if self._stage == 0:
            return self._dealt_fragments(self.zero.state)
        return deepspeed_state.fragments(self.model, self.zero)

    def load(self, read: Read, num_updates: int) -> None:
        if self._stage == 0:
            load_whole(self.model, self.zero, read, num_updates)
        else:
            deepspeed_state.load(self.model, self.zero, read, num_updates)

    def close(self) -> None:
        self._engine.destroy()
        super().close()
