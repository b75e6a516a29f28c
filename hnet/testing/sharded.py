"""Sharded checkpoints without the ranks that would write them."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from hnet.model.saved_tensors import INDEX, INDEX_VERSION, part_file


def write_sharded(weights: Mapping[str, Tensor], folder: Path, num_parts: int, *, seed: int = 0) -> None:
    """`weights` as `num_parts` ranks could have written them: cut at random places, the pieces dealt out at random."""
    generator = torch.Generator().manual_seed(seed)
    tensors: list[dict[str, list[Tensor]]] = [{} for _ in range(num_parts)]
    ranges: list[dict[str, list[tuple[int, int]]]] = [{} for _ in range(num_parts)]
    for name, weight in weights.items():
        flat = weight.detach().float().flatten()
        cuts = torch.randint(0, flat.numel() + 1, (num_parts,), generator=generator).tolist()
        borders = sorted({0, *cuts, flat.numel()})
        for start, stop in zip(borders, borders[1:], strict=False):
            part = int(torch.randint(0, num_parts, (), generator=generator))
            tensors[part].setdefault(name, []).append(flat[start:stop])
            ranges[part].setdefault(name, []).append((start, stop))
    files = {part_file("model", part, num_parts): part for part in range(num_parts)}
    for file, part in files.items():
        save_file({name: torch.cat(pieces) for name, pieces in tensors[part].items()}, folder / file)
    index = {
        "version": INDEX_VERSION,
        "shapes": {name: weight.shape for name, weight in weights.items()},
        "files": {file: ranges[part] for file, part in files.items()},
    }
    (folder / INDEX).write_text(json.dumps(index))
