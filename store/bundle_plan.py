"""What a verified bundle adds to a session's log: all of it, the rest of it, nothing, or a refusal. Reads, and changes nothing.

Ids of sessions and snapshots are no secrets, so whoever has seen them can make a bundle that continues a session. It does so only
when its owner asks for that, and only as the session itself could have gone on: each new move leads to a snapshot made from the one
before it, or back to one that the session came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from store import snapshot as snapshots
from store.bundle_verify import Verified
from store.errors import BundleRefused, SessionMissing
from store.ids import Kind, SnapshotId
from store.interfaces import Heads, Move, Objects, Session

PAGE_MOVES = 1000


class Plan(NamedTuple):
    """What is to be added to a session's log, which ends with the move `after`; 0 when there is no such session yet."""

    session: Session
    after: int
    moves: tuple[Move, ...]


def make_plan(objects: Objects, heads: Heads, session: Session, verified: Verified, *, extend: bool) -> Plan:
    """What to do with the moves of a bundle. Raises BundleRefused when they do not fit what is there, or need `extend`."""
    name, moves = session.session_id, verified.header.moves
    first = moves[0]
    try:
        heads.get(name, session.tenant)
    except SessionMissing:
        if first.sequence > 1:
            raise BundleRefused(
                "it", f"continues session {name} after move {first.sequence - 1}, and there is no such session"
            ) from None
        return Plan(session, 0, moves)
    logged = {move.sequence: move for move in _log(heads, name, down_to=first.sequence - 1)}
    _refuse_diverged(name, logged, moves)
    last = max(logged)
    new = tuple(move for move in moves if move.sequence > last)
    if new and not extend:
        raise BundleRefused(
            "it",
            f"has {len(new)} moves more than session {name} here; `--extend` adds them to that session, "
            "`--as ID` imports it as another one",
        )
    _refuse_strangers(name, new, _History(objects, heads, name, verified))
    return Plan(session, last, new)


def _refuse_diverged(name: str, logged: dict[int, Move], moves: tuple[Move, ...]) -> None:
    first = moves[0]
    if first.sequence > 1 and first.sequence - 1 not in logged:
        raise BundleRefused(
            "it", f"continues session {name} after move {first.sequence - 1}, which its log does not have"
        )
    if first.sequence > 1 and logged[first.sequence - 1].to_snapshot != first.from_snapshot:
        raise BundleRefused("it", _diverged(name, first.sequence - 1))
    for move in moves:
        if logged.get(move.sequence, move) != move:
            raise BundleRefused("it", _diverged(name, move.sequence))


def _diverged(session_id: str, sequence: int) -> str:
    return (
        f"and session {session_id} have diverged: move {sequence} is another one here; "
        "`--as ID` imports it as another session"
    )


def _refuse_strangers(name: str, new: tuple[Move, ...], history: _History) -> None:
    for move in new:
        if move.from_snapshot not in history.parents(move.to_snapshot) and not history.has(move.to_snapshot):
            raise BundleRefused(
                "it",
                f"has a move {move.sequence} which leads to a snapshot that was neither made from the one before it nor "
                f"is of the history of session {name}; `--as ID` imports it as another session",
            )
        history.add(move.to_snapshot)


class _History:
    """Where a session has been, and what that came from. Read only as far as it is asked for: mostly not at all."""

    def __init__(self, objects: Objects, heads: Heads, session_id: str, verified: Verified) -> None:
        self._objects, self._brought = objects, verified.parents
        self._logged: Callable[[], Iterator[Move]] = lambda: _log(heads, session_id)
        self._ahead: list[SnapshotId] | None = None
        self._added: list[SnapshotId] = []
        self._known: set[SnapshotId] = set()

    def parents(self, snapshot: SnapshotId) -> tuple[SnapshotId, ...]:
        brought = self._brought.get(snapshot)
        return brought if brought is not None else snapshots.decode(self._objects.get(Kind.SNAPSHOT, snapshot)).parents

    def add(self, snapshot: SnapshotId) -> None:
        self._added.append(snapshot)

    def has(self, snapshot: SnapshotId) -> bool:
        if self._ahead is None:
            self._ahead = [move.to_snapshot for move in self._logged()]
            self._known.update(self._ahead)
        fresh = [one for one in self._added if one not in self._known]
        self._known.update(fresh)
        self._ahead += fresh
        self._added = []
        while snapshot not in self._known and self._ahead:
            unknown = [one for one in self.parents(self._ahead.pop()) if one not in self._known]
            self._known.update(unknown)
            self._ahead += unknown
        return snapshot in self._known


def _log(heads: Heads, session_id: str, *, down_to: int = 0) -> Iterator[Move]:
    """The moves of a log, newest first, down to that number."""
    before: int | None = None
    while (before is None or before > down_to) and (page := heads.log(session_id, before=before, limit=PAGE_MOVES)):
        yield from (move for move in page if move.sequence >= down_to)
        before = page[-1].sequence
