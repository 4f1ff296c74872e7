"""Check: a whole store is clean, and what is not whole is named together with the sessions that need it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from store import journalled
from store import snapshot as snapshots
from store.capture import put_tree
from store.check import check
from store.errors import StoreUnusable
from store.ids import Kind, SnapshotId, TreeId
from store.large import LARGE_BYTES
from store.local import LocalStore
from store.memory import MemoryHeads, MemoryObjects
from store.snapshot import EMPTY_SNAPSHOT_BYTES, EMPTY_SNAPSHOT_ID, Snapshot
from store.testing import move, session
from store.tree import EMPTY_TREE, Entry, EntryKind

LARGE = b"x" * LARGE_BYTES


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path)
    yield store
    store.close()


def put_snapshot(store: LocalStore, content: bytes, parent: SnapshotId = EMPTY_SNAPSHOT_ID) -> SnapshotId:
    """A snapshot of d/file with `content`, and a symlink beside it."""
    blob = store.objects.put(Kind.BLOB, content)
    inner = put_tree(store.objects, [Entry(b"file", EntryKind.FILE, blob, len(content), 1)])
    link = Entry(b"link", EntryKind.SYMLINK, b"d/file", 6, 1)
    tree: TreeId = put_tree(store.objects, [Entry(b"d", EntryKind.DIRECTORY, inner, 0, 1), link])
    data = snapshots.encode(Snapshot(1, 1, (parent,), tree, None, None))
    name = SnapshotId(store.objects.put(Kind.SNAPSHOT, data))
    store.objects.sync()
    return name


def begin(store: LocalStore, session_id: str, head: SnapshotId) -> None:
    store.heads.create([msgspec.structs.replace(session(session_id), head=EMPTY_SNAPSHOT_ID)], "create")
    store.heads.advance(session_id, EMPTY_SNAPSHOT_ID, msgspec.structs.replace(move(1), to_snapshot=head))


def large_file(store: LocalStore) -> Path:
    (path,) = (path for path in (store.root / "large").rglob("*") if path.is_file())
    return path


def test_a_new_store_is_clean(store: LocalStore) -> None:
    report = check(store.objects, store.heads)
    assert report.clean
    assert (report.objects, report.snapshots, report.reachable) == (2, 1, 0)


def test_a_whole_store_is_clean_and_its_garbage_is_counted(store: LocalStore) -> None:
    begin(store, "a", put_snapshot(store, b"small"))
    begin(store, "b", put_snapshot(store, LARGE))
    assert check(store.objects, store.heads).garbage == 0
    put_snapshot(store, b"nobody's")
    report = check(store.objects, store.heads)
    assert report.clean
    assert report.garbage == 4


def test_a_deleted_large_blob_is_named_with_its_session(store: LocalStore) -> None:
    begin(store, "whole", put_snapshot(store, b"small"))
    begin(store, "torn", put_snapshot(store, LARGE))
    large_file(store).unlink()
    report = check(store.objects, store.heads)
    name = store.objects.put(Kind.BLOB, LARGE).hex()
    assert not report.clean
    assert report.damaged == ()
    assert set(report.broken) == {"torn"}
    assert report.broken["torn"] == (f"step 1: d/file: blob {name} is missing",)


@pytest.mark.parametrize("size_bytes", [0, LARGE_BYTES - 1, LARGE_BYTES + 1])
def test_a_fast_check_sees_a_large_file_of_another_size(store: LocalStore, size_bytes: int) -> None:
    begin(store, "a", put_snapshot(store, LARGE))
    begin(store, "b", put_snapshot(store, b"small"))
    assert store.check(full=False)[0].clean
    large_file(store).chmod(0o600)
    os.truncate(large_file(store), size_bytes)
    report, _ = store.check(full=False)
    said = f"its file has {size_bytes} bytes, not {LARGE_BYTES}"
    assert [said in text for text in report.damaged] == [True]
    assert list(report.broken) == ["a"]
    assert report.broken["a"][0].startswith("step 1: d/file: blob ")


@pytest.mark.parametrize("harm", ["deleted", "damaged"])
def test_every_session_that_shares_what_is_broken_is_named(store: LocalStore, harm: str) -> None:
    """Forks share their history: whoever needs the blob must be told, not only the first that is looked at."""
    head = put_snapshot(store, LARGE)
    for name in ("first", "second", "third"):
        begin(store, name, head)
    path = large_file(store)
    if harm == "deleted":
        path.unlink()
    else:
        path.chmod(0o644)
        path.write_bytes(LARGE[:-1] + b"y")
    report = check(store.objects, store.heads)
    assert set(report.broken) == {"first", "second", "third"}
    assert len(report.damaged) == (harm == "damaged")
    assert all(len(problems) == 1 for problems in report.broken.values())


def test_damage_in_a_pack_is_named(store: LocalStore) -> None:
    begin(store, "a", put_snapshot(store, b"unmistakable content"))
    (pack,) = (store.root / "packs").iterdir()
    with pack.open("r+b") as file:
        position = file.read().index(b"unmistakable")
        os.pwrite(file.fileno(), b"U", position)
    report = check(store.objects, store.heads)
    assert len(report.damaged) == 1
    assert "damaged" in report.damaged[0]
    assert set(report.broken) == {"a"}


def test_a_head_that_names_nothing_is_named(store: LocalStore) -> None:
    begin(store, "a", SnapshotId(b"\x07" * 32))
    report = check(store.objects, store.heads)
    assert report.broken == {"a": ("its log: snapshot " + "07" * 32 + " is missing",)}


def test_an_object_that_is_not_canonical_is_damage(store: LocalStore) -> None:
    name = store.objects.put(Kind.TREE, b"\x92\xcc\x01\x90")
    store.objects.sync()
    report = check(store.objects, store.heads)
    assert (report.clean, len(report.harmless)) == (True, 1)  # as long as nothing needs it
    data = snapshots.encode(Snapshot(1, 1, (EMPTY_SNAPSHOT_ID,), TreeId(name), None, None))
    begin(store, "a", SnapshotId(store.objects.put(Kind.SNAPSHOT, data)))
    store.objects.sync()
    report = check(store.objects, store.heads)
    assert (len(report.damaged), set(report.broken), report.harmless) == (1, {"a"}, ())


def test_a_long_history_needs_no_more_stack(store: LocalStore) -> None:
    head = EMPTY_SNAPSHOT_ID
    for depth in range(1, 3000):
        data = snapshots.encode(Snapshot(1, depth, (head,), EMPTY_TREE, None, None))
        head = SnapshotId(store.objects.put(Kind.SNAPSHOT, data))
    store.objects.sync()
    begin(store, "a", head)
    report = check(store.objects, store.heads)
    assert report.clean
    assert report.snapshots == 3000
    assert report.garbage == 0


def test_mending_beside_a_running_process_is_refused_and_changes_nothing(store: LocalStore) -> None:
    """What lies in its pack can be neither read through to its end nor written anew."""
    begin(store, "a", put_snapshot(store, b"small"))
    (store.root / "FORMAT").unlink()
    with pytest.raises(StoreUnusable, match=r"packs/00000001\.open is held by a psf that is running: stop the servers"):
        LocalStore.mend(store.root)
    assert not (store.root / "FORMAT").exists()
    store.close()
    assert LocalStore.mend(store.root).report.clean


def test_a_store_that_is_written_to_meanwhile_is_not_called_broken() -> None:
    """A server may go on while its store is checked: what it adds after the look at the heads is not looked for."""
    heads = MemoryHeads()

    class Busy(MemoryObjects):
        def __iter__(self) -> Iterator[tuple[Kind, bytes]]:
            names = list(super().__iter__())
            if not list(heads.last_moves()):
                snapshot = SnapshotId(self.put(Kind.SNAPSHOT, EMPTY_SNAPSHOT_BYTES))
                heads.create([msgspec.structs.replace(session("late"), head=snapshot)], "create")
            return iter(names)

    assert check(Busy(), heads).clean


class Once:
    """Does something when it is told of a stage, the first time."""

    def __init__(self, stage: str, act: Callable[[], object]) -> None:
        self.stage, self.act, self.done = stage, act, False

    def __call__(self, stage: str, _done: int, _total: int) -> None:
        if stage == self.stage and not self.done:
            self.done = True
            self.act()


def test_a_session_that_is_dropped_and_swept_meanwhile_is_no_loss(store: LocalStore) -> None:
    """Neither its objects nor its moves are missed, by a process that sees the folder only."""
    begin(store, "gone", put_snapshot(store, b"gone" + LARGE))
    begin(store, "kept", put_snapshot(store, b"kept"))
    store.objects.seal()
    other = LocalStore(store.root)

    def drop_and_sweep() -> None:
        store.heads.drop_unused_since(1e9, is_running=lambda name: name == "kept")
        store.sweep(dry=False, pause=lambda: False)

    drop = Once("reading", drop_and_sweep)
    report = check(other.objects, other.heads, progress=drop)
    assert drop.done
    assert (report.clean, report.broken, report.behind) == (True, {}, ())
    other.close()


def test_a_session_that_is_dropped_while_heads_are_compared_is_no_loss(store: LocalStore) -> None:
    begin(store, "gone", put_snapshot(store, b"gone"))
    begin(store, "kept", put_snapshot(store, b"kept"))
    other = LocalStore(store.root)
    looks = []

    def look() -> journalled.Records:
        records = journalled.read_followed(other.objects, other.heads)
        if not looks:
            store.heads.drop_unused_since(1e9, is_running=lambda name: name == "kept")
        looks.append(len(records))
        return records

    assert journalled.compare(other.heads, look).missing == journalled.Missing([], [])
    assert looks == [4, 5]
    other.close()
