"""Reading everything again: is each object what its name says, and is all there that a head or a log entry needs?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import msgspec

from store import snapshot as snapshots
from store import tree as trees
from store.capture import load_tree
from store.errors import DecodeError, ObjectDamaged, ObjectMissing
from store.ids import BlobId, Kind, SnapshotId, TreeId
from store.index import Name
from store.interfaces import HeadSweeper, ObjectLister, Objects
from store.snapshot import Run, Snapshot
from store.tree import EntryKind


class ListedObjects(Objects, ObjectLister, Protocol):
    """An object store that can also be listed."""


class CheckReport(msgspec.Struct, frozen=True):
    """`broken` names, for each session, what is missing or damaged among the things it needs."""

    objects: int
    snapshots: int
    reachable: int
    damaged: tuple[str, ...]
    broken: dict[str, tuple[str, ...]]

    @property
    def clean(self) -> bool:
        return not self.damaged and not self.broken

    @property
    def garbage(self) -> int:
        """Objects that nothing needs: what a sweep may remove."""
        return self.objects - self.reachable


def check(objects: ListedObjects, heads: HeadSweeper) -> CheckReport:
    """Read every byte of the store, and follow every head and log entry down to the last blob. Changes nothing."""
    # Heads first: what they need was there before them, also beside a server that goes on.
    roots = list(heads.roots())
    names = set(objects)
    damaged = {name: problem for name in names if (problem := _problem(objects, name)) is not None}
    reachable: set[Name] = set()
    whole = True
    for _, snapshot in roots:
        whole &= not mark(objects, (Kind.SNAPSHOT, snapshot), names, reachable, damaged)
    return CheckReport(
        len(names),
        sum(kind is Kind.SNAPSHOT for kind, _ in names),
        len(reachable),
        tuple(sorted(damaged.values())),
        {} if whole else _broken(objects, roots, names, damaged),
    )


def _broken(
    objects: Objects, roots: list[tuple[str, SnapshotId]], stored: set[Name], damaged: Mapping[Name, str]
) -> dict[str, tuple[str, ...]]:
    """Each session that lacks something, with what it lacks. Walks each session anew: what is shared breaks all of them."""
    seen: defaultdict[str, set[Name]] = defaultdict(set)
    broken: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for session_id, snapshot in roots:
        for problem in mark(objects, (Kind.SNAPSHOT, snapshot), stored, seen[session_id], damaged):
            broken[session_id][problem] = None
    return {session_id: tuple(problems) for session_id, problems in broken.items()}


def mark(
    objects: Objects,
    root: Name,
    stored: set[Name],
    reachable: set[Name],
    damaged: Mapping[Name, str] = MappingProxyType({}),
) -> list[str]:
    """Add to `reachable` all that `root` needs; returns what could not be read. Needs no more stack for longer histories.

    `damaged` says what is wrong with objects that have been read already.
    """
    problems, ahead = [], [root]
    while ahead:
        name = ahead.pop()
        if name in reachable:
            continue
        kind, identity = name
        if name not in stored and identity not in (trees.EMPTY_TREE,):
            problems.append(f"{kind.word} {identity.hex()} is missing")
            continue
        if name in stored:
            reachable.add(name)
        if name in damaged:
            problems.append(damaged[name])
            continue
        try:
            ahead += _needs(objects, name)
        except (ObjectMissing, ObjectDamaged, DecodeError) as error:
            problems.append(str(error))
    return problems


def snapshot_needs(snapshot: Snapshot) -> list[Name]:
    """What a snapshot names directly."""
    needs: list[Name] = [(Kind.SNAPSHOT, parent) for parent in snapshot.parents]
    needs.append((Kind.TREE, snapshot.tree))
    blobs: list[BlobId] = []
    if isinstance(snapshot.step, Run):
        blobs += [snapshot.step.code, snapshot.step.stdin, *(blob for _, blob in snapshot.step.files)]
    if snapshot.outcome is not None:
        blobs += [stream.blob for stage in snapshot.outcome.stages for stream in (stage.stdout, stage.stderr)]
    return needs + [(Kind.BLOB, blob) for blob in blobs]


def _needs(objects: Objects, name: Name) -> list[Name]:
    kind, identity = name
    if kind is Kind.SNAPSHOT:
        return snapshot_needs(snapshots.decode(objects.get(kind, identity)))
    if kind is Kind.TREE:
        return [
            (Kind.TREE if entry.kind is EntryKind.DIRECTORY else Kind.BLOB, entry.content)
            for entry in load_tree(objects, TreeId(identity))
            if entry.kind is not EntryKind.SYMLINK
        ]
    return []


def _problem(objects: Objects, name: Name) -> str | None:
    kind, identity = name
    try:
        data = objects.get(kind, identity)
        if kind is Kind.TREE:
            trees.decode(data)
        elif kind is Kind.SNAPSHOT:
            snapshots.decode(data)
    except (ObjectDamaged, ObjectMissing, DecodeError) as error:
        return str(error)
    return None
