"""The configuration of BLT as Hugging Face's `transformers` has it (model type `blt`), in both directions.

Windows count the unit itself there, and not here."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from hnet.config import load_config
from hnet.errors import ConfigError
from hnet.model.config import ModelConfig, StageConfig, parse_layers
from hnet.model.config.cross_attention import CrossAttentionPoolConfig, CrossAttentionUnpoolConfig
from hnet.model.config.embeddings import HashNgramConfig
from hnet.model.config.entropy import EntropyConfig
from hnet.model.embeddings.hash_ngram import BLT_NUMBERS

VOCABULARY = len(BLT_NUMBERS)


class BLT(NamedTuple):
    """The parts of a model of ours that is one."""

    outer: StageConfig
    inner: StageConfig
    boundary: EntropyConfig
    pool: CrossAttentionPoolConfig
    unpool: CrossAttentionUnpoolConfig
    embedding: HashNgramConfig

    @property
    def scorer(self) -> StageConfig:
        """The scorer's only stage."""
        return self.boundary.model.stages[0]

    @property
    def num_cross(self) -> int:
        """Cross-attentions in the decoder."""
        return self.unpool.num_injections(len(parse_layers(self.outer.decoder or "")))


def model_config(theirs: Mapping[str, Any], scorer_weights: str = "random") -> ModelConfig:
    """Our configuration for a `BltConfig` as a mapping. Raises ConfigError for a setting that we have no equal of."""
    encoder, decoder = theirs["encoder_config"], theirs["decoder_config"]
    inner, patcher = theirs["global_config"], theirs["patcher_config"]
    _check(theirs, encoder, decoder)
    k, heads = theirs["cross_attn_k"], encoder["num_attention_heads"]
    cross = {"type": "cross_attention", "num_heads": heads, "residual": 2.0}
    scorer = {
        "vocab_size": VOCABULARY,
        "norm_eps": patcher["rms_norm_eps"],
        "stages": [_stage(patcher, patcher["sliding_window"], main=patcher["num_hidden_layers"])],
    }
    outer = {
        **_stage(
            encoder,
            theirs["local_attention_window_len"],
            encoder=encoder["num_hidden_layers"],
            decoder=decoder["num_hidden_layers"],
        ),
        "boundary": {
            "type": "entropy",
            "threshold": float(theirs["patching_threshold"]),
            "max_units": theirs["max_patch_length"],
            "scorer_weights": scorer_weights,
            "scorer": scorer,
        },
        "pool": {**cross, "query": "max", "num_queries": k},
        "unpool": {**cross, "num_keys": k, "every_layer": decoder["cross_attn_all_layers"]},
        "residual": "identity",
        "final_norms": ["decoder"],
    }
    return load_config(
        ModelConfig,
        {
            "vocab_size": VOCABULARY,
            "norm_eps": encoder["rms_norm_eps"],
            "embedding": {
                "type": "hash_ngram",
                "sizes": list(theirs["encoder_hash_byte_group_size"]),
                "functions": theirs["encoder_hash_byte_group_nb_functions"],
                "rows": theirs["encoder_hash_byte_group_vocab"],
                "numbering": "blt",
            },
            "stages": [outer, {**_stage(inner, None, main=inner["num_hidden_layers"]), "final_norms": []}],
        },
    )


def blt_config(config: ModelConfig) -> dict[str, Any]:
    """The mapping of a `BltConfig` for a model of ours. Raises ConfigError if `transformers` has no equal of it."""
    outer, inner, boundary, pool, unpool, embedding = blt_parts(config)
    scorer = boundary.model
    encoder = {**_layers(outer, config.norm_eps, "encoder"), "cross_attn_all_layers": False}
    decoder = {**_layers(outer, config.norm_eps, "decoder"), "cross_attn_all_layers": unpool.every_layer}
    local = {"cross_attn_k": pool.num_queries, "hidden_size_global": inner.d_model, "vocab_size": VOCABULARY}
    theirs = {
        "model_type": "blt",
        "architectures": ["BltForCausalLM"],
        "vocab_size": VOCABULARY,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "patch_in_forward": True,
        "patching_mode": "entropy",
        "patching_threshold": boundary.threshold,
        "max_patch_length": boundary.max_units,
        "local_attention_window_len": _window_there(outer),
        "cross_attn_k": pool.num_queries,
        "encoder_hash_byte_group_size": list(embedding.sizes),
        "encoder_hash_byte_group_vocab": embedding.rows,
        "encoder_hash_byte_group_nb_functions": embedding.functions,
        "encoder_config": {"model_type": "blt_local_encoder", **encoder, **local},
        "decoder_config": {"model_type": "blt_local_decoder", **decoder, **local},
        "global_config": {"model_type": "blt_global_transformer", **_layers(inner, config.norm_eps, "main")},
        "patcher_config": {
            "model_type": "blt_patcher",
            "vocab_size": VOCABULARY,
            **_layers(scorer.stages[0], scorer.norm_eps, "main"),
            "sliding_window": _window_there(scorer.stages[0]),
        },
    }
    if _plain(model_config(theirs, boundary.scorer_weights)) != _plain(config):
        raise ConfigError(
            "this model is no BLT that `transformers` can run; configs/models/blt_small.yaml shows the settings that "
            "it fixes: cross-attention with norms and residual 2, method threshold, numbering blt, vocab_size 260"
        )
    return theirs


