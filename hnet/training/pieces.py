"""A micro-batch in pieces, for the ranks that share it (`engine.sequence_parallel`)."""

import torch
from torch import Tensor

from hnet.data.batch import IGNORE, Batch
from hnet.model.sharding import Peers, Shard


def piece_of(batch: Batch, peers: Peers) -> tuple[Tensor, Tensor, Shard]:
    """This rank's input ids and labels (T,) int64, and where they lie in the pack that `peers` share.

    Every rank of the group has the same `batch`. With fewer units than ranks, some have one that predicts nothing.
    """
    shard = Shard.even(peers, batch.cu_seqlens)
    if shard.is_padding:
        return batch.input_ids[:1], torch.full_like(batch.labels[:1], IGNORE), shard
    own = slice(shard.start, shard.stop)
    return batch.input_ids[own], batch.labels[own], shard
