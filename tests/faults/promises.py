"""What was said to callers before a crash, and what must hold after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from store import snapshot as snapshots
from store.capture import put_tree
from store.errors import SessionMissing, StoreError
from store.files import Files
from store.ids import Kind, SnapshotId
from store.large import LARGE_BYTES
from store.local import LocalStore
from store.packs import PackObjects
from store.snapshot import EMPTY_SNAPSHOT_ID, Snapshot
from store.testing import file_of, move, session
from store.tree import Entry, EntryKind

SEAL_BYTES = 1200
"""Packs that fill after a few steps."""
TENANT = "alice"


@dataclass(frozen=True)
class Attempted:
    """From now on the session may be at `head`."""

    session_id: str
    head: SnapshotId


@dataclass(frozen=True)
class Acknowledged:
    """The session was said to be at `head`."""

    session_id: str
    head: SnapshotId


@dataclass(frozen=True)
class Dropped:
    """From now on the session may be gone."""

    session_id: str


@dataclass(frozen=True)
class Damaged:
    """From now on something is not as it was written; whoever comes mends it first."""


@dataclass(frozen=True)
class Mended:
    """The store was said to be whole again, and so many files to be put aside."""

    aside: int


@dataclass(frozen=True)
class Moment:
    """Nothing was said; time went by."""


@dataclass(frozen=True)
class Stored:
    """The object was said to be durable, whether or not a head needs it."""

    kind: Kind
    name: bytes


class Promises:
    """What was promised by the last of some facts."""

    def __init__(self, facts: Iterable[object]) -> None:
        self.heads: defaultdict[str, list[SnapshotId]] = defaultdict(list)
        self.acknowledged: dict[str, int] = {}
        self.stored: list[Stored] = []
        self.damaged = self.just_mended = False
        self.aside = 0
        for fact in facts:
            self._take(fact)

    def _take(self, fact: object) -> None:
        match fact:
            case Attempted(session_id, head):
                self.just_mended = False
                self.heads[session_id].append(head)
            case Acknowledged(session_id, head):
                self.acknowledged[session_id] = self.heads[session_id].index(head)
            case Dropped(session_id):
                self.acknowledged.pop(session_id, None)
            case Stored():
                self.stored.append(fact)
            case Damaged() | Mended():
                self.damaged = isinstance(fact, Damaged)
                self.just_mended = not self.damaged
                self.aside = fact.aside if isinstance(fact, Mended) else 0


def problems(root: Path, promises: Promises) -> list[str]:
    """What does not hold in a store after a crash. Opens it, looks, makes one more step, and checks everything."""
    try:
        if promises.damaged:
            LocalStore.mend(root, seal_bytes=SEAL_BYTES)
        store = LocalStore(root, seal_bytes=SEAL_BYTES)
    except Exception as error:
        return [f"it cannot be opened: {error!r}"]
    try:
        return _not_mended(store, promises) + _wrong_heads(store, promises) + _one_more_step(store) + _unclean(store)
    except Exception as error:
        return [f"it cannot be used: {error!r}"]
    finally:
        store.close()


def lost_objects(root: Path, promises: Promises) -> list[str]:
    """The same for an object store alone."""
    try:
        objects = PackObjects(root, Files(), seal_bytes=SEAL_BYTES)
    except Exception as error:
        return [f"it cannot be opened: {error!r}"]
    try:
        for promise in promises.stored:
            objects.get(promise.kind, promise.name)
    except StoreError as error:
        return [str(error)]
    finally:
        objects.close()
    return []


def _wrong_heads(store: LocalStore, promises: Promises) -> list[str]:
    found = []
    for session_id, heads in promises.heads.items():
        oldest = promises.acknowledged.get(session_id)
        try:
            head = store.heads.get(session_id, TENANT).head
        except SessionMissing:
            if oldest is not None:
                found.append(f"session {session_id} is gone")
            continue
        if head not in heads[oldest or 0 :]:
            found.append(f"the head of {session_id} is none of those after what was acknowledged")
    return found


def _not_mended(store: LocalStore, promises: Promises) -> list[str]:
    """Right after mending nothing is damaged, not even what nobody needs, and what was is put aside."""
    if not promises.just_mended:
        return []
    aside = [path.stat().st_size for path in (store.root / "damaged").glob("*")]
    lost = [f"{size} bytes were put aside" for size in aside if not size]
    return [*store.check(full=True)[0].harmless, *lost, *([] if promises.aside == len(aside) else ["not put aside"])]


def _one_more_step(store: LocalStore) -> list[str]:
    store.heads.create([msgspec.structs.replace(session("after"), head=EMPTY_SNAPSHOT_ID)], "create")
    snapshot = put_step(store, EMPTY_SNAPSHOT_ID, 1, [b"after the crash"])
    store.objects.sync()
    advance(store, "after", EMPTY_SNAPSHOT_ID, snapshot)
    return []


def _unclean(store: LocalStore) -> list[str]:
    report, _ = store.check(full=True)
    broken = (f"{name}: {lacks}" for name, lacks in report.broken.items())
    return [*report.damaged, *broken, *report.behind, *report.derived]


def put_step(store: LocalStore, parent: SnapshotId, number: int, contents: Iterable[bytes]) -> SnapshotId:
    """Put a snapshot whose tree holds the contents, large ones by descriptor. Not synced."""
    entries = []
    for position, data in enumerate(contents):
        if len(data) > LARGE_BYTES:
            with file_of(data) as descriptor:
                blob = store.objects.put_file(descriptor, len(data))
        else:
            blob = store.objects.put(Kind.BLOB, data)
        entries.append(Entry(b"%d" % position, EntryKind.FILE, blob, len(data), number))
    tree = put_tree(store.objects, entries)
    return SnapshotId(
        store.objects.put(Kind.SNAPSHOT, snapshots.encode(Snapshot(1, number, (parent,), tree, None, None)))
    )


def advance(store: LocalStore, session_id: str, expected: SnapshotId, snapshot: SnapshotId) -> None:
    store.heads.advance(session_id, expected, msgspec.structs.replace(move(1), to_snapshot=snapshot))
