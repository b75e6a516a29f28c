"""Unpools, from chunks back to units: one file each, and one line here."""

from hnet.model.config import EMAConfig
from hnet.model.unpools.ema import EMAUnpool

UNPOOLS = {EMAConfig: EMAUnpool}

__all__ = ["UNPOOLS", "EMAUnpool"]
