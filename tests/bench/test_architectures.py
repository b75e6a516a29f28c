"""`hnet bench architectures`: what it trains, what it writes, and that it goes on where it was."""

import json
import subprocess
from pathlib import Path

import pytest

from hnet.bench import architectures
from hnet.bench.architectures_report import BEGIN, END, Table, draw, markdown, page_of, summary
from hnet.cli import main
from hnet.config import load_config
from hnet.config.library import config_names
from hnet.training.config import RunConfig

SHORT = ["--set", "hnet_tiny:data.validation_bytes=2000", "--set", "hnet_tiny:training.global_batch_bytes=2048"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Commands that were started, in this process instead of one of their own."""
    started: list[tuple[str, ...]] = []

    def start(*words: str) -> None:
        started.append(words)
        if words[0] == "launch":
            words = ("train", words[1], "engine={}")
        if main(list(words)):
            raise subprocess.CalledProcessError(2, ["hnet", *words])

    monkeypatch.setattr(architectures, "_hnet", start)
    monkeypatch.setattr(architectures, "_TIMED_STEPS", 1)
    return started


def bench(folder: Path, *words: str) -> int:
    out = folder / "docs"
    return main(["bench", "architectures", "--work", str(folder / "work"), "--out", str(out), *words])


def test_a_model_is_trained_scored_and_put_into_the_table(tmp_path: Path, calls: list[tuple[str, ...]]) -> None:
    out = tmp_path / "docs"
    out.mkdir()
    (out / "README.md").write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    (out / "hnet.md").write_text("# H-Net\n")
    words = ["--minutes", "0", "--zero3", "0.0001", "--configs", "hnet_tiny", *SHORT]
    assert bench(tmp_path, *words) == 0
    assert [call[0] for call in calls] == ["bench", "train", "launch"]
    entry = json.loads((out / "table.json").read_text())["hnet_tiny"]
    assert (entry["parameters"], entry["lookup_parameters"], entry["steps"]) == (211928, 256 * 64, 12)
    assert entry["loss"][1] < entry["loss"][0] and entry["held_out"][-1][1] < entry["held_out"][0][1]
    assert entry["training_flops_per_byte"] == pytest.approx(3 * entry["forward_flops_per_byte"])
    assert entry["zero3"]["loss"][1] < entry["zero3"]["loss"][0] and entry["zero3"]["ranks"] == 2
    page = (out / "README.md").read_text()
    assert page.startswith("before\n\n") and page.endswith("\n\nafter\n") and "old" not in page
    assert "| [`hnet_tiny`](hnet.md) | 0.21 M |" in page
    assert (out / "bits_per_byte.png").read_bytes().startswith(b"\x89PNG")
    assert bench(tmp_path, *words) == 0
    assert len(calls) == 3
    assert (out / "README.md").read_text() == page
    # As if it had been cut off: the runs go on with the steps that were chosen, and have none left.
    (out / "table.json").unlink()
    assert bench(tmp_path, *words) == 0
    assert [call[0] for call in calls[3:]] == ["train", "launch"]
    assert json.loads((out / "table.json").read_text())["hnet_tiny"]["held_out"] == entry["held_out"]


def test_models_that_cannot_be_trained_are_named_at_the_end(
    tmp_path: Path, calls: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    missing = f"hnet_tiny:data.train={tmp_path / 'missing.txt'}"
    assert bench(tmp_path, "--configs", "hnet_tiny", "--set", missing) == 2
    assert "not trained: hnet_tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", "x.txt"], "--text and --held-out go together"),
        (["--set", "steps=3"], "give NAME:key.path=value"),
        (["--configs", "hnet_tyni"], "did you mean 'hnet_tiny'"),
    ],
)
def test_refusals(tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tmp_path, *words) == 2
    assert message in capsys.readouterr().err


def test_a_page_without_a_place_for_the_table_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="has no place for the table"):
        Table(tmp_path)


def test_every_small_model_is_compared() -> None:
    names = architectures.small_models()
    assert set(names) <= set(config_names("models"))
    assert {"hnet_small", "byte_transformer_small"} <= set(names)
    assert not {"bpe_transformer_small", "blt_scorer_small"} & set(names)


def test_a_model_has_the_page_of_the_longest_name() -> None:
    assert page_of("hnet_space_small", ["hnet", "hnet_space"]) == "hnet_space"
    assert page_of("hnet_small", ["hnet", "hnet_space"]) == "hnet"
    assert page_of("byte_mamba_small", ["byte2word"]) is None


def test_other_measures_than_bits_per_byte_say_what_they_are(tmp_path: Path) -> None:
    rows = [
        {
            "step": step, "bytes_seen": 100 * step, "bytes_per_second": 50.0, "loss": 9.0 / step, "boundary": [],
            "flops_per_byte": 3e6, "masked_subword_cross_entropy": 7.0, "validation_masked_subword_cross_entropy": 6.0,
        }
        for step in (1, 2)
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    config = load_config(RunConfig, "quickstart", ["model=byte_transformer_small", f"output_dir={tmp_path}"])
    entry = summary(config) | {"minutes": 1.0}
    assert (entry["seconds"], entry["forward_flops_per_byte"], entry["loss"]) == (4.0, 1e6, [9.0, 6.75])
    (row,) = (line for line in markdown({"a": entry}, []) if line.startswith("| `a` |"))
    assert "6.000 to 6.000 (nats per masked subword)" in row
    draw({"a": entry}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
