"""Reading everything again: is each object what its name says, and is all there that a head, a log entry or a pin needs?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import msgspec

from store import journalled
from store import snapshot as snapshots
from store import tree as trees
from store.capture import load_tree
from store.errors import DecodeError, ObjectDamaged, ObjectMissing
from store.ids import Kind, TreeId
from store.interfaces import ListedObjects, Objects
from store.journalled import PinnedHeads, Records
from store.moves import LoggedHeads
from store.reachable import is_implied, mark, object_needs
from store.records import Name
from store.snapshot import Run, Snapshot, Write
from store.tree import EntryKind

LOSSES_MAX = 1000
"""How many losses of one session are named; the rest is counted."""

Progress = Callable[[str, int, int], None]
NO_SIZES: Mapping[bytes, int] = {}
Root = tuple[str, Name]
"""A session, or pin, and a snapshot that it needs."""


def no_progress(_what: str, _done: int, _total: int) -> None:
    """For callers that show none."""


class CheckReport(msgspec.Struct, frozen=True):
    """What a check found. `broken` names, for each session (or pin), what is missing or damaged of what it needs, and where.

    `harmless` is damage to what nothing needs: a crash leaves such where a write tore, and a sweep takes it away. `behind` are sessions of which the packs know later moves than the heads do, and pins that only they know: an old database was put back, or it was lost.
    `derived` is what was wrong with data that can be made again from the rest.
    """

    objects: int
    snapshots: int
    reachable: int
    damaged: tuple[str, ...]
    broken: dict[str, tuple[str, ...]]
    behind: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        return not (self.damaged or self.broken or self.behind or self.derived)

    @property
    def garbage(self) -> int:
        """Objects that nothing needs: what a sweep may remove."""
        return self.objects - self.reachable


def check(
    objects: ListedObjects,
    heads: PinnedHeads,
    *,
    damaged: Mapping[Name, str] | None = None,
    large_bytes: Mapping[bytes, int] = NO_SIZES,
    look: Callable[[], Records] | None = None,
    progress: Progress = no_progress,
) -> CheckReport:
    """Read every object, and follow every head, log entry and pin down to the last blob. Changes nothing.

    `damaged` is what is wrong with which objects, for a caller that has read them all; `large_bytes` has the sizes of blobs that
    nobody has read; `look` reads what the packs say of heads.
    """
    # Heads first: what they need was there before them, also beside a server that goes on.
    roots = _roots(heads)
    stored = set(objects)
    if damaged is None:
        damaged = read_all(objects, stored, progress)
    roots, reachable, bad = _follow(objects, heads, roots, stored, damaged, large_bytes, progress)
    records, missing = journalled.compare(heads, look or (lambda: journalled.read_all(objects)))
    return CheckReport(
        len(stored),
        sum(kind is Kind.SNAPSHOT for kind, _ in stored),
        len((reachable | journalled.needed(heads, records)) & stored),
        tuple(
            sorted(
                {damaged[name] for name in damaged.keys() & reachable}
                | {bad[name] for name in bad if name[1] in large_bytes}
            )
        ),
        _losses(objects, roots, reachable, bad) if bad else {},
        missing.texts(),
        harmless=tuple(sorted(damaged[name] for name in damaged.keys() - reachable)),
    )


def _follow(
    objects: ListedObjects,
    heads: LoggedHeads,
    roots: list[Root],
    stored: set[Name],
    damaged: Mapping[Name, str],
    large_bytes: Mapping[bytes, int],
    progress: Progress,
) -> tuple[list[Root], set[Name], dict[Name, str]]:
    """The roots, all that they reach, and what of it is missing or damaged."""
    while True:
        reachable: set[Name] = set()
        bad = mark(
            objects, (root for _, root in roots), reachable, lambda found: progress("following", found, len(stored))
        )
        bad |= {name: damaged[name] for name in reachable & damaged.keys()}
        bad |= _resized(objects, reachable - bad.keys(), large_bytes) if large_bytes else {}
        missing = {name for name in reachable - stored if not is_implied(name)}
        bad |= {name: f"{_word(name)} is missing" for name in objects.find_missing(missing)}
        # What was dropped meanwhile, and may have been swept, is no loss.
        now = set(_roots(heads)) if bad else set()
        kept = [root for root in roots if root in now] if bad else roots
        if len(kept) == len(roots):
            return roots, reachable, bad
        roots = kept


def _resized(objects: Objects, reachable: set[Name], large_bytes: Mapping[bytes, int]) -> dict[Name, str]:
    """The files of trees that have another size than their trees say."""
    bad: dict[Name, str] = {}
    for kind, identity in reachable:
        try:
            entries = load_tree(objects, TreeId(identity)) if kind is Kind.TREE else ()
        except (ObjectDamaged, ObjectMissing):
            continue  # swept since it was marked
        for entry in entries:
            size_bytes = large_bytes.get(entry.content) if entry.is_file else None
            if size_bytes not in (None, entry.size_bytes):
                name = (Kind.BLOB, entry.content)
                bad[name] = f"{_word(name)} is damaged: its file has {size_bytes} bytes, not {entry.size_bytes}"
    return bad


def _roots(heads: LoggedHeads) -> list[Root]:
    return [(name, (Kind.SNAPSHOT, bytes(snapshot))) for name, snapshot in heads.roots()]


def read_all(objects: ListedObjects, stored: set[Name], progress: Progress) -> dict[Name, str]:
    """What is wrong with which objects."""
    damaged: dict[Name, str] = {}
    for number, name in enumerate(stored, 1):
        if (problem := _problem(objects, name)) is not None:
            damaged[name] = problem
        progress("reading", number, len(stored))
    return damaged


def form_problem(name: Name, data: bytes) -> str | None:
    """Why an object's bytes, which match its name, are not the canonical encoding of what it should be."""
    decoders = {Kind.TREE: trees.decode, Kind.SNAPSHOT: snapshots.decode, Kind.MOVE: journalled.decode}
    decode = decoders.get(name[0])
    try:
        if decode is not None:
            decode(data)
    except DecodeError as error:
        return f"{_word(name)}: {error}"
    return None


