"""`RunConfig`: everything that one training run is. Imports no torch."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from hnet.config.base import Config
from hnet.data.config import DataConfig
from hnet.model.config import ModelConfig

NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


PREEMPTED = "preempted"
"""File in `output_dir`, from a stop on request until the run goes on: whoever started it should start it again."""


class OptimizerConfig(Config):
    """AdamW."""

    learning_rate: Annotated[float, Field(gt=0)] = 6.25e-4
    """Base rate; each stage multiplies it by its own factor."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Left out: norms, biases, `A_log`, `D`, `dt_bias`, embeddings, width padding."""
    decay_embeddings: bool = False
    lr_multipliers: Literal["paper"] | tuple[Annotated[float, Field(gt=0)], ...] = "paper"
    """`paper` is eq. 11 of the H-Net paper; or one number per stage, outermost first."""
    gradient_clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest global gradient norm; 0 switches clipping off."""


class ScheduleConfig(Config):
    type: Literal["wsd", "cosine"] = "wsd"
    """`wsd`: warm-up, stable, decay; `cosine`: warm-up, then a half cosine."""
    warmup: Fraction = 0.1
    """Share of the steps with a linear warm-up."""
    decay: Fraction = 0.2
    """Share of the steps at the end over which `wsd` decays."""
    decay_shape: Literal["one_minus_sqrt", "linear"] = "one_minus_sqrt"
    final: Fraction = 0.0
    """Last learning rate as a share of the largest."""

    @model_validator(mode="after")
    def _shares(self) -> "ScheduleConfig":
        if self.type == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup} + decay {self.decay} is more than 1")
        return self


class TrainingConfig(Config):
    steps: PositiveInt = 1000
    seed: NonNegativeInt = 0
    init_from: str | None = None
    """A run folder or checkpoint: a new run starts from its weights, those whose name and shape are the model's."""
    global_batch_bytes: PositiveInt = 8192
    """Units per optimizer step over all ranks; a multiple of `data.sequence_length`."""
    micro_batch_bytes: PositiveInt | None = None
    """Units of one forward pass on one rank; a multiple of `data.sequence_length`. None: no accumulation."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: compute in bf16 with fp32 master weights."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass instead of keeping its activations."""
    compile: bool = False
    """torch.compile each block."""
    ratio_loss_scope: Literal["micro_batch", "global_batch"] = "micro_batch"
    """Where F and G of the ratio loss are averaged. `micro_batch` is the H-Net paper's; `global_batch` does not
    depend on accumulation and ranks, and costs one more forward pass where gradients are accumulated."""
    log_every: PositiveInt = 10
    validate_every: PositiveInt | None = None
    """Steps between validation passes; None: only at the end."""
    checkpoint_every: PositiveInt | None = None
    """Steps between checkpoints; None: only at the end."""
    keep_checkpoints: PositiveInt = 3
    async_checkpoints: bool = False
    """Write checkpoints while training goes on, from a copy in host memory: 12 bytes per parameter held by a rank."""
    max_nonfinite_steps: PositiveInt = 10
    """Steps in a row that may be skipped for a non-finite loss or gradient before the run stops."""
    peak_flops: Literal["measured"] | Annotated[float, Field(gt=0)] | str = "measured"
    """What MFU is relative to: `measured` (a large matrix product on this device), FLOP/s, or a name such as `H100`."""


class EngineConfig(Config):
    """How the ranks share one model. With none of the first four keys: one process, or plain data parallel (DDP);
    the `deepspeed` launcher makes that ZeRO stage 1."""

    config_folder: ClassVar[str | None] = "engine"

    zero_stage: Literal[0, 1, 2, 3] | None = None
    """DeepSpeed ZeRO: 0 shards nothing, 1 the optimizer state, 2 also gradients, 3 also parameters."""
    fsdp: bool = False
    """FSDP2: shards what ZeRO stage 3 shards, by PyTorch alone."""
    deepspeed_config: str | None = None
    """Path of a DeepSpeed JSON file. It decides on ZeRO and offload; what this run decides it may repeat."""
    shard_group: PositiveInt | None = None
    """Hybrid sharding: neighbouring ranks, as a rule those of one node, that hold one copy of the parameters between
    them, so that forward and backward passes gather within the group. ZeRO stage 3 and FSDP2."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What lies in host memory: `optimizer` from ZeRO stage 1 on, `all` (also parameters) with stage 3."""
    communication: Literal["fp32", "bf16"] = "fp32"
    """`bf16` halves what ranks send each other of gradients, and rounds it. ZeRO stages 1 to 3."""
    balance: Literal["off", "windows"] = "off"
    """`windows`: deal the windows of each step out by what they are likely to cost, so that ranks do equal work."""
    exchange_chunks: PositiveInt = 1
    """Neighbouring ranks that level the chunks of the main stage among themselves, as they are found; 1: none."""
    sequence_parallel: PositiveInt = 1
    """Neighbouring ranks that share each micro-batch, a piece of its units each; 1: every rank has its own."""
    watchdog_minutes: Annotated[float, Field(gt=0)] = 30.0
    """A rank that makes no progress for longer than this is an error."""

    @model_validator(mode="after")
    def _one_way_to_shard(self) -> "EngineConfig":
        chosen = [
            name for name in ("zero_stage", "fsdp", "deepspeed_config") if getattr(self, name) not in (None, False)
        ]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude each other: keep one")
        if self.deepspeed_config is not None:
            for key, empty in (("offload", "none"), ("shard_group", None), ("communication", "fp32")):
                if getattr(self, key) != empty:
                    raise ValueError(f"{key} stands in the file that deepspeed_config names; leave it out here")
            return self
        stage = self.zero_stage or 0
        if self.offload == "optimizer" and stage == 0:
            raise ValueError("offload: optimizer needs zero_stage 1, 2 or 3")
        if self.offload == "all" and stage != 3:
            raise ValueError("offload: all needs zero_stage 3")
        if self.shard_group is not None and stage != 3 and not self.fsdp:
            raise ValueError("shard_group needs zero_stage 3 or fsdp: only there are parameters sharded")
        if self.communication == "bf16" and stage == 0:
            raise ValueError("communication: bf16 needs zero_stage 1, 2 or 3")
        return self

    @model_validator(mode="after")
    def _one_way_to_level(self) -> "EngineConfig":
        if self.sequence_parallel > 1 and (self.balance != "off" or self.exchange_chunks > 1):
            raise ValueError(
                "balance and exchange_chunks are for ranks with micro-batches of their own; with sequence_parallel the "
                "ranks of a group have equal work already: leave them out"
            )
        return self


