"""What a bundle says before its objects: a session, moves of its log, what the receiver must have. Pure.

    header = [version, session, [move, ...], [snapshot id, ...], number of objects]

Moves are oldest first and without gaps, snapshot ids sorted. Sessions and moves are written as in store.moves. Decoding refuses what
encoding would not have produced, and a log that is none: others read what is decoded here as if this store had written it. Every
move is written down with its whole session (store.moves), so texts are short, and moves are counted before any is built.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Annotated

import msgspec

from store.errors import DecodeError
from store.head_tables import TIME_S_MAX
from store.ids import ID_BYTES, SnapshotId
from store.interfaces import KEY_BYTES, Move, Session
from store.moves import fields_of

VERSION = 1
MOVES_MAX = 100_000
"""A longer log is carried by several bundles, one after the other."""
PREREQUISITES_MAX = 100_000
TEXT_CHARACTERS_MAX = 200
KIND_BYTES_MAX = 100
RUN_RECORD_BYTES_MAX = 1 << 20
_SESSION_ID = re.compile(rf"[0-9A-Za-z_][0-9A-Za-z_-]{{0,{TEXT_CHARACTERS_MAX - 1}}}")


class Header(msgspec.Struct, frozen=True):
    """`session` as the last move left it. `prerequisites` are snapshots that the receiver must have, with all they need."""

    session: Session
    moves: tuple[Move, ...]
    prerequisites: tuple[SnapshotId, ...]
    objects: int


class _Session(Session, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A session without the names of its fields."""


class _Move(Move, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A move without the names of its fields."""


class _Encoded(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    session: _Session
    moves: Annotated[tuple[_Move, ...], msgspec.Meta(max_length=MOVES_MAX)]
    prerequisites: Annotated[tuple[SnapshotId, ...], msgspec.Meta(max_length=PREREQUISITES_MAX)]
    objects: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Encoded)


def encode_header(header: Header) -> bytes:
    """Canonical bytes of a header."""
    # There and back, since Python takes 5 for 5.0 and the two have different bytes.
    return _encoded(_header(_decoder.decode(_encoded(header))))


def decode_header(data: bytes) -> Header:
    """The header that `data` encodes. Raises DecodeError unless `data` is exactly what `encode_header` gives for it."""
    try:
        encoded = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"is not one: {error}") from None
    if encoded.version != VERSION:
        raise DecodeError(f"has format {encoded.version}; this psf reads {VERSION}")
    header = _header(encoded)
    if _encoded(header) != data:
        raise DecodeError("is not one: its encoding is not the canonical one")
    check_header(header)
    return header


def _encoded(header: Header) -> bytes:
    moves = tuple(fields_of(move) for move in header.moves)
    return _encoder.encode((VERSION, fields_of(header.session), moves, header.prerequisites, header.objects))


def _header(encoded: _Encoded) -> Header:
    return Header(
        Session(*msgspec.structs.astuple(encoded.session)),
        tuple(Move(*msgspec.structs.astuple(move)) for move in encoded.moves),
        encoded.prerequisites,
        encoded.objects,
    )


def check_header(header: Header) -> None:
    """Raises DecodeError for what may not stand in a bundle: a session or a log that is none, too many moves."""
    if len(header.moves) > MOVES_MAX:
        raise DecodeError(f"has {len(header.moves)} moves, more than the {MOVES_MAX} of one bundle: use several")
    if len(header.prerequisites) > PREREQUISITES_MAX:
        raise DecodeError(f"has {len(header.prerequisites)} prerequisites; at most {PREREQUISITES_MAX} are read")
    _check_session(header.session)
    _check_log(header)
    if header.objects < 0 or any(earlier >= later for earlier, later in pairwise(header.prerequisites)):
        raise DecodeError("has prerequisites that are not sorted, or a negative number of objects")
    if not all(map(_is_id, header.prerequisites)):
        raise DecodeError("has a prerequisite that is no snapshot id")


def is_session_id(text: str) -> bool:
    """Whether a session may be called so here: by letters, digits, `_` and `-`, none of which a shell or a page would take otherwise."""
    return _SESSION_ID.fullmatch(text) is not None


def _check_session(session: Session) -> None:
    if not is_session_id(session.session_id):
        raise DecodeError(
            f"has the session_id {session.session_id[:80]!a}; one has 1 to {TEXT_CHARACTERS_MAX} of 0-9A-Za-z_- "
            "and does not begin with -"
        )
    texts = {"tenant": session.tenant, "runtime": session.runtime, "sandbox": session.sandbox}
    for field, text in (texts | {"name": session.name if session.name is not None else "-"}).items():
        if not _is_text(text):
            raise DecodeError(f"has a {field} that is not 1 to {TEXT_CHARACTERS_MAX} printable characters")
    # Those that ask for no system have neither.
    for field, text in {"image": session.image, "work_dir": session.work_dir}.items():
        if text and not _is_text(text):
            raise DecodeError(f"has a {field} that is not 1 to {TEXT_CHARACTERS_MAX} printable characters")
    if not all(map(_is_time, (session.created_at_s, session.used_at_s))):
        raise DecodeError("has a session whose created_at_s or used_at_s is no time")
    if not math.isfinite(session.ttl_s) or session.ttl_s < 0:
        raise DecodeError("has a session whose ttl_s is no time")


def _check_log(header: Header) -> None:
    moves = header.moves
    if not moves or moves[0].sequence < 1:
        raise DecodeError("has no moves, or one with a number below 1")
    for move in moves:
        _check_move(move)
    if (moves[0].sequence == 1) != (moves[0].from_snapshot is None):
        raise DecodeError(
            f"has a log that cannot begin with its move {moves[0].sequence}: only the first comes from nowhere"
        )
    for earlier, later in pairwise(moves):
        if later.sequence != earlier.sequence + 1 or later.from_snapshot != earlier.to_snapshot:
            raise DecodeError(f"has a log whose move {later.sequence} does not continue move {earlier.sequence}")
    if moves[-1].to_snapshot != header.session.head:
        raise DecodeError(f"has a session whose head is not where its last move, {moves[-1].sequence}, leads")


def _check_move(move: Move) -> None:
    if not _is_id(move.to_snapshot) or not (move.from_snapshot is None or _is_id(move.from_snapshot)):
        raise DecodeError(f"has a move {move.sequence} between what are no snapshot ids")
    if not _is_text(move.kind) or len(move.kind.encode()) > KIND_BYTES_MAX or not _is_time(move.at_s):
        raise DecodeError(f"has a move {move.sequence} whose kind or at_s is none")
    if not {len(move.key), len(move.asked)} <= {0, KEY_BYTES}:
        raise DecodeError(f"has a move {move.sequence} whose key or asked is no digest")
    if move.run_record and not _is_run_record(move.run_record):
        raise DecodeError(f"has a move {move.sequence} whose run record is no JSON object, or too long")


def _is_run_record(data: bytes) -> bool:
    """Run records are handed on to clients as they are."""
    if len(data) > RUN_RECORD_BYTES_MAX:
        return False
    try:
        msgspec.json.decode(data, type=dict)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return False
    return True


def _is_text(text: str) -> bool:
    return 0 < len(text) <= TEXT_CHARACTERS_MAX and text.isprintable()


def _is_time(value_s: float) -> bool:
    return 0 <= value_s <= TIME_S_MAX  # never true of a NaN


def _is_id(identity: bytes) -> bool:
    return len(identity) == ID_BYTES
