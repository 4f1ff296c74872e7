"""Questions about histories: reads the store, changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from store import snapshot as snapshots
from store.errors import NotInHistory
from store.ids import ID_BYTES, PREFIX_DIGITS_MIN, Kind, SnapshotId, is_prefix
from store.interfaces import Heads, Objects, Session
from store.snapshot import Snapshot

LOG_PAGE = 500
_STEP, _STEPS_BACK = re.compile(r"[0-9]{1,9}\Z"), re.compile(r"-[0-9]{1,9}\Z")


def find_snapshot(objects: Objects, heads: Heads, session: Session, reference: str | int) -> SnapshotId:
    """The snapshot of the session's history that `reference` names.

    A step number (3, "3"), "-n" for n steps before the head, or a snapshot id or a unique prefix of at least 6 digits. The history is
    all that the session's log names and the ancestors of that. Raises NotInHistory, saying what is wrong.
    """
    text = str(reference)
    if _STEPS_BACK.match(text):
        return _steps_back(objects, session.head, int(text[1:]), text)
    if is_prefix(text) and not isinstance(reference, int):
        if (whole := _whole_id(heads, session, text)) is not None:
            return whole
        found = {identity for identity in _history(objects, heads, session) if identity.hex().startswith(text)}
        if len(found) == 1:
            return found.pop()
        if found:
            raise NotInHistory(text, "names more than one snapshot of this session; give more digits")
    if _STEP.match(text):
        return _step(objects, heads, session, int(text), text)
    reason = "names no snapshot in this session's history"
    if not is_prefix(text):
        reason = f"is no snapshot id (at least {PREFIX_DIGITS_MIN} hexadecimal digits), step number or -n"
    raise NotInHistory(text[:80], reason)


def _whole_id(heads: Heads, session: Session, text: str) -> SnapshotId | None:
    """The snapshot of this id, when the session's head has stood there: no ancestor need be read then."""
    if len(text) < 2 * ID_BYTES:
        return None
    identity = SnapshotId(bytes.fromhex(text))
    stood = identity == session.head or identity in _logged(heads, session.session_id)
    return identity if stood else None


def ancestors(objects: Objects, start: SnapshotId) -> Iterator[tuple[SnapshotId, Snapshot]]:
    """A snapshot and those before it, by first parents, newest first."""
    current: SnapshotId | None = start
    while current is not None:
        snapshot = snapshots.decode(objects.get(Kind.SNAPSHOT, current))
        yield current, snapshot
        current = snapshot.parents[0] if snapshot.parents else None


def _steps_back(objects: Objects, head: SnapshotId, count: int, text: str) -> SnapshotId:
    for distance, (identity, _) in enumerate(ancestors(objects, head)):
        if distance == count:
            return identity
    raise NotInHistory(text, "goes back further than the session's history")


def _step(objects: Objects, heads: Heads, session: Session, number: int, text: str) -> SnapshotId:
    seen: set[SnapshotId] = set()
    for start in chain((session.head,), _logged(heads, session.session_id)):
        for identity, snapshot in ancestors(objects, start):
            if snapshot.depth == number:
                return identity
            if snapshot.depth < number or identity in seen:
                break
            seen.add(identity)
    raise NotInHistory(text, "is not a step of this session's history")


def _history(objects: Objects, heads: Heads, session: Session) -> Iterator[SnapshotId]:
    seen: set[SnapshotId] = set()
    for start in (session.head, *_logged(heads, session.session_id)):
        for identity, _ in ancestors(objects, start):
            if identity in seen:
                break
            seen.add(identity)
            yield identity


def _logged(heads: Heads, session_id: str) -> Iterator[SnapshotId]:
    before: int | None = None
    while moves := heads.log(session_id, before=before, limit=LOG_PAGE):
        for move in moves:
            yield move.to_snapshot
        before = moves[-1].sequence
