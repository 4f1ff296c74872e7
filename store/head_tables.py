"""The tables of heads, and their rows as values.

The database may be damaged in ways that are none to SQLite, or have been put there by somebody. So its tables must be the very ones
that are made here, views and triggers included, of which there are none; and whatever is read of a row is looked at before it is
believed. What is not right is HeadsDamaged, which says in which column, and what to type.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import msgspec

from store import asked
from store.errors import DecodeError, StoreUnusable
from store.ids import ID_BYTES, SnapshotId
from store.interfaces import KEY_BYTES, Move, Moved, Pin, Session

_SCHEMA = (
    """
create table sessions (
    session_id text primary key,
    tenant     text not null,
    name       text,
    head       blob not null,
    runtime    text not null,
    sandbox    text not null,
    ttl_s      real not null,
    created_at_s real not null,
    used_at_s  real not null
) without rowid;
create index sessions_by_expiry on sessions (used_at_s + ttl_s);
create index sessions_by_tenant on sessions (tenant, created_at_s);
create table log (
    session_id text not null references sessions on delete cascade,
    sequence   integer not null,
    kind       text not null,
    from_snapshot blob,
    to_snapshot blob not null,
    at_s       real not null,
    run_record blob not null,
    primary key (session_id, sequence)
) without rowid;
""",
    """
create table pins (
    name     text primary key,
    snapshot blob not null,
    at_s     real not null
) without rowid;
create table epochs (
    epoch          integer not null,
    refused_before integer not null
);
insert into epochs values (0, 0);
""",
    """
create table followed (
    pack      integer primary key,
    end_bytes integer not null
);
""",
    """
alter table sessions add column limits text not null default '';
alter table sessions add column image text not null default '';
alter table sessions add column work_dir text not null default '';
alter table log add column key blob not null default x'';
alter table log add column asked blob not null default x'';
create index log_by_key on log (key) where key != x'';
create index log_by_snapshot on log (to_snapshot)
""",
)
"""What each version added. Never changed: a database is compared with it, but for white space."""
VERSION = len(_SCHEMA)
SESSION = "session_id, tenant, name, head, runtime, sandbox, ttl_s, created_at_s, used_at_s, limits, image, work_dir"
_SESSION_NAMES = SESSION.split(", ")
MOVE = "sequence, kind, from_snapshot, to_snapshot, at_s, run_record, key, asked"
PIN = "name, snapshot, at_s"
ADD_SESSION = f"insert into sessions ({SESSION}) values ({', '.join('?' * 12)}) on conflict (session_id) do nothing"
UPDATE_SESSION = (
    "update sessions set tenant = ?, name = ?, head = ?, runtime = ?, sandbox = ?, ttl_s = ?, created_at_s = ?,"
    " used_at_s = ?, limits = ?, image = ?, work_dir = ? where session_id = ?"
)
LAST_MOVE = (
    f"select {SESSION}, {MOVE} from sessions join log using (session_id) where session_id = ?"
    " order by sequence desc limit 1"
)

TEXT_CHARACTERS_MAX = 1000
TIME_S_MAX = 253_370_764_800.0
"""The beginning of the year 9999: what cannot be said as a date is no time."""
COUNT_MAX = 1 << 53
VALUE_BYTES_MAX = 64 << 20
"""Of one value in the database: SQLite refuses longer ones before it takes memory for them."""


class UnknownVersion(StoreUnusable):
    """A later psf made the database: it may be right, but not for us."""


class HeadsDamaged(StoreUnusable):
    """The database of heads says what cannot be, or nothing that can be read: it is to be made again."""

    mendable = True

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; `psf store check --repair` mends it")


_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_ERROR)
"""SQLite's codes for what is in its files. Of the others none is: a database may be busy, its disk full or slow, its owner another."""


def failed(reason: str, error: sqlite3.Error | OSError) -> StoreUnusable:
    """What SQLite said, as an error of the store: HeadsDamaged when it is about what the files hold."""
    code = getattr(error, "sqlite_errorcode", None)
    # Python's own refusal of a text that is none has no code.
    undecodable = code is None and isinstance(error, sqlite3.OperationalError)
    damaged = undecodable or (code is not None and code & 0xFF in _DAMAGED)
    return (HeadsDamaged if damaged else StoreUnusable)(f"{reason}: {error}")


def prepare(database: sqlite3.Connection) -> None:
    """Make the tables, or bring them up to date. Raises HeadsDamaged when they are not psf's; UnknownVersion."""
    (version,) = database.execute("pragma user_version").fetchone()
    if version > VERSION:
        raise UnknownVersion(f"heads format {version} is not known; this psf reads {VERSION}")
    if version < 0 or _tables(database) != _expected(version):
        unusable(f"it has not the tables of heads format {version}")
    for script in _SCHEMA[version:]:
        for statement in script.split(";"):
            database.execute(statement)
    database.execute(f"pragma user_version = {VERSION}")


def unusable(reason: str) -> NoReturn:
    """Raise HeadsDamaged with the reason, and with what to do."""
    raise HeadsDamaged(f"the heads database is damaged: {reason}")


def session(row: tuple[Any, ...]) -> Session:
    """The session that a row of SESSION says. Raises HeadsDamaged."""
    values = _checked("sessions", _SESSION_COLUMNS, row)
    decoded: Any = (
        asked.from_text(value) if name == "limits" else value
        for name, value in zip(_SESSION_NAMES, values, strict=True)
    )
    return Session(*decoded)


def move(row: tuple[Any, ...]) -> Move:
    """The move that a row of MOVE says. Raises HeadsDamaged."""
    return Move(*_checked("log", _MOVE_COLUMNS, row))


