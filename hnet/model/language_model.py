"""`LanguageModel`: embed, the recursive stage, head, losses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.boundaries.router import Router
from hnet.model.cache import ModelCache, StateCache
from hnet.model.config import ModelConfig, StageConfig
from hnet.model.config.registry import EMBEDDINGS, OBJECTIVES, module_class
from hnet.model.initialization import initialize
from hnet.model.losses import IGNORE, boundary_loss, cross_entropy_sum
from hnet.model.packed import Packed, next_in_document, pack_padded
from hnet.model.sharding import Shard
from hnet.model.stack import Stack
from hnet.model.stage import Stage, StageOutput
from hnet.segmentation.layout import Layout
from hnet_kernels import segment_reduce


# Without slots: ZeRO-3 looks into what a module returns through its __dict__.
@dataclass(frozen=True)
class ModelOutput:
    """Logits (T, V), or (B, L, V) for padded input, and one `StageOutput` per chunking stage, outermost first.

    Of another objective than next_unit: (N, k, V) of N words, or (B, labels).
    """

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
    """Unweighted ratio loss of every chunking stage, outermost first; 0 where boundaries are not learned."""
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
        added = module_class(EMBEDDINGS, config.embedding)
        self.embedding_addition: nn.Module = added(width, config.embedding, device=device)
        self.stage = Stage(config.stages, width, config.norm_eps, device=device)
        self.head: nn.Module = module_class(OBJECTIVES, config.objective)(
            config.head_sizes, config.objective, device=device
        )
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        if self.embedding.weight.device.type != "meta":
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
        marks: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> ModelOutput:
        """Packed: ids (T,) int64 and cu_seqlens (B + 1,) int32. Padded: ids (B, L) and a 0/1 mask (B, L).

        `max_seqlen`, units of the longest document or more, spares a GPU the question.
        With a `shard` the ids are its piece of a pack and `cu_seqlens` its fragments of documents, and so is what
        comes back; every process that holds a piece must call.
        `marks` (T,) uint8, or (B, L), is where chunks begin by `layout`, for boundaries that are known from the text;
        where they are needed and not given, the host works them out.
        `targets` (N,) int64: the words, in the order of the pack, whose logits are wanted; None: of all.
        Padded input is packed first, so padding changes nothing; logits of units are zero at padding.
        Raises ValueError for ids of another shape, or cu_seqlens that do not cover them.
        """
        if input_ids.dim() == 2 and cu_seqlens is None:
            packed, cu_seqlens, index = pack_padded(input_ids, attention_mask)
            marks = None if marks is None else marks.flatten()[index]
            output = self.forward(packed, cu_seqlens, marks=marks, targets=targets)
            if not self.config.objective.predicts_next:
                return output
            logits = output.logits.new_zeros(input_ids.numel(), self.config.vocab_size)
            logits = logits.index_copy(0, index, output.logits)
            return ModelOutput(logits.view(*input_ids.shape, -1), output.stages)
        cu_seqlens = self._checked(input_ids, cu_seqlens)
        hidden, stages = self.stage(self._embedded(input_ids, cu_seqlens, marks, max_seqlen, shard), len(input_ids))
        if targets is not None:
            hidden = hidden[targets]
        if (pool := self.config.objective.document_pool) is not None:
            hidden = segment_reduce(hidden, self._documents(cu_seqlens, stages), pool)
        return ModelOutput(self.head(hidden), stages)

    def loss(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor | None = None,
        labels: Tensor | None = None,
        marks: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Losses:
        """Cross-entropy and ratio losses of one pack. Labels have the shape of the logits but for the last axis.

        By default they are the next units, within each document. Raises ValueError if another objective's are missing.
        """
        cu_seqlens = self._checked(input_ids, cu_seqlens)
        if labels is None and not self.config.objective.predicts_next:
            raise ValueError(f"objective {self.config.objective.type}: the text alone has no labels; give them")
        if labels is None:
            labels = next_in_document(input_ids, cu_seqlens, IGNORE)
        output = self.forward(input_ids, cu_seqlens, marks=marks, targets=targets)
        count = (labels != IGNORE).sum().clamp(min=1)
        cross_entropy = cross_entropy_sum(output.logits.flatten(0, -2), labels.flatten(), IGNORE) / count
        total, boundary = cross_entropy, []
        for stage, config in zip(output.stages, self.chunking_stages, strict=True):
            units = stage.boundary_prob.numel()
            mean_prob, wanted = stage.boundaries.prob_sum / units, stage.boundaries.num_wanted / units
            boundary.append(boundary_loss(config.boundary, mean_prob, wanted))
            total = total + config.boundary.weight_of_loss * boundary[-1]
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

    def layout(self) -> Layout:
        """How text becomes the units of this model."""
        return self.config.layout()

    def new_cache(self, num_rows: int) -> ModelCache:
        """Empty inference state for `num_rows` documents."""
        return ModelCache(num_rows, self.stage.new_cache(num_rows), StateCache(num_rows))

    @torch.no_grad()
    def prefill(
        self, input_ids: Tensor, cu_seqlens: Tensor, cache: ModelCache, marks: Tensor | None = None
    ) -> ModelOutput:
        """Run documents (T,) in full and leave their state in `cache`, one row per document."""
        cu_seqlens = self._checked(input_ids, cu_seqlens)
        if cu_seqlens.numel() - 1 != cache.num_rows:
            raise ValueError(f"the cache has {cache.num_rows} rows, the pack has {cu_seqlens.numel() - 1} documents")
        pack = self._embedded(input_ids, cu_seqlens, marks, cache=cache.embedding)
        hidden, stages = self.stage(pack, len(input_ids), cache.stage)
        return ModelOutput(self.head(hidden), stages)

    @torch.no_grad()
    def step(
        self, ids: Tensor, cache: ModelCache, rows: Tensor | None = None, marks: Tensor | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Boundaries]]]:
        """One more unit (R,) of each of `rows` (R,), by default of every row.

        `marks` (R,) uint8 are the codes of these units, from a tracker of `layout` for each row; models whose
        boundaries are known from the text need them. Returns logits (R, V), and for every stage that ran
        (rows, boundaries). Raises ValueError for marks that are missing.
        """
        if marks is None and self.config.needs_marks:
            raise ValueError(
                "this model's boundaries are known from the text: give the marks of the units, from layout()"
            )
        rows = torch.arange(cache.num_rows, device=ids.device) if rows is None else rows
        values: Tensor = self.embedding_addition.step(  # type: ignore[operator]
            self.embedding(ids), ids, cache.embedding, rows
        )
        hidden, trace = self.stage.step(values, cache.stage, rows, marks)
        return self.head(hidden), trace

    def _embedded(
        self,
        ids: Tensor,
        cu_seqlens: Tensor,
        marks: Tensor | None,
        max_seqlen: int | None = None,
        shard: Shard | None = None,
        cache: StateCache | None = None,
    ) -> Packed:
        if marks is None and self.config.needs_marks:
            marks = self._marks(ids, cu_seqlens)
        pack = Packed(self.embedding(ids), cu_seqlens, max_seqlen, shard, marks)
        return replace(pack, values=self.embedding_addition(pack, ids, cache))

    def _documents(self, cu_seqlens: Tensor, stages: Sequence[StageOutput]) -> Tensor:
        """(B + 1,) int32: documents over what the outermost stage gives, its units or its chunks."""
        if not self.config.gives_chunks:
            return cu_seqlens
        chunks_before = torch.nn.functional.pad(stages[0].boundary_mask.cumsum(0), (1, 0))
        return chunks_before[cu_seqlens.long()].int()

    def _marks(self, ids: Tensor, cu_seqlens: Tensor) -> Tensor:
        """(T,) uint8 of units that are laid out already."""
        layout = self.layout()
        pieces = ids.cpu().numpy()
        ends = cu_seqlens.tolist()
        marks = [layout.marks_of(pieces[a:b]) for a, b in zip(ends, ends[1:], strict=False)]
        return torch.from_numpy(np.concatenate(marks)).to(ids.device)

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