class LoggingConfig(Config):
    progress: bool = True
    tensorboard: bool = False
    wandb: Literal["online", "offline", "disabled"] = "disabled"
    wandb_project: str = "hnet"
    sample_prompt: str | None = None
    """Text to continue at the end of the run; None prints no sample."""
    sample_bytes: PositiveInt = 200
    sample_temperature: Annotated[float, Field(ge=0)] = 0.8


class RunConfig(Config):
    config_folder: ClassVar[str | None] = "runs"

    output_dir: str
    """Everything the run writes goes here."""
    model: ModelConfig
    """A name in `configs/models`, the path of a YAML file, or a mapping."""
    data: DataConfig
    training: TrainingConfig = TrainingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    engine: EngineConfig = EngineConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="after")
    def _batches(self) -> "RunConfig":
        window, training = self.data.sequence_length, self.training
        for name in ("global_batch_bytes", "micro_batch_bytes"):
            value = getattr(training, name)
            if value is not None and value % window:
                raise ValueError(f"training.{name} {value} must be a multiple of data.sequence_length {window}")
        if training.micro_batch_bytes and training.global_batch_bytes % training.micro_batch_bytes:
            raise ValueError(
                f"training.global_batch_bytes {training.global_batch_bytes} must be a multiple of "
                f"training.micro_batch_bytes {training.micro_batch_bytes}"
            )
        multipliers = self.optimizer.lr_multipliers
        if multipliers != "paper" and len(multipliers) != len(self.model.stages):
            raise ValueError(
                f"optimizer.lr_multipliers has {len(multipliers)} numbers for {len(self.model.stages)} stages"
            )
        return self

    @model_validator(mode="after")
    def _sample(self) -> "RunConfig":
        if self.logging.sample_prompt is not None and not self.model.is_causal:
            raise ValueError(
                "logging.sample_prompt: the model sees later units and cannot continue a text; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _whole_documents(self) -> "RunConfig":
        if self.model.objective.document_pool is not None and self.data.packing != "whole":
            raise ValueError(
                f"objective {self.model.objective.type} reads documents, and data.packing: {self.data.packing} cuts "
                "them; give data.packing: whole"
            )
        return self

    @model_validator(mode="after")
    def _whole_batches(self) -> "RunConfig":
        if self.model.objective.predicts_next:
            return self
        for key, empty in (("balance", "off"), ("sequence_parallel", 1)):
            if getattr(self.engine, key) != empty:
                raise ValueError(
                    f"engine.{key} moves labels with their units, and those of objective {self.model.objective.type} "
                    f"have none; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _sequence_parallel(self) -> "RunConfig":
        size = self.engine.sequence_parallel
        for index, stage in enumerate(self.model.stages[:-1] if size > 1 else ()):
            scoped = any(mask.startswith("chunk") for mask in (stage.encoder_mask, stage.decoder_mask))
            cut = stage.unpool.needs_position or stage.unpool.follows_runs or scoped
            if not stage.boundary.is_learned or stage.pool.reads_whole or cut:
                raise ValueError(
                    f"engine.sequence_parallel {size} cuts sequences inside chunks, and stages[{index}] with boundary "
                    f"{stage.boundary.type}, pool {stage.pool.type}, unpool {stage.unpool.type} and masks "
                    f"{stage.encoder_mask} and {stage.decoder_mask} needs them whole; leave it out, or take boundary "
                    "router, pool select, unpool ema and masks that are causal"
                )
        if size > 1 and self.model.embedding.reads_earlier_units:
            raise ValueError(
                f"engine.sequence_parallel {size} cuts sequences between units, and embedding "
                f"{self.model.embedding.type} reads earlier ones; leave it out, or take embedding table"
            )
        heads = [stage.attention.num_heads for stage in self.model.stages if set(stage.layers) & set("tT")]
        if heads and size > min(heads):
            raise ValueError(
                f"engine.sequence_parallel {size} leaves ranks without an attention head; "
                f"make it at most {min(heads)}, the fewest heads of a stage with attention"
            )
        return self
