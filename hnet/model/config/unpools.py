"""Configurations of the unpools."""

from typing import ClassVar, Literal

from hnet.model.config.part import UnpoolConfig


class EMAConfig(UnpoolConfig):
    """H-Net's smoothing: exponential moving average over chunks, repeated over each chunk's units."""

    needs_own_chunk: ClassVar[bool] = True

    type: Literal["ema"] = "ema"
