"""The declaration of a model: a flat list of stages, outermost first. Imports no torch.

Layer strings (H-Net grammar): `m4T22` is four `m` layers, then twenty-two `T` layers.
`m`/`M` is Mamba-2 without/with a SwiGLU MLP, `t`/`T` is attention without/with one.
"""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

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
    rotary_dim: Annotated[int, Field(ge=0)] = 0
    """Channels of each head that are rotated, from the first; even. 0 switches position encoding off."""
    rotary_base: Annotated[float, Field(gt=1)] = 10000.0
    window: Annotated[int, Field(ge=-1)] = -1
    """Keys i-window..i are seen, that is window + 1 of them; -1 means all earlier keys of the document."""


class SSMConfig(Config):
    d_state: PositiveInt = 128
    d_conv: Annotated[int, Field(ge=2)] = 4
    expand: PositiveInt = 2
    head_dim: PositiveInt = 64
    """Channels per head; must divide `expand * d_model`."""


class RouterConfig(Config):
    """H-Net's learned boundaries: cosine of neighbouring projected states (H-Net paper eq. 4)."""

    type: Literal["router"] = "router"
    ratio: Annotated[float, Field(gt=1)] = 6.0
    """N of the ratio loss: the wanted number of this stage's units per chunk."""
    loss_weight: Annotated[float, Field(ge=0)] = 0.03
    """alpha of the ratio loss (H-Net paper: 0.03 in all experiments)."""
    max_chunk_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Most chunks per unit of a pack; beyond it the least confident boundaries are dropped. Null: no bound."""
    fill_chunks: bool = False
    """Open as many chunks as `max_chunk_fraction` allows, where the router wants fewer at the likeliest other units: no
    shape depends on data then, and the host never waits for a GPU's count."""

    @model_validator(mode="after")
    def _filled_to_a_bound(self) -> "RouterConfig":
        if self.fill_chunks and self.max_chunk_fraction is None:
            raise ValueError("fill_chunks needs max_chunk_fraction, which says how many chunks there are")
        return self


class SelectConfig(Config):
    """The chunk's vector is the encoder state at its boundary unit."""

    type: Literal["select"] = "select"


class EMAConfig(Config):
    """H-Net's smoothing: exponential moving average over chunks, repeated over each chunk's units."""

    type: Literal["ema"] = "ema"


class StageConfig(Config):
    d_model: PositiveInt
    encoder: str | None = None
    """Layers before chunking; for every stage but the innermost. May be empty."""
    main: str | None = None
    """Layers of the innermost stage, which has no encoder and decoder."""
    decoder: str | None = None
    """Layers after unpooling; for every stage but the innermost. May be empty."""
    d_intermediate: Annotated[int, Field(ge=0)] = 0
    """SwiGLU width, rounded up to a multiple of 128; 0 means 8/3 of `d_model` where a layer has an MLP."""
    attention: AttentionConfig = AttentionConfig()
    ssm: SSMConfig = SSMConfig()
    boundary: RouterConfig = RouterConfig()
    pool: SelectConfig = SelectConfig()
    unpool: EMAConfig = EMAConfig()
    residual_precision: Literal["fp32", "tf32", "bf16"] | None = None
    """Of the operands of the residual projection; sums are float32. Null: bf16 where the model computes in bf16, else
    fp32. The released models use fp32 in bf16 models too (docs/kernels.md has the difference)."""

    @field_validator("encoder", "main", "decoder")
    @classmethod
    def _grammar(cls, layers: str | None) -> str | None:
        if layers is not None:
            parse_layers(layers)
        return layers

    @model_validator(mode="after")
    def _sizes(self) -> "StageConfig":
        if (self.main is None) == (self.encoder is None) or (self.main is None) == (self.decoder is None):
            raise ValueError("a stage has either `main` (the innermost) or both `encoder` and `decoder` (every other)")
        kinds = set(self.layers)
        if kinds & set("tT"):
            if self.d_model % self.attention.num_heads:
                raise ValueError(f"attention.num_heads {self.attention.num_heads} must divide d_model {self.d_model}")
            head_dim = self.d_model // self.attention.num_heads
            if self.attention.rotary_dim % 2 or self.attention.rotary_dim > head_dim:
                raise ValueError(
                    f"attention.rotary_dim {self.attention.rotary_dim} must be even and at most "
                    f"the head width {head_dim}"
                )
        if kinds & set("mM") and (self.ssm.expand * self.d_model) % self.ssm.head_dim:
            raise ValueError(
                f"ssm.head_dim {self.ssm.head_dim} must divide expand * d_model = {self.ssm.expand * self.d_model}"
            )
        return self

    @property
    def is_innermost(self) -> bool:
        return self.main is not None

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers of this stage in order: encoder then decoder, or main."""
        return parse_layers((self.encoder or "") + (self.decoder or "") + (self.main or ""))

    @property
    def mlp_width(self) -> int:
        """SwiGLU hidden width h: `d_intermediate` (or int(8 d / 3)) rounded up to a multiple of 128."""
        width = self.d_intermediate or int(8 * self.d_model / 3)
        return -(-width // 128) * 128


class ModelConfig(Config):
    config_folder: ClassVar[str | None] = "models"

    vocab_size: PositiveInt = 256
    """256 for bytes (BOS 254, EOS 255); a `tokenizers` vocabulary's size for a token baseline."""
    stages: Annotated[tuple[StageConfig, ...], Field(min_length=1)]
    """Outermost first. One stage with `main` alone is a flat model."""
    tie_embeddings: bool = False
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5

    @model_validator(mode="after")
    def _nesting(self) -> "ModelConfig":
        for index, stage in enumerate(self.stages):
            innermost = index == len(self.stages) - 1
            if stage.is_innermost != innermost:
                need = (
                    "`main` (it is the innermost)" if innermost else "`encoder` and `decoder` (it is not the innermost)"
                )
                raise ValueError(f"stages[{index}] needs {need}")
            if index and stage.d_model < self.stages[index - 1].d_model:
                raise ValueError(
                    f"stages[{index}].d_model {stage.d_model} is smaller than the stage outside it, "
                    f"{self.stages[index - 1].d_model}: widths may not shrink inwards"
                )
        return self
