"""`Engine`: one face over single process, data parallel and DeepSpeed, all through Accelerate.

Gradients that reach the optimizer are the *sum* over micro-batches and ranks of the gradients of `backward`'s losses;
every method that the loop calls must be called by every rank.
"""

import contextlib
import datetime
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor

from hnet.data.batch import Batch
from hnet.distributed import environment
from hnet.distributed.collectives import barrier, shut_down
from hnet.distributed.sequence_parallel import SequenceGroup, open_sequence_group
from hnet.errors import ConfigError
from hnet.model.initialization import Whole
from hnet.model.language_model import LanguageModel
from hnet.training.config import RunConfig
from hnet.training.fragments import Fragment, Read, deal, load_whole, whole_fragments
from hnet.training.optimizer import Optimizer
from hnet.training.pieces import piece_of
from hnet.training.training_module import DeviceBatch, ForwardSums, TrainingModule


class Engine(ABC):
    """Owns the device, the wrapped model and the optimizer. `prepare` comes first."""

    accelerator: Accelerator
    module: TrainingModule
    optimizer: Optimizer
    sequence_group: SequenceGroup | None = None
    """The ranks that share this one's micro-batches; None: it has its own."""

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def world_size(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def sequence_parallel(self) -> int:
        """Ranks that share a micro-batch."""
        return 1 if self.sequence_group is None else self.sequence_group.size

    @property
    def counts_data(self) -> bool:
        """Whether this rank counts its micro-batches: of those that share them one does."""
        return self.sequence_group is None or self.sequence_group.rank == 0

    @property
    def data_rank(self) -> int:
        """Whose share of the data this rank works on, of `data_world_size`."""
        return self.rank // self.sequence_parallel

    @property
    def data_world_size(self) -> int:
        return self.world_size // self.sequence_parallel

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    @property
    def model(self) -> LanguageModel:
        """The language model without wrappers. Its parameters are shards where `shards_parameters`."""
        return self.module.model

    @property
    def shards_parameters(self) -> bool:
        """Whether no rank holds the whole model: then it is built on "meta" and `shard` comes before `prepare`."""
        return False

    def shard(self, model: LanguageModel) -> Whole:
        """Give the parameters of a model on "meta" this rank's shards, unset; returns the way to fill them."""
        raise NotImplementedError(f"{type(self).__name__} does not shard parameters")

    @abstractmethod
    def describe(self) -> str:
        """How the run is parallelised, for the log."""

    @abstractmethod
    def prepare(self, module: TrainingModule, optimizer: Optimizer) -> None:
        """Take over a module whose weights are those to start from, equal on all ranks."""

    @abstractmethod
    def accumulate(self, is_last: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of a micro-batch; `is_last` of the step's."""

    @abstractmethod
    def forward(self, batch: DeviceBatch) -> ForwardSums:
        """One micro-batch with gradient."""

    @abstractmethod
    def evaluate(self, batch: DeviceBatch) -> ForwardSums:
        """One micro-batch without gradient."""

    @abstractmethod
    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add the gradient of `loss` () to that of the step."""

    @abstractmethod
    def update(self, max_norm: float) -> tuple[float, bool]:
        """Clip to `max_norm` (0: do not), update the weights, clear the gradients.

        Returns the global gradient norm before clipping and whether the weights were updated: with a norm that is
        not finite, on any rank, no rank updates.
        """

    @abstractmethod
    def set_learning_rates(self, factor: float) -> None:
        """Every group's largest learning rate times `factor`."""

    def shapes(self) -> dict[str, torch.Size]:
        """Full shape of every parameter by name; under sharding not that of what this rank holds."""
        return {name: parameter.shape for name, parameter in self.model.named_parameters()}

    @abstractmethod
    def fragments(self) -> Iterator[Fragment]:
        """What this rank writes of a checkpoint, without collectives.

        Over all ranks the fragments cover every weight, and after the first update every moment, exactly once.
        """

    @abstractmethod
    def load(self, read: Read, num_updates: int) -> None:
        """After `prepare`: set weights, master weights and AdamW's state as after `num_updates` updates, reading only
        what this rank holds. Called by every rank; what was saved may come from any engine and number of ranks."""

    def _dealt_fragments(self, states: Mapping[Any, Any]) -> Iterator[Fragment]:
        """Where every rank holds everything: this rank's share of the parameters and of AdamW's `states`."""
        owner = deal(self.shapes(), self.world_size)
        for name, parameter in self.model.named_parameters():
            if owner[name] == self.rank:
                yield from whole_fragments(name, parameter, states.get(parameter, {}))

    def to_device(self, batch: Batch) -> DeviceBatch:
        """The tensors of a micro-batch where the model is: all of them, or this rank's piece."""
        shard, tensors = None, (batch.input_ids, batch.labels, batch.cu_seqlens)
        if self.sequence_group is not None:
            own_ids, own_labels, shard = piece_of(batch, self.sequence_group)
            tensors = (own_ids, own_labels, shard.cu_seqlens(own_ids.device))
        ids, labels, cu_seqlens = (tensor.to(self.device, non_blocking=True) for tensor in tensors)
        marks, targets = (
            None if tensor is None else tensor.to(self.device, non_blocking=True)
            for tensor in (batch.marks, batch.targets)
        )
        return DeviceBatch(ids, labels, cu_seqlens, int(tensors[-1].diff().max()), shard, marks, targets)

    def close(self) -> None:
        """Let all ranks meet and leave the process group."""
        barrier()
        shut_down()


class TorchEngine(Engine):
    """What engines share whose optimizer is torch's own, over the parameters that this rank holds."""

    @abstractmethod
    def clip(self, max_norm: float) -> Tensor:
        """Clip the gradients to a global norm of `max_norm`; returns the norm before, () on every rank."""

    def backward(self, loss: Tensor, is_last: bool) -> None:
        self.accelerator.backward(loss * self.world_size)

    def update(self, max_norm: float) -> tuple[float, bool]:
        norm = self.clip(max_norm or float("inf"))
        is_finite = bool(torch.isfinite(norm))
        if is_finite:
            self.optimizer.torch_optimizer.step()
        self.optimizer.torch_optimizer.zero_grad(set_to_none=True)
        return float(norm), is_finite

    def set_learning_rates(self, factor: float) -> None:
        groups = self.optimizer.torch_optimizer.param_groups
        for group, rate in zip(groups, self.optimizer.learning_rates, strict=True):
            group["lr"] = rate * factor


class PlainEngine(TorchEngine):
    """One process, or data parallel with the gradients averaged by DistributedDataParallel."""

    def __init__(self, config: RunConfig) -> None:
        on_cpu = not torch.cuda.is_available()
        ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        handlers = [ddp, group_settings(config)] if environment.world_size() > 1 else []
        self.accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=handlers)

    def describe(self) -> str:
        if self.world_size == 1:
            return f"one process on {self.device.type}"
        return f"{self.world_size} processes on {self.device.type}, data parallel"

    def prepare(self, module: TrainingModule, optimizer: Optimizer) -> None:
        self.module, self.optimizer = module, optimizer
        self._wrapped = self.accelerator.prepare(module)

    def accumulate(self, is_last: bool) -> AbstractContextManager[Any]:
        return contextlib.nullcontext() if is_last else self.accelerator.no_sync(self._wrapped)

    def forward(self, batch: DeviceBatch) -> ForwardSums:
        return self._wrapped(*batch.arguments)

    @torch.no_grad()
    def evaluate(self, batch: DeviceBatch) -> ForwardSums:
        return self.module(*batch.arguments)

    def clip(self, max_norm: float) -> Tensor:
        norm: Tensor = self.accelerator.clip_grad_norm_(list(self.module.parameters()), max_norm)
        return norm

    def fragments(self) -> Iterator[Fragment]:
        return self._dealt_fragments(self.optimizer.torch_optimizer.state)

    def load(self, read: Read, num_updates: int) -> None:
        load_whole(self.model, self.optimizer.torch_optimizer, read, num_updates)


def group_settings(config: RunConfig) -> InitProcessGroupKwargs:
    """How the process group is made. The backend is named on a CPU: left out, Accelerate under DeepSpeed takes every
    process for rank 0 of 1."""
    backend = None if torch.cuda.is_available() else "gloo"
    # Later than the watchdog, which knows more about the cause.
    timeout = datetime.timedelta(minutes=config.engine.watchdog_minutes + 1)
    return InitProcessGroupKwargs(backend=backend, timeout=timeout)


def open_engine(config: RunConfig) -> Engine:
    """The engine that `engine` of the configuration, or else the launcher, asks for.

    Raises ConfigError if the processes do not divide into groups of `engine.sequence_parallel`.
    """
    engine = _open(config)
    size = config.engine.sequence_parallel
    if engine.world_size % size:
        raise ConfigError(
            f"engine.sequence_parallel {size} must divide the number of processes, which is {engine.world_size}"
        )
    engine.sequence_group = open_sequence_group(size, timeout_minutes=config.engine.watchdog_minutes + 1)
    return engine


def _open(config: RunConfig) -> Engine:
    if config.engine.fsdp:
        from hnet.training.fsdp_engine import FSDPEngine

        return FSDPEngine(config)
    stage = environment.deepspeed_stage()
    if config.engine.zero_stage is None and config.engine.deepspeed_config is None and stage is None:
        return PlainEngine(config)
    if not torch.cuda.is_available():
        environment.set_defaults(DS_ACCELERATOR="cpu")  # before the import, which otherwise warns that it found none
    from hnet.training.deepspeed_engine import DeepSpeedEngine
    from hnet.training.deepspeed_settings import deepspeed_settings

    settings = deepspeed_settings(
        config, environment.world_size(), default_stage=1 if stage is None else stage, on_gpu=torch.cuda.is_available()
    )
    return DeepSpeedEngine(config, settings)
