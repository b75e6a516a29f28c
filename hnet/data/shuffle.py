"""A permutation of any size from a key, computed where it is asked for and never stored."""

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_ROUNDS = 8


def _splitmix(value: int) -> int:
    """One output of SplitMix64 (Steele, Lea, Flood 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def derive_key(*parts: int) -> int:
    """A 64-bit key from integers of which each matters, as does their order."""
    key = 0
    for part in parts:
        key = _splitmix(key ^ _splitmix(part & _MASK))
    return key


class Permutation:
    """A pseudo-random bijection of 0 .. size-1, the same on every machine and NumPy version.

    A Feistel network of 8 rounds on the next power of four, applied until it lands inside (Black and Rogaway 2002,
    "cycle walking").
    """

    def __init__(self, size: int, key: int) -> None:
        """`size` >= 1."""
        self.size = size
        half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
        self._half = np.uint64(half_bits)
        self._mask = np.uint64((1 << half_bits) - 1)
        self._keys = [np.uint64(derive_key(key, round_number)) for round_number in range(_ROUNDS)]

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Images of `positions`, (N,) int64."""
        values = self._network(positions.astype(np.uint64))
        outside = np.flatnonzero(values >= self.size)
        while outside.size:
            values[outside] = self._network(values[outside])
            outside = outside[values[outside] >= self.size]
        return values.astype(np.int64)

    def _network(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            mixed = (right ^ key) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(32))) & self._mask)
        return (left << self._half) | right
