"""Merging two trees, path by path, against the one that both come from.

What only one side changed is taken from that side; what both changed to the same is taken once. All else is a conflict: it is told
with both sides, never guessed. When an entry changed plays no part (`Entry.same_content`): two trees of different ids may be equal.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from store import tree as trees
from store.capture import Path
from store.diff import diff
from store.ids import TreeId
from store.known import KnownTrees
from store.tree import EMPTY_TREE, Entry, EntryKind

OnConflict = Literal["report", "ours", "theirs"]


class Conflict(NamedTuple):
    """A path that both sides changed, differently: what stood there and what stands there now; None where nothing does."""

    path: Path
    base: Entry | None
    ours: Entry | None
    theirs: Entry | None


class Merged(NamedTuple):
    """The merged tree, in which conflicts are as on our side unless theirs was asked for, and all conflicts by path."""

    tree: TreeId
    conflicts: tuple[Conflict, ...]


class _Sides(NamedTuple):
    base: Entry | None
    ours: Entry | None
    theirs: Entry | None


class _Level:
    """One directory on the way: the names still to be merged, and what has become of the others."""

    def __init__(self, known: KnownTrees, path: Path, sides: _Sides) -> None:
        self.path, self.sides = path, sides
        self.base, self.ours, self.theirs = (known.entries(_directory(side) or EMPTY_TREE) for side in sides)
        self.names = sorted(self.base.keys() | self.ours.keys() | self.theirs.keys(), reverse=True)
        self.merged = dict(self.ours)

    def side_of(self, name: bytes) -> _Sides:
        return _Sides(self.base.get(name), self.ours.get(name), self.theirs.get(name))

    def set(self, name: bytes, entry: Entry | None, number: int) -> None:
        """Let `entry` stand there; `number` is the step's, which what is not as on our side carries."""
        if _is_same(self.ours.get(name), entry):
            return
        if entry is None:
            del self.merged[name]
        else:
            self.merged[name] = Entry(name, entry.kind, entry.content, entry.size_bytes, number)


def merge(
    known: KnownTrees, base: TreeId, ours: TreeId, theirs: TreeId, *, number: int, on_conflict: OnConflict = "report"
) -> Merged:
    """Bring what `theirs` changed since `base` into `ours`, O(what differs). `number` is the merging step's.

    New trees are put into the store, not synced. Raises ObjectMissing, ObjectDamaged, DecodeError. Needs no more stack for deeper trees.
    """
    sides = _Sides(*(Entry(b"root", EntryKind.DIRECTORY, tree, 0, 0) for tree in (base, ours, theirs)))
    conflicts: list[Conflict] = []
    levels = [_Level(known, (), sides)]
    while True:
        level = levels[-1]
        if level.names:
            inner = _looked_at(known, level, number, on_conflict, conflicts)
            if inner is not None:
                levels.append(_Level(known, *inner))
            continue
        levels.pop()
        tree = known.put(level.merged.values()) if level.merged != level.ours else _directory(level.sides.ours)
        if not levels:
            return Merged(tree or EMPTY_TREE, tuple(conflicts))
        was, *both = level.sides
        is_gone = not level.merged and None in both and _directory(was) is not None
        whole = None if is_gone else Entry(level.path[-1], EntryKind.DIRECTORY, tree or EMPTY_TREE, 0, number)
        levels[-1].set(level.path[-1], whole, number)


def _looked_at(
    known: KnownTrees, level: _Level, number: int, on_conflict: OnConflict, conflicts: list[Conflict]
) -> tuple[Path, _Sides] | None:
    """Merge the next name of a directory; what is given back must be looked into first."""
    name = level.names.pop()
    sides, path = _as_before(known, level.side_of(name)), (*level.path, name)
    if _is_opened(sides):
        return path, sides
    taken = sides.theirs if _is_same(sides.base, sides.ours) else sides.ours
    if not _is_decided(sides):
        conflicts.append(Conflict(path, *sides))
        taken = sides.theirs if on_conflict == "theirs" else sides.ours
        if taken is sides.theirs and _directory(taken) is not None:
            return path, sides._replace(base=None)
    level.set(name, taken, number)
    return None


def _as_before(known: KnownTrees, sides: _Sides) -> _Sides:
    """Where a directory stands against something else: with the side that did not change it, but for times, as the base."""
    base, ours, theirs = sides
    if base is None or ours is None or theirs is None or (_directory(ours) is None) == (_directory(theirs) is None):
        return sides
    one = ours if _directory(ours) is not None else theirs
    before, now = _directory(base), _directory(one)
    if before is None or now is None or next(diff(known.objects, before, now), None) is not None:
        return sides
    return sides._replace(base=one)


def _is_decided(sides: _Sides) -> bool:
    base, ours, theirs = sides
    return _is_same(ours, theirs) or _is_same(base, ours) or _is_same(base, theirs)


def _is_opened(sides: _Sides) -> bool:
    """Whether to look into a directory, because what the two sides hold there differs.

    Also where theirs is taken whole: what comes from there must carry the merging step's number, down to the last file, or
    programs that compare times would take it for older than what was made from what stood there before.
    """
    base, ours, theirs = sides
    if _is_same(ours, theirs) or _is_same(base, theirs):
        return False
    was_directory, is_ours = _directory(base) is not None, _directory(ours) is not None
    if theirs is None:
        return was_directory and is_ours and not _is_same(base, ours)
    return _directory(theirs) is not None and (is_ours or _is_same(base, ours) or (ours is None and was_directory))


def _is_same(one: Entry | None, other: Entry | None) -> bool:
    return one is other if one is None or other is None else one.same_content(other)


def _directory(entry: Entry | None) -> TreeId | None:
    return trees.directory_tree(entry)
