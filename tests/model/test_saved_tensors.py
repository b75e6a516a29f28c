"""Every layout of a checkpoint's files reads as the same tensors, by ranges, and damage is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from hnet.errors import CheckpointError
from hnet.model.saved_tensors import SavedTensors
from hnet.testing.sharded import write_sharded

WEIGHTS = {
    "embedding.weight": torch.randn(7, 5),
    "stage.norm.weight": torch.randn(3),
    "stage.scale": torch.tensor(2.0),
    "stage.conv.weight": torch.randn(4, 1, 6),
}


def one_file(folder: Path) -> None:
    save_file(WEIGHTS, folder / "model.safetensors")


def hugging_face_files(folder: Path) -> None:
    names = list(WEIGHTS)
    files = {"model-00001-of-00002.safetensors": names[:1], "model-00002-of-00002.safetensors": names[1:]}
    for file, own in files.items():
        save_file({name: WEIGHTS[name] for name in own}, folder / file)
    weight_map = {name: file for file, own in files.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def five_ranks(folder: Path) -> None:
    write_sharded(WEIGHTS, folder, 5)


@pytest.fixture(params=[one_file, hugging_face_files, five_ranks], scope="module")
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SavedTensors:
    write: Callable[[Path], None] = request.param
    folder = tmp_path_factory.mktemp(write.__name__)
    write(folder)
    return SavedTensors(folder)


def test_names_shapes_and_values(saved: SavedTensors) -> None:
    assert set(saved) == set(WEIGHTS)
    for name, weight in WEIGHTS.items():
        assert saved.shapes[name] == weight.shape
        assert saved.dtype(name) == torch.float32
        assert torch.equal(saved.tensor(name), weight)


@given(data=st.data())
def test_any_range(saved: SavedTensors, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(WEIGHTS)))
    start = data.draw(st.integers(0, WEIGHTS[name].numel()))
    stop = data.draw(st.integers(start, WEIGHTS[name].numel()))
    assert torch.equal(saved.read(name, start, stop), WEIGHTS[name].flatten()[start:stop])


def test_a_range_of_one_file_is_a_view_of_the_mapped_file(tmp_path: Path) -> None:
    one_file(tmp_path)
    saved = SavedTensors(tmp_path)
    first, again = (saved.read("embedding.weight", 10, 20) for _ in range(2))
    assert first.data_ptr() == again.data_ptr()


def test_another_models_tensor(saved: SavedTensors) -> None:
    with pytest.raises(CheckpointError, match=r"has no tensor 'head\.weight': it belongs to another model"):
        saved.read("head.weight", 0, 1)


def drop_a_range(index: dict[str, Any]) -> None:
    file = next(file for file, ranges in index["files"].items() if ranges)
    index["files"][file].popitem()


def repeat_a_range(index: dict[str, Any]) -> None:
    ranges = next(ranges for ranges in index["files"].values() if ranges)
    name = next(iter(ranges))
    ranges[name].append(ranges[name][0])


def lose_the_shapes(index: dict[str, Any]) -> None:
    del index["shapes"]


def come_from_the_future(index: dict[str, Any]) -> None:
    index["version"] = 99


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_a_range, r"index\.json is damaged: .* (missing or there twice|elements of)"),
        (repeat_a_range, r"index\.json is damaged: elements .* are missing or there twice"),
        (lose_the_shapes, r"index\.json cannot be read \('shapes'\)"),
        (come_from_the_future, r"index\.json has format version 99; this program reads 1"),
    ],
)
def test_a_damaged_index(tmp_path: Path, damage: Callable[[dict[str, Any]], None], message: str) -> None:
    five_ranks(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    damage(index)
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        SavedTensors(tmp_path)


def test_a_missing_part(tmp_path: Path) -> None:
    five_ranks(tmp_path)
    saved = SavedTensors(tmp_path)
    for part in tmp_path.glob("model-*"):
        part.unlink()
    with pytest.raises(
        CheckpointError, match=r"model-0000\d-of-00005\.safetensors cannot be read .* another checkpoint"
    ):
        saved.tensor("embedding.weight")
