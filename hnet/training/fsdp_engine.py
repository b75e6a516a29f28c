"""FSDP2 by PyTorch, through Accelerate. Parameters stay fp32, each layer computes in the precision that it chooses."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from torch import Tensor, nn

from hnet.distributed import environment
from hnet.distributed.fully_sharded import full, holds_first_copy, local, local_range, shard_again, shard_fully
from hnet.errors import ConfigError
from hnet.model.initialization import Whole
from hnet.model.language_model import LanguageModel
from hnet.model.stack import Block
from hnet.training.config import RunConfig
from hnet.training.engine import TorchEngine, group_settings
from hnet.training.fragments import MOMENTS, WEIGHT, Fragment, Read
from hnet.training.optimizer import Optimizer, new_adam_state
from hnet.training.training_module import DeviceBatch, ForwardSums, TrainingModule


class FSDPEngine(TorchEngine):
    """Every block gathers its parameters around its call; what lies outside of blocks is gathered for the pass."""

    def __init__(self, config: RunConfig) -> None:
        self._group = config.engine.shard_group
        environment.set_rank_defaults()
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no",
            fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False),
            kwargs_handlers=[group_settings(config)],
        )
        if self._group is not None and self.world_size % self._group:
            raise ConfigError(f"engine.shard_group {self._group} does not divide the {self.world_size} processes")

    def describe(self) -> str:
        group = "" if self._group is None else f" within groups of {self._group}"
        return f"{self.world_size} processes on {self.device.type}, FSDP2: all sharded{group}"

    @property
    def shards_parameters(self) -> bool:
        return True

    def shard(self, model: LanguageModel) -> Whole:
        blocks = [module for module in model.modules() if isinstance(module, Block)]
        shard_fully(model, blocks, device_type=self.device.type, group=self._group)
        model.to_empty(device=self.device)
        return _whole

    def prepare(self, module: TrainingModule, optimizer: Optimizer) -> None:
        self.module, self.optimizer = module, optimizer

    def accumulate(self, is_last: bool) -> AbstractContextManager[Any]:
        # Each micro-batch's gradient is reduced to this rank's shard, so that no whole gradient is kept.
        return contextlib.nullcontext()

    def forward(self, batch: DeviceBatch) -> ForwardSums:
        return self.module(*batch.arguments)

    @torch.no_grad()
    def evaluate(self, batch: DeviceBatch) -> ForwardSums:
        sums = self.module(*batch.arguments)
        # What lies outside of blocks stays gathered until a backward pass, which does not follow.
        shard_again(self.model)
        return sums

    def clip(self, max_norm: float) -> Tensor:
        return full(nn.utils.clip_grad_norm_(self.module.parameters(), max_norm))

    def fragments(self) -> Iterator[Fragment]:
        states = self.optimizer.torch_optimizer.state
        for name, parameter in self.model.named_parameters():
            start, stop = local_range(parameter)
            if start == stop or not holds_first_copy(parameter):
                continue
            yield Fragment(f"{WEIGHT}/{name}", start, local(parameter.detach()).flatten())
            for moment in MOMENTS if parameter in states else ():
                yield Fragment(f"{moment}/{name}", start, local(states[parameter][moment]).flatten())

    def load(self, read: Read, num_updates: int) -> None:
        states = self.optimizer.torch_optimizer.state
        for name, parameter in self.model.named_parameters():
            start, stop = local_range(parameter)
            held = {f"{WEIGHT}/{name}": local(parameter.detach())}
            if num_updates:
                states[parameter] = new_adam_state(parameter, num_updates)
                held |= {f"{moment}/{name}": local(states[parameter][moment]) for moment in MOMENTS}
            for tensor, values in held.items():
                values.copy_(read(tensor, start, stop).view_as(values))


@contextlib.contextmanager
def _whole(parameter: Tensor) -> Iterator[Tensor]:
    """An unset tensor of the full shape, on the CPU, whose part for this rank becomes the shard at the end."""
    values = torch.empty(parameter.shape)
    yield values
    start, stop = local_range(parameter)
    shard = local(parameter.detach())
    shard.copy_(values.view(-1)[start:stop].view_as(shard))
