"""The n-th operation of a commit fails, for n = 1, 2, 3 ... until the commit succeeds.

A commit is put + sync + advance. Whatever fails: the old head can be read, check finds nothing wrong, a retry on the same store
and one on a reopened store succeed, and no sync is ever tried again on a descriptor on which it failed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import msgspec
import pytest

from store import snapshot as snapshots
from store.capture import load_tree, put_tree
from store.faulty import FaultyFiles
from store.ids import Kind, SnapshotId
from store.large import LARGE_BYTES
from store.local import LocalStore
from store.packs import PackObjects
from store.snapshot import EMPTY_SNAPSHOT, EMPTY_SNAPSHOT_ID, Snapshot
from store.testing import file_of, move, session
from store.tree import Entry, EntryKind, entry_blob

OPERATIONS_MAX = 60


def commit(store: LocalStore, head: SnapshotId, number: int) -> SnapshotId:
    """One step: a small file, a large one, a large one from a descriptor; then the snapshot, then the head."""
    contents = {
        b"large": b"%d" % number + b"x" * LARGE_BYTES,
        b"small": b"%d" % number,
    }
    entries = [
        Entry(name, EntryKind.FILE, store.objects.put(Kind.BLOB, data), len(data), number)
        for name, data in contents.items()
    ]
    streamed = b"%d" % number + b"y" * LARGE_BYTES
    with file_of(streamed) as descriptor:
        blob = store.objects.put_file(descriptor, len(streamed))
    entries.append(Entry(b"streamed", EntryKind.FILE, blob, len(streamed), number))
    tree = put_tree(store.objects, entries)
    encoded = snapshots.encode(Snapshot(1, number, (head,), tree, None, None))
    snapshot = SnapshotId(store.objects.put(Kind.SNAPSHOT, encoded))
    store.objects.sync()
    store.heads.advance("a", head, msgspec.structs.replace(move(1), to_snapshot=snapshot))
    return snapshot


def assert_whole(store: LocalStore, head: SnapshotId) -> None:
    """The session is at `head`, all of it can be read, and nothing in the store is damaged."""
    assert store.heads.get("a", "alice").head == head
    snapshot = snapshots.decode(store.objects.get(Kind.SNAPSHOT, head))
    for entry in load_tree(store.objects, snapshot.tree):
        assert len(store.objects.get(Kind.BLOB, entry_blob(entry))) == entry.size_bytes
    report, _ = store.check(full=True)
    assert report.clean, report


def close(store: LocalStore) -> None:
    """Close it, also on a disk that fails: all that was acknowledged is durable already."""
    with contextlib.suppress(OSError):
        store.close()


def begin(root: Path) -> SnapshotId:
    """A store with one session that has made one step."""
    store = LocalStore(root)
    store.heads.create([msgspec.structs.replace(session("a"), head=EMPTY_SNAPSHOT_ID)], "create")
    head = commit(store, EMPTY_SNAPSHOT_ID, 1)
    store.close()
    return head


@pytest.mark.parametrize("reopened", [False, True], ids=["same store", "reopened"])
@pytest.mark.parametrize("sticky", [False, True], ids=["once", "sticky"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_whichever_operation_fails_the_old_head_stands_and_a_retry_succeeds(
    tmp_path: Path, error: int, sticky: bool, reopened: bool
) -> None:
    """The server goes on with the same store, or died of it and was started again."""
    for number in range(1, OPERATIONS_MAX):
        root = tmp_path / str(number)
        head = begin(root)
        files = FaultyFiles(0, error, sticky=sticky)
        store = LocalStore(root, files)
        files.fail_at = files.operations + number
        try:
            newer = commit(store, head, 2)
        except OSError as failure:
            assert failure.errno == error  # noqa: PT017 - failing is the point of most rounds, not of all
            assert_whole(store, head)
            if reopened:
                close(store)
                store = LocalStore(root)
                assert_whole(store, head)
            files.heal()
            newer = commit(store, head, 2)
        assert_whole(store, newer)
        close(store)
        assert files.synced_after_failure == []
        files.close()
        again = LocalStore(root)
        assert_whole(again, newer)
        again.close()
        if not files.failed:
            break
    assert 10 < number < OPERATIONS_MAX - 1


@pytest.mark.parametrize("sticky", [False, True], ids=["once", "sticky"])
def test_whichever_operation_of_sealing_fails_nothing_is_lost(tmp_path: Path, sticky: bool) -> None:
    """A pack that is full at each sync: appending, syncing, renaming, making the next."""
    for number in range(1, OPERATIONS_MAX):
        root = tmp_path / str(number)
        files = FaultyFiles(0, errno.EIO, sticky=sticky)
        root.mkdir()
        store = PackObjects(root, files, seal_bytes=50)
        files.fail_at = files.operations + number
        acknowledged: dict[bytes, bytes] = {}
        for turn in range(4):
            data = b"%d" % turn * 20
            name = store.put(Kind.BLOB, data)
            try:
                store.sync()
            except OSError:
                assert store.get(Kind.BLOB, name) == data
                files.heal()
                store.sync()
            acknowledged[name] = data
        store.close()
        assert files.synced_after_failure == []
        files.close()
        again = PackObjects(root, FaultyFiles(), seal_bytes=50)
        assert {name: again.get(Kind.BLOB, name) for name in acknowledged} == acknowledged
        again.close()
        if not files.failed:
            break
    assert 10 < number < OPERATIONS_MAX - 1


def test_whichever_operation_of_taking_over_fails_the_next_start_succeeds(tmp_path: Path) -> None:
    """A torn tail is being cut when the disk fails."""
    for number in range(1, OPERATIONS_MAX):
        root = tmp_path / str(number)
        root.mkdir()
        store = PackObjects(root, FaultyFiles())
        name = store.put(Kind.BLOB, b"acknowledged")
        store.sync()
        store.close()
        with (root / "packs" / "00000001.open").open("ab") as pack:
            pack.write(b"psf1 torn")
        files = FaultyFiles(number, errno.EIO)
        with contextlib.suppress(OSError):
            PackObjects(root, files).close()
        files.close()
        again = PackObjects(root, FaultyFiles())
        assert again.get(Kind.BLOB, name) == b"acknowledged"
        again.close()
        if not files.failed:
            break
    assert 3 < number < OPERATIONS_MAX - 1


def test_the_empty_snapshot_stands_before_any_commit(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert snapshots.decode(store.objects.get(Kind.SNAPSHOT, EMPTY_SNAPSHOT_ID)) == EMPTY_SNAPSHOT
    store.close()


def test_the_disk_of_these_tests_counts_fails_once_and_fails_for_good(tmp_path: Path) -> None:
    """The tool itself: a test that never injects anything would always pass."""
    files = FaultyFiles(2, errno.ENOSPC)
    errors: list[int | None] = []
    for turn in range(3):
        try:
            files.make_directory(str(tmp_path / str(turn)))
        except OSError as failure:
            errors.append(failure.errno)
    assert errors == [errno.ENOSPC]
    assert sorted(os.listdir(tmp_path)) == ["0", "2"]
    assert files.failed == ["make_directory"]
    files.sticky = True
    with pytest.raises(OSError, match="injected"):
        files.sync_directory(str(tmp_path))
    files.heal()
    files.sync_directory(str(tmp_path))
    with file_of(b"") as descriptor:
        files.fail_at = files.operations + 1
        with pytest.raises(OSError, match="injected"):
            files.sync(descriptor)
        files.heal()
        files.sync(descriptor)
        assert files.synced_after_failure == [descriptor]
    files.close()
