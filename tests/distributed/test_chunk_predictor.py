import numpy as np
import pytest
from numpy.typing import NDArray

from hnet.distributed.chunk_predictor import ChunkPredictor, byte_histogram
from hnet.errors import CheckpointError


def windows(draw: np.random.Generator, num: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Byte counts of `num` windows of two languages, and units of two inner stages that follow spaces and line ends."""
    shares = draw.dirichlet(np.full(256, 0.3), size=2)
    mixed = draw.random((num, 1)) * shares[0] + draw.random((num, 1)) * shares[1]
    histograms = np.stack([draw.multinomial(2048, row / row.sum()) for row in mixed]).astype(np.float64)
    inner = 100 + 1.5 * histograms[:, 32] + 3 * histograms[:, 10] + 0.4 * histograms[:, 128:].sum(axis=1)
    units = np.stack([inner, 0.4 * inner], axis=1)
    return histograms, units + draw.normal(0, 3, units.shape)


def test_histogram_counts_bytes() -> None:
    counts = byte_histogram(np.frombuffer(b"abca\xff", dtype=np.uint8))
    assert counts.shape == (256,) and counts.sum() == 5
    assert (counts[ord("a")], counts[ord("b")], counts[255]) == (2, 1, 1)
    assert byte_histogram(np.array([256 + 7, 7]))[7] == 2


def test_knows_nothing_at_first_and_the_common_rate_next() -> None:
    predictor = ChunkPredictor(1)
    histograms = np.eye(256)[:8] * 1000
    assert np.array_equal(predictor.predict(histograms), np.zeros((8, 1)))
    predictor.update(histograms, np.full((8, 1), 250.0))
    unseen = np.eye(256)[200:202] * 500
    assert predictor.predict(unseen) == pytest.approx(125.0, rel=1e-3)


def test_learns_which_bytes_open_chunks() -> None:
    draw = np.random.default_rng(0)
    histograms, units = windows(draw, 640)
    predictor = ChunkPredictor(2)
    for begin in range(0, 512, 16):
        predictor.update(histograms[begin : begin + 16], units[begin : begin + 16])
    error = predictor.predict(histograms[512:]) - units[512:]
    assert (error.std(axis=0) < 0.4 * units[512:].std(axis=0)).all()


def test_forgets_what_the_router_no_longer_does() -> None:
    histograms, units = windows(np.random.default_rng(1), 64)
    predictor = ChunkPredictor(2)
    for _ in range(20):
        predictor.update(histograms, units)
    for _ in range(200):
        predictor.update(histograms, units / 2)
    assert np.abs(predictor.predict(histograms) / (units / 2) - 1).mean() < 0.02


def test_stays_within_the_window() -> None:
    predictor = ChunkPredictor(1)
    histograms = np.eye(256)[:4] * 100
    predictor.update(histograms, np.array([[0.0], [0.0], [100.0], [100.0]]))
    extremes = predictor.predict(np.eye(256)[:4] * 7)
    assert extremes.min() >= 0 and extremes.max() <= 7


def test_state_continues_exactly() -> None:
    histograms, units = windows(np.random.default_rng(2), 48)
    one, other = ChunkPredictor(2), ChunkPredictor(2)
    one.update(histograms[:16], units[:16])
    other.load_state_dict(one.state_dict())
    for predictor in (one, other):
        predictor.update(histograms[16:32], units[16:32])
    assert np.array_equal(one.predict(histograms[32:]), other.predict(histograms[32:]))
    with pytest.raises(CheckpointError, match=r"this model needs \(257, 1\)"):
        ChunkPredictor(1).load_state_dict(one.state_dict())
