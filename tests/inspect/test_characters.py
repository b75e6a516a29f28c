import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnet.inspect.characters import characters


@given(st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_every_byte_is_covered_once(data: bytes) -> None:
    shown = list(characters(data))
    assert [char.start for char in shown] == [0, *(char.stop for char in shown[:-1])][: len(shown)]
    assert sum(char.stop - char.start for char in shown) == len(data)
    assert all(char.text.isprintable() or char.text.isspace() for char in shown)
    assert not any(char.text in "\n\r\x85\u2028\u2029" for char in shown)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("aé中😀".encode(), ["a", "é", "中", "😀"]),
        (b"\xff\xc3(", ["\\xff", "\\xc3", "("]),
        (b"\x1b[31m", ["\\x1b", "[", "3", "1", "m"]),
        ("\u202e\u200b".encode(), ["\\xe2\\x80\\xae", "\\xe2\\x80\\x8b"]),
        (b"a\nb\t", ["a", "⏎", "b", "→"]),
        (b"\xed\xa0\x80", ["\\xed", "\\xa0", "\\x80"]),
    ],
)
def test_shown_text(data: bytes, expected: list[str]) -> None:
    assert [char.text for char in characters(data)] == expected


def test_cells() -> None:
    assert [char.cells for char in characters("a中\u0301".encode())] == [1, 2, 0]
