"""Moves as they are written down in the packs: from them heads are made again after a power cut, and when their database is lost.

A record is msgpack of `[version, sequence, session, move | nil, group]`: a session as the move left it, or, with nil, that it was
dropped after the move `sequence`. Limits, image and work directory of a session that asks for none are not written. Records of one group were made durable together; groups grow until the machine starts again. SQLite decides and is what is read; a record is durable before SQLite commits (store.journal).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol

import msgspec

from store.asked import NOTHING_ASKED
from store.errors import DecodeError, HeadMoved
from store.interfaces import UNKEYED, Heads, HeadSweeper, Keyed, Move, Moved, Session

VERSION = 2
_LATER_OF_SESSIONS, _LATER_OF_MOVES = (NOTHING_ASKED, "", ""), (b"", b"")
"""What the fields that came after the first ones hold when nothing stands there. Those must never change."""
CONFIRMED = 1 << 62
"""Group of a record that says again which of several moves in one place was made: it counts before them."""


LifeId = tuple[str, float]
"""A session id and when it was created: an id whose session was dropped may be used again."""


def life_of(session: Session) -> LifeId:
    return session.session_id, session.created_at_s


class MoveRecord(msgspec.Struct, frozen=True):
    """What one record says; see the module."""

    sequence: int
    session: Session
    move: Move | None
    group: int = 0


class _Session(Session, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A session without the names of its fields."""


class _Move(Move, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A move without the names of its fields."""


class _Encoded(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    sequence: int
    session: _Session
    move: _Move | None
    group: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Encoded)


def encode(record: MoveRecord) -> bytes:
    """Canonical bytes of a record."""
    move = fields_of(record.move) if record.move is not None else None
    return _encoder.encode((VERSION, record.sequence, fields_of(record.session), move, record.group))


def fields_of(value: Session | Move) -> tuple[object, ...]:
    """A session or a move without the names of its fields, as it is written: those that came later are left off the end while nothing
    stands there.
    """
    fields = msgspec.structs.astuple(value)
    later = _LATER_OF_SESSIONS if isinstance(value, Session) else _LATER_OF_MOVES
    length, first = len(fields), len(fields) - len(later)
    while length > first and fields[length - 1] == later[length - 1 - first]:
        length -= 1
    return fields[:length]


def decode(data: bytes) -> MoveRecord:
    """The record that `data` encodes. Raises DecodeError."""
    try:
        encoded = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"not a move: {error}") from None
    if encoded.version != VERSION:
        raise DecodeError(f"move format {encoded.version} is not known; this psf reads {VERSION}")
    session = Session(*msgspec.structs.astuple(encoded.session))
    move = Move(*msgspec.structs.astuple(encoded.move)) if encoded.move is not None else None
    return MoveRecord(encoded.sequence, session, move, encoded.group)


def first_move(session: Session, kind: str, keyed: Keyed = UNKEYED) -> Move:
    """The first entry of the log of a session that begins."""
    return Move(1, kind, None, session.head, session.created_at_s, b"", keyed.key, keyed.asked)


def left_by(session: Session, moves: Iterable[Move]) -> list[Moved]:
    """Each move with the session as it has left it; `session` is as the last one left it."""
    return [Moved(msgspec.structs.replace(session, head=move.to_snapshot), move) for move in moves]


def refuse_other_end(last: Moved, expected_sequence: int, first: Move) -> None:
    """Raise HeadMoved unless `first` continues a log that ends with `last` and should end with the move `expected_sequence`."""
    session, sequence = last.session, last.move.sequence
    if sequence != expected_sequence:
        raise HeadMoved(session.session_id, f"at move {expected_sequence}", f"at move {sequence}")
    if session.head != first.from_snapshot:
        raise HeadMoved(session.session_id, (first.from_snapshot or b"").hex(), session.head.hex())


class Life(msgspec.Struct):
    """What the packs know of one session: its moves by sequence, as the last left it, and whether it was dropped.

    `seen` has every move that was ever recorded: steps that failed may have been, and an old database that was put back may have been
    used since.
    """

    session: Session
    moves: dict[int, Move]
    seen: set[tuple[int, bytes]]
    last: int
    dropped: bool


def lives(records: Iterable[MoveRecord]) -> dict[LifeId, Life]:
    """All sessions that records tell of.

    Of two moves in one place that counts from which the next one starts; of two last ones the confirmed, or else the later.
    """
    found: defaultdict[LifeId, list[MoveRecord]] = defaultdict(list)
    for record in records:
        found[life_of(record.session)].append(record)
    return {identity: _life(records) for identity, records in found.items()}


def _life(records: list[MoveRecord]) -> Life:
    places: defaultdict[int, list[tuple[MoveRecord, Move]]] = defaultdict(list)
    for record in records:
        if record.move is not None:
            places[record.sequence].append((record, record.move))
    moves: dict[int, Move] = {}
    session, last = records[0].session, max(places, default=0)
    for sequence in sorted(places, reverse=True):
        rivals = sorted(
            places[sequence], key=lambda rival: (rival[0].group == CONFIRMED, rival[1].at_s, rival[0].group)
        )
        following = moves.get(sequence + 1)
        leading_on = [rival for rival in rivals if following and rival[1].to_snapshot == following.from_snapshot]
        record, moves[sequence] = (leading_on or rivals)[-1]
        if sequence == last:
            session = record.session
    seen: set[tuple[int, bytes]] = {
        (sequence, move.to_snapshot) for sequence, rivals in places.items() for _, move in rivals
    }
    dropped_after = max((record.sequence for record in records if record.move is None), default=-1)
    return Life(session, moves, seen, last, dropped_after >= last)


class LoggedHeads(Heads, HeadSweeper, Protocol):
    """Heads with their dangerous view."""


def missing_from(heads: LoggedHeads, known: dict[LifeId, Life]) -> list[Life]:
    """Sessions of which the packs know a later move than the heads do, another one, or which the heads do not have at all."""
    present = {life_of(last.session): last for last in heads.last_moves()}
    youngest: dict[str, float] = {}
    for name, created_at_s in present:
        youngest[name] = max(youngest.get(name, 0.0), created_at_s)
    missing = []
    for identity, life in known.items():
        name, created_at_s = identity
        if life.dropped or youngest.get(name, created_at_s) > created_at_s:
            continue
        if identity not in present or not _agrees(heads, present[identity], life):
            missing.append(life)
    return missing


def _agrees(heads: LoggedHeads, last: Moved, life: Life) -> bool:
    """Whether what the heads say of a session is what was written down, and at least as much."""
    if last.move.sequence < life.last or (last.move.sequence == life.last and last.session != life.session):
        return False
    # Up to that move: later ones would push the earliest out of the page.
    log = heads.log(last.session.session_id, before=last.move.sequence + 1, limit=last.move.sequence)
    logged = {move.sequence: move for move in log}
    return all(
        sequence in logged and (logged[sequence] == move or _is_other_history(logged[sequence], move, life))
        for sequence, move in life.moves.items()
    )


def _is_other_history(logged: Move, move: Move, life: Life) -> bool:
    """Whether the heads took another way, which was written down too."""
    return logged.to_snapshot != move.to_snapshot and (move.sequence, logged.to_snapshot) in life.seen
