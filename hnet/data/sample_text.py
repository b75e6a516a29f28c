"""The text that ships with the package, cut into documents with a held-out part. See `sample/README.md`."""

from pathlib import Path

import numpy as np

from hnet.data.text import TextFiles, map_file, paragraph_ends
from hnet.errors import DataError

FOLDER = Path(__file__).parent / "sample"
_DOCUMENT_BYTES = (2 << 10, 8 << 10)
_HELD_OUT_EVERY, _HELD_OUT_FIRST = 20, 9


def open_sample(part: str) -> TextFiles:
    """The documents of `train` or `validation`: every 20th document of each text is held out.

    Raises DataError for another part, or if the sample was not installed.
    """
    if part not in ("train", "validation"):
        raise DataError(f"sample:{part} does not exist; the shipped text has sample:train and sample:validation")
    paths = sorted(FOLDER.glob("*.txt"))
    if not paths:
        raise DataError(f"the shipped text is missing from {FOLDER}; install the package again")
    sizes, files, starts, ends = [], [], [], []
    for number, path in enumerate(paths):
        data = map_file(path)
        sizes.append(len(data))
        start = 0
        for count, end in enumerate(paragraph_ends(data, *_DOCUMENT_BYTES)):
            if (count % _HELD_OUT_EVERY == _HELD_OUT_FIRST) == (part == "validation"):
                files.append(number)
                starts.append(start)
                ends.append(end)
            start = end
    columns = (np.array(column, dtype=np.int64) for column in (files, starts, ends))
    return TextFiles(f"sample:{part}", paths, sizes, *columns)
