"""Sessions with real snapshots, for tests of what is done with whole stores: sweeping, checking, mending."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from store import snapshot as snapshots
from store.capture import load_tree, put_tree
from store.ids import BlobId, Kind, SnapshotId
from store.interfaces import Lease
from store.large import LARGE_BYTES
from store.local import LocalStore
from store.snapshot import EMPTY_SNAPSHOT_ID, Snapshot
from store.testing import move, session
from store.tree import Entry, EntryKind

LARGE_TAIL = b"x" * LARGE_BYTES
TENANT = "alice"


def begin(store: LocalStore, session_id: str, *, used_at_s: float = 1000.0) -> SnapshotId:
    """A new session on the empty snapshot."""
    new = msgspec.structs.replace(session(session_id, used_at_s=used_at_s), head=EMPTY_SNAPSHOT_ID)
    store.heads.create([new], "create")
    return EMPTY_SNAPSHOT_ID


def put_step(store: LocalStore, head: SnapshotId, number: int, files: dict[bytes, bytes]) -> SnapshotId:
    """Put a snapshot whose tree is `d/` with these files; durable."""
    entries = [
        Entry(name, EntryKind.FILE, store.objects.put(Kind.BLOB, data), len(data), number)
        for name, data in files.items()
    ]
    inner = put_tree(store.objects, entries)
    tree = put_tree(store.objects, [Entry(b"d", EntryKind.DIRECTORY, inner, 0, number)])
    encoded = snapshots.encode(Snapshot(1, number, (head,), tree, None, None))
    snapshot = SnapshotId(store.objects.put(Kind.SNAPSHOT, encoded))
    store.objects.sync()
    return snapshot


def step(
    store: LocalStore, session_id: str, files: dict[bytes, bytes], *, lease: Lease | None = None, at_s: float = 1001.0
) -> SnapshotId:
    """One step as the service does it: turn, objects, sync, head."""
    held = lease or store.leases.try_acquire(session_id)
    assert held is not None
    try:
        head = store.heads.get(session_id, TENANT).head
        number = len(store.heads.log(session_id, before=None, limit=1 << 20))
        snapshot = put_step(store, head, number, files)
        moved = msgspec.structs.replace(move(number, at_s=at_s), to_snapshot=snapshot)
        store.heads.advance(session_id, head, moved, epoch=held.epoch)
    finally:
        if lease is None:
            held.release()
    return snapshot


def files_of(store: LocalStore, snapshot: SnapshotId) -> dict[bytes, bytes]:
    """What lies in `d/` of a snapshot."""
    tree = snapshots.decode(store.objects.get(Kind.SNAPSHOT, snapshot)).tree
    if not (entries := load_tree(store.objects, tree)):
        return {}
    (folder,) = entries
    inner = load_tree(store.objects, folder.content)  # type: ignore[arg-type]
    return {entry.name: store.objects.get(Kind.BLOB, BlobId(entry.content)) for entry in inner}


def never() -> bool:
    """Gc has no patience with writers in flight."""
    return False


def with_heads(store: LocalStore, kept: dict[str, bytes]) -> Path:
    """A copy of the store, called "after", whose database of heads is only what `kept` has of its files."""
    after = store.root.with_name("after")
    shutil.copytree(store.root, after)
    for name in ("heads.sqlite", "heads.sqlite-wal", "heads.sqlite-shm"):
        (after / name).unlink(missing_ok=True)
        if name in kept:
            (after / name).write_bytes(kept[name])
    return after
