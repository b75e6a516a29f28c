import numpy as np
import pytest
from numpy.typing import NDArray

from hnet.distributed.chunk_predictor import NUM_FEATURES, ChunkPredictor, byte_features
from hnet.errors import CheckpointError


def bytes_alone(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Features of windows of which nothing is known but how often each byte occurs."""
    return np.pad(counts, ((0, 0), (0, NUM_FEATURES - 256)))


def windows(draw: np.random.Generator, num: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Byte counts of `num` windows of two languages, and units of two inner stages that follow spaces and line ends."""
    shares = draw.dirichlet(np.full(256, 0.3), size=2)
    mixed = draw.random((num, 1)) * shares[0] + draw.random((num, 1)) * shares[1]
    features = np.stack([draw.multinomial(2048, row / row.sum()) for row in mixed]).astype(np.float64)
    inner = 100 + 1.5 * features[:, 32] + 3 * features[:, 10] + 0.4 * features[:, 128:].sum(axis=1)
    units = np.stack([inner, 0.4 * inner], axis=1)
    return bytes_alone(features), units + draw.normal(0, 3, units.shape)


def test_features_count_bytes_and_pairs_of_classes() -> None:
    counts = byte_features(np.frombuffer(b"abca\xff", dtype=np.uint8))
    assert counts.shape == (NUM_FEATURES,) and counts[:256].sum() == 5 and counts[256:].sum() == 4
    assert (counts[ord("a")], counts[ord("b")], counts[255]) == (2, 1, 1)
    assert byte_features(np.array([256 + 7, 7]))[7] == 2
    assert byte_features(np.array([], dtype=np.int64)).sum() == 0
    one, other = (byte_features(np.frombuffer(text, dtype=np.uint8)) for text in (b"ab. cd", b". abcd"))
    assert np.array_equal(one[:256], other[:256]) and not np.array_equal(one, other)


def test_knows_nothing_at_first_and_the_common_rate_next() -> None:
    predictor = ChunkPredictor(1)
    features = bytes_alone(np.eye(256)[:8] * 1000)
    assert np.array_equal(predictor.predict(features), np.zeros((8, 1)))
    predictor.update(features, np.full((8, 1), 250.0))
    unseen = bytes_alone(np.eye(256)[200:202] * 500)
    assert predictor.predict(unseen) == pytest.approx(125.0, rel=1e-3)


def test_learns_which_bytes_open_chunks() -> None:
    draw = np.random.default_rng(0)
    features, units = windows(draw, 640)
    predictor = ChunkPredictor(2)
    for begin in range(0, 512, 16):
        predictor.update(features[begin : begin + 16], units[begin : begin + 16])
    error = predictor.predict(features[512:]) - units[512:]
    assert (error.std(axis=0) < 0.4 * units[512:].std(axis=0)).all()


def test_forgets_what_the_router_no_longer_does() -> None:
    features, units = windows(np.random.default_rng(1), 64)
    predictor = ChunkPredictor(2)
    for _ in range(20):
        predictor.update(features, units)
    for _ in range(200):
        predictor.update(features, units / 2)
    assert np.abs(predictor.predict(features) / (units / 2) - 1).mean() < 0.02


def test_stays_within_the_window() -> None:
    predictor = ChunkPredictor(1)
    features = bytes_alone(np.eye(256)[:4] * 100)
    predictor.update(features, np.array([[0.0], [0.0], [100.0], [100.0]]))
    extremes = predictor.predict(bytes_alone(np.eye(256)[:4] * 7))
    assert extremes.min() >= 0 and extremes.max() <= 7


def test_state_continues_exactly() -> None:
    features, units = windows(np.random.default_rng(2), 48)
    one, other = ChunkPredictor(2), ChunkPredictor(2)
    one.update(features[:16], units[:16])
    other.load_state_dict(one.state_dict())
    for predictor in (one, other):
        predictor.update(features[16:32], units[16:32])
    assert np.array_equal(one.predict(features[32:]), other.predict(features[32:]))
    with pytest.raises(CheckpointError, match=r"this model needs \(513, 1\)"):
        ChunkPredictor(1).load_state_dict(one.state_dict())
