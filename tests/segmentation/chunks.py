"""Chunks of a text, as a rule divides it."""

from itertools import pairwise

import numpy as np

from hnet.segmentation.rule import Ids, Rule, chunk_starts


def units(text: str | bytes) -> Ids:
    """(N,) bytes."""
    data = text.encode() if isinstance(text, str) else text
    return np.frombuffer(data, dtype=np.uint8).astype(np.int64)


def pieces(rule: Rule, text: str | bytes) -> list[bytes]:
    """The chunks."""
    ids = units(text)
    starts = [*chunk_starts(rule.mark(ids)).tolist(), len(ids)]
    return [bytes(ids[begin:end].tolist()) for begin, end in pairwise(starts) if end > begin]
