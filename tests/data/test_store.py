"""The prepared byte store: what went in comes out, and damage is named."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet.data.prepare import prepare, unescape
from hnet.data.store import HEADER, INDEX, ByteStore, StoreWriter, is_store, open_store
from hnet.errors import DataError

TEXTS = [b"first", b"\xff\xfe\x00", "诗经".encode(), b"x" * 50, b"last"]


def write(folder: Path, texts: list[bytes] = TEXTS, shard_bytes: int = 20) -> Path:
    with StoreWriter(folder, shard_bytes=shard_bytes) as writer:
        for text in texts:
            writer.add(text)
    return folder


def read(store: ByteStore) -> list[bytes]:
    return [store.read(index).tobytes() for index in range(len(store))]


@pytest.fixture
def store_folder(tmp_path: Path) -> Path:
    return write(tmp_path / "store")


@settings(max_examples=30)
@given(texts=st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=20), shard_bytes=st.integers(1, 90))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, texts: list[bytes], shard_bytes: int) -> None:
    store = open_store(write(tmp_path_factory.mktemp("round") / "store", texts, shard_bytes))
    store.verify()
    assert read(store) == texts
    assert [store.num_bytes(index) for index in range(len(store))] == list(map(len, texts))
    assert store.total_bytes() == sum(map(len, texts))


def test_shards_hold_whole_documents(store_folder: Path) -> None:
    shards = [path.read_bytes() for path in sorted(store_folder.glob("shard-*"))]
    assert shards == [TEXTS[0] + TEXTS[1] + TEXTS[2], TEXTS[3], TEXTS[4]]
    assert np.fromfile(store_folder / INDEX, dtype="<u8").tolist() == [0, 5, 8, 14, 64, 68]


def test_documents_are_views_of_the_map(store_folder: Path) -> None:
    store = open_store(store_folder)
    assert store.read(0).base is not None and not store.read(0).flags.writeable
    assert np.shares_memory(store.read(0), store.read(0))


def test_opening_does_not_depend_on_the_number_of_documents(tmp_path: Path) -> None:
    folder = write(tmp_path / "many", [b"ab"] * 200_000, 1 << 20)
    started = time.perf_counter()
    store = open_store(folder)
    assert time.perf_counter() - started < 0.1
    assert len(store) == 200_000 and store.read(199_999).tobytes() == b"ab"


def damage(folder: Path, name: str, change: str) -> None:
    path = folder / name
    data = path.read_bytes()
    if change == "remove":
        path.unlink()
    elif change == "truncate":
        path.write_bytes(data[:-1])
    elif change == "extend":
        path.write_bytes(data + b"x")
    elif change == "flip":
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    else:
        path.write_text(change)


def header_with(folder: Path, **changes: object) -> str:
    return json.dumps(json.loads((folder / HEADER).read_text()) | changes)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "shard-00001.bytes",
            "truncate",
            r"shard-00001\.bytes is truncated: it has 49 bytes and the header says 50; copy",
        ),
        ("shard-00001.bytes", "extend", r"shard-00001\.bytes is too long: it has 51 bytes and the header says 50"),
        ("shard-00002.bytes", "remove", r"shard-00002\.bytes is missing; copy the store again or make it anew"),
        (INDEX, "truncate", r"index\.u64 is truncated: it has 47 bytes and the header says 48"),
        (INDEX, "flip", r"index\.u64 is damaged: it ends at byte \d+, not 68"),
        (INDEX, "remove", r"index\.u64 is missing"),
        (HEADER, "remove", r"header\.json is missing: the store was not written to its end or not copied whole"),
        (HEADER, "truncate", r"header\.json is damaged"),
        (HEADER, "[]", r"header\.json is damaged"),
        (HEADER, "{}", r"header\.json is damaged"),
    ],
)
def test_damage_is_named(store_folder: Path, name: str, change: str, message: str) -> None:
    damage(store_folder, name, change)
    assert is_store(store_folder)
    with pytest.raises(DataError, match=message):
        open_store(store_folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"documents": 4}, "does not match its own checksum"),
        ({"version": 2}, r"has version 2, this program reads 1"),
        ({"format": "other"}, "has format 'other'; a byte store has 'hnet-byte-store'"),
    ],
)
def test_a_changed_header(store_folder: Path, changes: dict[str, object], message: str) -> None:
    (store_folder / HEADER).write_text(header_with(store_folder, **changes))
    with pytest.raises(DataError, match=message):
        open_store(store_folder)


def test_verify_finds_changed_bytes(store_folder: Path) -> None:
    damage(store_folder, "shard-00000.bytes", "flip")
    with pytest.raises(DataError, match=r"shard-00000\.bytes is damaged: its checksum is"):
        open_store(store_folder).verify()


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    with pytest.raises(TypeError), StoreWriter(tmp_path / "store") as writer:
        writer.add(5)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="holds no text"), StoreWriter(tmp_path / "store"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_store(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hnet.data.store import StoreWriter\n"
        "with StoreWriter(Path(sys.argv[1]), shard_bytes=1000) as writer:\n"
        "    for number in range(10**9):\n"
        "        writer.add(b'x' * 100)\n"
        "        if number == 100: print('started', flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "store")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "store").exists()
    write(tmp_path / "store")
    assert read(open_store(tmp_path / "store")) == TEXTS


def test_prepare_a_folder(text_folder: Path, tmp_path: Path) -> None:
    (text_folder / "empty.txt").touch()
    summary = prepare(str(text_folder), str(tmp_path / "new" / "store"), shard_bytes=500, progress=False)
    expected = [path.read_bytes() for path in sorted(text_folder.iterdir()) if path.stat().st_size]
    assert read(open_store(tmp_path / "new" / "store")) == expected
    assert (summary.num_documents, summary.num_bytes) == (30, sum(map(len, expected)))
    assert summary.num_empty == 1 and summary.num_shards > 1


def test_prepare_split_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo\n\n\xffthree")
    prepare(str(tmp_path / "a.txt"), str(tmp_path / "store"), split_on="\\n\\n")
    assert read(open_store(tmp_path / "store")) == [b"one\n\n", b"two\n\n", b"\xffthree"]
    assert "prepare" in capsys.readouterr().out


def test_prepare_splits_documents_of_any_kind(tmp_path: Path, datasets_cache: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "a|b"}\n{"body": ""}\n{"body": "c"}\n')
    summary = prepare(str(tmp_path / "a.jsonl"), str(tmp_path / "store"), column="body", split_on="|", progress=False)
    assert read(open_store(tmp_path / "store")) == [b"a|", b"b", b"c"]
    assert summary.num_empty == 1


def test_prepare_does_not_overwrite(text_folder: Path, store_folder: Path) -> None:
    with pytest.raises(DataError, match="exists already; remove it or choose another name"):
        prepare(str(text_folder), str(store_folder), progress=False)


def test_prepare_bad_shard_bytes(text_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shard_bytes is 0; it must be at least 1"):
        prepare(str(text_folder), str(tmp_path / "out"), shard_bytes=0, progress=False)


def test_unescape() -> None:
    assert unescape("\\n\\t\\f\\x00诗") == "\n\t\f\x00诗"
    assert unescape("plain") == "plain"
