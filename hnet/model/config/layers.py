"""Layer strings, and the settings of the layers that they name.

Layer strings (H-Net grammar): `m4T22` is four `m` layers, then twenty-two `T` layers.
`m`/`M` is Mamba-2 without/with a SwiGLU MLP, `t`/`T` is attention without/with one.
"""

import re
from typing import Annotated

from pydantic import Field, model_validator

from hnet.config.base import Config

LAYER_KINDS = "mMtT"
_LAYER_STRING = re.compile(rf"(?:[{LAYER_KINDS}][1-9][0-9]*)*")

PositiveInt = Annotated[int, Field(ge=1)]


def parse_layers(layers: str) -> tuple[str, ...]:
    """`"T1m2"` -> `("T", "m", "m")`. Raises ValueError for any other grammar."""
    if not _LAYER_STRING.fullmatch(layers):
        raise ValueError(
            f"layer string {layers!r} is not a sequence of a letter of '{LAYER_KINDS}' and a count, such as 'm4T22'"
        )
    return tuple(kind for kind, count in re.findall(r"([a-zA-Z])(\d+)", layers) for _ in range(int(count)))


class AttentionConfig(Config):
    num_heads: PositiveInt = 8
    """Heads; must divide `d_model`."""
    num_kv_heads: PositiveInt | None = None
    """Heads of keys and values, each read by num_heads / num_kv_heads heads of queries (GQA). Null: num_heads."""
    rotary_dim: Annotated[int, Field(ge=0)] = 0
    """Channels of each head that are rotated, from the first; even. 0 switches position encoding off."""
    rotary_base: Annotated[float, Field(gt=1)] = 10000.0
    window: Annotated[int, Field(ge=-1)] = -1
    """Keys i-window..i are seen, that is window + 1 of them; -1 means all earlier keys of the document."""

    @model_validator(mode="after")
    def _groups(self) -> "AttentionConfig":
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_kv_heads {self.num_kv_heads} must divide num_heads {self.num_heads}")
        return self

    @property
    def kv_heads(self) -> int:
        """Heads of keys and of values."""
        return self.num_kv_heads or self.num_heads


class SSMConfig(Config):
    d_state: PositiveInt = 128
    d_conv: Annotated[int, Field(ge=2)] = 4
    expand: PositiveInt = 2
    head_dim: PositiveInt = 64
    """Channels per head; must divide `expand * d_model`."""
