"""Tables in a document, between markers, that a command keeps up to date."""

from pathlib import Path


def replace_table(path: Path, name: str, table: str) -> None:
    """Put `table` between the lines `<!-- name -->` and `<!-- end of name -->` of a Markdown file.

    Raises:
        ValueError: the file lacks the two lines.
    """
    text = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{path} has no lines {begin.strip()} and {end.strip()}")
    path.write_text(f"{before}{begin}{table}\n{end}{after}", encoding="utf-8")
