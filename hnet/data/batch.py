"""`Batch`: what the data room hands to the training loop."""

from dataclasses import dataclass

from torch import Tensor

IGNORE = -100
"""Label of a position that predicts nothing."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One packed micro-batch of a rank. T units (bytes, or tokens of a BPE baseline, and separators of chunks) in B
    sequences."""

    input_ids: Tensor
    """(T,) int64."""
    labels: Tensor
    """(T,) int64: the next unit of the same document, also where the sequence was cut; `IGNORE` after its end, and
    before a separator that is not predicted. Of masked words (N, k): their sub-words. Of documents (B,)."""
    cu_seqlens: Tensor
    """(B + 1,) int32, from 0 to T; every sequence has at least one unit."""
    num_targets: int
    """Labels that are not `IGNORE`."""
    target_bytes: int
    """Bytes of text that the labels stand for: BOS, EOS and separators stand for none. Bits per byte divide by this.
    Where the labels are not of the next units: bytes of text that are read."""
    windows: Tensor
    """(W, 2) int64: sequences of every window, and bytes of text that its labels stand for."""
    marks: Tensor | None = None
    """(T,) uint8: where chunks begin, in the codes of `hnet.segmentation.rule`; None if the model finds them itself."""
    targets: Tensor | None = None
    """(N,) int64: the words of the batch that the labels are of; None: all that the model gives."""
