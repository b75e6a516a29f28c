"""The weights of BLT as Hugging Face's `transformers` has it (model type `blt`), in both directions.

Exact both ways: the same function on the same weights. Numbering and layout differ: units (`BLT_NUMBERS`), the pairs of
channels that are rotated (neighbours there, halves here), and projections that are one matrix here.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from hnet.errors import ConfigError
from hnet.interop.blt_config import blt_parts
from hnet.model.config import ModelConfig, StageConfig, parse_layers
from hnet.model.embeddings.hash_ngram import BLT_NUMBERS

_OUTER, _INNER, _PATCHER = "model.local_encoder", "model.global_transformer", "model.patcher"
_DECODER = "model.local_decoder"
_NORMS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}

Weights = dict[str, Tensor]


def from_blt(theirs: Mapping[str, Tensor], config: ModelConfig) -> tuple[Weights, Weights]:
    """Our weights of the model and of its scorer, from a state dict of `BltForCausalLM`.

    Raises ConfigError if a tensor is missing.
    """
    parts = blt_parts(config)
    outer, inner, embedding, scorer = parts.outer, parts.inner, parts.embedding, parts.scorer
    order = torch.tensor(BLT_NUMBERS)
    ours: Weights = {}
    patcher: Weights = {}
    try:
        ours["embedding.weight"] = theirs[f"{_OUTER}.embed_tokens.weight"][order]
        tables = theirs["model.encoder_hash_tok_embedding.weight"]
        ours["embedding_addition.tables"] = tables.view(embedding.num_tables, embedding.rows, -1)
        ours |= _stack_from(theirs, f"{_OUTER}.layers", "stage.encoder", outer, outer.encoder)
        ours |= _stack_from(theirs, f"{_INNER}.layers", "stage.inner.main", inner, inner.main)
        ours |= _stack_from(theirs, f"{_DECODER}.layers", "stage.decoder", outer, outer.decoder)
        ours["stage.pool.expand.weight"] = theirs[f"{_OUTER}.patch_embedding_projection.weight"]
        ours |= _cross_from(theirs, f"{_OUTER}.cross_attn_layers.0", "stage.pool")
        if f"{_INNER}.token_embedding_projection.weight" in theirs:
            ours["stage.pool.project.weight"] = theirs[f"{_INNER}.token_embedding_projection.weight"]
        ours["stage.unpool.start"] = torch.zeros(1, inner.d_model)
        ours["stage.unpool.keys.weight"] = theirs[f"{_DECODER}.patch_embedding_projection.weight"]
        for index in range(parts.num_cross):
            ours |= _cross_from(theirs, f"{_DECODER}.cross_attn_layers.{index}", f"stage.unpool.layers.{index}")
        ours["stage.decoder.norm.weight"] = theirs[f"{_DECODER}.norm.weight"]
        ours["head.weight"] = theirs["lm_head.weight"][order]
        patcher["embedding.weight"] = theirs[f"{_PATCHER}.embed_tokens.weight"][order]
        patcher |= _stack_from(theirs, f"{_PATCHER}.layers", "stage.main", scorer, scorer.main)
        patcher["stage.main.norm.weight"] = theirs[f"{_PATCHER}.norm.weight"]
        patcher["head.weight"] = theirs[f"{_PATCHER}.lm_head.weight"][order]
    except KeyError as error:
        raise ConfigError(f"the state dict lacks {error}; give that of a whole `BltForCausalLM`") from None
    return ours, patcher


def to_blt(ours: Mapping[str, Tensor], scorer_weights: Mapping[str, Tensor], config: ModelConfig) -> Weights:
    """The state dict of `BltForCausalLM` for our weights of a model and of its scorer."""
    parts = blt_parts(config)
    outer, inner, scorer = parts.outer, parts.inner, parts.scorer
    order = torch.tensor(BLT_NUMBERS).argsort()
    theirs: Weights = {
        f"{_OUTER}.embed_tokens.weight": ours["embedding.weight"][order],
        "model.encoder_hash_tok_embedding.weight": ours["embedding_addition.tables"].flatten(0, 1),
        f"{_OUTER}.patch_embedding_projection.weight": ours["stage.pool.expand.weight"],
        f"{_DECODER}.patch_embedding_projection.weight": ours["stage.unpool.keys.weight"],
        f"{_DECODER}.norm.weight": ours["stage.decoder.norm.weight"],
        "lm_head.weight": ours["head.weight"][order],
        f"{_PATCHER}.embed_tokens.weight": scorer_weights["embedding.weight"][order],
        f"{_PATCHER}.norm.weight": scorer_weights["stage.main.norm.weight"],
        f"{_PATCHER}.lm_head.weight": scorer_weights["head.weight"][order],
    }
    if "stage.pool.project.weight" in ours:
        theirs[f"{_INNER}.token_embedding_projection.weight"] = ours["stage.pool.project.weight"]
    theirs |= _stack_to(ours, "stage.encoder", f"{_OUTER}.layers", outer, outer.encoder)
    theirs |= _stack_to(ours, "stage.inner.main", f"{_INNER}.layers", inner, inner.main)
    theirs |= _stack_to(ours, "stage.decoder", f"{_DECODER}.layers", outer, outer.decoder)
    theirs |= _stack_to(scorer_weights, "stage.main", f"{_PATCHER}.layers", scorer, scorer.main)
    theirs |= _cross_to(ours, "stage.pool", f"{_OUTER}.cross_attn_layers.0")
    for index in range(parts.num_cross):
        theirs |= _cross_to(ours, f"stage.unpool.layers.{index}", f"{_DECODER}.cross_attn_layers.{index}")
    return {name: tensor.contiguous() for name, tensor in theirs.items()}


def _stack_from(
    theirs: Mapping[str, Tensor], source: str, target: str, stage: StageConfig, layers: str | None
) -> Weights:
    ours: Weights = {}
    for index in range(len(parse_layers(layers or ""))):
        there, here = f"{source}.{index}", f"{target}.layers.{index}"
        q, k, v, out = (theirs[f"{there}.self_attn.{name}_proj.weight"] for name in "qkvo")
        head_dim = stage.d_model // stage.attention.num_heads
        ours[f"{here}.mixer.qkv.weight"] = torch.cat([_halved(q, head_dim), _halved(k, head_dim), v])
        ours[f"{here}.mixer.out_proj.weight"] = out
        gate, value, down = (theirs[f"{there}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        ours[f"{here}.mlp.fc1.weight"] = torch.cat([value, gate])
        ours[f"{here}.mlp.fc2.weight"] = down
        ours |= {f"{here}.{name}.weight": theirs[f"{there}.{other}.weight"] for name, other in _NORMS.items()}
    return ours


def _stack_to(ours: Mapping[str, Tensor], source: str, target: str, stage: StageConfig, layers: str | None) -> Weights:
    theirs: Weights = {}
    head_dim = stage.d_model // stage.attention.num_heads
    kv_width = stage.attention.kv_heads * head_dim
    for index in range(len(parse_layers(layers or ""))):
        here, there = f"{source}.layers.{index}", f"{target}.{index}"
        q, k, v = ours[f"{here}.mixer.qkv.weight"].split([stage.d_model, kv_width, kv_width])
        projections = {"q": _paired(q, head_dim), "k": _paired(k, head_dim), "v": v}
        theirs |= {f"{there}.self_attn.{name}_proj.weight": weight for name, weight in projections.items()}
        theirs[f"{there}.self_attn.o_proj.weight"] = ours[f"{here}.mixer.out_proj.weight"]
        value, gate = ours[f"{here}.mlp.fc1.weight"].chunk(2)
        down = ours[f"{here}.mlp.fc2.weight"]
        for name, weight in {"gate": gate, "up": value, "down": down}.items():
            theirs[f"{there}.mlp.{name}_proj.weight"] = weight
        theirs |= {f"{there}.{other}.weight": ours[f"{here}.{name}.weight"] for name, other in _NORMS.items()}
    return theirs


def _cross_from(theirs: Mapping[str, Tensor], source: str, target: str) -> Weights:
    q, k, v, out = (theirs[f"{source}.{name}_proj.weight"] for name in "qkvo")
    queries, keys = _cross_norms(target)
    return {
        f"{target}.{queries}.weight": theirs[f"{source}.q_norm.weight"],
        f"{target}.{keys}.weight": theirs[f"{source}.k_norm.weight"],
        f"{target}.q_proj.weight": q,
        f"{target}.kv_proj.weight": torch.cat([k, v]),
        f"{target}.out_proj.weight": out,
    }


def _cross_to(ours: Mapping[str, Tensor], source: str, target: str) -> Weights:
    k, v = ours[f"{source}.kv_proj.weight"].chunk(2)
    queries, keys = _cross_norms(source)
    return {
        f"{target}.q_norm.weight": ours[f"{source}.{queries}.weight"],
        f"{target}.k_norm.weight": ours[f"{source}.{keys}.weight"],
        f"{target}.q_proj.weight": ours[f"{source}.q_proj.weight"],
        f"{target}.k_proj.weight": k,
        f"{target}.v_proj.weight": v,
        f"{target}.o_proj.weight": ours[f"{source}.out_proj.weight"],
    }


def _cross_norms(part: str) -> tuple[str, str]:
    """Our names of the norms of queries and of keys: units are the keys of a pool and the queries of an unpool."""
    return ("query_norm", "unit_norm") if part.startswith("stage.pool") else ("unit_norm", "key_norm")


def _halved(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of each head from pairs of neighbours to two halves."""
    return weight.view(-1, head_dim // 2, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _paired(weight: Tensor, head_dim: int) -> Tensor:
    """The reverse of `_halved`."""
    return weight.view(-1, 2, head_dim // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
