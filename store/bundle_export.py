"""Writing a session, or a range of its history, into a bundle (store.bundle)."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable
from typing import BinaryIO

import msgspec

from store import snapshot as snapshots
from store.bundle import PART_BYTES, BundleWriter
from store.bundle_header import Header, check_header
from store.capture import load_tree
from store.check import Progress, no_progress
from store.errors import BundleRefused, DecodeError, NotInHistory
from store.ids import BlobId, Kind, SnapshotId, TreeId
from store.interfaces import Heads, ListedObjects, Move, Objects, Session
from store.reachable import is_implied, mark, object_needs, tree_needs
from store.records import Name

PAGE_MOVES = 1000


class Exported(msgspec.Struct, frozen=True):
    """What a bundle holds: which moves, how many objects and bytes, and the snapshots that its receiver must have."""

    first_move: int
    last_move: int
    objects: int
    size_bytes: int
    prerequisites: tuple[SnapshotId, ...]


def export_bundle(
    objects: ListedObjects,
    heads: Heads,
    session: Session,
    stream: BinaryIO,
    *,
    have: Collection[SnapshotId] = (),
    since: int | None = None,
    until: int | None = None,
    progress: Progress = no_progress,
) -> Exported:
    """Write the session with all that its log needs, or a range of it, into `stream`, whose `write` must take all it is given.

    `have` are snapshots that the receiver is known to have; what they need is left out. Those that this store does not know are
    passed over. `since` leaves out the moves up to and including that number, `until` those after it; a receiver must have the
    session up to `since`, and is taken to have what those moves need.

    Keeps ids in memory, and one object at a time, of a long file a part. Raises NotInHistory for a range that is none, BundleRefused
    for one that import would refuse, since it has too many moves or the session a name that none may have, ObjectMissing,
    ObjectDamaged, DecodeError and OSError; what is in the stream then is no bundle, and import would say so.
    """
    before, moves = _split_log(heads, session.session_id, since, until)
    held: set[Name] = set()
    prerequisites = _mark_held(objects, {*have, *before}, held)
    left = msgspec.structs.replace(session, head=moves[-1].to_snapshot)
    header = Header(left, tuple(moves), prerequisites, 0)
    try:
        check_header(header)
    except DecodeError as error:
        raise BundleRefused("it", f"would not be read again: it {error}") from None
    ordered, long = in_order(objects, [(Kind.SNAPSHOT, bytes(move.to_snapshot)) for move in moves], held)
    writer = BundleWriter(stream)
    writer.begin(msgspec.structs.replace(header, objects=len(ordered)))
    for number, name in enumerate(ordered, 1):
        if name in long:
            _put_long(writer, objects, BlobId(name[1]))
        else:
            writer.put(name, objects.get(*name))
        progress("writing", number, len(ordered))
    writer.end()
    return Exported(moves[0].sequence, moves[-1].sequence, len(ordered), writer.size_bytes, prerequisites)


def in_order(objects: Objects, roots: Iterable[Name], held: Collection[Name]) -> tuple[list[Name], set[Name]]:
    """All that `roots` need and that is not in `held`, each once, after what it needs itself; and which files of it are long.

    Needs no more stack for longer histories.
    """
    ordered: list[Name] = []
    long: set[Name] = set()
    seen = set(held)
    ahead = [(root, False) for root in roots][::-1]
    while ahead:
        name, needs_are_there = ahead.pop()
        if needs_are_there:
            ordered.append(name)
        elif name not in seen and not is_implied(name):
            seen.add(name)
            ahead.append((name, True))
            ahead += [(need, False) for need in reversed(_needs(objects, name, long))]
    return ordered, long


def _needs(objects: Objects, name: Name, long: set[Name]) -> list[Name]:
    """What an object names. Adds the long files of a tree to `long`: only there does it say how long a blob is."""
    if name[0] is not Kind.TREE:
        return object_needs(objects, name)
    tree = load_tree(objects, TreeId(name[1]))
    long.update((Kind.BLOB, entry.content) for entry in tree if entry.is_file and entry.size_bytes > PART_BYTES)
    return tree_needs(tree)


def _put_long(writer: BundleWriter, objects: Objects, blob: BlobId) -> None:
    with tempfile.TemporaryFile() as whole:
        objects.write_file(blob, whole.fileno())
        writer.put_file((Kind.BLOB, blob), whole.fileno())


def _split_log(
    heads: Heads, session_id: str, since: int | None, until: int | None
) -> tuple[set[SnapshotId], list[Move]]:
    """Where the moves up to `since` led, and the moves after it, oldest first."""
    earlier: set[SnapshotId] = set()
    moves: list[Move] = []
    before = until + 1 if until is not None else None
    while page := heads.log(session_id, before=before, limit=PAGE_MOVES):
        moves += [move for move in page if since is None or move.sequence > since]
        earlier.update(move.to_snapshot for move in page if since is not None and move.sequence <= since)
        before = page[-1].sequence
    last = moves[0].sequence if moves else None
    if until is not None and last != until:
        raise NotInHistory(str(until), f"is no move of session {session_id} after move {since or 0}")
    if last is None or (since is not None and not earlier):
        raise NotInHistory(str(since), f"is no move of session {session_id} that others follow")
    return earlier, moves[::-1]


def _mark_held(objects: ListedObjects, have: Collection[SnapshotId], held: set[Name]) -> tuple[SnapshotId, ...]:
    """Mark what the receiver has; returns, sorted, the snapshots from which all of it follows."""
    names = {(Kind.SNAPSHOT, bytes(snapshot)) for snapshot in have}
    known = names - objects.find_missing(names)
    depths = {name: snapshots.decode(objects.get(*name)).depth for name in known}
    newest = []
    # Later ones first: most others follow from them.
    for name in sorted(known, key=lambda name: (-depths[name], name)):
        if name not in held:
            newest.append(SnapshotId(name[1]))
            mark(objects, [name], held)
    return tuple(sorted(newest))
