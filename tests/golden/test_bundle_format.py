"""The format of bundles, pinned: what psf writes, byte for byte, and that it still reads it.

The pinned bytes must never change: bundles lie about for years. A new format needs a new number and a new file beside this one.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import blake3

from store import snapshot as snapshots
from store.bundle_export import export_bundle
from store.bundle_import import import_bundle
from store.capture import put_tree
from store.ids import BlobId, Kind, SnapshotId
from store.interfaces import Move, Session
from store.memory import MemoryHeads, MemoryObjects
from store.snapshot import EMPTY_SNAPSHOT_BYTES, EMPTY_SNAPSHOT_ID, Snapshot
from store.tree import Entry, EntryKind

PINS: dict[str, str] = json.loads(Path(__file__).with_name("bundle-1.json").read_text())


class Store:
    """A session with a file that changes, and a way back."""

    def __init__(self, *contents: bytes) -> None:
        self.objects, self.heads = MemoryObjects(), MemoryHeads()
        self.objects.put(Kind.SNAPSHOT, EMPTY_SNAPSHOT_BYTES)
        created = Session("s1", "local", "\u00e9", EMPTY_SNAPSHOT_ID, "python", "bubblewrap", 3600.0, 1.5e9, 1.5e9)
        self.heads.create([created], "create")
        head = EMPTY_SNAPSHOT_ID
        for depth, content in enumerate(contents, 1):
            blob = BlobId(self.objects.put(Kind.BLOB, content))
            tree = put_tree(self.objects, [Entry(b"\xff", EntryKind.EXECUTABLE, blob, len(content), depth)])
            after = snapshots.encode(Snapshot(1, depth, (head,), tree, None, None))
            head = self._advance(head, SnapshotId(self.objects.put(Kind.SNAPSHOT, after)), "execute", b'{"warm":false}')
        self._advance(head, EMPTY_SNAPSHOT_ID, "rollback", b"")

    def _advance(self, head: SnapshotId, to: SnapshotId, kind: str, run_record: bytes) -> SnapshotId:
        self.heads.advance("s1", head, Move(0, kind, None, to, 1.6e9, run_record), runtime="bash")
        return to

    def export(self, since: int | None = None) -> bytes:
        stream = io.BytesIO()
        export_bundle(self.objects, self.heads, self.heads.get("s1", "local"), stream, since=since)
        return stream.getvalue()

    def take(self, data: bytes) -> None:
        import_bundle(io.BytesIO(data), self.objects, self.heads, tenant="local", now_s=1.7e9, epoch=None, extend=True)


def test_a_session_has_the_pinned_bytes() -> None:
    assert Store(b"one", b"two").export().hex() == PINS["session"]


def test_a_range_has_the_pinned_bytes() -> None:
    assert Store(b"one", b"two").export(since=2).hex() == PINS["range"]


def test_a_large_blob_is_cut_as_it_always_was() -> None:
    data = Store(b"\x07" * ((16 << 20) + 1)).export()
    assert blake3.blake3(data).hexdigest() == PINS["large blob, BLAKE3 of the bundle"]


def test_pinned_bundles_can_be_read() -> None:
    store, receiver = Store(b"one", b"two"), Store()
    receiver.heads.drop_unused_since(1e12, is_running=lambda _: False)
    receiver.take(bytes.fromhex(PINS["session"]))
    receiver.take(bytes.fromhex(PINS["range"]))
    assert receiver.heads.log("s1", before=None, limit=9) == store.heads.log("s1", before=None, limit=9)
    assert set(receiver.objects) == set(store.objects)
