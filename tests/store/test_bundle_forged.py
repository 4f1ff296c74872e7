"""Bundles that are well formed and bring what they must not: objects that lack something, that nobody needs, that no disk can hold."""

from __future__ import annotations

import io
from collections.abc import Callable

import msgspec
import pytest

from store import bundle_verify
from store import snapshot as snapshots
from store import tree as trees
from store.bundle_header import Header
from store.bundle_import import import_bundle
from store.errors import BundleRefused
from store.ids import BlobId, Kind, SnapshotId, blob_id, object_id
from store.interfaces import Move, Objects
from store.memory import MemoryObjects
from store.snapshot import EMPTY_SNAPSHOT, EMPTY_SNAPSHOT_BYTES, EMPTY_SNAPSHOT_ID, Snapshot
from store.testing import session
from store.tree import EMPTY_TREE, Entry, EntryKind
from tests.store.bundles import Place, Records, filled, put_together, refused, small, taken_apart


def without(kind: Kind) -> Callable[[Records], Records]:
    return lambda records: [(name, data) for name, data in records if name[0] is not kind]


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (without(Kind.BLOB), "is not in it, and no session of this tenant keeps it here"),
        (without(Kind.TREE), "belongs to no move|is not in it"),
        (without(Kind.SNAPSHOT), "belongs to no move"),
        (lambda records: [records[0], *records], "is in it twice"),
        (lambda records: [*records[1:], records[0]], "stands after what needs it"),
        (lambda records: [*records, ((Kind.BLOB, blob_id(b"more")), b"more")], "belongs to no move"),
    ],
)
def test_objects_that_are_lacking_or_out_of_place_are_refused(alter: Callable[[Records], Records], said: str) -> None:
    header, records = taken_apart(small())
    refused(put_together(header, alter(records)), said)


def test_no_object_may_be_lacking() -> None:
    """Of a session with every kind of reference: code, stdin, files sent, output, trees, parents."""
    header, records = taken_apart(filled().export())
    for position, ((_, identity), _) in enumerate(records):
        if identity != EMPTY_SNAPSHOT_ID:  # every store has it
            refused(put_together(header, records[:position] + records[position + 1 :]))


def one_object(kind: Kind, data: bytes) -> Records:
    return [((kind, object_id(kind, data)), data)]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Kind.TREE, b"\x92\xcc\x01\x90"),
        (Kind.TREE, b"\x92\x02\x90"),
        (Kind.TREE, b"noise"),
        (Kind.SNAPSHOT, EMPTY_SNAPSHOT_BYTES + b"\x00"),
        (Kind.SNAPSHOT, b""),
        (Kind.SNAPSHOT, b"\x96\x01\x00\x90\xc4\x00\x9b\xa3run\xa1\xff"),  # a text that is not UTF-8
        (Kind.SNAPSHOT, msgspec.msgpack.encode([1, -1, [], EMPTY_TREE, None, None])),
    ],
)
def test_trees_and_snapshots_that_are_not_canonical_are_refused(kind: Kind, data: bytes) -> None:
    header, records = taken_apart(small())
    refused(put_together(header, records + one_object(kind, data)), "is not canonical")


def bundle_of(objects: Objects, snapshot: Snapshot, records: Records) -> bytes:
    """A bundle whose one move leads to the snapshot."""
    head = SnapshotId(objects.put(Kind.SNAPSHOT, snapshots.encode(snapshot)))
    new = msgspec.structs.replace(session("a"), head=head)
    moved = Move(1, "create", None, head, 5.0, b"")
    return put_together(
        Header(new, (moved,), (), 0), [*records, ((Kind.SNAPSHOT, head), objects.get(Kind.SNAPSHOT, head))]
    )


def nested(depth: int, width: int) -> tuple[bytes, Records]:
    """A tree of directories, all the same on each level."""
    tree, records = EMPTY_TREE, []
    for _ in range(depth):
        data = trees.encode([Entry(b"%d" % name, EntryKind.DIRECTORY, tree, 0, 0) for name in range(width)])
        tree = trees.tree_id(data)
        records.append(((Kind.TREE, bytes(tree)), data))
    return tree, records


