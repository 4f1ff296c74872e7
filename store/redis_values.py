"""Sessions, moves and pins as they stand in Redis. Pure.

    {PREFIX}:store           hash: id, changes, epoch, removals, refused_before
    {PREFIX}:session:ID      hash: the fields of a session by their names, and `sequence`, that of its last move
    {PREFIX}:log:ID          hash: sequence -> the call that made the entry (16 bytes), and the move
    {PREFIX}:keyed:ID        hash: sequence -> key, of moves that have one
    {PREFIX}:sessions        sorted set: session ids by when they expire
    {PREFIX}:keys            sorted set: key, session id, NUL and sequence of each move that has a key
    {PREFIX}:pins            hash: name -> pin
    {PREFIX}:void            sorted set: attempts that must not be carried out any more

A move is msgpack of its fields as in store.moves, its sequence 0; a pin of `[snapshot, at_s]`. A session's name has `=` before it, and is
empty when there is none; numbers are decimal; limits as store.asked writes them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import msgspec

from store import asked
from store.errors import DecodeError, StoreUnusable
from store.ids import ID_BYTES, SnapshotId
from store.interfaces import Move, Moved, Pin, Session
from store.moves import fields_of

CALL_BYTES = 16
SEQUENCE_MAX = 1 << 62
Fields = Mapping[bytes, bytes]


class _Move(Move, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A move without the names of its fields."""


class _Pin(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    snapshot: bytes
    at_s: float


_encoder = msgspec.msgpack.Encoder()
_move_decoder = msgspec.msgpack.Decoder(_Move)
_pin_decoder = msgspec.msgpack.Decoder(_Pin)


def field(name: str, value: Any) -> list[bytes | str]:
    """Name and value of one field of a session, as it is written."""
    if name == "name":
        return [name, "" if value is None else f"={value}"]
    if name == "limits":
        return [name, asked.to_text(value)]
    return [name, value if isinstance(value, bytes | str) else repr(float(value))]


def session_fields(session: Session, sequence: int) -> list[bytes | str]:
    """All fields of a session whose last move is `sequence`: names and values in turn."""
    written = [part for name, value in msgspec.structs.asdict(session).items() for part in field(name, value)]
    return [*written, "sequence", str(sequence), "place", place(session.created_at_s)]


def added(session: Session, log: Sequence[Move]) -> list[bytes | str | int]:
    """A session with its log, as `store/lua/add.lua` takes it."""
    fields = session_fields(session, log[-1].sequence)
    return [session.session_id, len(fields), *fields, len(log), *entries(log)]


def place(created_at_s: float) -> str:
    """A time as text that sorts as times do: the bits of a number that is not negative, the highest first (IEEE 754)."""
    return struct.pack(">d", created_at_s).hex()


def session(session_id: bytes, fields: Fields) -> Session:
    """The session that the fields say. Raises StoreUnusable."""
    try:
        texts = {name.decode(): value for name, value in fields.items()}
        head, limits, name = texts.pop("head"), texts.pop("limits").decode(), texts.pop("name").decode()
        del texts["sequence"], texts["place"]
        values: dict[str, Any] = {
            each: float(value) if each.endswith("_s") else value.decode() for each, value in texts.items()
        }
        if len(head) != ID_BYTES or values["session_id"].encode() != session_id:
            damaged(session_id, "its fields")
        return Session(**values, head=SnapshotId(head), name=name[1:] if name else None, limits=asked.from_text(limits))
    except (KeyError, TypeError, ValueError, DecodeError):
        damaged(session_id, "its fields")


def sequence(session_id: bytes, fields: Fields) -> int:
    """That of a session's last move. Raises StoreUnusable."""
    try:
        return int(fields[b"sequence"])
    except (KeyError, ValueError):
        damaged(session_id, "its sequence")


def entries(moves: Iterable[Move]) -> list[bytes | str]:
    """Sequence, key and entry of each move, in turn; scripts put the call before each entry."""
    return [part for move in moves for part in (str(move.sequence), move.key, entry(move))]


def entry(move: Move) -> bytes:
    """A move as it is written, without the call that makes it."""
    return _encoder.encode(fields_of(msgspec.structs.replace(move, sequence=0)))


def moves(session_id: bytes, found: Sequence[Any]) -> list[Move]:
    """The moves of sequences and entries in turn. Raises StoreUnusable."""
    return [move(session_id, number, written) for number, written in zip(found[::2], found[1::2], strict=True)]


def move(session_id: bytes, number: int, written: bytes | None) -> Move:
    """The move of an entry. Raises StoreUnusable."""
    try:
        values = msgspec.structs.astuple(_move_decoder.decode((written or b"")[CALL_BYTES:]))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        damaged(session_id, f"move {number} of its log")
    made = msgspec.structs.replace(Move(*values), sequence=number)
    if len(made.to_snapshot) != ID_BYTES:
        damaged(session_id, f"move {number} of its log")
    return made


def pin(value: Pin) -> bytes:
    """A pin as it is written, without its name."""
    return _encoder.encode(_Pin(value.snapshot, value.at_s))


def pin_of(name: bytes, written: bytes) -> Pin:
    """The pin that is written under a name. Raises StoreUnusable."""
    try:
        decoded = _pin_decoder.decode(written)
        return Pin(name.decode(), SnapshotId(decoded.snapshot), decoded.at_s)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise StoreUnusable(f"the heads in Redis are damaged: pin {_shown(name)} is none") from None


def mapping(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """What Redis gives as names and values in turn."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def moved(found: Sequence[Any]) -> Moved:
    """A session as it is, and the one move that stands with it. Raises StoreUnusable."""
    session_id, flat, written = found
    if not written:
        damaged(session_id, "its log, which is empty")
    return Moved(session(session_id, mapping(flat)), moves(session_id, written)[0])


def damaged(session_id: bytes, place: str) -> NoReturn:
    """Raise StoreUnusable that says where."""
    raise StoreUnusable(
        f"the heads in Redis are damaged: session {_shown(session_id)}, {place}; put back its append-only file, or remove"
        " all keys of the store and make them again with `psf store check --repair`"
    )


def _shown(name: bytes) -> str:
    return repr(name.decode(errors="replace")[:80])
