"""Which parts go together: a model of refused ones would see the future, or could not be continued unit by unit."""

from collections.abc import Iterator, Sequence

from hnet.model.config.objectives import ObjectiveConfig
from hnet.model.config.stage import StageConfig, part_sizes


def check_stages(stages: Sequence[StageConfig], objective: ObjectiveConfig) -> None:
    """Raises ValueError that names the stage, the parts and the reason."""
    for index, stage in enumerate(stages):
        for problem in _problems(index, stage, stages, objective.predicts_next):
            raise ValueError(f"stages[{index}]: {problem}")
    for problem in _targets(stages[0], objective):
        raise ValueError(f"objective {objective.type}: {problem}")


def _problems(index: int, stage: StageConfig, stages: Sequence[StageConfig], predicts_next: bool) -> Iterator[str]:
    """`predicts_next`: nothing may see later units; else that is free."""
    for stack in ("encoder", "main", "decoder") if predicts_next else ():
        if getattr(stage, f"{stack}_mask") == "bidirectional":
            yield f"{stack}_mask: bidirectional shows later units, and the model is to predict the next one"
    if stage.is_innermost:
        return
    if (stage.boundary.reads_marks or stage.boundary.separator_ids) and index:
        yield f"boundary {stage.boundary.type} reads text, which the outermost stage alone has"
    yield from _no_unpool(index, stage)
    yield from _scope(stage)
    if predicts_next:
        yield from _encoder(stage)
        yield from _decoder(stage)
        yield from _timing(stage)
    given = stage.pool.chunk_width(stage.d_model, stages[index + 1].d_model)
    if stage.unpool.needs_stage_width and given != stage.d_model:
        yield (
            f"unpool {stage.unpool.type} takes chunks of the stage's d_model {stage.d_model}, and pool "
            f"{stage.pool.type} gives {given} channels"
        )
    yield from _sizes(stage)
    if stage.pool.positions > 1 and not stages[index + 1].is_innermost:
        yield f"pool {stage.pool.type} gives {stage.pool.positions} units a chunk: only an innermost stage takes them"
    if stage.pool.positions > 1 and not stage.unpool.takes_positions:
        yield f"unpool {stage.unpool.type} takes one vector a chunk, and pool {stage.pool.type} gives several"
    sizes = part_sizes(stage, stages[index + 1], norm_eps=0.0)
    for part in (stage.boundary, stage.pool, stage.unpool):
        part.weights(sizes)  # raises ValueError where settings of the part do not fit the sizes


def _targets(outermost: StageConfig, objective: ObjectiveConfig) -> Iterator[str]:
    """What the objective needs of the outermost stage's outputs."""
    gives_chunks = not outermost.is_innermost and outermost.unpool.gives_chunks
    if objective.predicts_next and gives_chunks:
        yield f"unpool {outermost.unpool.type} gives chunks, and the targets are units; give another objective"
    if objective.of_chunks and not gives_chunks:
        yield "the targets are words, and the outermost stage gives units; give it unpool none"
    boundary = outermost.boundary
    if objective.of_chunks and gives_chunks and (not boundary.reads_marks or boundary.separator_ids):
        yield (
            f"the loader hides whole words, and boundary {boundary.type} is not known from the text alone, without "
            "separators; give boundary words or space_like"
        )


def _no_unpool(index: int, stage: StageConfig) -> Iterator[str]:
    if not stage.unpool.gives_chunks:
        return
    if index:
        yield f"unpool {stage.unpool.type} gives chunks where the stage outside needs units: only the outermost may"
    if stage.decoder or "decoder" in stage.final_norms or stage.residual != "identity":
        yield (
            f"unpool {stage.unpool.type} leaves no units to decode; give decoder an empty string, residual: identity, "
            "and final_norms without decoder"
        )


def _scope(stage: StageConfig) -> Iterator[str]:
    mask, boundary = stage.encoder_mask, stage.boundary
    if mask.startswith("chunk") and boundary.reads_encoder:
        yield f"encoder_mask {mask} needs chunks before the encoder, and boundary {boundary.type} decides after it"


def _encoder(stage: StageConfig) -> Iterator[str]:
    mask, boundary = stage.encoder_mask, stage.boundary
    if not mask.startswith("chunk"):
        return
    if mask == "chunk_causal" and boundary.look_ahead > 0:
        yield (
            f"encoder_mask {mask} begins anew at a chunk's first unit, and boundary {boundary.type} is known up to "
            f"{boundary.look_ahead} units later"
        )
    if mask == "chunk_bidirectional" and not stage.pool.reads_whole:
        yield (
            f"pool {stage.pool.type} takes a chunk's first state when it opens, and a {mask} encoder "
            "then has seen the whole chunk"
        )
    if mask == "chunk_bidirectional" and stage.start == "encoded":
        yield f"start: encoded hands the decoder states that have seen the whole chunk ({mask}); give start: input"


def _decoder(stage: StageConfig) -> Iterator[str]:
    mask, boundary = stage.decoder_mask, stage.boundary
    if mask == "chunk_bidirectional":
        yield f"decoder_mask {mask} shows later units of the chunk, and the model is to predict them"
    if mask != "chunk_causal":
        return
    if boundary.look_ahead > 0:
        yield (
            f"decoder_mask {mask} begins anew at a chunk's first unit, and boundary {boundary.type} is known up to "
            f"{boundary.look_ahead} units later; give it separators"
        )
    if boundary.look_ahead < 0 and stage.pool.reads_whole:
        yield (
            f"decoder_mask {mask} begins anew at a chunk's first unit, and with boundary {boundary.type} the chunk "
            "before it is known to be whole one unit earlier; give it separators"
        )


def _timing(stage: StageConfig) -> Iterator[str]:
    boundary, pool, unpool = stage.boundary, stage.pool, stage.unpool
    if unpool.needs_own_chunk and pool.reads_whole:
        yield (
            f"unpool {unpool.type} gives a unit its own chunk, and pool {pool.type} knows that only when the chunk has "
            "ended"
        )
    if boundary.look_ahead > 0:
        late = f"boundary {boundary.type} is known up to {boundary.look_ahead} units after a chunk's first"
        if not pool.reads_whole:
            yield f"{late}, and pool {pool.type} gives a chunk's vector at its first; take a pool of the whole chunk"
        if unpool.needs_position:
            yield f"{late}, and unpool {unpool.type} reads how far into its chunk a unit is"


def _sizes(stage: StageConfig) -> Iterator[str]:
    boundary = stage.boundary
    for name, part in (("pool", stage.pool), ("unpool", stage.unpool)):
        if part.needs_equal_chunks and not boundary.chunks_are_equal:
            yield f"{name} {part.type} needs chunks of a fixed number of units, and boundary {boundary.type} has none"
    if stage.unpool.replaces_separators and len(boundary.separator_ids) < stage.pool.positions:
        yield (
            f"unpool {stage.unpool.type} puts the {stage.pool.positions} vectors of a chunk in the places of as many "
            f"separators, and boundary {boundary.type} has {len(boundary.separator_ids)}; set boundary.separators"
        )
