"""Bad input of every kind, and the message each gets: exit code 2, no traceback, what is wrong and what to do."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file, save_file

import hnet
from hnet.cli import main
from hnet.config import save_config

RUN = """\
output_dir: out
model: hnet_tiny
data:
  train: sample:train
  sequence_length: 256
training:
  steps: 2
  global_batch_bytes: 256
logging: {progress: false}
"""


ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
"""2**40 values in 40 lines."""


class Case(NamedTuple):
    name: str
    command: str
    """Words of the command line; {tmp} is the test's folder."""
    expected: Sequence[str]
    """Parts of the message."""
    prepare: Callable[[Path], object] | None = None
    """Makes what the command reads; `run.yaml`, the quick run above, is there already."""


def _file(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def _run(change: Callable[[str], str]) -> Callable[[Path], object]:
    return _file("run.yaml", change(RUN))


def _checkpoint(folder: Path) -> Path:
    """A complete checkpoint of a tiny model."""
    checkpoint = folder / "ckpt"
    checkpoint.mkdir()
    model = hnet.build("hnet_tiny")
    save_config(model.config, checkpoint / "config.yaml")
    save_file(model.state_dict(), checkpoint / "model.safetensors")
    return checkpoint


def _truncated_weights(folder: Path) -> None:
    weights = _checkpoint(folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def _weights_of_another_model(folder: Path) -> None:
    weights = _checkpoint(folder) / "model.safetensors"
    save_file({"transformer.wte.weight": load_file(weights)["embedding.weight"]}, weights)


def _weights_of_another_width(folder: Path) -> None:
    config = _checkpoint(folder) / "config.yaml"
    config.write_text(config.read_text().replace("d_model: 96", "d_model: 128"))


def _checkpoint_without_config(folder: Path) -> None:
    (_checkpoint(folder) / "config.yaml").unlink()


def _pickle_instead_of_safetensors(folder: Path) -> None:
    (_checkpoint(folder) / "model.safetensors").write_bytes(b"\x80\x04\x95" + bytes(100))


def _truncated_shard(folder: Path) -> None:
    (folder / "text.txt").write_bytes(b"some text\n" * 1000)
    assert main(["data", "prepare", str(folder / "text.txt"), str(folder / "store"), "--quiet"]) == 0
    shard = max((folder / "store").iterdir(), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-100])


def _existing_store(folder: Path) -> None:
    (folder / "text.txt").write_bytes(b"some text")
    (folder / "store").mkdir()
    (folder / "store" / "mine").write_text("precious")


TRAIN = "train {tmp}/run.yaml"
PREPARE = "data prepare {tmp}/in --quiet {tmp}/store"

COMMAND_LINE = [
    Case("no command", "", ["required: command", "hnet --help"]),
    Case("misspelt command", "trian run.yaml", ["no command 'trian'", "did you mean 'train'?", "generate, inspect"]),
    Case("no run", "train", ["required: RUN.yaml", "hnet train --help"]),
    Case("unknown option", f"{TRAIN} --steps 3", ["unknown argument: --steps", "hnet train --help"]),
    Case("word too many", "inspect ckpt --text a b", ["unknown argument: b"]),
    Case("wrong option value", "bench train quickstart --steps 0", ["--steps: got '0'", "an integer of at least 1"]),
    Case("option out of range", "generate x --prompt a --top-p 2", ["--top-p: got '2'", "a number from 0 to 1"]),
    Case("two sources", "inspect x --text a --file b", ["--file: not allowed with argument --text"]),
]

FILES = [
    Case("no such run", "train {tmp}/rum.yaml", ["no such file: {tmp}/rum.yaml", "did you mean {tmp}/run.yaml?"]),
    Case("no such shipped run", "train quikstart", ["no configuration 'quikstart'", "did you mean 'quickstart'?"]),
    Case("a folder", "train {tmp}", ["{tmp} is a folder", "give a YAML file"]),
    Case("empty run", TRAIN, ["run.yaml is empty", "mapping"], _file("run.yaml", "# nothing yet\n")),
    Case("a list", TRAIN, ["run.yaml holds a list", "mapping"], _file("run.yaml", "- a\n- b\n")),
    Case("binary run", TRAIN, ["run.yaml is not UTF-8 text (byte 1)"], _file("run.yaml", b"a\xff\x00")),
    Case("not YAML", TRAIN, ["not valid YAML: expected ',' or ']'"], _file("run.yaml", "a: [1,\nb: 2\n")),
    Case("tabs", TRAIN, ["run.yaml:2: not valid YAML", "\\t"], _file("run.yaml", "data:\n\ttrain: a\n")),
    Case(
        "key twice", TRAIN, ["run.yaml:11: key 'model' is already set on line 2"], _run(lambda run: f"{run}\nmodel: x")
    ),
    Case("bomb of aliases", TRAIN, ["too large or too deeply nested"], _file("run.yaml", ALIASES)),
    Case(
        "YAML that builds objects",
        TRAIN,
        ["run.yaml:1: tag !!python/object/apply:os.system", "plain values"],
        _file("run.yaml", "output_dir: !!python/object/apply:os.system [ls]\n"),
    ),
    Case(
        "missing keys",
        TRAIN,
        ["missing key 'output_dir'; give text", "missing key 'data'"],
        _file("run.yaml", "model: hnet_tiny\n"),
    ),
    Case(
        "unknown key",
        TRAIN,
        ["run.yaml:7: unknown key 'step' under training; did you mean 'steps'?", "Valid keys: steps"],
        _run(lambda run: run.replace("steps: 2", "step: 2")),
    ),
    Case(
        "key in the wrong place",
        TRAIN,
        ["run.yaml:10: unknown key 'zero_stage'; did you mean 'engine.zero_stage'?"],
        _run(lambda run: run + "zero_stage: 1\n"),
    ),
    Case(
        "wrong type",
        TRAIN,
        ["run.yaml:7: training.steps: got 'many' (text); allowed: an integer of at least 1"],
        _run(lambda run: run.replace("steps: 2", "steps: many")),
    ),
    Case(
        "no such model",
        TRAIN,
        ["run.yaml:2: model: no configuration 'hnet_tny'", "did you mean 'hnet_tiny'?"],
        _run(lambda run: run.replace("hnet_tiny", "hnet_tny")),
    ),
    Case(
        "no such model file",
        TRAIN,
        ["run.yaml:2: model: cannot read {tmp}/mine.yaml", "No such file"],
        _run(lambda run: run.replace("hnet_tiny", "mine.yaml")),
    ),
]

OVERRIDES = [
    Case("no equals sign", f"{TRAIN} steps", ["override 'steps' is not of the form key.path=value"]),
    Case(
        "unknown override",
        f"{TRAIN} trainin.steps=3",
        ["override 'trainin.steps=3': unknown key 'trainin'", "'training'?"],
    ),
    Case("below the range", f"{TRAIN} training.seed=-1", ["training.seed: got -1 (an integer)", "at least 0"]),
    Case(
        "outside a share", f"{TRAIN} schedule.decay=1.5", ["schedule.decay: got 1.5 (a number)", "a number from 0 to 1"]
    ),
    Case("not a number", f"{TRAIN} optimizer.learning_rate=.nan", ["optimizer.learning_rate: got '.nan' (text)"]),
    Case("no such choice", f"{TRAIN} training.precision=fp16", ["got 'fp16' (text); allowed: one of fp32, bf16"]),
    Case("a flag as a number", f"{TRAIN} training.steps=true", ["training.steps: got true; allowed: an integer"]),
    Case("a number as text", f"{TRAIN} output_dir=2026", ["output_dir: got 2026", "put it in quotes"]),
    Case("nothing to train on", f"{TRAIN} data.train=[]", ["data.train: got [] (a list)", "at least 1"]),
    Case(
        "bound on chunks above one per unit",
        f"{TRAIN} model.stages.0.boundary.max_chunk_fraction=2",
        ["boundary.max_chunk_fraction: got 2", "a number greater than 0 of at most 1 or null"],
    ),
    Case(
        "filled to no bound",
        f"{TRAIN} model.stages.0.boundary.fill_chunks=true",
        ["model.stages.0.boundary: fill_chunks needs max_chunk_fraction"],
    ),
    Case(
        "no such precision of the residual",
        f"{TRAIN} model.stages.0.residual_precision=fp8",
        ["model.stages.0.residual_precision: got 'fp8'", "one of fp32, tf32, bf16 or null"],
    ),
    Case("no such stage", f"{TRAIN} model.stages.2.d_model=8", ["model.stages has 2 items", "from 0 to 1"]),
    Case("inside a number", f"{TRAIN} training.steps.x=8", ["training.steps is an integer (2) and has no 'x' inside"]),
    Case("broken list", f"{TRAIN} data.train=[a", ["override 'data.train=[a'", "not valid YAML"]),
    Case(
        "layer string", f"{TRAIN} model.stages.1.main=T0", ["model.stages.1.main: layer string 'T0'", "such as 'm4T22'"]
    ),
    Case(
        "heads", f"{TRAIN} model.stages.1.d_model=98", ["model.stages.1: attention.num_heads 4 must divide d_model 98"]
    ),
    Case(
        "shrinking widths", f"{TRAIN} model.stages.0.d_model=128", ["stages[1].d_model 96 is smaller", "may not shrink"]
    ),
    Case(
        "batch",
        f"{TRAIN} training.global_batch_bytes=100",
        ["training.global_batch_bytes 100 must be a multiple of", "256"],
    ),
    Case(
        "multipliers", f"{TRAIN} optimizer.lr_multipliers=[1]", ["optimizer.lr_multipliers has 1 numbers for 2 stages"]
    ),
]

DATA = [
    Case(
        "no such text", f"{TRAIN} data.train={{tmp}}/books.txt", ["{tmp}/books.txt does not exist", "a folder, a glob"]
    ),
    Case("no such sample", f"{TRAIN} data.train=sample:trian", ["sample:trian does not exist", "sample:train"]),
    Case(
        "no such tokenizer", f"{TRAIN} data.tokenizer={{tmp}}/t.json", ["{tmp}/t.json does not exist", "give `bytes`"]
    ),
    Case(
        "not a tokenizer",
        f"{TRAIN} data.tokenizer={{tmp}}/t.json",
        ["t.json is not a `tokenizers` JSON file"],
        _file("t.json", "{}"),
    ),
    Case("empty text", PREPARE.replace("/in", "/in.txt"), ["in.txt is empty", "0 bytes"], _file("in.txt", b"")),
    Case("empty folder", PREPARE, ["folder {tmp}/in holds no files"], lambda folder: (folder / "in").mkdir()),
    Case(
        "compressed",
        PREPARE.replace("/in", "/in.zip"),
        ["in.zip is compressed", "unpack it first"],
        _file("in.zip", b"PK"),
    ),
    Case(
        "missing column",
        PREPARE.replace("/in", "/in.jsonl"),
        ["in.jsonl:1: no column 'text'; did you mean 'content'?"],
        _file("in.jsonl", json.dumps({"content": "a"}) + "\n"),
    ),
    Case(
        "broken JSON",
        PREPARE.replace("/in", "/in.jsonl"),
        ["in.jsonl:2: not JSON", "one JSON object"],
        _file("in.jsonl", '{"text": "a"}\n{"text": \n'),
    ),
    Case(
        "number for text",
        PREPARE.replace("/in", "/in.jsonl"),
        ["in.jsonl", "'text' holds int instead of text"],
        _file("in.jsonl", '{"text": 5}\n'),
    ),
    Case(
        "damaged table",
        PREPARE.replace("/in", "/in.parquet"),
        ["in.parquet cannot be read"],
        _file("in.parquet", b"PAR1 and no more"),
    ),
    Case("store exists", "data prepare {tmp}/text.txt {tmp}/store", ["{tmp}/store exists already"], _existing_store),
    Case("truncated shard", f"{TRAIN} data.train={{tmp}}/store", ["truncated", "the header says"], _truncated_shard),
]


def _interrupted_run(damage: Callable[[Path], object]) -> Callable[[Path], object]:
    def prepare(folder: Path) -> None:
        assert main(["train", str(folder / "run.yaml"), f"output_dir={folder}/out", "training.steps=1"]) == 0
        damage(folder / "out" / "checkpoints" / "step-00000001")

    return prepare


def _shorten(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-10])


