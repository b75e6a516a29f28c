"""Writes hnet/segmentation/characters.txt from the `regex` package, whose release decides the version of Unicode.

pip install regex==2025.7.34        # Unicode 16.0, which hat-splitter 0.1.10 has too
python -m tests.segmentation.make_characters
"""

from pathlib import Path

import regex

from hnet.segmentation.characters import WordBreak

UNICODE = "16.0.0"
FILE = Path(__file__).parents[2] / "hnet" / "segmentation" / "characters.txt"
PROPERTIES = {
    "punctuation": r"\p{P}",
    "lower": r"\p{Ll}",
    "upper": r"\p{Lu}",
    "white_space": r"\p{White_Space}",
    "pictographic": r"\p{Extended_Pictographic}",
}


def main() -> None:
    """Run lengths of the distinct combinations of properties, which are some thirty."""
    everything = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    if regex.match(r"\p{Cn}", "\u1c89") or not regex.match(r"\p{Cn}", "\ua7ce"):
        raise SystemExit(f"this release of regex does not have Unicode {UNICODE}")
    names = [["Other"] for _ in range(0x110000)]
    for word_break in [value.name for value in WordBreak if value]:
        for character in regex.findall(rf"\p{{WB={word_break}}}", everything):
            names[ord(character)] = [word_break]
    for name, pattern in PROPERTIES.items():
        for character in regex.findall(pattern, everything):
            names[ord(character)].append(name)
    labels = [" ".join(each) for each in names]
    numbers = {label: number for number, label in enumerate(sorted(set(labels)))}
    lines = [
        f"# Unicode {UNICODE}, made by tests/segmentation/make_characters.py.",
        "# kind: number, Word_Break (UAX 29), other properties. run: first code point, its kind, also of what follows.",
        *(f"kind {number} {label}" for label, number in numbers.items()),
        *(
            f"run {code:X} {numbers[label]}"
            for code, label in enumerate(labels)
            if code == 0 or label != labels[code - 1]
        ),
    ]
    FILE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
