"""Characters of bytes, whole and byte by byte, against Python's decoder."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hnet.segmentation.utf8 import MALFORMED, SPECIAL, Decoder, decode
from tests.segmentation.chunks import units

LEADS = st.sampled_from([0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, *range(0xE0, 0x100)])
TEXT = st.lists(st.one_of(st.characters(codec="utf-8").map(str.encode), LEADS.map(lambda byte: bytes([byte]))))


@settings(max_examples=500, deadline=None)
@given(TEXT.map(b"".join))
def test_characters_are_those_of_python(data: bytes) -> None:
    """An escaped byte is malformed; no byte is read twice or lost."""
    characters = decode(units(data).astype("uint8"))
    expected = []
    for character in data.decode("utf-8", "surrogateescape"):
        escaped = 0xDC80 <= ord(character) <= 0xDCFF
        special = escaped and ord(character) - 0xDC00 in (254, 255)
        expected.append(SPECIAL if special else MALFORMED if escaped else ord(character))
    assert characters.codes.tolist() == expected
    lengths = [
        len(character.encode("utf-8", "surrogateescape")) for character in data.decode("utf-8", "surrogateescape")
    ]
    assert characters.starts.tolist() == [sum(lengths[:index]) for index in range(len(lengths))]


@settings(max_examples=500, deadline=None)
@given(TEXT.map(b"".join))
def test_the_decoder_gives_the_same(data: bytes) -> None:
    characters = decode(units(data).astype("uint8"))
    decoder, known, announced = Decoder(), [], []
    for byte in data:
        known += decoder.push(byte)
        announced.append(decoder.announced)
    known += decoder.push(0x41)  # what is broken off becomes known
    assert [code for code, _ in known[:-1]] == characters.codes.tolist()
    assert sum(num_bytes for _, num_bytes in known) == len(data) + 1
    firsts = [index for index, width in enumerate(announced) if width]
    assert set(firsts) <= set(characters.starts.tolist())
    assert set(characters.starts[characters.codes < MALFORMED].tolist()) <= set(firsts)
