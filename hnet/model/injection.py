"""What an unpool adds inside the decoder, layer by layer."""

from collections.abc import Callable

from torch import Tensor

Injection = Callable[[int, Tensor], Tensor]
"""(number of the decoder's layer, its residual stream (T, D) in float32 or better) -> the stream that enters it."""
