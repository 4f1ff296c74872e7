"""How far it is from one tree to another: what bringing a directory from the one to the other would cost, looked at no further
than is worth it.

The unit is one name made or removed. A file counts one more for each 64 KiB of content, which take about as long to write.
Subtrees with one name are equal and are not looked into, so near trees are measured by reading few.
"""

from __future__ import annotations

from store.errors import StoreError
from store.ids import TreeId
from store.known import KnownTrees
from store.tree import EMPTY_TREE, Entry, directory_tree
from store.usage import Usage

UNIT_BYTES = 64 << 10
TREES_READ_MAX = 256


def weight(usage: Usage) -> int:
    """What a whole directory would cost to make, in the unit of distances."""
    return usage.inodes + usage.disk_bytes // UNIT_BYTES


class Distances:
    """Distances to one tree. All of them together read no more than `trees_read_max` trees."""

    def __init__(self, known: KnownTrees, target: TreeId, trees_read_max: int = TREES_READ_MAX) -> None:
        self._known, self._target, self._reads = known, target, trees_read_max

    def measure(self, origin: TreeId, limit: int) -> int | None:
        """The distance from `origin`; None when it is more than `limit`, or cannot be told with the trees that may be read."""
        try:
            room = self._room_after(origin, self._target, limit)
        except StoreError:
            return None  # a tree that is gone: whatever stands on it must be made anew
        return limit - room if room >= 0 else None

    def _room_after(self, old: TreeId, new: TreeId, room: int) -> int:
        """What is left of `room` when the way from `old` to `new` is taken off; negative when it is too far."""
        if old == new:
            return room
        self._reads -= (old != EMPTY_TREE) + (new != EMPTY_TREE)
        if self._reads < 0:
            return -1
        before, after = self._known.entries(old), self._known.entries(new)
        for name in before.keys() | after.keys():
            one, other = before.get(name), after.get(name)
            if one == other:
                continue
            room -= _cost(other)
            if room >= 0:
                room = self._room_after(directory_tree(one) or EMPTY_TREE, directory_tree(other) or EMPTY_TREE, room)
            if room < 0:
                return room
        return room


def _cost(entry: Entry | None) -> int:
    return 1 + (entry.size_bytes // UNIT_BYTES if entry is not None else 0)
