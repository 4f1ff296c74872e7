"""What a bundle may build on without carrying it: what the importer's own sessions keep, as long as it is. Nothing else is told."""

from __future__ import annotations

import msgspec
import pytest

from store import tree as trees
from store.bundle_header import Header
from store.ids import Kind, SnapshotId, TreeId, blob_id
from store.snapshot import EMPTY_SNAPSHOT_ID, Snapshot
from store.testing import nobody
from store.tree import Entry, EntryKind
from tests.store.bundles import Place, Records, filled, put_together, refused, taken_apart


def forged(records: Records, prerequisites: tuple[SnapshotId, ...] = ()) -> bytes:
    """A bundle of a new session `new` whose head is the last of the records."""
    base = taken_apart(filled().export(until=1))[0]
    head = SnapshotId(records[-1][0][1]) if records else EMPTY_SNAPSHOT_ID
    created = msgspec.structs.replace(base.moves[0], to_snapshot=head)
    session = msgspec.structs.replace(base.session, session_id="new", head=head)
    return put_together(Header(session, (created,), prerequisites, 0), records)


def tree_of(*entries: Entry) -> tuple[TreeId, Records]:
    data = trees.encode(entries)
    return trees.tree_id(data), [((Kind.TREE, bytes(trees.tree_id(data))), data)]


def snapshot_of(tree: TreeId, *parents: SnapshotId, depth: int = 0) -> Records:
    place = Place.in_memory()
    name = place.put_snapshot(Snapshot(1, depth, parents, tree, None, None))
    return [((Kind.SNAPSHOT, bytes(name)), place.objects.get(Kind.SNAPSHOT, name))]


def naming(kind: str) -> bytes:
    """A bundle that names, and does not carry, something of what `filled` has."""
    source = filled()
    if kind == "blob":
        tree, records = tree_of(Entry(b"f", EntryKind.FILE, blob_id(b"22"), 2, 0))
        return forged(records + snapshot_of(tree))
    head = source.head()
    if kind == "prerequisite":
        return forged([], prerequisites=(head,))
    depth = {"parent": 3, "parent of another depth": 9}.get(kind)
    if depth is not None:
        return forged(snapshot_of(trees.EMPTY_TREE, head, depth=depth))
    inner = next(name[1] for name, _ in taken_apart(source.export())[1] if name[0] is Kind.TREE)
    tree, records = tree_of(Entry(b"d", EntryKind.DIRECTORY, inner, 0, 0))
    return forged(records + snapshot_of(tree))


@pytest.mark.parametrize("kind", ["blob", "tree", "parent", "parent of another depth", "prerequisite"])
def test_nobody_learns_from_a_refusal_what_others_have(kind: str) -> None:
    data = naming(kind)
    nothing, others, garbage, own = (Place.in_memory() for _ in range(4))
    others.take(filled().export(), as_session="theirs", tenant="bob")
    garbage.take(filled().export())
    garbage.heads.drop_unused_since(1e9, is_running=nobody)
    message = refused(data, "no session of this tenant keeps it here", nothing)
    assert refused(data, None, others) == refused(data, None, garbage) == message
    own.take(filled().export())
    if kind == "parent of another depth":
        assert "has the depth 9" in refused(data, None, own)
    else:
        assert own.take(data).change == "created"


def test_the_size_of_a_file_that_is_here_is_compared(receiver: Place) -> None:
    receiver.take(filled().export())
    for content in (b"22", b"print(1)"):  # a file; a program, of which no tree says how long it is

        def as_long_as(size_bytes: int, content: bytes = content) -> bytes:
            tree, records = tree_of(Entry(b"f", EntryKind.FILE, blob_id(content), size_bytes, 0))
            return forged(records + snapshot_of(tree))

        said = f"has {len(content)} bytes here, and a tree in it says 5"
        refused(as_long_as(5), said, receiver)
        assert receiver.take(as_long_as(len(content)), as_session=f"s{len(content)}").change == "created"


def test_two_sizes_of_one_file_are_refused(receiver: Place) -> None:
    receiver.take(filled().export())
    blob = blob_id(b"22")
    tree, records = tree_of(Entry(b"f", EntryKind.FILE, blob, 2, 0), Entry(b"g", EntryKind.FILE, blob, 5, 0))
    refused(forged(records + snapshot_of(tree)), "b'g' has 5 bytes, and its blob has 2", receiver)
