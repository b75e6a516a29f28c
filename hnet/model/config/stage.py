"""One stage: its layers and its parts."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from hnet.config.base import Config
from hnet.model.config.boundaries import RouterConfig
from hnet.model.config.layers import AttentionConfig, PositiveInt, SSMConfig, parse_layers
from hnet.model.config.part import PartSizes
from hnet.model.config.pools import SelectConfig
from hnet.model.config.registry import BoundaryField, PoolField, UnpoolField
from hnet.model.config.unpools import EMAConfig

Mask = Literal["causal", "bidirectional", "chunk_causal", "chunk_bidirectional"]
"""Which units a layer sees of those of its document, or of its chunk: with `chunk_`, everything that runs along the
units (attention, rotary positions, Mamba-2) begins anew in each chunk."""


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
    encoder_mask: Mask = "causal"
    """What the encoder's layers see."""
    main_mask: Literal["causal", "bidirectional"] = "causal"
    """What the main layers see."""
    decoder_mask: Mask = "causal"
    """What the decoder's layers see."""
    boundary: BoundaryField = RouterConfig()
    pool: PoolField = SelectConfig()
    unpool: UnpoolField = EMAConfig()
    start: Literal["encoded", "input"] = "encoded"
    """What the decoder starts from, besides the chunks: the encoder's states or what the encoder was given."""
    residual: Literal["linear", "identity"] = "linear"
    """The path of `start` around the chunks: H-Net's float32 projection, or as it is."""
    final_norms: tuple[Literal["encoder", "main", "decoder"], ...] = ("encoder", "main", "decoder")
    """The stacks that end in a norm."""
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
        if self.start == "input" and self.residual == "linear":
            raise ValueError("start: input is taken as it is; give residual: identity with it")
        if kinds & set("tT"):
            if self.d_model % self.attention.num_heads:
                raise ValueError(f"attention.num_heads {self.attention.num_heads} must divide d_model {self.d_model}")
            head_dim = self.d_model // self.attention.num_heads
            if self.attention.rotary_dim % 2 or self.attention.rotary_dim > head_dim:
                raise ValueError(
                    f"attention.rotary_dim {self.attention.rotary_dim} must be even and at most "
                    f"the head width {head_dim}"
                )
        for stack in ("encoder", "main", "decoder"):
            one_way = "bidirectional" not in getattr(self, f"{stack}_mask")
            if not one_way and set(getattr(self, stack) or "") & set("mM"):
                raise ValueError(f"{stack}_mask: Mamba-2 layers see earlier units alone; use attention layers")
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


def part_sizes(stage: StageConfig, inside: StageConfig, norm_eps: float) -> PartSizes:
    """What the parts of a stage know of it and of the stage inside."""
    return PartSizes(
        stage.d_model,
        inside.d_model,
        len(parse_layers(stage.decoder or "")),
        stage.boundary.units_per_chunk,
        stage.pool.positions,
        stage.pool.chunk_width(stage.d_model, inside.d_model),
        norm_eps,
        stage.pool.reads_whole,
        len(stage.boundary.separator_ids),
    )
