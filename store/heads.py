"""Session heads and their logs in SQLite: WAL with synchronous=FULL, so that a commit that returned survives power loss.

SQLite decides and is what is read. Times are seconds since 1970, given by the caller: the store reads no clock.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import blake3

from store.errors import HeadMoved, SessionExists, SessionMissing, StoreUnusable
from store.ids import SnapshotId
from store.interfaces import Lease, Move, Session

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 30.0
BUSY_PAUSE_S = 0.005

_SCHEMA = """
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
"""
_SESSION = "session_id, tenant, name, head, runtime, sandbox, ttl_s, created_at_s, used_at_s"


class SqliteHeads:
    """`Heads` and `HeadSweeper`. Safe for many threads and many processes."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._enter_wal()
            self._database.execute("pragma synchronous=full")
            self._database.execute("pragma foreign_keys=on")
            self._prepare()
        except sqlite3.DatabaseError as error:
            raise StoreUnusable(f"the heads database cannot be used: {error}") from None

    def create(self, sessions: Collection[Session], kind: str) -> None:
        with self._transaction() as database:
            for session in sessions:
                added = database.execute(
                    f"insert into sessions ({_SESSION}) values (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - a constant
                    " on conflict (session_id) do nothing",
                    _row(session),
                ).rowcount
                if not added:
                    raise SessionExists(session.session_id)
                self._append(database, session.session_id, Move(1, kind, None, session.head, session.created_at_s, b""))

    def get(self, session_id: str, tenant: str) -> Session:
        with self._lock:
            row = self._database.execute(
                f"select {_SESSION} from sessions where session_id = ? and tenant = ?",  # noqa: S608 - a constant
                (session_id, tenant),
            ).fetchone()
        if row is None:
            raise SessionMissing(session_id)
        return _session(row)

    def advance(self, session_id: str, expected: SnapshotId, move: Move, *, runtime: str | None = None) -> None:
        with self._transaction() as database:
            changed = database.execute(
                "update sessions set head = ?, used_at_s = ?, runtime = coalesce(?, runtime)"
                " where session_id = ? and head = ?",
                (move.to_snapshot, move.at_s, runtime, session_id, expected),
            ).rowcount
            if not changed:
                row = database.execute("select head from sessions where session_id = ?", (session_id,)).fetchone()
                if row is None:
                    raise SessionMissing(session_id)
                raise HeadMoved(session_id, expected.hex(), row[0].hex())
            (last,) = database.execute("select max(sequence) from log where session_id = ?", (session_id,)).fetchone()
            numbered = Move(last + 1, move.kind, expected, move.to_snapshot, move.at_s, move.run_record)
            self._append(database, session_id, numbered)

    def log(self, session_id: str, *, before: int | None, limit: int) -> list[Move]:
        with self._lock:
            rows = self._database.execute(
                "select sequence, kind, from_snapshot, to_snapshot, at_s, run_record from log"
                " where session_id = ? and sequence < ? order by sequence desc limit ?",
                (session_id, before if before is not None else 2**62, limit),
            ).fetchall()
        return [
            Move(sequence, kind, SnapshotId(start) if start else None, SnapshotId(end), at_s, record)
            for sequence, kind, start, end, at_s, record in rows
        ]

    def drop_unused_since(self, horizon_s: float, *, is_running: Callable[[str], bool]) -> int:
        with self._transaction() as database:
            expired = database.execute("select session_id from sessions where used_at_s + ttl_s < ?", (horizon_s,))
            gone = [row for row in expired.fetchall() if not is_running(row[0])]
            database.executemany("delete from sessions where session_id = ?", gone)
        return len(gone)

    def roots(self) -> Iterator[tuple[str, SnapshotId]]:
        with self._lock:
            rows = self._database.execute("select session_id, to_snapshot from log").fetchall()
        for session_id, snapshot in rows:
            yield session_id, SnapshotId(snapshot)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def _enter_wal(self) -> None:
        """SQLite's own time-out does not hold for this one switch: of two that make a database at once, one is turned away."""
        for attempts_left in reversed(range(int(BUSY_TIMEOUT_S / BUSY_PAUSE_S))):
            try:
                self._database.execute("pragma journal_mode=wal")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or not attempts_left:
                    raise
                time.sleep(BUSY_PAUSE_S)

    def _prepare(self) -> None:
        with self._transaction() as database:
            (version,) = database.execute("pragma user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    database.execute(statement)
                database.execute(f"pragma user_version = {SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise StoreUnusable(f"heads format {version} is not known; this psf reads {SCHEMA_VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("begin immediate")
            try:
                yield self._database
                self._database.execute("commit")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("rollback")
                raise

    @staticmethod
    def _append(database: sqlite3.Connection, session_id: str, move: Move) -> None:
        database.execute(
            "insert into log values (?, ?, ?, ?, ?, ?, ?)",
            (session_id, move.sequence, move.kind, move.from_snapshot, move.to_snapshot, move.at_s, move.run_record),
        )


class FileLeases:
    """`Leases` among the threads and processes of one machine: locks on byte ranges of one file.

    The kernel frees a lock when its holder ends, however it ends, so there is no time-out to choose and none to wait for.
    Open-file-description locks, since plain POSIX locks do not exclude threads of one process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch(exist_ok=True)

    def try_acquire(self, session_id: str) -> Lease | None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _byte_lock(session_id))
        except BlockingIOError:
            os.close(descriptor)
            return None
        return _FileLease(descriptor)

    def is_held(self, session_id: str) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _byte_lock(session_id))
        finally:
            os.close(descriptor)
        (kind,) = struct.unpack_from("h", found)
        return bool(kind != fcntl.F_UNLCK)


class _FileLease:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        os.close(self._descriptor)


def _byte_lock(session_id: str) -> bytes:
    """A `struct flock` for the one byte that stands for the session; two sessions may share it and then only take turns."""
    position = int.from_bytes(blake3.blake3(session_id.encode()).digest()[:7], "little")
    return struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, position, 1, 0)


def _row(session: Session) -> tuple[object, ...]:
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


def _session(row: tuple[str, str, str | None, bytes, str, str, float, float, float]) -> Session:
    session_id, tenant, name, head, *rest = row
    return Session(session_id, tenant, name, SnapshotId(head), *rest)  # type: ignore[arg-type]
