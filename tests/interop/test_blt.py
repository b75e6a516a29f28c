"""BLT against the `blt` model of transformers with the same random weights, both ways; and its patches against ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import BltConfig, BltForCausalLM
from transformers.models.blt.modeling_blt import BltPatcher

import hnet
from hnet.cli import main
from hnet.config import load_config, save_config
from hnet.errors import ConfigError
from hnet.interop.blt import import_blt
from hnet.interop.blt_config import blt_config, model_config
from hnet.model.boundaries.scorer import save_scorer
from hnet.model.config import ModelConfig
from hnet.model.embeddings.hash_ngram import BLT_NUMBERS
from hnet.segmentation.entropy import EntropyRule
from hnet.segmentation.rule import chunk_starts
from hnet.testing.strategies import random_model

TEXT = b"\xfeBytes are read in patches: where the next one is hard to tell, a patch begins. \xd0\x96\xe2\x82\xac 12345"
IDS = torch.tensor([254, *TEXT[1:]])
LOCAL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 128, "cross_attn_k": 2}


def their_config(**changes: Any) -> BltConfig:
    settings = {
        "encoder_hash_byte_group_vocab": 211,
        "patching_threshold": 5.07,
        "local_attention_window_len": 16,
        "encoder_config": {**LOCAL, "hidden_size_global": 48, "num_hidden_layers": 2},
        "decoder_config": {**LOCAL, "hidden_size_global": 48, "num_hidden_layers": 3},
        "global_config": {
            "hidden_size": 48,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_hidden_layers": 2,
            "intermediate_size": 128,
        },
        "patcher_config": {
            "hidden_size": 24,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "sliding_window": 12,
        },
    }
    return BltConfig(**{**settings, **changes})


def their_model(config: BltConfig) -> Any:
    torch.manual_seed(0)
    model = BltForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = name.endswith("norm.weight")
            parameter.normal_(1.0 if norm else 0.0, 0.2)
    return model


@torch.no_grad()
def agree(ours: Any, theirs: Any) -> None:
    """Logits of both models on one text, with patches of more than one length."""
    # There a patch that has reached its longest is known to end only once the next unit has come.
    end = None if theirs.config.max_patch_length is None else -1
    numbers = torch.tensor(BLT_NUMBERS)
    expected = theirs(numbers[IDS][None], use_cache=False).logits[0]
    output = ours(IDS)
    lengths = torch.diff(output.stages[0].boundary_mask.nonzero().squeeze(1))
    assert len(set(lengths.tolist())) > 2
    torch.testing.assert_close(output.logits[:end], expected[:end, numbers], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cross_attn_k": 1, "local_attention_window_len": None, "max_patch_length": 3},
        {"encoder_hash_byte_group_nb_functions": 2, "encoder_hash_byte_group_size": [2, 5]},
    ],
    ids=["projected", "one key", "two functions"],
)
def test_their_weights_give_their_logits_here(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = their_config(**changes)
    if "cross_attn_k" in changes:
        for part in (config.encoder_config, config.decoder_config):
            part.cross_attn_k = changes["cross_attn_k"]
    theirs = their_model(config)
    theirs.save_pretrained(tmp_path / "theirs")
    import_blt(tmp_path / "theirs", tmp_path / "ours")
    agree(hnet.load(tmp_path / "ours"), theirs)


def our_checkpoint(folder: Path, name: str, **changes: Any) -> ModelConfig:
    """A model of ours with random weights."""
    tree = load_config(ModelConfig, name).model_dump(mode="json")
    tree["embedding"]["rows"] = 211
    tree["stages"][0]["boundary"] |= {"threshold": 5.5, **changes}
    model = random_model(load_config(ModelConfig, tree), 0).float()
    folder.mkdir()
    save_config(model.config, folder / "config.yaml")
    save_file({name: weight.detach() for name, weight in model.named_parameters()}, folder / "model.safetensors")
    return model.config


def test_our_weights_give_our_logits_there(tmp_path: Path) -> None:
    scorer = random_model(load_config(ModelConfig, "blt_scorer_small"), 1).float()
    config = our_checkpoint(tmp_path / "ours", "blt_small", threshold=4.05)
    save_scorer(config.stages[0].boundary, tmp_path / "ours")
    weights = {name: weight.detach() for name, weight in scorer.named_parameters()}
    save_file(weights, tmp_path / "ours" / "scorer" / "model.safetensors")
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--format", "blt"]) == 0
    theirs = BltForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    ours = hnet.load(tmp_path / "ours")
    agree(ours, theirs)
    assert main(["import", str(tmp_path / "theirs"), str(tmp_path / "again")]) == 0
    again = hnet.load(tmp_path / "again")
    for name, weight in again.named_parameters():
        if name != "stage.unpool.start":  # never seen after an entropy rule, and unknown there
            assert torch.equal(weight, ours.get_parameter(name)), name


@pytest.mark.parametrize("threshold", [0.4, 1.3, 2.5])
def test_chunks_are_the_patches_of_transformers(threshold: float) -> None:
    """On random entropies; a patch that begins after the last byte has length 0 there."""
    entropies = torch.rand(1, 60, generator=torch.Generator().manual_seed(7)) * 3
    lengths = BltPatcher.patch_lengths_from_entropies(entropies, 60, patch_size=4, threshold=threshold)
    marks = EntropyRule(None, threshold=threshold).mark_entropies(entropies[0].numpy())  # type: ignore[arg-type]
    starts = np.cumsum([0, *lengths[0].tolist()])[:-1]
    assert chunk_starts(marks).tolist() == starts.tolist()


def test_the_released_size_is_the_released_config() -> None:
    config = load_config(ModelConfig, "blt_1b")
    theirs = BltConfig(encoder_config={"intermediate_size": 2816})
    assert blt_config(model_config(theirs.to_dict())) == blt_config(config)
    again = BltConfig(**blt_config(config))
    assert blt_config(model_config(again.to_dict())) == blt_config(config)


def test_what_has_no_equal_is_refused() -> None:
    with pytest.raises(ConfigError, match="this model is no BLT: that has two stages"):
        blt_config(load_config(ModelConfig, "hnet_tiny"))
    tree = load_config(ModelConfig, "blt_small").model_dump(mode="json")
    tree["stages"][0]["pool"]["residual"] = 1.0
    with pytest.raises(ConfigError, match="cross-attention with norms and residual 2"):
        blt_config(load_config(ModelConfig, tree))
    with pytest.raises(ConfigError, match="patches do not come from its own entropy model"):
        model_config(their_config(patch_in_forward=False).to_dict())
    with pytest.raises(ConfigError, match="no multiple of 128"):
        model_config(BltConfig().to_dict())


def test_bad_folders_are_one_clear_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "has no config.json; give a folder that `save_pretrained` wrote" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert main(["import", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "model_type is 'llama'; hnet imports blt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
