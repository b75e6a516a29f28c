"""What the tests of the data room share."""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hnet.data.document import Bytes

Texts = list[bytes]


class ListSource:
    """Documents in memory that remembers which of them were read."""

    name = "list"

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.read_indexes: set[int] = set()

    def __len__(self) -> int:
        return len(self.texts)

    def num_bytes(self, index: int) -> int:
        return len(self.texts[index])

    def read(self, index: int) -> Bytes:
        self.read_indexes.add(index)
        return np.frombuffer(self.texts[index], dtype=np.uint8)

    def total_bytes(self) -> int:
        return sum(map(len, self.texts))


@pytest.fixture(scope="session")
def list_source() -> type[ListSource]:
    return ListSource


def plain(element: Any) -> Any:
    """A batch, window or document as plain lists, to compare."""
    if hasattr(element, "input_ids"):
        tensors = element.input_ids, element.labels, element.cu_seqlens
        marks = None if element.marks is None else element.marks.tolist()
        return [tensor.tolist() for tensor in tensors] + [marks, element.num_targets, element.target_bytes]
    if hasattr(element, "read"):
        return element.read().tobytes(), element.complete
    if isinstance(element, list):
        return [plain(item) for item in element]
    if hasattr(element, "units"):
        return plain(element.units), element.start, element.stop
    if hasattr(element, "num_units"):
        out = np.empty(element.num_units, dtype=np.int64)
        element.fill(out, 0, element.num_units)
        return out.tolist()
    return element


@pytest.fixture
def assert_resumes() -> Callable[..., None]:
    """The law of every stage: from the state before each element, a new stage gives the rest of the stream."""

    def check(make: Callable[[], Iterator[Any]], num_elements: int = 40) -> None:
        stage, states, elements = make(), [], []
        for _ in range(num_elements):
            states.append(json.dumps(stage.state_dict()))
            element = next(stage, None)
            if element is None:
                states.pop()
                break
            elements.append(plain(element))
        assert elements
        for number, state in enumerate(states):
            restored = make()
            restored.load_state_dict(json.loads(state))
            assert json.dumps(restored.state_dict()) == state
            rest = [plain(element) for element in islice(restored, len(elements) - number)]
            assert rest == elements[number:], f"resumed before element {number}"
        rewound = make()
        next(rewound)
        rewound.load_state_dict(json.loads(states[0]))
        assert [plain(element) for element in islice(rewound, len(elements))] == elements

    return check


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """30 small text files of 1 to 180 bytes, some of them not UTF-8."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(30):
        text = (f"text {number} ".encode() * 20)[: 1 + number * 6]
        (folder / f"{number:02d}.txt").write_bytes(text if number % 5 else b"\xff\xfe" + text)
    return folder


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 400 tokens, trained on the shipped sample."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from hnet.data.sample_text import FOLDER

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [path.read_text(encoding="utf-8")[:20_000] for path in sorted(FOLDER.glob("*.txt"))]
    tokenizer.train_from_iterator(texts, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "bpe.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The `datasets` library keeps its copies in a folder of the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"
