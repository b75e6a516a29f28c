"""Which parts go together: a model of refused ones would see the future, or could not be continued unit by unit."""

from collections.abc import Iterator, Sequence

from hnet.model.config.stage import StageConfig


def check_stages(stages: Sequence[StageConfig]) -> None:
    """Raises ValueError that names the stage, the parts and the reason."""
    for index, stage in enumerate(stages):
        for problem in _problems(index, stage, stages):
            raise ValueError(f"stages[{index}]: {problem}")


def _problems(index: int, stage: StageConfig, stages: Sequence[StageConfig]) -> Iterator[str]:
    for stack in ("encoder", "main", "decoder"):
        if getattr(stage, f"{stack}_mask") == "bidirectional":
            yield f"{stack}_mask: bidirectional shows later units, and the model is to predict the next one"
    if stage.is_innermost:
        return
    if (stage.boundary.reads_marks or stage.boundary.separator_ids) and index:
        yield f"boundary {stage.boundary.type} reads text, which the outermost stage alone has"
    yield from _encoder(stage)
    yield from _decoder(stage)
    yield from _timing(stage)
    given = stage.pool.chunk_width(stage.d_model, stages[index + 1].d_model)
    if stage.unpool.needs_stage_width and given != stage.d_model:
        yield (
            f"unpool {stage.unpool.type} takes chunks of the stage's d_model {stage.d_model}, and pool "
            f"{stage.pool.type} gives {given} channels"
        )
    if stage.pool.positions > 1 and not stages[index + 1].is_innermost:
        yield f"pool {stage.pool.type} gives {stage.pool.positions} units a chunk: only an innermost stage takes them"
    if stage.pool.positions > 1 and not stage.unpool.takes_positions:
        yield f"unpool {stage.unpool.type} takes one vector a chunk, and pool {stage.pool.type} gives several"


def _encoder(stage: StageConfig) -> Iterator[str]:
    mask, boundary = stage.encoder_mask, stage.boundary
    if not mask.startswith("chunk"):
        return
    if boundary.reads_encoder:
        yield f"encoder_mask {mask} needs chunks before the encoder, and boundary {boundary.type} decides after it"
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
        if stage.unpool.needs_reset_decoder:
            yield f"unpool {stage.unpool.type} needs a decoder that begins anew in each chunk: chunk_causal"
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
