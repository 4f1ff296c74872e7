"""The tables of heads.sqlite, and sessions and moves as their rows."""

from __future__ import annotations

import sqlite3
from typing import Any

from store.errors import StoreUnusable
from store.ids import SnapshotId
from store.interfaces import Move, Moved, Session

SCHEMA = (
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
)
"""What each version added."""
SCHEMA_VERSION = len(SCHEMA)
SESSION = "session_id, tenant, name, head, runtime, sandbox, ttl_s, created_at_s, used_at_s"
MOVE = "sequence, kind, from_snapshot, to_snapshot, at_s, run_record"
ADD_SESSION = f"insert into sessions ({SESSION}) values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (session_id) do nothing"
UPDATE_SESSION = (
    "update sessions set tenant = ?, name = ?, head = ?, runtime = ?, sandbox = ?, ttl_s = ?, created_at_s = ?,"
    " used_at_s = ? where session_id = ?"
)
LAST_MOVE = (
    f"select {SESSION}, {MOVE} from sessions join log using (session_id) where session_id = ?"
    " order by sequence desc limit 1"
)


def prepare(database: sqlite3.Connection) -> bool:
    """Bring the database to this format; whether it was of another, or new."""
    (version,) = database.execute("pragma user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise StoreUnusable(f"heads format {version} is not known; this psf reads {SCHEMA_VERSION}")
    for script in SCHEMA[version:]:
        for statement in script.split(";"):
            database.execute(statement)
    database.execute(f"pragma user_version = {SCHEMA_VERSION}")
    return bool(version < SCHEMA_VERSION)


def append_move(database: sqlite3.Connection, moved: Moved) -> None:
    move = moved.move
    database.execute(
        "insert into log values (?, ?, ?, ?, ?, ?, ?)",
        (
            moved.session.session_id,
            move.sequence,
            move.kind,
            move.from_snapshot,
            move.to_snapshot,
            move.at_s,
            move.run_record,
        ),
    )


def row_of(session: Session) -> tuple[object, ...]:
    return (
        session.session_id,
        session.tenant,
        session.name,
        session.head,
        session.runtime,
        session.sandbox,
        session.ttl_s,
        session.created_at_s,
        session.used_at_s,
    )


def session_of(row: tuple[Any, ...]) -> Session:
    session_id, tenant, name, head, *rest = row
    return Session(session_id, tenant, name, SnapshotId(head), *rest)


def move_of(row: tuple[Any, ...]) -> Move:
    sequence, kind, start, end, at_s, record = row
    return Move(sequence, kind, SnapshotId(start) if start else None, SnapshotId(end), at_s, record)


def moved_of(row: tuple[Any, ...]) -> Moved:
    """A session's columns and then a move's."""
    width = len(Session.__struct_fields__)
    return Moved(session_of(row[:width]), move_of(row[width:]))
