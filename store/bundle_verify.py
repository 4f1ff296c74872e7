"""Reading a whole bundle without storing anything: is it what it says, and does this store have all that it builds on?

What the store has is what sessions of the importer's tenant keep (store.bundle_kept): an object that nothing reaches may be removed
by a sweep at any moment, and what others keep is theirs. Trees are bounded in depth and in what they hold with everything below: few bytes can describe a
tree that no disk can hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

from store import snapshot as snapshots
from store import tree as trees
from store.bundle import BundleReader, Incoming
from store.bundle_header import Header
from store.bundle_kept import NOT_HERE, Kept
from store.capture import DEPTH_MAX
from store.check import Progress, no_progress
from store.errors import BundleRefused, DecodeError
from store.ids import BlobId, Kind, SnapshotId, TreeId, hasher
from store.interfaces import HeadSweeper, ListedObjects
from store.reachable import is_implied, mark, snapshot_needs, tree_needs
from store.records import Name
from store.snapshot import EMPTY_SNAPSHOT_ID, Snapshot
from store.tree import EMPTY_TREE, Entry, EntryKind, Tree

TREE_BYTES_MAX = 256 << 20
"""The longest tree that is read."""
TREE_ENTRIES_MAX = 10_000_000


class Verified(NamedTuple):
    """What a bundle says, the hash by which it can be known again, and what each snapshot in it came from."""

    header: Header
    digest: bytes
    parents: dict[SnapshotId, tuple[SnapshotId, ...]]


class Shape(NamedTuple):
    """How deep a tree is, and how many entries it has with all below it."""

    depth: int
    entries: int


def verify_bundle(
    file: BinaryIO, objects: ListedObjects, heads: HeadSweeper, tenant: str, progress: Progress = no_progress
) -> Verified:
    """What a bundle brings, when it is whole and all that it needs is in it, or kept here by a session of `tenant`.

    Stores nothing. Keeps ids in memory. What another tenant keeps does not count: a bundle that names it would show it.

    Raises BundleRefused with what is wrong where; OSError when `file` cannot be read.
    """
    reader = BundleReader(file)
    header = reader.header()
    kept = Kept(objects, heads, tenant, header.prerequisites)
    for snapshot in header.prerequisites:
        if (Kind.SNAPSHOT, bytes(snapshot)) not in kept:
            raise BundleRefused(f"it builds on snapshot {snapshot.hex()}, which", NOT_HERE)
    contents = _Contents(kept)
    for number, incoming in enumerate(reader.objects(header.objects), 1):
        contents.add(incoming)
        progress("verifying", number, header.objects)
    digest = reader.end()
    contents.need_from_log(header)
    _require(objects, kept, contents.outside, contents.said_bytes)
    return Verified(header, digest, contents.parents)


class _Contents:
    """The objects of a bundle as they come: which there are, how long they are, and what they need from outside."""

    def __init__(self, kept: Kept) -> None:
        self.outside: set[Name] = set()
        self.said_bytes: dict[BlobId, int] = {}
        self.parents: dict[SnapshotId, tuple[SnapshotId, ...]] = {}
        self._kept = kept
        self._size_bytes: dict[Name, int] = {}
        self._unneeded: set[Name] = set()
        self._shapes = {EMPTY_TREE: Shape(0, 0)}
        self._depths = {EMPTY_SNAPSHOT_ID: 0}

    def add(self, incoming: Incoming) -> None:
        name, place = incoming.name, incoming.place
        if name in self._size_bytes:
            raise BundleRefused(place, "is in it twice")
        if name in self.outside:
            raise BundleRefused(place, "stands after what needs it")
        data, size_bytes = _read(incoming)
        try:
            if name[0] is Kind.TREE:
                self._add_tree(TreeId(name[1]), trees.decode(data), place)
            elif name[0] is Kind.SNAPSHOT:
                self._add_snapshot(name, snapshots.decode(data), place)
        except DecodeError as error:
            raise BundleRefused(place, f"is not canonical: {error}") from None
        self._size_bytes[name] = size_bytes
        self._unneeded.add(name)

    def need_from_log(self, header: Header) -> None:
        """Every object is there for a move of the log."""
        self._need((Kind.SNAPSHOT, bytes(move.to_snapshot)) for move in header.moves)
        if self._unneeded:
            kind, identity = min(self._unneeded)
            raise BundleRefused(f"{kind.word} {identity.hex()}", "is in it and belongs to no move")

    def _need(self, names: Iterable[Name]) -> None:
        for name in names:
            if name in self._size_bytes:
                self._unneeded.discard(name)
            elif not is_implied(name):
                self.outside.add(name)

    def _add_snapshot(self, name: Name, snapshot: Snapshot, place: str) -> None:
        depths = [self._depth(parent, place) for parent in snapshot.parents]
        if snapshot.depth != (1 + max(depths) if depths else 0):
            raise BundleRefused(
                place, f"has the depth {snapshot.depth}, which is not one more than that of its parents"
            )
        self._depths[SnapshotId(name[1])] = snapshot.depth
        self.parents[SnapshotId(name[1])] = snapshot.parents
        self._need(snapshot_needs(snapshot))

    def _depth(self, identity: SnapshotId, place: str) -> int:
        if identity not in self._depths:
            self._depths[identity] = self._kept.snapshot(identity, place).depth
        return self._depths[identity]

    def _add_tree(self, identity: TreeId, tree: Tree, place: str) -> None:
        for entry in tree:
            if entry.is_file:
                self._compare_size(entry, place)
        self._need(tree_needs(tree))
        for child in _subtrees(tree):
            self._measure(child, place)
        shape = self._shapes[identity] = _shape(tree, self._shapes)
        if shape.depth > DEPTH_MAX or shape.entries > TREE_ENTRIES_MAX:
            raise BundleRefused(
                place,
                f"is {shape.depth} deep and holds {shape.entries} entries in all; "
                f"at most {DEPTH_MAX} and {TREE_ENTRIES_MAX} are kept",
            )

    def _compare_size(self, entry: Entry, place: str) -> None:
        blob = trees.entry_blob(entry)
        size_bytes = self._size_bytes.get((Kind.BLOB, blob))
        if size_bytes is None:  # not in it; compared with what is here when all has come
            size_bytes = self.said_bytes.setdefault(blob, entry.size_bytes)
        if size_bytes != entry.size_bytes:
            raise BundleRefused(
                place, f"says that {entry.name!r} has {entry.size_bytes} bytes, and its blob has {size_bytes}"
            )

    def _measure(self, root: TreeId, place: str) -> None:
        """Learn the shape of a tree that is not in the bundle; needs no more stack for a deeper one."""
        ahead = [root]
        while ahead:
            identity = ahead[-1]
            if identity in self._shapes:
                ahead.pop()
                continue
            tree = self._kept.tree(identity, place)
            unknown = [child for child in _subtrees(tree) if child not in self._shapes]
            if not unknown:
                self._shapes[identity] = _shape(tree, self._shapes)
            ahead += unknown


def _read(incoming: Incoming) -> tuple[bytes, int]:
    """The bytes of a tree or snapshot (of a blob none), and how many there are. They match their name."""
    (kind, identity), place = incoming.name, incoming.place
    digest, chunks, size_bytes = hasher(kind), [], 0
    for chunk in incoming.chunks:
        digest.update(chunk)
        size_bytes += len(chunk)
        if kind is not Kind.BLOB:
            chunks.append(chunk)
            longest = TREE_BYTES_MAX if kind is Kind.TREE else snapshots.SNAPSHOT_BYTES_MAX
            if size_bytes > longest:
                raise BundleRefused(place, f"is longer than {longest} bytes")
    if digest.digest() != identity:
        raise BundleRefused(place, "has bytes that do not match its name")
    return b"".join(chunks), size_bytes


def _subtrees(tree: Tree) -> list[TreeId]:
    return [trees.entry_tree(entry) for entry in tree if entry.kind is EntryKind.DIRECTORY]


def _shape(tree: Tree, shapes: dict[TreeId, Shape]) -> Shape:
    below = [shapes[child] for child in _subtrees(tree)]
    return Shape(
        1 + max((shape.depth for shape in below), default=0), len(tree) + sum(shape.entries for shape in below)
    )


def _require(objects: ListedObjects, kept: Kept, outside: set[Name], sizes_bytes: dict[BlobId, int]) -> None:
    """Raise unless all of this is kept by a session of the tenant, whole down to the last blob, and as long as said."""
    theirs = {name for name in outside if name in kept}
    needed: set[Name] = set()
    for name, problem in mark(objects, theirs, needed).items():
        raise BundleRefused(f"{_word(name)}, on which it builds,", f"cannot be read here: {problem}")
    for name in sorted(objects.find_missing([name for name in needed if not is_implied(name)])):
        raise BundleRefused(_word(name), "is needed by what it builds on, and not in this store")
    for name in sorted(outside - theirs):
        raise BundleRefused(_word(name), NOT_HERE)
    for blob, said_bytes in sizes_bytes.items():
        if kept.size_bytes(blob) != said_bytes:
            raise BundleRefused(
                f"blob {blob.hex()}", f"has {kept.size_bytes(blob)} bytes here, and a tree in it says {said_bytes}"
            )


def _word(name: Name) -> str:
    return f"{name[0].word} {name[1].hex()}"
