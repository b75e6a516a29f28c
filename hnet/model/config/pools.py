"""Configurations of the pools."""

from typing import Literal

from hnet.model.config.part import PoolConfig


class SelectConfig(PoolConfig):
    """The chunk's vector is the encoder state at its boundary unit."""

    type: Literal["select"] = "select"

    @property
    def reads_whole(self) -> bool:
        return False

    def chunk_width(self, width: int, inner_width: int) -> int:
        return width