@pytest.mark.parametrize(("depth", "width", "said"), [(257, 1, "is 257 deep"), (24, 2, "entries in all")])
def test_a_tree_that_no_disk_can_hold_is_refused(depth: int, width: int, said: str) -> None:
    tree, records = nested(depth, width)
    data = bundle_of(MemoryObjects(), msgspec.structs.replace(EMPTY_SNAPSHOT, tree=tree), records)
    refused(data, said)


def test_a_tree_that_grows_too_deep_with_what_is_here_is_refused() -> None:
    """Half of it came before."""
    receiver = Place.in_memory()
    inner, records = nested(200, 1)
    first = msgspec.structs.replace(EMPTY_SNAPSHOT, tree=inner)
    receiver.take(bundle_of(MemoryObjects(), first, records))
    outer, all_records = nested(300, 1)
    second = msgspec.structs.replace(EMPTY_SNAPSHOT, tree=outer)
    refused(bundle_of(MemoryObjects(), second, all_records[200:]), "needs tree .*, which is not in it")
    refused(bundle_of(MemoryObjects(), second, all_records[200:]), "is 257 deep", receiver, as_session="b")


def test_a_wrong_size_of_a_file_is_refused() -> None:
    objects = MemoryObjects()
    blob = BlobId(objects.put(Kind.BLOB, b"content"))
    data = trees.encode([Entry(b"f", EntryKind.FILE, blob, 8, 0)])
    tree = trees.tree_id(data)
    snapshot = msgspec.structs.replace(EMPTY_SNAPSHOT, tree=tree)
    records: Records = [((Kind.BLOB, blob), b"content"), ((Kind.TREE, bytes(tree)), data)]
    refused(bundle_of(objects, snapshot, records), "b'f' has 8 bytes, and its blob has 7")


def test_a_tree_or_snapshot_beyond_all_measure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    header, records = taken_apart(small())
    data = b"\x96\x01\x00" + bytes(18)
    with monkeypatch.context() as patched:
        patched.setattr(bundle_verify, "TREE_BYTES_MAX", 20)
        refused(put_together(header, records), "tree .* is longer than 20 bytes")
    place = Place.in_memory()
    monkeypatch.setattr(snapshots, "SNAPSHOT_BYTES_MAX", 20)
    refused(
        put_together(header, [*records, *one_object(Kind.SNAPSHOT, data)]), "snapshot .* is longer than 20 bytes", place
    )


def test_what_is_here_and_damaged_is_not_built_on() -> None:
    sender, receiver = filled(), Place.in_memory()
    receiver.take(sender.export(until=5))
    data = sender.export(since=5)
    lost = (Kind.BLOB, bytes(blob_id(b"print(1)")))
    assert isinstance(receiver.objects, MemoryObjects)
    del receiver.objects._objects[lost]
    refused(data, f"blob {lost[1].hex()} is needed by what it builds on", receiver)
    parent = snapshots.decode(receiver.objects.get(Kind.SNAPSHOT, receiver.head()))
    del receiver.objects._objects[Kind.TREE, parent.tree]
    refused(data, "cannot be read here", receiver)


@pytest.mark.parametrize("change", ["header", "object", "other object", "all"])
def test_a_file_that_changes_after_it_was_verified_shows_nothing(change: str) -> None:
    """Each time to a bundle that is well formed."""
    header, records = taken_apart(small())
    other = {
        "header": put_together(msgspec.structs.replace(header, prerequisites=(EMPTY_SNAPSHOT_ID,)), records),
        "object": put_together(header, [records[0], (records[1][0], b"CONTENT"), *records[2:]]),
        "other object": put_together(header, [records[0], *one_object(Kind.BLOB, b"CONTENT"), *records[2:]]),
        "all": filled().export(),
    }[change]

    class Changing(io.BytesIO):
        ends_sought = 0

        def seek(self, offset: int, whence: int = 0) -> int:
            self.ends_sought += whence == io.SEEK_END
            if self.ends_sought == 2:
                self.ends_sought += 1
                super().seek(0)
                self.truncate()
                self.write(other)
            return super().seek(offset, whence)

    place = Place.in_memory()
    with pytest.raises(BundleRefused, match="its file changed while it was read"):
        import_bundle(Changing(small()), place.objects, place.heads, tenant="alice", now_s=1.0, epoch=None)
    assert place.visible() == {}
