"""The difference of two trees, path by path, O(what differs): subtrees of equal ids are skipped without being read.

When an entry changed is not part of it: only what it is and holds (`Entry.same_content`). So two trees of different ids may have no
difference.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from store import tree as trees
from store.capture import Path, load_tree
from store.ids import TreeId
from store.interfaces import Objects
from store.tree import EMPTY_TREE, Entry, EntryKind, Tree


class Change(msgspec.Struct, frozen=True):
    """What stands at a path before and after; None where nothing does. `path` is the names from the root down."""

    path: Path
    before: Entry | None
    after: Entry | None


def diff(objects: Objects, before: TreeId, after: TreeId) -> Iterator[Change]:
    """The changes from one root tree to another, sorted by path.

    A directory that is in both is no change, whatever changed in it. One that appears or vanishes is, and so is all it holds. Where a
    directory and something else replace each other, the removal comes first, then the addition.
    Raises ObjectMissing, ObjectDamaged, DecodeError. Holds the directories on the way to one path, and needs no more stack for
    deeper trees.
    """
    levels = [_level(objects, (), before, after)] if before != after else []
    while levels:
        pair = next(levels[-1], None)
        if pair is None:
            levels.pop()
            continue
        yield from _changes(pair)
        inner = _directory(pair.before), _directory(pair.after)
        if inner[0] != inner[1]:
            levels.append(_level(objects, pair.path, *inner))


def _changes(pair: Change) -> Iterator[Change]:
    old, new = pair.before, pair.after
    if old is None or new is None:
        yield pair
    elif (old.kind is EntryKind.DIRECTORY) != (new.kind is EntryKind.DIRECTORY):
        yield Change(pair.path, old, None)
        yield Change(pair.path, None, new)
    elif old.kind is not EntryKind.DIRECTORY and not old.same_content(new):
        yield pair


def _level(objects: Objects, path: Path, before: TreeId, after: TreeId) -> Iterator[Change]:
    """The entries of two directories side by side, by name."""
    old, new = load_tree(objects, before), load_tree(objects, after)
    left = right = 0
    while left < len(old) or right < len(new):
        name = min(_name_at(old, left), _name_at(new, right))
        one = two = None
        if _name_at(old, left) == name:
            one, left = old[left], left + 1
        if _name_at(new, right) == name:
            two, right = new[right], right + 1
        yield Change((*path, name), one, two)


_AFTER_ALL_NAMES = b"\xff" * (trees.NAME_BYTES_MAX + 1)


def _name_at(tree: Tree, position: int) -> bytes:
    return tree[position].name if position < len(tree) else _AFTER_ALL_NAMES


def _directory(entry: Entry | None) -> TreeId:
    """The tree below an entry; an empty one when it is no directory."""
    return trees.entry_tree(entry) if entry is not None and entry.kind is EntryKind.DIRECTORY else EMPTY_TREE