RESUMED = "train {tmp}/run.yaml output_dir={tmp}/out"
RUNS = [
    Case("output is a file", RESUMED, ["output_dir: cannot write to {tmp}/out", "choose another"], _file("out", "")),
    Case(
        "tokens without tokenizer",
        f"{TRAIN} model=bpe_transformer_small",
        ["model.vocab_size is 8192, but data.tokenizer is `bytes`", "set data.tokenizer"],
    ),
    Case(
        "another model in the folder",
        f"{RESUMED} model.stages.1.main=T2",
        ["{tmp}/out has another model", "main was 'T1' and is now 'T2'"],
        _interrupted_run(lambda checkpoint: None),
    ),
    Case(
        "damaged checkpoint",
        RESUMED,
        ["step-00000001/optimizer.safetensors is damaged", "delete the output_dir to start again"],
        _interrupted_run(_shorten("optimizer.safetensors")),
    ),
    Case(
        "other text on resuming",
        f"{RESUMED} data.train=sample:validation",
        ["data position does not fit", "start a new run with another output_dir"],
        _interrupted_run(lambda checkpoint: None),
    ),
]

CHECKPOINTS = [
    Case("no such checkpoint", "generate {tmp}/none --prompt a", ["no such checkpoint or run folder: {tmp}/none"]),
    Case("not a checkpoint", "generate {tmp} --prompt a", ["{tmp} is no checkpoint", "give a run's output_dir"]),
    Case(
        "truncated weights",
        "generate {tmp}/ckpt --prompt a",
        ["model.safetensors cannot be read", "damaged"],
        _truncated_weights,
    ),
    Case(
        "a pickle",
        "generate {tmp}/ckpt --prompt a",
        ["model.safetensors cannot be read"],
        _pickle_instead_of_safetensors,
    ),
    Case(
        "another model",
        "inspect {tmp}/ckpt --text a",
        ["does not fit its config.yaml", "transformer.wte.weight"],
        _weights_of_another_model,
    ),
    Case(
        "another width", "inspect {tmp}/ckpt --text a", ["has shape", "config.yaml asks for"], _weights_of_another_width
    ),
    Case("no config", "generate {tmp}/ckpt --prompt a", ["{tmp}/ckpt has no config.yaml"], _checkpoint_without_config),
    Case(
        "nothing to inspect",
        "inspect {tmp}/ckpt --file {tmp}/empty",
        ["empty: give at least one byte"],
        lambda folder: (_checkpoint(folder), (folder / "empty").touch()),
    ),
    Case(
        "no folder for the page",
        "inspect {tmp}/ckpt --text abc --html {tmp}/no/a.html",
        ["{tmp}/no does not exist"],
        _checkpoint,
    ),
]

