import io
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file

import hnet
from hnet.errors import DataError
from hnet.inspect.boundaries import collect_boundaries
from hnet.inspect.command import LIMIT_BYTES, run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = hnet.build("hnet_tiny")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model.config.model_dump(mode="json")}))
    return folder


def test_terminal_page_and_picture(checkpoint: Path, tmp_path: Path) -> None:
    text = "It is a truth <universally> acknowledged"
    out = io.StringIO()
    html, png = tmp_path / "a.html", tmp_path / "a.png"
    run(checkpoint, text=text, html=html, png=png, console=Console(file=out, color_system=None, width=200))
    boundaries = collect_boundaries(hnet.load(checkpoint), text.encode())
    shown = out.getvalue().splitlines()
    assert shown[0].replace("|", "").replace("‖", "") == text
    assert shown[0].count("|") + shown[0].count("‖") == boundaries.stages[0].num_chunks
    assert "of word starts are boundaries" in out.getvalue()
    assert "&lt;" in html.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")


def test_file_of_any_bytes_is_cut(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(256)) * (LIMIT_BYTES // 256 + 1))
    out = io.StringIO()
    run(checkpoint, file=path, console=Console(file=out, color_system=None))
    assert "the first 65,536 of 65,792 bytes are shown" in out.getvalue()


def test_mistakes(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="either --text or --file"):
        run(checkpoint)
    with pytest.raises(DataError, match="No such file"):
        run(checkpoint, file=tmp_path / "none")
    with pytest.raises(DataError, match="Is a directory"):
        run(checkpoint, file=tmp_path)
    with pytest.raises(DataError, match="does not exist: make it first"):
        run(checkpoint, text="a", html=tmp_path / "none" / "a.html")
    with pytest.raises(DataError, match="empty"):
        run(checkpoint, text="")
