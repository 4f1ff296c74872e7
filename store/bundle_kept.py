"""What the sessions of one tenant keep in a store: all that a bundle of theirs may build on, and all that it is told about.

Whether anything else is stored, by other tenants or waiting for a sweep, makes no difference to what is said of a bundle: who asks
must not learn by it what others have.
"""

from __future__ import annotations

from collections.abc import Iterable

from store import snapshot as snapshots
from store import tree as trees
from store.capture import load_tree
from store.errors import BundleRefused, DecodeError, ObjectDamaged, ObjectMissing
from store.ids import BlobId, Kind, SnapshotId, TreeId
from store.interfaces import HeadSweeper, Objects
from store.reachable import object_needs, tree_needs
from store.records import Name
from store.snapshot import EMPTY_SNAPSHOT_ID, Snapshot
from store.tree import Tree

NOT_HERE = "is not in it, and no session of this tenant keeps it here; export without `--have` and `--since`"


class Kept:
    """The names of what is kept, followed as far as they are asked for: first from `likely`, then from every root.

    Memory: ids, and of each file its size.
    """

    def __init__(self, objects: Objects, heads: HeadSweeper, tenant: str, likely: Iterable[SnapshotId]) -> None:
        self._objects, self._heads, self._tenant = objects, heads, tenant
        self._likely = {(Kind.SNAPSHOT, bytes(snapshot)) for snapshot in likely}
        self._stages = ["likely", "all"]
        self._names: set[Name] = {(Kind.TREE, trees.EMPTY_TREE)}
        self._sizes_bytes: dict[bytes, int] = {}

    def __contains__(self, name: Name) -> bool:
        while name not in self._names and self._stages:
            roots = self._roots()
            self._follow(roots & self._likely if self._stages.pop(0) == "likely" else roots)
        return name in self._names

    def snapshot(self, identity: SnapshotId, place: str) -> Snapshot:
        """Raises BundleRefused, on behalf of what stands at `place`, for one that is not kept or cannot be read."""
        try:
            return snapshots.decode(self._objects.get(Kind.SNAPSHOT, self._checked(Kind.SNAPSHOT, identity, place)))
        except (ObjectMissing, ObjectDamaged, DecodeError) as error:
            raise _unreadable(place, error) from None

    def tree(self, identity: TreeId, place: str) -> Tree:
        """As `snapshot`."""
        try:
            return load_tree(self._objects, TreeId(self._checked(Kind.TREE, identity, place)))
        except (ObjectMissing, ObjectDamaged, DecodeError) as error:
            raise _unreadable(place, error) from None

    def size_bytes(self, blob: BlobId) -> int:
        """Of a blob that is kept: what a tree here says, which was compared when it came, or else its own length."""
        size_bytes = self._sizes_bytes.get(blob)
        return size_bytes if size_bytes is not None else len(self._objects.get(Kind.BLOB, blob))

    def _checked(self, kind: Kind, identity: bytes, place: str) -> bytes:
        if (kind, identity) not in self:
            raise BundleRefused(f"{place} needs {kind.word} {identity.hex()}, which", NOT_HERE)
        return identity

    def _roots(self) -> set[Name]:
        theirs = {
            moved.session.session_id for moved in self._heads.last_moves() if moved.session.tenant == self._tenant
        }
        roots = {(Kind.SNAPSHOT, bytes(snapshot)) for name, snapshot in self._heads.roots() if name in theirs}
        return roots | {(Kind.SNAPSHOT, bytes(EMPTY_SNAPSHOT_ID))}

    def _follow(self, roots: set[Name]) -> None:
        """Add roots and all they need. Needs no more stack for longer histories."""
        ahead = [root for root in roots if root not in self._names]
        self._names.update(ahead)
        while ahead:
            try:
                needs = self._needs(ahead.pop())
            except (ObjectMissing, ObjectDamaged, DecodeError):
                continue  # whoever builds on it is told that it cannot be read
            fresh = [need for need in needs if need not in self._names]
            self._names.update(fresh)
            ahead += {need for need in fresh if need[0] is not Kind.BLOB}

    def _needs(self, name: Name) -> list[Name]:
        if name[0] is not Kind.TREE:
            return object_needs(self._objects, name)
        tree = load_tree(self._objects, TreeId(name[1]))
        self._sizes_bytes.update((entry.content, entry.size_bytes) for entry in tree if entry.is_file)
        return tree_needs(tree)


def _unreadable(place: str, error: Exception) -> BundleRefused:
    return BundleRefused(place, f"needs what cannot be read here: {error}")
