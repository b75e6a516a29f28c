"""Folders of BLT as Hugging Face's `transformers` writes them, to checkpoints of ours and back."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from hnet.config import save_config
from hnet.errors import CheckpointError
from hnet.interop.blt_config import blt_config, model_config
from hnet.interop.blt_weights import from_blt, to_blt
from hnet.model.boundaries.scorer import open_scorer
from hnet.model.config.entropy import SCORER_FOLDER
from hnet.model.loading import CONFIG, WEIGHTS, load
from hnet.model.saved_tensors import SavedTensors

THEIR_CONFIG = "config.json"


def import_blt(source: Path, output: Path) -> None:
    """Write the BLT in a folder of `transformers` as a checkpoint of ours, its entropy model inside as the scorer.

    Raises CheckpointError if `output` exists or a file cannot be read, ConfigError for settings that ours cannot say.
    """
    # Its defaults are what a file leaves out.
    from transformers import BltConfig

    if not (source / THEIR_CONFIG).is_file():
        raise CheckpointError(f"{source} has no {THEIR_CONFIG}; give a folder that `save_pretrained` wrote")
    kind = json.loads((source / THEIR_CONFIG).read_text()).get("model_type")
    if kind != "blt":
        raise CheckpointError(f"{source / THEIR_CONFIG}: model_type is {kind!r}; hnet imports blt")
    config = model_config(BltConfig.from_pretrained(source).to_dict(), str(output / SCORER_FOLDER))
    saved = SavedTensors(source)
    ours, scorer = from_blt({name: saved.tensor(name) for name in saved}, config)
    boundary = config.stages[0].boundary

    def write(draft: Path) -> None:
        save_config(config, draft / CONFIG)
        _save(ours, draft / WEIGHTS)
        (draft / SCORER_FOLDER).mkdir()
        save_config(boundary.model, draft / SCORER_FOLDER / CONFIG)  # type: ignore[attr-defined]
        _save(scorer, draft / SCORER_FOLDER / WEIGHTS)

    _written(output, write)


def export_blt(checkpoint: Path, output: Path) -> None:
    """Write a checkpoint, or a run's latest, as a folder that `transformers.BltForCausalLM.from_pretrained` reads.

    Raises CheckpointError if `output` exists or cannot be written, ConfigError if `transformers` has no equal of it.
    """
    model = load(checkpoint)
    theirs = blt_config(model.config)
    scorer = dict(open_scorer(model.config.stages[0].boundary).model.named_parameters())  # type: ignore[arg-type]
    weights = to_blt(dict(model.named_parameters()), scorer, model.config)

    def write(draft: Path) -> None:
        (draft / THEIR_CONFIG).write_text(json.dumps(theirs, indent=1))
        _save(weights, draft / WEIGHTS)

    _written(output, write)


def _written(output: Path, write: Callable[[Path], None]) -> None:
    """All of a folder or nothing."""
    if output.exists():
        raise CheckpointError(f"{output} exists already; remove it or choose another name")
    draft = output.parent / f".writing-{output.name}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        write(draft)
        draft.rename(output)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointError(f"cannot write {output}: {error}; free space, or choose another folder") from error


def _save(weights: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, path, metadata={"format": "pt"})
