"""Files, names and overrides become one validated configuration, and the saved one is equal."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnet.config import config_names, find_config, load_config, save_config
from hnet.errors import ConfigError
from hnet.model.config import ModelConfig
from hnet.training.config import RunConfig

RUN = """\
output_dir: out
model:
  stages:
    - {d_model: 64, encoder: m1, decoder: m1}
    - d_model: 96
      main: T1
data:
  train: text.txt
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return path


@pytest.mark.parametrize("name", config_names("models"))
def test_every_shipped_model_loads_and_survives_saving(name: str, tmp_path: Path) -> None:
    config = load_config(ModelConfig, name)
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(ModelConfig, tmp_path / "saved.yaml") == config
    assert load_config(ModelConfig, find_config("models", name)) == config


@pytest.mark.parametrize("name", config_names("runs"))
def test_every_shipped_run_loads_and_survives_saving(name: str, tmp_path: Path) -> None:
    config = load_config(RunConfig, name)
    save_config(config, tmp_path / "new_folder" / "config.yaml")
    assert load_config(RunConfig, tmp_path / "new_folder" / "config.yaml") == config
    assert list((tmp_path / "new_folder").iterdir()) == [tmp_path / "new_folder" / "config.yaml"]


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("training.steps=7", "training.steps", 7),
        ("optimizer.learning_rate=1e-3", "optimizer.learning_rate", 1e-3),
        ("optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
        ("optimizer.lr_multipliers=[2, 1.5]", "optimizer.lr_multipliers", (2.0, 1.5)),
        ("model.stages.1.d_model=128", "model.stages.1.d_model", 128),
        ("training.checkpoint_every=null", "training.checkpoint_every", None),
        ("training.compile=true", "training.compile", True),
        ("training.peak_flops=H100", "training.peak_flops", "H100"),
        ("output_dir=a=b", "output_dir", "a=b"),
        ("logging.sample_prompt='1e-3'", "logging.sample_prompt", "1e-3"),
        ("logging.sample_prompt=", "logging.sample_prompt", None),
        ("data.train=*.txt", "data.train.0.path", "*.txt"),
        ("data.train=[a, {path: b, weight: 3}]", "data.train.1.weight", 3.0),
        ("model=hnet_tiny", "model.stages.1.d_model", 96),
    ],
)
def test_overrides(run_file: Path, override: str, path: str, expected: Any) -> None:
    value: Any = load_config(RunConfig, run_file, [override])
    for part in path.split("."):
        value = value[int(part)] if part.isdecimal() else getattr(value, part)
    assert value == expected
    assert type(value) is type(expected)


def test_overrides_apply_in_order_and_reach_into_a_named_model(run_file: Path) -> None:
    overrides = ["model.vocab_size=300", "model=hnet_tiny", "model.stages.0.boundary.ratio=3", "training.steps=1"]
    config = load_config(RunConfig, run_file, [*overrides, "training.steps=2"])
    tiny = load_config(ModelConfig, "hnet_tiny", ["stages.0.boundary.ratio=3"])
    assert config.model == tiny
    assert config.training.steps == 2


def test_a_model_path_is_relative_to_the_run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.yaml").write_text("stages: [{d_model: 32, main: m1}]\n")
    run = tmp_path / "runs" / "run.yaml"
    run.write_text("output_dir: out\nmodel: ../models/mine.yaml\ndata: {train: a.txt}\n")
    assert load_config(RunConfig, run).model.stages[0].d_model == 32
    monkeypatch.chdir(tmp_path)
    assert load_config(RunConfig, run, ["model=models/mine.yaml"]).model.stages[0].d_model == 32


def test_a_mistake_in_a_referenced_model_names_the_model_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("stages:\n  - d_model: 32\n    main: m1\n    windw: 3\n")
    (tmp_path / "run.yaml").write_text("output_dir: out\nmodel: mine.yaml\ndata: {train: a.txt}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml:4: unknown key 'windw' under model\.stages\.0"):
        load_config(RunConfig, tmp_path / "run.yaml")


def test_all_mistakes_are_reported_at_once(run_file: Path) -> None:
    run_file.write_text(RUN + "training: {steps: many, sed: 1}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(RunConfig, run_file)
    first, second = str(caught.value).splitlines()
    assert first == f"{run_file}:9: training.steps: got 'many' (text); allowed: an integer of at least 1"
    assert second.startswith(f"{run_file}:9: unknown key 'sed' under training; did you mean 'seed'? Valid keys: steps,")


def test_a_mapping_is_a_source_and_stays_as_it_was() -> None:
    mapping = {"stages": [{"d_model": 64, "main": "T1"}]}
    config = load_config(ModelConfig, mapping, ["stages.0.d_model=128"])
    assert config.stages[0].d_model == 128
    assert mapping == {"stages": [{"d_model": 64, "main": "T1"}]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("2.5E+2", 250.0),
        (".5", 0.5),
        ("2_048", 2048),
        ("on", "on"),
        ("no", "no"),
        ("010", "010"),
        ("2026-01-01", "2026-01-01"),
        ("12:30", "12:30"),
        ("True", True),
        ("~", None),
    ],
)
def test_numbers_and_booleans_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    from hnet.config.document import parse_value

    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_merge_keys_and_anchors(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(
        "stages:\n"
        "  - &outer {d_model: 64, encoder: m1, decoder: m1}\n"
        "  - {<<: *outer, d_model: 96}\n"
        "  - {d_model: 96, main: m1}\n"
    )
    stages = load_config(ModelConfig, path).stages
    assert [stage.d_model for stage in stages] == [64, 96, 96]
    assert stages[1].encoder == "m1"


_texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(
    text=st.one_of(
        _texts, st.sampled_from(["1e-3", "no", "null", "~", "0x10", "1_0", "a: b", "- a", "2026-01-01", " x "])
    ),
    rate=st.floats(min_value=1e-12, max_value=1e6, exclude_min=True),
    seed=st.integers(min_value=0, max_value=2**63),
)
def test_saving_and_loading_keeps_any_text_and_number(
    tmp_path_factory: pytest.TempPathFactory, text: str, rate: float, seed: int
) -> None:
    mapping = {
        "output_dir": text,
        "model": {"stages": [{"d_model": 64, "main": "T1"}]},
        "data": {"train": [{"path": text}]},
        "optimizer": {"learning_rate": rate},
        "training": {"seed": seed},
        "logging": {"sample_prompt": text},
    }
    config = load_config(RunConfig, mapping)
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    save_config(config, path)
    assert load_config(RunConfig, path) == config
