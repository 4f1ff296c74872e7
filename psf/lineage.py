"""Where things come from: the common ancestor of two snapshots, the step that wrote a file, the step that broke something."""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from psf.history import ancestors
from store import snapshot as snapshots
from store.ids import Kind, SnapshotId
from store.interfaces import Objects
from store.known import KnownTrees
from store.snapshot import Snapshot
from store.tree import Entry


class Blame(NamedTuple):
    """The step that last gave a path what it holds, and what that is."""

    identity: SnapshotId
    snapshot: Snapshot
    entry: Entry


def merge_base(objects: Objects, ours: SnapshotId, theirs: SnapshotId) -> SnapshotId | None:
    """The common ancestor of two snapshots that is furthest from the base of its history; None when they have none.

    A snapshot is its own ancestor. Of several equally far the one with the least id counts. Reads O(steps between) snapshots.
    """
    reached: dict[SnapshotId, int] = {}
    ahead: list[tuple[int, SnapshotId]] = []

    def reach(identity: SnapshotId, sides: int, depth: int | None = None) -> None:
        if identity not in reached:
            depth = _read(objects, identity).depth if depth is None else depth
            heapq.heappush(ahead, (-depth, identity))
        reached[identity] = reached.get(identity, 0) | sides

    reach(ours, 1)
    reach(theirs, 2)
    # Parents are nearer to the base than their children: whoever is taken from the heap has been reached from all its descendants.
    while ahead:
        _, identity = heapq.heappop(ahead)
        if reached[identity] == 3:
            return identity
        for parent in _read(objects, identity).parents:
            reach(parent, reached[identity])
    return None


def blame(known: KnownTrees, head: SnapshotId, path: tuple[bytes, ...]) -> Blame | None:
    """The step that last changed what stands at `path` in `head`; None when nothing stands there.

    An entry carries the number of the step that changed it, so only snapshots are read on the way, O(steps back). What a merge
    brought is asked of the side it came from. A directory was changed by whoever changed the last thing in it.
    """
    objects = known.objects
    found = known.find(_read(objects, head).tree, path)
    if found is None:
        return None
    while True:
        identity, snapshot = _at(objects, head, found.changed)
        source = _other_side(known, snapshot, path, found)
        if source is None:
            return Blame(identity, snapshot, found)
        head, found = source


def _at(objects: Objects, head: SnapshotId, number: int) -> tuple[SnapshotId, Snapshot]:
    """The ancestor of `head`, by first parents, in which an entry with this number first stood."""
    last: tuple[SnapshotId, Snapshot] | None = None
    for identity, snapshot in ancestors(objects, head):
        if last is not None and snapshot.depth < number:
            break
        last = identity, snapshot
    assert last is not None
    return last


def _other_side(
    known: KnownTrees, snapshot: Snapshot, path: tuple[bytes, ...], found: Entry
) -> tuple[SnapshotId, Entry] | None:
    if len(snapshot.parents) < 2:
        return None
    theirs = known.find(_read(known.objects, snapshot.parents[1]).tree, path)
    return (snapshot.parents[1], theirs) if theirs is not None and theirs.same_content(found) else None


async def first_failing(count: int, fails: Callable[[int], Awaitable[bool]]) -> int | None:
    """The first of the steps 1 to `count` after which something fails; None when it does after none of them.

    Taken for granted: it does not fail before step 1, and once it fails it fails after every later step. Asks at most log2(count) + 1
    times.
    """
    good, bad = 0, count + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if await fails(middle):
            bad = middle
        else:
            good = middle
    return bad if bad <= count else None


def _read(objects: Objects, identity: SnapshotId) -> Snapshot:
    return snapshots.decode(objects.get(Kind.SNAPSHOT, identity))