BENCH = "bench kernels --device cpu --rounds 1"
BENCHMARKS = [
    Case("no such op", f"{BENCH} --ops ema,upsmaple", ["no op or case 'upsmaple'", "there are: chunk, ", ", path"]),
    Case("no such dtype", f"{BENCH} --dtypes bf16,fp8", ["no dtype 'fp8'", "bf16, fp32"]),
    Case("size of no pack", f"{BENCH} --sizes 20", ["--sizes 20 is too short for 8 documents", "give 40 or more"]),
    Case("sizes in words", f"{BENCH} --sizes 1M", ["argument --sizes: got '1M'", "an integer of at least 1"]),
    Case("width of no heads", f"{BENCH} --width 100", ["--width 100 is not divisible by the 16 heads"]),
]

CASES = [*BENCHMARKS, *COMMAND_LINE, *FILES, *OVERRIDES, *DATA, *RUNS, *CHECKPOINTS]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_bad_input_is_one_clear_message(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # Messages show paths as they were typed; absolute ones in all cases, so that they can be compared.
    folder = tmp_path / "given"
    folder.mkdir()
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "elsewhere"))
    (folder / "run.yaml").write_text(RUN)
    if case.prepare is not None:
        case.prepare(folder)
    capsys.readouterr()
    code = main([word.format(tmp=folder) for word in case.command.split()])
    captured = capsys.readouterr()
    assert code == 2, captured.err
    # Libraries may show a progress bar of their own before it.
    _, found, message = f"\n{captured.err}".replace("\r", "\n").rpartition("\nerror: ")
    assert found
    for part in case.expected:
        assert part.replace("{tmp}", str(folder)) in message
    for jargon in ("Traceback", "pydantic", "validation error", "NoneType", "KeyError"):
        assert jargon not in message
    assert len(message) < 1500


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 20
    assert len({case.name for case in CASES}) == len(CASES)