def _problem(objects: Objects, name: Name) -> str | None:
    try:
        return form_problem(name, objects.get(*name))
    except (ObjectDamaged, ObjectMissing) as error:
        return str(error)


def _losses(
    objects: Objects, roots: list[Root], reachable: set[Name], bad: Mapping[Name, str]
) -> dict[str, tuple[str, ...]]:
    """Each session that lacks something, with what it lacks and where, newest first."""
    tainted = _tainted(objects, reachable, bad)
    sessions: defaultdict[str, list[Name]] = defaultdict(list)
    for session_id, root in roots:
        if root in tainted:
            sessions[session_id].append(root)
    broken: dict[str, tuple[str, ...]] = {}
    for session_id, names in sessions.items():
        losses = _losses_below(objects, names, tainted, bad)
        surplus = len(losses) - LOSSES_MAX
        broken[session_id] = (*losses[:LOSSES_MAX], *([f"and {surplus} more"] if surplus > 0 else []))
    return broken


def _tainted(objects: Objects, reachable: set[Name], bad: Mapping[Name, str]) -> set[Name]:
    """Everything that reaches something bad."""
    needed_by: defaultdict[Name, list[Name]] = defaultdict(list)
    for name in reachable:
        if name[0] is not Kind.BLOB and name not in bad and not is_implied(name):
            for need in object_needs(objects, name):
                needed_by[need].append(name)
    tainted, ahead = set(bad), list(bad)
    while ahead:
        above = [name for name in needed_by[ahead.pop()] if name not in tainted]
        tainted.update(above)
        ahead += above
    return tainted


def _losses_below(objects: Objects, roots: list[Name], tainted: set[Name], bad: Mapping[Name, str]) -> list[str]:
    losses: list[str] = []
    seen: set[Name] = set()
    ahead = [(name, "its log") for name in roots]
    while ahead:
        name, place = ahead.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in bad:
            losses.append(f"{place.removesuffix(': ')}: {bad[name]}")
            continue
        ahead += [need for need in reversed(_labelled_needs(objects, name, place)) if need[0] in tainted]
    return losses


def _labelled_needs(objects: Objects, name: Name, place: str) -> list[tuple[Name, str]]:
    """What an object names, each with where it is as a person would say it."""
    kind, identity = name
    if kind is Kind.SNAPSHOT:
        return _snapshot_parts(snapshots.decode(objects.get(kind, identity)))
    if kind is not Kind.TREE or is_implied(name):
        return []
    parts = []
    for entry in trees.decode(objects.get(kind, TreeId(identity))):
        if entry.kind is not EntryKind.SYMLINK:
            inner = (Kind.TREE if entry.kind is EntryKind.DIRECTORY else Kind.BLOB, entry.content)
            separator = "/" if not place.endswith(": ") else ""
            parts.append((inner, place + separator + entry.name.decode(errors="backslashreplace")))
    return parts


def _snapshot_parts(snapshot: Snapshot) -> list[tuple[Name, str]]:
    step = f"step {snapshot.depth}"
    parts: list[tuple[Name, str]] = [((Kind.TREE, snapshot.tree), f"{step}: ")]
    if isinstance(snapshot.step, Run):
        parts += [((Kind.BLOB, snapshot.step.code), f"{step}, its code")]
        parts += [((Kind.BLOB, snapshot.step.stdin), f"{step}, its stdin")]
        parts += [((Kind.BLOB, blob), f"{step}, sent file {name}") for name, blob in snapshot.step.files]
    elif isinstance(snapshot.step, Write):
        parts += [
            ((Kind.BLOB, file.blob), f"{step}, written file {file.path.decode(errors='backslashreplace')}")
            for file in snapshot.step.files
        ]
    for stage in snapshot.outcome.stages if snapshot.outcome is not None else ():
        parts += [((Kind.BLOB, stage.stdout.blob), f"{step}, stdout of {stage.name}")]
        parts += [((Kind.BLOB, stage.stderr.blob), f"{step}, stderr of {stage.name}")]
    return parts + [((Kind.SNAPSHOT, parent), f"before {step}") for parent in snapshot.parents]


def _word(name: Name) -> str:
    return f"{name[0].word} {name[1].hex()}"
