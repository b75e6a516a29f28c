"""A checkpoint folder that is damaged or does not fit says which file and why."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import hnet
from hnet.config import save_config
from hnet.errors import CheckpointError

MODEL = {"stages": [{"d_model": 16, "main": "t1", "attention": {"num_heads": 2}}]}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = hnet.build(MODEL)
    save_file({name: weight.detach() for name, weight in model.named_parameters()}, tmp_path / "model.safetensors")
    save_config(model.config, tmp_path / "config.yaml")
    return tmp_path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        hnet.load(path)
    return str(caught.value)


def test_a_good_one_loads_in_eval_mode_and_another_dtype(checkpoint: Path) -> None:
    model = hnet.load(checkpoint, dtype=torch.bfloat16)
    assert not model.training
    assert model.head.weight.dtype == torch.bfloat16


def test_latest_of_a_run_is_followed(checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "latest").symlink_to(checkpoint)
    weights = hnet.load(checkpoint).head.weight
    assert torch.equal(hnet.load(run).head.weight, weights)
    assert torch.equal(hnet.load(run / "checkpoints").head.weight, weights)


def test_damage_is_named(checkpoint: Path) -> None:
    assert re.search("no such checkpoint or run folder", refusal(checkpoint / "elsewhere"))
    weights = checkpoint / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    assert re.search(f"{re.escape(str(weights))} cannot be read", refusal(checkpoint))
    weights.write_bytes(content)
    config = checkpoint / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("d_model: 16", "d_model: 32"))
    assert re.search(r"embedding.weight has shape \(256, 16\), config.yaml asks for \(256, 32\)", refusal(checkpoint))
    config.write_text(text.replace("main: t1", "main: t2"))
    assert re.search("tensors missing .*stage.main.layers.1", refusal(checkpoint))
    config.write_text(text.replace("main: t1", "main: q1"))
    assert re.search("config.yaml holds no usable model: .*layer string 'q1'", refusal(checkpoint))
    config.write_text("just words")
    assert re.search("does not hold a configuration", refusal(checkpoint))
    config.unlink()
    assert re.search("has no config.yaml", refusal(checkpoint))


def test_a_folder_without_weights_is_no_checkpoint(tmp_path: Path) -> None:
    assert re.search("is no checkpoint: it has neither model.safetensors nor a checkpoints/latest", refusal(tmp_path))