def moved(row: tuple[Any, ...]) -> Moved:
    """A session and a move, from a row of SESSION and then MOVE. Raises HeadsDamaged."""
    return Moved(session(row[: len(_SESSION_COLUMNS)]), move(row[len(_SESSION_COLUMNS) :]))


def append_move(database: sqlite3.Connection, moved: Moved) -> None:
    """Add a move to the log of its session."""
    move = moved.move
    row = (moved.session.session_id, *msgspec.structs.astuple(move))
    database.execute(f"insert into log (session_id, {MOVE}) values ({', '.join('?' * len(row))})", row)


def set_pin(database: sqlite3.Connection, pin: Pin) -> None:
    """Add a pin, or move the one of its name."""
    database.execute("insert or replace into pins values (?, ?, ?)", (pin.name, pin.snapshot, pin.at_s))


def pin(row: tuple[Any, ...]) -> Pin:
    """The pin that a row of PIN says. Raises HeadsDamaged."""
    return Pin(*_checked("pins", _PIN_COLUMNS, row))


def text(value: object, column: str) -> str:
    """A text of that column. Raises HeadsDamaged."""
    (checked,) = _checked(*_only(column, _TEXT), (value,))
    return str(checked)


def snapshot(value: object, column: str) -> SnapshotId:
    """A snapshot id of that column. Raises HeadsDamaged."""
    (checked,) = _checked(*_only(column, _SNAPSHOT), (value,))
    return SnapshotId(checked)


def count(row: tuple[Any, ...] | None, column: str) -> int:
    """The number in a row of one, which must be there. Raises HeadsDamaged."""
    (checked,) = _checked(*_only(column, _COUNT), row or (None,))
    return int(checked)


def session_row(value: Session) -> tuple[object, ...]:
    """The row of SESSION that says it."""
    return (
        value.session_id,
        value.tenant,
        value.name,
        value.head,
        value.runtime,
        value.sandbox,
        value.ttl_s,
        value.created_at_s,
        value.used_at_s,
        asked.to_text(value.limits),
        value.image,
        value.work_dir,
    )


# -- columns ----------------------------------------------------------------------------------------------------------------


class _Column(NamedTuple):
    """What a column may hold: whether a value is right, and in words what would be."""

    is_right: Callable[[Any], bool]
    wanted: str


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_CHARACTERS_MAX


def _is_time(value: object) -> bool:
    # SQLite gives whole numbers to `returning` as they are; neither comparison is true of what is no number.
    return isinstance(value, int | float) and 0 <= value <= TIME_S_MAX


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= COUNT_MAX


def _is_snapshot(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == ID_BYTES


def _is_limits(value: object) -> bool:
    try:
        return isinstance(value, str) and len(value) <= TEXT_CHARACTERS_MAX and asked.from_text(value) is not None
    except DecodeError:
        return False


_TEXT = _Column(_is_text, f"a text of at most {TEXT_CHARACTERS_MAX} characters")
_TEXT_OR_NOTHING = _Column(lambda value: value is None or _is_text(value), f"{_TEXT.wanted}, or nothing")
_TIME = _Column(_is_time, f"a number of seconds from 0 to {TIME_S_MAX:.0f}")
_COUNT = _Column(_is_count, f"a whole number from 0 to {COUNT_MAX}")
_SNAPSHOT = _Column(_is_snapshot, f"{ID_BYTES} bytes")
_SNAPSHOT_OR_NOTHING = _Column(lambda value: value is None or _is_snapshot(value), f"{ID_BYTES} bytes, or nothing")
_LIMITS = _Column(_is_limits, "limits")
_KEY = _Column(lambda value: isinstance(value, bytes) and len(value) in (0, KEY_BYTES), f"{KEY_BYTES} bytes, or none")
_BYTES = _Column(lambda value: isinstance(value, bytes), "bytes")

_Columns = dict[str, _Column]
_SESSION_COLUMNS: _Columns = dict(
    zip(
        _SESSION_NAMES,
        (_TEXT, _TEXT, _TEXT_OR_NOTHING, _SNAPSHOT, _TEXT, _TEXT, _TIME, _TIME, _TIME, _LIMITS, _TEXT, _TEXT),
        strict=True,
    )
)
_MOVE_COLUMNS: _Columns = dict(
    zip(MOVE.split(", "), (_COUNT, _TEXT, _SNAPSHOT_OR_NOTHING, _SNAPSHOT, _TIME, _BYTES, _KEY, _KEY), strict=True)
)
_PIN_COLUMNS: _Columns = dict(zip(PIN.split(", "), (_TEXT, _SNAPSHOT, _TIME), strict=True))


@functools.cache
def _only(place: str, column: _Column) -> tuple[str, _Columns]:
    table, name = place.split(".")
    return table, {name: column}


def _checked(table: str, columns: _Columns, row: tuple[Any, ...]) -> tuple[Any, ...]:
    for (name, column), value in zip(columns.items(), row, strict=True):
        if not column.is_right(value):
            found = (
                "nothing" if value is None else f"{str(value)[:40]!a}" if isinstance(value, str) else f"{value!r:.40}"
            )
            unusable(f"the column {name} of {table} holds {found}, not {column.wanted}")
    return row


# -- tables -----------------------------------------------------------------------------------------------------------------


def _tables(database: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """Everything that the database's schema has, but what SQLite makes by itself."""
    rows = database.execute("select type, name, sql from sqlite_schema where name not like 'sqlite\\_%' escape '\\'")
    return {(kind, name, " ".join(str(sql).split())) for kind, name, sql in rows}


@functools.cache
def _expected(version: int) -> set[tuple[str, str, str]]:
    database = sqlite3.connect(":memory:")
    try:
        for script in _SCHEMA[:version]:
            database.executescript(script)
        return _tables(database)
    finally:
        database.close()
