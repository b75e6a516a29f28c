"""A dataset by name, from a server that speaks as much of the Hub's language as `datasets` asks for."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

API, COMMIT = "/api/datasets/owner/name", "c" * 40
SCRIPT = """
import itertools, json
from hnet.data.config import DataConfig, SourceConfig
from hnet.data.sources import open_source
from hnet.data.stream import build_stream
from hnet.errors import DataError

source = open_source(SourceConfig(path="owner/name"))
print([source.read(index).tobytes().decode() for index in range(len(source))])
config = DataConfig(train=[{"path": "owner/name", "streaming": True}], sequence_length=64, shuffle_buffer=8)
make = lambda: build_stream(config, seed=0, windows_per_step=1, micro_batch_windows=1)
with make() as stream:
    for batch in itertools.islice(stream, 5):
        pass
    state = json.loads(json.dumps(stream.state_dict()))
    expected = [batch.input_ids.tolist() for batch in itertools.islice(stream, 5)]
with make() as stream:
    stream.load_state_dict(state)
    print(expected == [batch.input_ids.tolist() for batch in itertools.islice(stream, 5)])
for path, options in (("owner/other", {}), ("owner/name", {"split": "test"}), ("owner/name", {"column": "txt"})):
    try:
        open_source(SourceConfig(path=path, **options))
    except DataError as error:
        print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """Serves the files below `folder` as dataset owner/name; everything else is unknown."""

    folder: Path

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlparse(self.path).path
        if path == API or path.startswith(f"{API}/revision/"):
            files = [{"rfilename": str(file)} for file, _ in self._files("")]
            return self._send(200, json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": files}).encode())
        if path.startswith(f"{API}/tree/{COMMIT}"):
            entries = [
                {"type": "file" if size else "directory", "path": str(file), "size": size, "oid": "a" * 40}
                for file, size in self._files(path.removeprefix(f"{API}/tree/{COMMIT}").strip("/"))
            ]
            return self._send(200, json.dumps(entries).encode())
        file = self.folder / path.partition("/resolve/")[2].partition("/")[2]
        if path.startswith("/datasets/owner/name/resolve/") and file.is_file():
            return self._send(200, file.read_bytes(), {"ETag": '"1"', "X-Repo-Commit": COMMIT})
        code = "EntryNotFound" if "/owner/name" in path else "RepoNotFound"
        return self._send(404, b"{}", {"X-Error-Code": code})

    def _files(self, below: str) -> list[tuple[Path, int]]:
        root = self.folder / below
        return [(path.relative_to(self.folder), path.is_file() * path.stat().st_size) for path in root.iterdir()]

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        requested = self.headers.get("Range")
        headers = {"Content-Type": "application/json", "Accept-Ranges": "bytes"} | (headers or {})
        if requested and status == 200:
            first, last = requested.removeprefix("bytes=").split("-")
            stop = min(int(last or len(body)), len(body) - 1) + 1
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(body)}"
            status, body = 206, body[int(first) : stop]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "repo" / "data").mkdir(parents=True)
    rows = pa.table({"text": [f"row {number} " * number for number in range(20)]})
    pq.write_table(rows, tmp_path / "repo" / "data" / "train-00000-of-00001.parquet", row_group_size=6)
    handler = type("Handler", (Hub,), {"folder": tmp_path / "repo"})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_load_stream_and_resume(hub: str, tmp_path: Path) -> None:
    """In a process of its own: the Hub's address is read when the library is imported."""
    environment = os.environ | {
        "HF_ENDPOINT": hub,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", SCRIPT]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
    rows, resumed, unknown, no_split, no_column = process.stdout.splitlines()
    assert rows == str([f"row {number} " * number for number in range(20)])
    assert resumed == "True"
    assert unknown.startswith(
        "owner/other is neither a local file or folder nor a dataset that can be loaded from the Hub: "
    )
    assert "doesn't exist on the Hub" in unknown
    assert no_split.startswith("owner/name ") and "nknown split" in no_split and "train" in no_split
    assert no_column == "owner/name has no column 'txt'; did you mean 'text'? Columns: text; choose one with `column`"
