"""Text files: no byte lost, no character cut, nothing read before it is used."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnet.data.text import SEGMENT_BYTES, WHOLE_FILE_BYTES, open_text, paragraph_ends, separator_ends
from hnet.errors import DataError


def parts(data: bytes, ends: list[int]) -> list[bytes]:
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(st.text(alphabet="ab\n\n é诗", max_size=400), st.integers(1, 20))
def test_paragraphs_cover_the_text_and_cut_no_character(text: str, minimum: int) -> None:
    data = text.encode()
    maximum = 2 * minimum + 4
    pieces = parts(data, paragraph_ends(data, minimum, maximum))
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= maximum for piece in pieces)
    for piece in pieces:
        piece.decode()


@given(st.binary(max_size=300))
def test_bytes_that_are_no_text_are_covered_too(data: bytes) -> None:
    pieces = parts(data, paragraph_ends(data, 4, 12))
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= 12 for piece in pieces)


def test_cuts_after_blank_lines_first() -> None:
    data = b"one one\n\ntwo\ntwo\n\n\nthree"
    assert parts(data, paragraph_ends(data, 4, 12)) == [b"one one\n\n", b"two\ntwo\n\n\n", b"three"]


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=3))
def test_separators_stay_with_the_document_before(data: bytes, separator: bytes) -> None:
    pieces = parts(data, separator_ends(data, separator))
    assert b"".join(pieces) == data
    assert all(pieces)
    assert all(piece.count(separator) == 1 and piece.endswith(separator) for piece in pieces[:-1])


def test_a_file_is_a_document(text_folder: Path) -> None:
    paths = sorted(text_folder.iterdir())
    source = open_text("folder", paths)
    assert [source.read(i).tobytes() for i in range(len(source))] == [path.read_bytes() for path in paths]
    assert [source.num_bytes(i) for i in range(len(source))] == [path.stat().st_size for path in paths]


def test_a_long_file_is_cut_at_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    data = b"".join(b"paragraph %d\n\n" % number * 40 for number in range(3000))
    assert len(data) > WHOLE_FILE_BYTES
    path.write_bytes(data)
    source = open_text("long", [path])
    documents = [source.read(i).tobytes() for i in range(len(source))]
    assert b"".join(documents) == data
    assert all(SEGMENT_BYTES <= len(document) <= 2 * SEGMENT_BYTES for document in documents[:-1])
    assert all(document.endswith(b"\n\n") for document in documents)


def test_split_on(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x\fy\f")
    (tmp_path / "b").write_bytes(b"")
    (tmp_path / "c").write_bytes(b"\xff\fz")
    source = open_text("three", [tmp_path / name for name in "abc"], "\f")
    assert [source.read(i).tobytes() for i in range(len(source))] == [b"x\f", b"y\f", b"", b"\xff\f", b"z"]


def test_opening_and_reading_a_large_file_does_not_load_it(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        for number in range(5):
            file.seek(number * (10 << 20))
            file.write(b"text\n\n")
        file.truncate(50 << 20)
    before = resident_bytes()
    source = open_text("large", [path])
    assert source.read(len(source) - 1).size == source.num_bytes(len(source) - 1)
    assert source.total_bytes() == 50 << 20
    assert source.read(0)[:6].tobytes() == b"text\n\n"
    del source
    source = open_text("large", [path], "text\n\n")
    assert len(source) == 6
    assert path.stat().st_size == 50 << 20
    assert resident_bytes() - before < 20 << 20


def resident_bytes() -> int:
    """Memory of our own, without pages of mapped files."""
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * 4096


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"hello")
    source = open_text("a", [path])
    path.write_bytes(b"hell")
    with pytest.raises(DataError, match=r"a\.txt has 4 bytes instead of 5"):
        source.read(0)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*gone\.txt: No such file"):
        open_text("gone", [tmp_path / "gone.txt"])
