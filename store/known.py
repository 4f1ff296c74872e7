"""Trees that were decoded, or put, not long ago: a step reads the same few again and again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from store import tree as trees
from store.ids import Kind, TreeId
from store.interfaces import Objects
from store.tree import Entry

KNOWN_ENTRIES_MAX = 1_000_000
KNOWN_BYTES_MAX = 128 << 20


class KnownTrees:
    """The trees of `objects`, decoded once for as long as `entries_max`, and `bytes_max` for names and links, allow.

    Any number of threads. What it gives is shared, and must not be changed.
    """

    def __init__(
        self, objects: Objects, entries_max: int = KNOWN_ENTRIES_MAX, bytes_max: int = KNOWN_BYTES_MAX
    ) -> None:
        self.objects, self._entries_max, self._bytes_max = objects, entries_max, bytes_max
        self._known: dict[TreeId, Mapping[bytes, Entry]] = {}
        self._entries = self._bytes = 0

    def entries(self, tree: TreeId) -> Mapping[bytes, Entry]:
        """A tree's entries by name. Raises ObjectMissing, ObjectDamaged or DecodeError."""
        known = self._known.get(tree)
        if known is None:
            data = b"" if tree == trees.EMPTY_TREE else self.objects.get(Kind.TREE, tree)
            known = {entry.name: entry for entry in trees.decode(data)} if data else {}
            self._remember(tree, known)
        return known

    def put(self, entries: Iterable[Entry]) -> TreeId:
        """Store a tree; see `Objects.put`."""
        known = {entry.name: entry for entry in entries}
        tree = TreeId(self.objects.put(Kind.TREE, trees.encode(known.values())))
        self._remember(tree, known)
        return tree

    def find(self, root: TreeId, path: tuple[bytes, ...]) -> Entry | None:
        """The entry at `path` below `root`, following no symlink; None when there is none."""
        entry: Entry | None = None
        tree: TreeId | None = root
        for name in path:
            entry = self.entries(tree).get(name) if tree is not None else None
            tree = trees.directory_tree(entry)
        return entry

    def _remember(self, tree: TreeId, entries: Mapping[bytes, Entry]) -> None:
        tree_bytes = trees.bytes_max(entries.values())
        if self._entries + len(entries) > self._entries_max or self._bytes + tree_bytes > self._bytes_max:
            self._known, self._entries, self._bytes = {}, 0, 0
        self._known[tree] = entries
        self._entries += len(entries) + 1
        self._bytes += tree_bytes
