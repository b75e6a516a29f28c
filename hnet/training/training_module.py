"""`TrainingModule`: one micro-batch to the sums that every loss and statistic is made of."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hnet.model.language_model import LanguageModel
from hnet.model.losses import cross_entropy_sum
from hnet.model.sharding import Shard


class ForwardSums(NamedTuple):
    """Sums over one micro-batch, or this rank's piece of it. S chunking stages, outermost first.

    A tuple, so that engines can hook its tensors.
    """

    cross_entropy: Tensor
    """() fp32, with gradient: nats summed over all targets."""
    boundary_prob: Tensor
    """(S,) fp32, with gradient: boundary probabilities summed over the stage's units."""
    correct: Tensor
    """() int64: targets whose likeliest prediction is right; 0 where the objective is the next unit."""
    counts: Tensor
    """(4, S) int64: boundaries that the router wanted, units, chunks, and boundaries that a bound took away."""


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """The tensors of a `Batch` on the device of the run."""

    input_ids: Tensor
    labels: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    """Units of the longest sequence."""
    shard: Shard | None = None
    """Where these units lie, if several ranks share a micro-batch."""
    marks: Tensor | None = None
    """Where chunks begin, for models that are told."""
    targets: Tensor | None = None
    """The words that the labels are of, if they are not of all."""

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, int, Shard | None, Tensor | None, Tensor | None]:
        """What `TrainingModule` is called with."""
        return self.input_ids, self.labels, self.cu_seqlens, self.max_seqlen, self.shard, self.marks, self.targets


class TrainingModule(nn.Module):
    """The language model and its sums as one module, so that each engine wraps exactly one call."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        shard: Shard | None = None,
        marks: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> ForwardSums:
        """`input_ids`, `labels` (T,) int64, `marks` (T,) uint8 and `cu_seqlens` (B + 1,) int32 of one micro-batch, or
        a `shard` of it. Labels of `targets` (N,) are (N, k), those of documents (B,)."""
        output = self.model(
            input_ids, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, shard=shard, marks=marks, targets=targets
        )
        cross_entropy = cross_entropy_sum(output.logits.flatten(0, -2), labels.flatten())
        correct = labels.new_zeros(())
        if not self.model.config.objective.predicts_next:
            correct = (output.logits.detach().argmax(-1) == labels).sum()
        stages = output.stages
        if not stages:
            return ForwardSums(cross_entropy, cross_entropy.new_zeros(0), correct, labels.new_zeros(4, 0))
        boundary_prob = torch.stack([stage.boundaries.prob_sum for stage in stages])
        wanted = torch.stack([stage.boundaries.num_wanted for stage in stages])
        # Filled on the device: a copy from the host would wait for the work that is queued there.
        units = torch.stack([wanted.new_full((), stage.boundary_mask.numel()) for stage in stages])
        chunks = torch.stack([wanted.new_full((), stage.num_chunks) for stage in stages])
        dropped = torch.stack([stage.boundaries.num_dropped for stage in stages])
        return ForwardSums(cross_entropy, boundary_prob, correct, torch.stack([wanted, units, chunks, dropped]))
