"""What needs what: from a snapshot down to the last blob."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from store import snapshot as snapshots
from store import tree as trees
from store.capture import load_tree
from store.errors import DecodeError, ObjectDamaged, ObjectMissing
from store.ids import BlobId, Kind, TreeId
from store.interfaces import Objects
from store.records import Name
from store.snapshot import Run, Snapshot, Write
from store.tree import EntryKind, Tree


def snapshot_needs(snapshot: Snapshot) -> list[Name]:
    """What a snapshot names directly."""
    needs: list[Name] = [(Kind.SNAPSHOT, parent) for parent in snapshot.parents]
    needs.append((Kind.TREE, snapshot.tree))
    blobs: list[BlobId] = []
    if isinstance(snapshot.step, Run):
        blobs += [snapshot.step.code, snapshot.step.stdin, *(blob for _, blob in snapshot.step.files)]
    elif isinstance(snapshot.step, Write):
        blobs += [file.blob for file in snapshot.step.files]
    if snapshot.outcome is not None:
        blobs += [stream.blob for stage in snapshot.outcome.stages for stream in (stage.stdout, stage.stderr)]
    return needs + [(Kind.BLOB, blob) for blob in blobs]


def tree_needs(tree: Tree) -> list[Name]:
    """What a tree names directly."""
    return [
        (Kind.TREE if entry.kind is EntryKind.DIRECTORY else Kind.BLOB, entry.content)
        for entry in tree
        if entry.kind is not EntryKind.SYMLINK
    ]


def object_needs(objects: Objects, name: Name) -> list[Name]:
    """What an object names directly. Raises ObjectMissing, ObjectDamaged, DecodeError when it cannot be read."""
    kind, identity = name
    if kind is Kind.SNAPSHOT:
        return snapshot_needs(snapshots.decode(objects.get(kind, identity)))
    if kind is Kind.TREE:
        return tree_needs(load_tree(objects, TreeId(identity)))
    return []


def _nothing(_: int) -> None:
    return None


def mark(
    objects: Objects, roots: Iterable[Name], reachable: set[Name], seen: Callable[[int], None] = _nothing
) -> dict[Name, str]:
    """Add to `reachable` the roots and all they need, whether it is stored or not; what is in it already is not followed.

    Returns the trees and snapshots that could not be read, with the reason. `seen` is told how many objects were found so far.
    Needs no more stack for longer histories.
    """
    unreadable: dict[Name, str] = {}
    ahead = [name for name in roots if name not in reachable]
    reachable.update(ahead)
    while ahead:
        name = ahead.pop()
        try:
            needs = object_needs(objects, name)
        except (ObjectDamaged, ObjectMissing, DecodeError) as error:
            unreadable[name] = str(error)
            continue
        for need in needs:
            if need not in reachable:
                reachable.add(need)
                if need[0] is not Kind.BLOB:
                    ahead.append(need)
        seen(len(reachable))
    return unreadable


def is_implied(name: Name) -> bool:
    """Whether an object need not be stored: everybody knows the empty tree."""
    return name == (Kind.TREE, trees.EMPTY_TREE)
