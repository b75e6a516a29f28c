"""Calibration: the threshold reaches the wanted bytes per chunk, in training too, and is written where it belongs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hnet.cli import main
from hnet.config import load_config, save_config
from hnet.errors import ConfigError
from hnet.evaluation.calibrate import Entropies, find_threshold
from hnet.model.config import ModelConfig
from hnet.model.loading import build
from hnet.segmentation.entropy import EntropyRule, Method
from hnet.testing.strategies import random_model


def rule(method: Method) -> EntropyRule:
    return EntropyRule(None, method)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["threshold", "monotone", "global_monotone"])
@pytest.mark.parametrize("target", [2.5, 4.5])
def test_threshold_reaches_the_target(method: Method, target: float) -> None:
    entropies = Entropies(tuple(np.random.default_rng(i).random(3000, dtype=np.float32) * 4 for i in range(3)))
    threshold = find_threshold(rule(method), entropies, target)
    reached = entropies.bytes_per_chunk(EntropyRule(None, method, threshold))  # type: ignore[arg-type]
    assert abs(reached - target) < 0.02


def test_targets_out_of_reach_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"9.0 is out of reach on this text: .* gives 1.00 to 2.00"):
        find_threshold(rule("threshold"), Entropies((np.ones(4, dtype=np.float32),)), 9.0)


def test_the_command_writes_a_threshold_that_a_model_keeps_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scorer = random_model(load_config(ModelConfig, "blt_scorer_small"), 3).float()
    folder = tmp_path / "scorer"
    folder.mkdir()
    save_config(scorer.config, folder / "config.yaml")
    save_file({name: weight.detach() for name, weight in scorer.named_parameters()}, folder / "model.safetensors")
    text = bytes(np.random.default_rng(0).integers(97, 123, 3000, dtype=np.uint8))
    (tmp_path / "text.txt").write_bytes(text)
    shipped = Path(__file__).parents[2] / "configs/models/blt_small.yaml"
    model_file = tmp_path / "model.yaml"
    model_file.write_text(shipped.read_text())
    command = ["data", "calibrate", str(model_file), "--scorer", str(folder), "--text", str(tmp_path / "text.txt")]
    assert main([*command, "--bytes-per-chunk", "3.5", "--sequence-length", "512", "--write"]) == 0
    assert "bytes per chunk" in capsys.readouterr().out
    written = load_config(ModelConfig, model_file, [f"stages.0.boundary.scorer_weights={folder}"])
    lines = zip(shipped.read_text().splitlines(), model_file.read_text().splitlines(), strict=True)
    assert [old.split(":")[0].strip() for old, new in lines if old != new] == ["threshold"]
    ids = torch.tensor([254, *text[:511]])
    assert 2.8 < build(written)(ids).stages[0].bytes_per_chunk < 4.2
    assert main(["data", "calibrate", "hnet_tiny", "--scorer", str(folder), "--text", "sample:validation"]) == 2
    assert "not of type entropy" in capsys.readouterr().err
