"""`LanguageModel`: embed, the recursive stage, head, losses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hnet.model.boundaries import Boundaries, Router
from hnet.model.cache import ModelCache
from hnet.model.config import ModelConfig, StageConfig
from hnet.model.initialization import initialize
from hnet.model.losses import IGNORE, cross_entropy_sum, ratio_loss
from hnet.model.packed import Packed, next_in_document, pack_padded
from hnet.model.sharding import Shard
from hnet.model.stack import Stack
from hnet.model.stage import Stage, StageOutput


# Without slots: ZeRO-3 looks into what a module returns through its __dict__.
@dataclass(frozen=True)
class ModelOutput:
    """Logits (T, V), or (B, L, V) for padded input, and one `StageOutput` per chunking stage, outermost first."""

    logits: Tensor
    stages: list[StageOutput]


@dataclass(frozen=True, slots=True)
class Losses:
    """Scalars of one pack."""

    total: Tensor
    """cross_entropy + sum over stages of loss_weight * boundary."""
    cross_entropy: Tensor
    """Mean nats per target."""
    boundary: list[Tensor]
    """Unweighted ratio loss of every chunking stage, outermost first."""
    output: ModelOutput

    @property
    def bits_per_byte(self) -> Tensor:
        """Bits per target; a target is a byte for a byte model."""
        return self.cross_entropy.detach() / math.log(2)


class LanguageModel(nn.Module):
    """A byte (or token) language model over packed documents.

    Built on `device="meta"` nothing is allocated; anywhere else the weights get the official initialisation,
    drawn from torch's global generator.
    """

    def __init__(
        self, config: ModelConfig, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.config = config
        width = config.stages[0].d_model
        self.embedding = nn.Embedding(config.vocab_size, width, device=device)
        self.stage = Stage(config.stages, width, config.norm_eps, device=device)
        self.head = nn.Linear(width, config.vocab_size, bias=False, device=device)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        if self.head.weight.device.type != "meta":
            initialize(self)
        if dtype is not None:
            self.cast(dtype)

    def cast(self, dtype: torch.dtype) -> "LanguageModel":
        """Convert the weights, but keep residual projections, `A_log`, `D` and `dt_bias` in at least float32."""
        for name, parameter in self.named_parameters():
            island = ".residual." in name or name.rsplit(".", 1)[-1] in ("A_log", "D", "dt_bias")
            wanted = torch.promote_types(dtype, torch.float32) if island else dtype
            parameter.data = parameter.data.to(wanted)
        return self

    def forward(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor | None = None,
        attention_mask: Tensor | None = None,
        max_seqlen: int | None = None,
        shard: Shard | None = None,
    ) -> ModelOutput:
        """Packed: ids (T,) int64 and cu_seqlens (B + 1,) int32. Padded: ids (B, L) and a 0/1 mask (B, L).

        `max_seqlen`, units of the longest document or more, spares a GPU the question.
        With a `shard` the ids are its piece of a pack and `cu_seqlens` its fragments of documents, and so is what
        comes back; every process that holds a piece must call.
        Padded input is packed first, so padding changes nothing; its logits are zero at padding.
        Raises ValueError for ids of another shape, or cu_seqlens that do not cover them.
        """
        if input_ids.dim() == 2 and cu_seqlens is None:
            packed, cu_seqlens, index = pack_padded(input_ids, attention_mask)
            output = self.forward(packed, cu_seqlens)
            logits = output.logits.new_zeros(input_ids.numel(), self.config.vocab_size)
            logits = logits.index_copy(0, index, output.logits)
            return ModelOutput(logits.view(*input_ids.shape, -1), output.stages)
        cu_seqlens = self._checked(input_ids, cu_seqlens)
        pack = Packed(self.embedding(input_ids), cu_seqlens, max_seqlen, shard)
        hidden, stages = self.stage(pack, input_ids.shape[0])
        return ModelOutput(self.head(hidden), stages)

    def loss(self, input_ids: Tensor, cu_seqlens: Tensor | None = None, labels: Tensor | None = None) -> Losses:
        """Next-unit cross-entropy and ratio losses of one pack. Default labels stay within each document."""
        cu_seqlens = self._checked(input_ids, cu_seqlens)
        if labels is None:
            labels = next_in_document(input_ids, cu_seqlens, IGNORE)
        output = self.forward(input_ids, cu_seqlens)
        count = (labels != IGNORE).sum().clamp(min=1)
        cross_entropy = cross_entropy_sum(output.logits, labels, IGNORE) / count
        total, boundary = cross_entropy, []
        for stage, config in zip(output.stages, self.chunking_stages, strict=True):
            units = stage.boundary_prob.numel()
            mean_prob, wanted = stage.boundaries.prob_sum / units, stage.boundaries.num_wanted / units
            boundary.append(ratio_loss(mean_prob, wanted, config.boundary.ratio))
            total = total + config.boundary.loss_weight * boundary[-1]
        return Losses(total, cross_entropy, boundary, output)

    @property
    def chunking_stages(self) -> Sequence[StageConfig]:
        """Every stage but the innermost."""
        return self.config.stages[:-1]

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Recompute each block's activations in the backward pass."""
        for module in self.modules():
            if isinstance(module, Stack):
                module.activation_checkpointing = enabled

    def force_bytes_per_chunk(self, ratio: float | None) -> None:
        """For benchmarks: every router opens one chunk per `ratio` units instead of deciding; None undoes it."""
        for module in self.modules():
            if isinstance(module, Router):
                module.forced_ratio = ratio

    def new_cache(self, num_rows: int) -> ModelCache:
        """Empty inference state for `num_rows` documents."""
        return ModelCache(num_rows, self.stage.new_cache(num_rows))

    @torch.no_grad()
    def prefill(self, input_ids: Tensor, cu_seqlens: Tensor, cache: ModelCache) -> ModelOutput:
        """Run documents (T,) in full and leave their state in `cache`, one row per document."""
        cu_seqlens = self._checked(input_ids, cu_seqlens)
        if cu_seqlens.numel() - 1 != cache.num_rows:
            raise ValueError(f"the cache has {cache.num_rows} rows, the pack has {cu_seqlens.numel() - 1} documents")
        hidden, stages = self.stage(Packed(self.embedding(input_ids), cu_seqlens), input_ids.shape[0], cache.stage)
        return ModelOutput(self.head(hidden), stages)

    @torch.no_grad()
    def step(
        self, ids: Tensor, cache: ModelCache, rows: Tensor | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Boundaries]]]:
        """One more unit (R,) of each of `rows` (R,), by default of every row.

        Returns logits (R, V), and for every stage that ran (rows, boundaries).
        """
        rows = torch.arange(cache.num_rows, device=ids.device) if rows is None else rows
        hidden, trace = self.stage.step(self.embedding(ids), cache.stage, rows)
        return self.head(hidden), trace

    def _checked(self, input_ids: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        if input_ids.dim() != 1:
            raise ValueError(
                f"packed input_ids must be (T,), got {tuple(input_ids.shape)}; pass (B, L) without cu_seqlens"
            )
        if cu_seqlens is None:
            cu_seqlens = torch.tensor([0, input_ids.shape[0]], device=input_ids.device)
        if input_ids.device.type == "cpu":
            ends = cu_seqlens.tolist()
            if (
                ends[0] != 0
                or ends[-1] != input_ids.shape[0]
                or any(b <= a for a, b in zip(ends, ends[1:], strict=False))
            ):
                raise ValueError(
                    f"cu_seqlens must rise strictly from 0 to {input_ids.shape[0]} (no empty document), "
                    f"got {ends[:8]}..."
                )
        return cu_seqlens.int()
