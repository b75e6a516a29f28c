"""The README's snippet runs as it stands."""

import re
from pathlib import Path

import hnet.data


def test_the_snippet_runs() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (Path(hnet.data.__path__[0]) / "README.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(snippet, names)
    batch, held_out = names["batch"], names["held_out"]
    assert batch.input_ids.shape == (4096,)  # type: ignore[attr-defined]
    assert sum(item.target_bytes for item in held_out) == 47_577  # type: ignore[attr-defined]
