"""The weights of any checkpoint as plain safetensors, one output file at a time: the memory of one file is enough.

    config.yaml                              that of the checkpoint
    model.safetensors                        if one file holds them; else
    model-00001-of-000NN.safetensors         whole tensors in the model's order, and
    model.safetensors.index.json             where each is, as Hugging Face's libraries read it

`hnet.load` opens the folder.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from hnet.errors import CheckpointError
from hnet.model.language_model import LanguageModel
from hnet.model.loading import CONFIG, check_fits, checkpoint_folder, saved_model_config
from hnet.model.saved_tensors import SavedTensors, whole_file


def consolidate(checkpoint: Path, output: Path, *, max_shard_bytes: int) -> list[Path]:
    """Write the weights of a checkpoint, or of a run's latest, to a new folder; returns the files with weights.

    A file has at most `max_shard_bytes` of tensors, or one tensor that is larger. Raises CheckpointError if `output`
    exists or cannot be written, or if the checkpoint is damaged; nothing is left of a failed attempt.
    """
    folder = checkpoint_folder(checkpoint)
    model = LanguageModel(saved_model_config(folder), device="meta")
    saved = SavedTensors(folder)
    check_fits(model, saved)
    if output.exists():
        raise CheckpointError(f"{output} exists already; remove it or choose another name")
    draft = output.parent / f".writing-{output.name}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        names = [name for name, _ in model.named_parameters()]
        files = _write(saved, names, draft, max_shard_bytes)
        shutil.copyfile(folder / CONFIG, draft / CONFIG)
        model.config.keep(draft)
        draft.rename(output)
    except CheckpointError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointError(f"cannot write {output}: {error}; free space, or choose another folder") from error
    return [output / file for file in files]


def _write(saved: SavedTensors, names: list[str], folder: Path, max_shard_bytes: int) -> list[str]:
    sizes = {name: math.prod(saved.shapes[name]) * saved.dtype(name).itemsize for name in names}
    shards = list(_shards(sizes, max_shard_bytes))
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = [whole_file("model")]
    for file, shard in zip(files, shards, strict=True):
        _write_shard(saved, shard, folder / file)
    if len(shards) > 1:
        weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / f"{whole_file('model')}.index.json").write_text(json.dumps(index, indent=1))
    return files


def _write_shard(saved: SavedTensors, names: list[str], path: Path) -> None:
    tensors: dict[str, torch.Tensor] = {name: saved.tensor(name) for name in names}
    save_file(tensors, path, metadata={"format": "pt"})
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _shards(sizes: Mapping[str, int], max_bytes: int) -> Iterator[list[str]]:
    """Names in their order, in groups of at most `max_bytes`."""
    shard: list[str] = []
    room = max_bytes
    for name, size in sizes.items():
        if shard and size > room:
            yield shard
            shard, room = [], max_bytes
        shard.append(name)
        room -= size
    yield shard
