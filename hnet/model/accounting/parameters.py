"""Numbers in the parameters of a model."""

from hnet.model.accounting.layers import kv_width, mamba_sizes, stacks
from hnet.model.config import ModelConfig, StageConfig, parse_layers
from hnet.model.config.part import PartSizes, Weight
from hnet.model.config.stage import part_sizes


def parameter_breakdown(config: ModelConfig) -> dict[str, int]:
    """Parameters by part, in the order of the computation: `embedding`, `stages.0.encoder`, ..., `head`.

    Parts without parameters are left out, but for a tied head, which has 0. The sum is `count_parameters`.
    """
    parts: dict[str, int] = {}
    for name, sizes in parameter_sizes(config).items():
        part = ".".join(name.split(".")[:3])
        parts[part] = parts.get(part, 0) + sum(sizes)
    return {name: size for name, size in parts.items() if size} | {"head": parts.get("head", 0)}


def count_parameters(config: ModelConfig) -> int:
    """Parameters of the model; a tied head is counted once."""
    return sum(weight.numbers for weights in _weights(config).values() for weight in weights)


def count_lookup_parameters(config: ModelConfig) -> int:
    """Parameters in tables of which a unit reads a few rows, so that they cost memory and no FLOPs: the embedding,
    where the head does not multiply by it, and what is added to it."""
    width = config.stages[0].d_model
    table = 0 if config.tie_embeddings else config.vocab_size * width
    return table + config.embedding.lookup(width)


def count_lookup_and_linear_weights(config: ModelConfig) -> int:
    """Numbers in the weights of the embedding, the head and all linear layers but the residual projections: those that
    training in bf16 uses as bf16 alone."""
    return sum(weight.numbers for weights in _weights(config).values() for weight in weights if weight.is_linear)


def parameter_sizes(config: ModelConfig) -> dict[str, list[int]]:
    """Numbers in each tensor, by part: `embedding`, `stages.0.encoder.0` (a layer), `stages.0.encoder.norm`, ...

    A stage's parts are in the order of the model's parameters.
    """
    return {name: [weight.numbers for weight in weights] for name, weights in _weights(config).items() if weights}


def _weights(config: ModelConfig) -> dict[str, list[Weight]]:
    width = config.stages[0].d_model
    alone = PartSizes(width, width, 0, 1.0, 1, width, config.norm_eps)
    parts = {
        "embedding": [Weight(config.vocab_size * width)],
        "embedding_addition": config.embedding.weights(alone),
    }
    outer = width
    for index, stage in enumerate(config.stages):
        if stage.d_model > outer:
            parts[f"stages.{index}.width_pad"] = [Weight(stage.d_model - outer, is_linear=False)]
        if not stage.is_innermost:
            sizes = part_sizes(stage, config.stages[index + 1], config.norm_eps)
            outer = sizes.chunk_width
        for name, weights in _stage_weights(stage, None if stage.is_innermost else sizes).items():
            parts[f"stages.{index}.{name}"] = weights
    if not config.tie_embeddings:
        parts["head"] = config.objective.head_weights(config.head_sizes)
    return parts


def _stage_weights(stage: StageConfig, sizes: PartSizes | None) -> dict[str, list[Weight]]:
    parts: dict[str, list[Weight]] = {}
    width = stage.d_model
    for stack, layers, _ in stacks(stage):
        if stack == "decoder" and sizes is not None:
            parts |= {"router": stage.boundary.weights(sizes), "pool": stage.pool.weights(sizes)}
            if stage.residual == "linear":
                parts["residual"] = [Weight(width * width, is_linear=False), Weight(width, is_linear=False)]
            parts["unpool"] = stage.unpool.weights(sizes)
        for number, kind in enumerate(parse_layers(layers)):
            parts[f"{stack}.{number}"] = _layer_weights(stage, kind)
        if stack in stage.final_norms:
            parts[f"{stack}.norm"] = [Weight(width, is_linear=False)]
    return parts


def _layer_weights(stage: StageConfig, kind: str) -> list[Weight]:
    """Of a layer, in the order of its parameters: norm, mixer, the MLP's norm, the MLP."""
    width = stage.d_model
    norm = Weight(width, is_linear=False)
    if kind in "tT":
        weights = [norm, Weight(width * (width + 2 * kv_width(stage))), Weight(width * width)]
    else:
        inner, num_heads, convolved = mamba_sizes(stage)
        of_heads, convolution = [num_heads] * 3, [convolved * stage.ssm.d_conv, convolved]
        before, gated = ([Weight(size, is_linear=False) for size in sizes] for sizes in (of_heads, [inner]))
        taps = [Weight(size, is_linear=False) for size in convolution]
        projection = Weight(width * (inner + convolved + num_heads))
        weights = [norm, *before, projection, *taps, *gated, Weight(inner * width)]
    if kind in "MT":
        weights += [norm, Weight(2 * width * stage.mlp_width), Weight(width * stage.mlp_width)]
    return weights
