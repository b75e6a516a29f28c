"""Pools, from units to chunks: one file each, and one line here."""

from hnet.model.config import SelectConfig
from hnet.model.pools.select import SelectPool

POOLS = {SelectConfig: SelectPool}

__all__ = ["POOLS", "SelectPool"]
