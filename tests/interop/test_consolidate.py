"""`hnet export`: whatever shards hold the weights, plain safetensors come out, with the memory of one output file."""

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import hnet
from hnet.cli import main
from hnet.config import save_config
from hnet.errors import CheckpointError
from hnet.interop import consolidate as module
from hnet.interop.consolidate import consolidate
from hnet.testing.sharded import write_sharded

LARGE = 1 << 30


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A tiny model as three ranks would have saved it."""
    torch.manual_seed(0)
    model = hnet.build("hnet_tiny")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_config(model.config, folder / "config.yaml")
    write_sharded(dict(model.named_parameters()), folder, 3)
    return folder


def same_model(one: Path, other: Path) -> bool:
    left, right = (dict(hnet.load(path).named_parameters()) for path in (one, other))
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_command_writes_one_file_that_loads(
    sharded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "exported"
    assert main(["export", str(sharded), str(output)]) == 0
    assert sorted(path.name for path in output.iterdir()) == ["config.yaml", "model.safetensors"]
    assert same_model(sharded, output)
    assert "bytes in 1 files" in capsys.readouterr().out
    assert main(["export", str(output), str(output)]) == 2
    assert f"{output} exists already" in capsys.readouterr().err


def test_larger_models_become_several_files(sharded: Path, tmp_path: Path) -> None:
    limit = 100_000
    files = consolidate(sharded, tmp_path / "exported", max_shard_bytes=limit)
    assert len(files) > 3
    index = json.loads((tmp_path / "exported" / "model.safetensors.index.json").read_text())
    sizes = []
    for file in files:
        tensors = load_file(file)
        assert all(index["weight_map"][name] == file.name for name in tensors)
        sizes.append(sum(tensor.nbytes for tensor in tensors.values()))
        assert sizes[-1] <= limit or len(tensors) == 1
    assert index["metadata"]["total_size"] == sum(sizes)
    assert same_model(sharded, tmp_path / "exported")


def test_no_more_than_one_file_is_held_in_memory(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, alive, peak = 100_000, dict[int, int](), [0]
    write = module.save_file

    def count(tensors: dict[str, torch.Tensor], *arguments: Any, **settings: Any) -> None:
        for tensor in tensors.values():
            storage = tensor.untyped_storage()
            alive[id(tensor)] = storage.nbytes()
            weakref.finalize(tensor, alive.pop, id(tensor))
        peak[0] = max(peak[0], sum(alive.values()))
        write(tensors, *arguments, **settings)

    monkeypatch.setattr(module, "save_file", count)
    consolidate(sharded, tmp_path / "exported", max_shard_bytes=limit)
    model = hnet.load(sharded)
    largest = max(parameter.nbytes for parameter in model.parameters())
    total = sum(parameter.nbytes for parameter in model.parameters())
    assert peak[0] <= max(limit, largest) < total / 4
    assert not alive


def test_nothing_is_left_of_a_failed_attempt(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(CheckpointError, match=r"cannot write .*exported: .*No space left.* free space"):
        consolidate(sharded, tmp_path / "exported", max_shard_bytes=LARGE)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
