import warnings
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from hnet.inspect.boundaries import collect_boundaries
from hnet.inspect.png import save_png


@pytest.mark.parametrize(
    "data",
    [b"x", "Prix $5 & naïve 中文 😀\n".encode(), b"\xff\xfe\x1b", b"word " * 3000],
    ids=["x", "text", "bad", "long"],
)
def test_picture(rule_model: torch.nn.Module, tmp_path: Path, data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = save_png(collect_boundaries(rule_model, data), tmp_path / "a.png", title="$x")
    picture = imread(path)
    assert picture.shape[1] > 1000
    assert picture.shape[0] < 4000
    colours = {tuple((pixel * 255).round().astype(int)) for pixel in picture.reshape(-1, picture.shape[2])[:, :3][::7]}
    assert (0xA8, 0xD8, 0xF0) in colours