def blt_parts(config: ModelConfig) -> BLT:
    """Raises ConfigError for a model of other parts."""
    if len(config.stages) == 2:
        outer, inner = config.stages
        boundary, pool, unpool, embedding = outer.boundary, outer.pool, outer.unpool, config.embedding
        if (
            isinstance(boundary, EntropyConfig)
            and isinstance(pool, CrossAttentionPoolConfig)
            and isinstance(unpool, CrossAttentionUnpoolConfig)
            and isinstance(embedding, HashNgramConfig)
            and len(boundary.model.stages) == 1
        ):
            return BLT(outer, inner, boundary, pool, unpool, embedding)
    raise ConfigError(
        "this model is no BLT: that has two stages, boundary entropy with a flat scorer, pool and unpool "
        "cross_attention and embedding hash_ngram"
    )


def _plain(config: ModelConfig) -> ModelConfig:
    """Without what the two code bases need not agree on: where a scorer runs, what plans expect of it, and whether a
    size is given or follows from others."""
    stages = [stage.model_copy(update=_sizes(stage)) for stage in config.stages]
    boundary = stages[0].boundary
    if isinstance(boundary, EntropyConfig):
        known = {"expected": 4.5, "device": "cpu", "rise": 0.0, "scorer": _plain(boundary.model)}
        stages[0] = stages[0].model_copy(update={"boundary": boundary.model_copy(update=known)})
    return config.model_copy(update={"stages": tuple(stages)})


def _sizes(stage: StageConfig) -> dict[str, Any]:
    attention = stage.attention.model_copy(update={"num_kv_heads": stage.attention.kv_heads})
    return {"d_intermediate": stage.mlp_width, "attention": attention}


def _check(theirs: Mapping[str, Any], encoder: Mapping[str, Any], decoder: Mapping[str, Any]) -> None:
    """Raises ConfigError for what a stage of ours cannot say."""
    shared = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "rms_norm_eps")
    problems = [f"{key} differs between encoder and decoder" for key in shared if encoder[key] != decoder[key]]
    every = [encoder, decoder, theirs["global_config"], theirs["patcher_config"]]
    if any(part["intermediate_size"] % 128 for part in every):
        problems.append("an intermediate_size is no multiple of 128")
    if theirs["global_config"]["rms_norm_eps"] != encoder["rms_norm_eps"]:
        problems.append("rms_norm_eps differs between the global and the local layers")
    if encoder["num_key_value_heads"] != encoder["num_attention_heads"]:
        problems.append("the local layers share heads of keys (num_key_value_heads)")
    if encoder["cross_attn_all_layers"] and encoder["num_hidden_layers"] > 1:
        problems.append("the encoder has cross-attention after every layer (cross_attn_all_layers)")
    if not theirs["patch_in_forward"] or theirs["patching_mode"] != "entropy":
        problems.append("patches do not come from its own entropy model (patch_in_forward, patching_mode)")
    if theirs["vocab_size"] != VOCABULARY:
        problems.append(f"vocab_size is {theirs['vocab_size']}, not {VOCABULARY}")
    if problems:
        raise ConfigError(f"this BLT cannot be read: {'; '.join(problems)}")


def _stage(part: Mapping[str, Any], window: int | None, **layers: int) -> dict[str, Any]:
    """The layers of a stage of ours."""
    heads = part["num_attention_heads"]
    return {
        "d_model": part["hidden_size"],
        **{name: f"T{count}" for name, count in layers.items()},
        "d_intermediate": part["intermediate_size"],
        "attention": {
            "num_heads": heads,
            "num_kv_heads": part["num_key_value_heads"],
            "rotary_dim": part["hidden_size"] // heads,
            "rotary_base": float(part["rope_parameters"]["rope_theta"]),
            "window": -1 if window is None else window - 1,
        },
    }


def _layers(stage: StageConfig, norm_eps: float, name: str) -> dict[str, Any]:
    """The layers of a part of theirs."""
    return {
        "hidden_size": stage.d_model,
        "num_attention_heads": stage.attention.num_heads,
        "num_key_value_heads": stage.attention.kv_heads,
        "num_hidden_layers": len(parse_layers(getattr(stage, name) or "")),
        "intermediate_size": stage.mlp_width,
        "rms_norm_eps": norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": stage.attention.rotary_base},
    }


def _window_there(stage: StageConfig) -> int | None:
    return None if stage.attention.window < 0 else stage.attention.window + 1
