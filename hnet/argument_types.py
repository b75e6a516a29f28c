"""Types of command-line arguments: each says what it got and what is allowed. Imports no torch."""

import argparse
from collections.abc import Callable


def words(text: str) -> list[str]:
    """Words between commas; spaces around them are left out."""
    return [word.strip() for word in text.split(",") if word.strip()]


def integers(text: str) -> list[int]:
    """Positive integers between commas."""
    return [positive(word) for word in words(text)] or [positive(text)]


def positive(text: str) -> int:
    """An integer of at least 1."""
    return _integer(text, 1)


def natural(text: str) -> int:
    """An integer of at least 0."""
    return _integer(text, 0)


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"got '{text}'; allowed: an integer of at least {least}")
    return value


def number(least: float, most: float = float("inf")) -> Callable[[str], float]:
    """Numbers from `least` to `most`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (least <= value <= most and value < float("inf")):
            limit = f"from {least:g} to {most:g}" if most < float("inf") else f"of at least {least:g}"
            raise argparse.ArgumentTypeError(f"got '{text}'; allowed: a number {limit}")
        return value

    return parse
