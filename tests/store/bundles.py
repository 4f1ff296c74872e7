"""Stores with sessions to export, everything that can be seen of a store, and bundles taken apart and put together otherwise."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import blake3
import msgspec
import pytest

from store import snapshot as snapshots
from store.bundle import BundleReader, BundleWriter
from store.bundle_export import Exported, export_bundle
from store.bundle_header import Header
from store.bundle_import import Imported, import_bundle
from store.capture import put_tree
from store.errors import BundleRefused
from store.heads import SqliteHeads
from store.ids import BlobId, Kind, SnapshotId
from store.interfaces import Move
from store.memory import MemoryHeads, MemoryObjects
from store.packs import PackObjects
from store.records import Name
from store.snapshot import (
    EMPTY_SNAPSHOT_BYTES,
    EMPTY_SNAPSHOT_ID,
    Ending,
    Limits,
    Outcome,
    Run,
    Snapshot,
    Stage,
    Stream,
)
from store.testing import session
from store.tree import Entry, EntryKind

NOW_S = 9000.0
Files = dict[bytes, bytes]


class Place:
    """A store. `begin`, `step` and `go_back` make a session as the service would."""

    def __init__(self, objects: MemoryObjects | PackObjects, heads: MemoryHeads | SqliteHeads) -> None:
        self.objects, self.heads = objects, heads
        objects.put(Kind.SNAPSHOT, EMPTY_SNAPSHOT_BYTES)
        objects.sync()

    @classmethod
    def in_memory(cls) -> Place:
        return cls(MemoryObjects(), MemoryHeads())

    def begin(self, session_id: str = "a", *, tenant: str = "alice") -> None:
        new = msgspec.structs.replace(session(session_id, tenant=tenant), head=EMPTY_SNAPSHOT_ID)
        self.heads.create([new], "create")

    def step(self, files: Files, session_id: str = "a", *, at_s: float = 2000.0) -> SnapshotId:
        """A run that leaves `d/` with these files, and a link beside it."""
        head = self.head(session_id)
        depth = snapshots.decode(self.objects.get(Kind.SNAPSHOT, head)).depth + 1
        code = self.blob(b"print(%d)" % depth)
        stream = Stream(self.blob(b"output %d" % depth), 8, truncated=False)
        step = Run(
            "bash", b"\x05" * 32, code, self.blob(b"stdin"), (), (), (("in.txt", self.blob(b"sent")),), (), "all",
            (("run", Limits()),),
        )  # fmt: skip
        outcome = Outcome((Stage("run", Ending.EXITED, 0, None, stream, stream, ()),), ())
        entries = [Entry(name, EntryKind.FILE, self.blob(data), len(data), depth) for name, data in files.items()]
        link = Entry(b"link", EntryKind.SYMLINK, b"d", 1, 1)
        tree = put_tree(
            self.objects, [Entry(b"d", EntryKind.DIRECTORY, put_tree(self.objects, entries), 0, depth), link]
        )
        return self.move_to(self.put_snapshot(Snapshot(1, depth, (head,), tree, step, outcome)), session_id, at_s=at_s)

    def put_snapshot(self, snapshot: Snapshot) -> SnapshotId:
        return SnapshotId(self.objects.put(Kind.SNAPSHOT, snapshots.encode(snapshot)))

    def move_to(
        self, snapshot: SnapshotId, session_id: str = "a", *, kind: str = "execute", at_s: float = 2000.0
    ) -> SnapshotId:
        self.objects.sync()
        moved = Move(0, kind, None, snapshot, at_s, b'{"warm":true}')
        self.heads.advance(session_id, self.head(session_id), moved, runtime="bash")
        return snapshot

    def blob(self, data: bytes) -> BlobId:
        return BlobId(self.objects.put(Kind.BLOB, data))

    def head(self, session_id: str = "a") -> SnapshotId:
        (newest,) = self.heads.log(session_id, before=None, limit=1)
        return newest.to_snapshot

    def log(self, session_id: str = "a") -> list[Move]:
        return self.heads.log(session_id, before=None, limit=1000)

    def export(self, session_id: str = "a", *, tenant: str = "alice", **options: Any) -> bytes:
        return self.exported(session_id, tenant=tenant, **options)[0]

    def exported(self, session_id: str = "a", *, tenant: str = "alice", **options: Any) -> tuple[bytes, Exported]:
        stream = io.BytesIO()
        facts = export_bundle(self.objects, self.heads, self.heads.get(session_id, tenant), stream, **options)
        return stream.getvalue(), facts

    def take(self, bundle: bytes, *, tenant: str = "alice", extend: bool = True, **options: Any) -> Imported:
        return import_bundle(
            io.BytesIO(bundle),
            self.objects,
            self.heads,
            tenant=tenant,
            now_s=NOW_S,
            epoch=None,
            extend=extend,
            **options,
        )

    def everything(self) -> tuple[dict[tuple[Kind, bytes], bytes], object]:
        """All objects (but what the journal writes) and all heads."""
        stored = {name: self.objects.get(*name) for name in self.objects if name[0] is not Kind.MOVE}
        return stored, self.visible()

    def visible(self) -> object:
        return {last.session.session_id: (last, self.log(last.session.session_id)) for last in self.heads.last_moves()}


def filled(make: Callable[[], Place] = Place.in_memory) -> Place:
    """A session with three steps, a way back, and a step from there."""
    place = make()
    place.begin()
    first = place.step({b"one": b"1"})
    place.step({b"one": b"1", b"two": b"2"})
    place.step({b"two": b"22"})
    place.move_to(first, kind="rollback")
    place.step({b"one": b"1", b"three": b"3"})
    return place


Records = list[tuple[Name, bytes]]
Part = tuple[Name, int, bytes]
"""Name, flags and payload of a record."""


def small() -> bytes:
    """A bundle of one move to a snapshot with one file."""
    place = Place.in_memory()
    place.begin()
    tree = put_tree(place.objects, [Entry(b"f", EntryKind.FILE, place.blob(b"content"), 7, 1)])
    place.move_to(place.put_snapshot(Snapshot(1, 1, (EMPTY_SNAPSHOT_ID,), tree, None, None)))
    return place.export()


def taken_apart(data: bytes) -> tuple[Header, Records]:
    reader = BundleReader(io.BytesIO(data))
    header = reader.header()
    return header, [(incoming.name, b"".join(incoming.chunks)) for incoming in reader.objects(header.objects)]


def put_together(
    header: Header,
    records: Records,
    *,
    count: int | None = None,
    parts: Mapping[int, list[Part]] = MappingProxyType({}),
) -> bytes:
    """A bundle with a good trailer, whatever is in it. `parts` are written in place of the record of that position."""
    stream = io.BytesIO()
    writer = BundleWriter(stream)
    writer.begin(msgspec.structs.replace(header, objects=len(records) if count is None else count))
    for position, (name, payload) in enumerate(records):
        for part_name, flags, part in parts.get(position, ()):
            writer._record(part_name, flags, memoryview(part))
        if position not in parts:
            writer.put(name, payload)
    writer.end()
    return stream.getvalue()


def sealed(body: bytes) -> bytes:
    digest: bytes = blake3.blake3(body).digest()
    return body + digest


def refused(data: bytes, said: str | None = None, place: Place | None = None, **options: Any) -> str:
    """The message with which a store refuses the bundle. Nothing has changed in it."""
    place = place or Place.in_memory()
    before = place.everything()
    with pytest.raises(BundleRefused, match=said) as caught:
        place.take(data, **options)
    assert place.everything() == before
    return str(caught.value)
