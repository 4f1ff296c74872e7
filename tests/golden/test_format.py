"""The format on disk, pinned: bytes and names of trees, snapshots and a pack, as psf stores write them.

These files must never change. A difference means that stores in use could not be read, or that every name would be another: a
new format needs a new number and a new file beside this one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from store import snapshot as snapshots
from store import tree as trees
from store.errors import DecodeError, StoreUnusable
from store.files import Files
from store.ids import BlobId, Kind, SnapshotId, blob_id, object_id
from store.packs import PackObjects
from store.snapshot import (
    EMPTY_SNAPSHOT,
    EMPTY_SNAPSHOT_ID,
    Ending,
    LeftOut,
    Limits,
    Merge,
    Outcome,
    Run,
    Snapshot,
    Stage,
    Step,
    Stream,
    Write,
    Written,
)
from store.tree import EMPTY_TREE, Entry, EntryKind, Tree

PINS: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("format-1.json").read_text())
LATER: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("limits-2.json").read_text())
STEPS: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("steps-2.json").read_text())
PACKS: dict[str, str] = json.loads(Path(__file__).with_name("packs-3.json").read_text())

CONTENT = blob_id(b"content")
TREES: dict[str, Tree] = {
    "empty tree": (),
    "tree of every kind": (
        Entry(b"directory", EntryKind.DIRECTORY, EMPTY_TREE, 0, 3),
        Entry(b"file", EntryKind.FILE, CONTENT, 7, 1),
        Entry(b"link", EntryKind.SYMLINK, b"../target", 9, 2),
        Entry(b"tool", EntryKind.EXECUTABLE, CONTENT, 7, 0),
    ),
    "tree of odd names and large numbers": (
        Entry(b"\x01", EntryKind.FILE, CONTENT, 1 << 40, 10_000_000),
        Entry(b"a b\n", EntryKind.FILE, CONTENT, 127, 128),
        Entry(b"\xff\xfe", EntryKind.FILE, CONTENT, 65_536, 256),
    ),
}
_STREAM = Stream(CONTENT, 7, truncated=False)
SNAPSHOTS: dict[str, Snapshot] = {
    "empty snapshot": EMPTY_SNAPSHOT,
    "snapshot of a run": Snapshot(
        1,
        1,
        (EMPTY_SNAPSHOT_ID,),
        EMPTY_TREE,
        Run(
            "python",
            b"\x05" * 32,
            CONTENT,
            blob_id(b""),
            ("-v", "\u00e9"),
            (("A", "1"),),
            (("in.txt", CONTENT),),
            ("out.txt",),
            "fetched",
            (("run", Limits(10.0, 3600, 2 << 30, 128, 8 << 20, 256 << 20, 1 << 30, 512 << 20, 100_000, 1024)),),
        ),
        Outcome(
            (
                Stage("compile", Ending.EXITED, 0, None, _STREAM, _STREAM, ()),
                Stage("run", Ending.SIGNALLED, None, 9, Stream(CONTENT, 99, truncated=True), _STREAM, ("memory",)),
            ),
            (LeftOut(b"d/pipe", "a FIFO"),),
        ),
    ),
    "snapshot of a merge": Snapshot(
        1, 70_000, (SnapshotId(b"\x01" * 32), SnapshotId(b"\x02" * 32)), EMPTY_TREE, None, None
    ),
}
LATER_LIMITS = {
    "disk": Limits(disk_bytes=1 << 20, disk_inodes=1000),
    "processors": Limits(cpus=0.5),
    "network": Limits(network="egress"),
    "all": Limits(disk_bytes=1 << 30, disk_inodes=7, cpus=2.0, network="none"),
}
BLOBS = {"empty blob": b"", "blob": b"content"}


@pytest.mark.parametrize("name", TREES)
def test_trees_have_the_pinned_bytes_and_names(name: str) -> None:
    data = trees.encode(TREES[name])
    assert {"bytes": data.hex(), "id": trees.tree_id(data).hex()} == PINS[name]


@pytest.mark.parametrize("name", TREES)
def test_pinned_trees_can_be_read(name: str) -> None:
    assert trees.decode(bytes.fromhex(PINS[name]["bytes"])) == TREES[name]


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_snapshots_have_the_pinned_bytes_and_names(name: str) -> None:
    data = snapshots.encode(SNAPSHOTS[name])
    assert {"bytes": data.hex(), "id": snapshots.snapshot_id(data).hex()} == PINS[name]


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_pinned_snapshots_can_be_read(name: str) -> None:
    assert snapshots.decode(bytes.fromhex(PINS[name]["bytes"])) == SNAPSHOTS[name]


def _step(step: Step) -> Snapshot:
    return replace(SNAPSHOTS["snapshot of a run"], step=step)


_RUN = SNAPSHOTS["snapshot of a run"].step
assert isinstance(_RUN, Run)
LATER_STEPS = {
    "run with secrets": _step(replace(_RUN, secrets=("TOKEN",))),
    "run that repeats": _step(replace(_RUN, deterministic=True)),
    "write": _step(
        Write(
            (Written(b"a/\xff", CONTENT, 7, executable=True), Written(b"b", CONTENT, 7, executable=False)),
            (b"a", b"old"),
        )
    ),
    "merge": _step(Merge(EMPTY_SNAPSHOT_ID, "theirs")),
}


@pytest.mark.parametrize("name", LATER_STEPS)
def test_later_steps_have_the_pinned_bytes_and_names(name: str) -> None:
    data = snapshots.encode(LATER_STEPS[name])
    assert {"bytes": data.hex(), "id": snapshots.snapshot_id(data).hex()} == STEPS[name]
    assert snapshots.decode(bytes.fromhex(STEPS[name]["bytes"])) == LATER_STEPS[name]


def _with(limits: Limits) -> Snapshot:
    pinned = SNAPSHOTS["snapshot of a run"]
    assert isinstance(pinned.step, Run)
    return replace(pinned, step=replace(pinned.step, limits=(("run", limits),)))


@pytest.mark.parametrize("name", LATER_LIMITS)
def test_later_limits_have_the_pinned_bytes_and_names(name: str) -> None:
    snapshot = _with(LATER_LIMITS[name])
    data = snapshots.encode(snapshot)
    assert {"bytes": data.hex(), "id": snapshots.snapshot_id(data).hex()} == LATER[name]
    assert snapshots.decode(bytes.fromhex(LATER[name]["bytes"])) == snapshot


def test_a_later_limit_that_is_said_needlessly_is_not_canonical() -> None:
    data = msgspec.msgpack.encode(_with(Limits()))
    with pytest.raises(DecodeError, match="canonical"):
        snapshots.decode(data)


@pytest.mark.parametrize("name", BLOBS)
def test_blobs_have_the_pinned_names(name: str) -> None:
    assert {"bytes": BLOBS[name].hex(), "id": blob_id(BLOBS[name]).hex()} == PINS[name]


def test_a_pack_has_the_pinned_bytes(tmp_path: Path) -> None:
    (tmp_path / "marker").write_bytes(bytes.fromhex(PACKS["marker"]))
    store = PackObjects(tmp_path, Files())
    store.put(Kind.BLOB, b"content")
    store.put(Kind.TREE, trees.encode(TREES["tree of every kind"]))
    store.sync()
    store.put(Kind.SNAPSHOT, snapshots.encode(EMPTY_SNAPSHOT))
    store.sync()
    store.close()
    assert os.listdir(tmp_path / "packs") == ["00000001.open"]
    assert (tmp_path / "packs" / "00000001.open").read_bytes().hex() == PACKS["pack"]


@pytest.mark.parametrize("name", ["00000001.open", "00000001.pack"])
def test_a_pinned_pack_can_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs" / name).write_bytes(bytes.fromhex(PACKS["pack"]))
    store = PackObjects(tmp_path, Files())
    assert store.get(Kind.BLOB, CONTENT) == b"content"
    assert store.get(Kind.SNAPSHOT, EMPTY_SNAPSHOT_ID) == snapshots.encode(EMPTY_SNAPSHOT)
    assert len(set(store)) == 3
    store.close()


def test_a_pack_of_the_first_format_is_refused(tmp_path: Path) -> None:
    PackObjects(tmp_path, Files()).close()
    (tmp_path / "packs" / "00000001.pack").write_bytes(bytes.fromhex(PINS["pack"]["bytes"]))
    with pytest.raises(StoreUnusable, match="format 1; this psf reads 3 and 4"):
        PackObjects(tmp_path, Files())


def test_a_large_blob_is_a_file_named_by_its_hash(tmp_path: Path) -> None:
    data = b"x" * (128 << 10)
    store = PackObjects(tmp_path, Files())
    name = BlobId(store.put(Kind.BLOB, data))
    assert name.hex() == PINS["large blob"]["id"] == object_id(Kind.BLOB, data).hex()
    assert (tmp_path / "large" / name.hex()[:2] / name.hex()[2:]).read_bytes() == data
    assert not any((tmp_path / "packs").iterdir())
    store.close()
