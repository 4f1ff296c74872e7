"""Moves written down in the packs, so that heads can be made again when their database is lost or an old one was put back.

A record is msgpack of `[version, sequence, session, move | nil]`: a session as the move left it, or, with nil, that it was dropped
after the move `sequence`. SQLite decides and is what is read; a record is written after it, durable with the next sync, so the
database may know one move more than the packs, and never one less.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

import msgspec

from store.errors import DecodeError, HeadMoved
from store.ids import Kind
from store.interfaces import Heads, HeadSweeper, Move, Moved, Objects, Session

VERSION = 1


LifeId = tuple[str, float]
"""A session id and when it was created: an id whose session was dropped may be used again."""


def life_of(session: Session) -> LifeId:
    return session.session_id, session.created_at_s


class MoveRecord(msgspec.Struct, frozen=True):
    """What one record says; see the module."""

    sequence: int
    session: Session
    move: Move | None


class _Session(Session, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A session without the names of its fields."""


class _Move(Move, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A move without the names of its fields."""


class _Encoded(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    sequence: int
    session: _Session
    move: _Move | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Encoded)


def encode(record: MoveRecord) -> bytes:
    """Canonical bytes of a record."""
    session = _Session(*msgspec.structs.astuple(record.session))
    move = _Move(*msgspec.structs.astuple(record.move)) if record.move is not None else None
    return _encoder.encode(_Encoded(VERSION, record.sequence, session, move))


def decode(data: bytes) -> MoveRecord:
    """The record that `data` encodes. Raises DecodeError."""
    try:
        encoded = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"not a move: {error}") from None
    if encoded.version != VERSION:
        raise DecodeError(f"move format {encoded.version} is not known; this psf reads {VERSION}")
    session = Session(*msgspec.structs.astuple(encoded.session))
    return MoveRecord(
        encoded.sequence, session, Move(*msgspec.structs.astuple(encoded.move)) if encoded.move is not None else None
    )


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


class PackJournal:
    """`Journal` in an object store."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def moved(self, moved: Moved) -> None:
        self._objects.put(Kind.MOVE, encode(MoveRecord(moved.move.sequence, moved.session, moved.move)))

    def dropping(self, sessions: Collection[Moved]) -> None:
        for last in sessions:
            self._objects.put(Kind.MOVE, encode(MoveRecord(last.move.sequence, last.session, None)))
        self._objects.sync()


class Life(msgspec.Struct):
    """What the packs know of one session: its moves by sequence, as the last left it, and whether it was dropped.

    `seen` has every move that was ever recorded: an old database that was put back may have been used since.
    """

    session: Session
    moves: dict[int, Move]
    seen: set[tuple[int, bytes]]
    last: int = 0
    dropped_after: int = 0

    @property
    def dropped(self) -> bool:
        return self.dropped_after >= self.last


def lives(records: Iterable[MoveRecord]) -> dict[LifeId, Life]:
    """All sessions that records tell of. Of two moves with one sequence the later counts."""
    found: dict[LifeId, Life] = {}
    for record in records:
        life = found.setdefault(life_of(record.session), Life(record.session, {}, set()))
        move, sequence = record.move, record.sequence
        if move is None:
            life.dropped_after = max(life.dropped_after, sequence)
            continue
        life.seen.add((sequence, move.to_snapshot))
        if sequence not in life.moves or life.moves[sequence].at_s <= move.at_s:
            life.moves[sequence] = move
            if sequence >= life.last:
                life.session, life.last = record.session, sequence
    return found


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
    log = heads.log(last.session.session_id, before=None, limit=last.move.sequence)
    logged = {move.sequence: move for move in log}
    return all(
        sequence in logged and (logged[sequence] == move or _is_other_history(logged[sequence], move, life))
        for sequence, move in life.moves.items()
    )


def _is_other_history(logged: Move, move: Move, life: Life) -> bool:
    """Whether the heads took another way, which was written down too."""
    return logged.to_snapshot != move.to_snapshot and (move.sequence, logged.to_snapshot) in life.seen
