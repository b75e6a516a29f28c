"""What the word rules ask of a character, read from `characters.txt`.

The table is a file of the package, not a library's: words must stay what they were when a model was trained.
"""

from dataclasses import dataclass, fields
from enum import IntEnum, auto
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from hnet.segmentation.utf8 import MALFORMED, SPECIAL

Flags = NDArray[np.bool_]


class WordBreak(IntEnum):
    """Values of the property Word_Break (UAX #29, table 3)."""

    Other = 0
    CR = auto()
    LF = auto()
    Newline = auto()
    Extend = auto()
    ZWJ = auto()
    Format = auto()
    Katakana = auto()
    Hebrew_Letter = auto()
    ALetter = auto()
    MidLetter = auto()
    MidNum = auto()
    MidNumLet = auto()
    Single_Quote = auto()
    Double_Quote = auto()
    Numeric = auto()
    ExtendNumLet = auto()
    Regional_Indicator = auto()
    WSegSpace = auto()


@dataclass(frozen=True, slots=True)
class Kinds:
    """K kinds of characters, and the properties of each."""

    of_code: NDArray[np.uint8]
    """(0x110002,) kind of every code of `utf8.decode`."""
    word_break: NDArray[np.uint8]
    """(K,) `WordBreak`."""
    punctuation: Flags
    """(K,) general category P."""
    lower: Flags
    """(K,) Ll."""
    upper: Flags
    """(K,) Lu."""
    white_space: Flags
    """(K,) White_Space; also BOS, EOS and what is no UTF-8, which part words as the end of a line does."""
    pictographic: Flags
    """(K,) Extended_Pictographic."""


@cache
def load_kinds() -> Kinds:
    """The table, read once: 1 MiB."""
    lines = files("hnet.segmentation").joinpath("characters.txt").read_text(encoding="ascii").splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    kinds = [row[2:] for row in rows if row[0] == "kind"]
    no_character, fraction_slash = len(kinds), len(kinds) + 1
    # U+2044 is the one character that is not punctuation and yet joins digits around it, which only the second tells.
    kinds += [["Newline", "white_space"], ["Other"]]
    starts = [int(row[1], 16) for row in rows if row[0] == "run"]
    runs = np.array([int(row[2]) for row in rows if row[0] == "run"], dtype=np.uint8)
    of_code = np.empty(SPECIAL + 1, dtype=np.uint8)
    of_code[:MALFORMED] = np.repeat(runs, np.diff([*starts, MALFORMED]))
    of_code[[MALFORMED, SPECIAL, 0x2044]] = no_character, no_character, fraction_slash
    word_break = np.array([WordBreak[names[0]] for names in kinds], dtype=np.uint8)
    flags = {field.name: np.array([field.name in names for names in kinds]) for field in fields(Kinds)[2:]}
    return Kinds(of_code, word_break, **flags)
