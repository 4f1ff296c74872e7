"""Session heads, their logs, pins and epochs in SQLite, in WAL mode. A commit that returned survives power loss: by SQLite's own
sync, or, for sessions and their moves, by that of a journal.

SQLite decides and is what is read. Times are seconds since 1970, given by the caller: the store reads no clock.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TypeVar

from store.errors import HeadMoved, SessionExists, SessionMissing, StoreUnusable, WriterFenced
from store.head_rows import (
    ADD_SESSION,
    LAST_MOVE,
    MOVE,
    SESSION,
    append_move,
    move_of,
    moved_of,
    prepare,
    row_of,
    session_of,
)
from store.ids import SnapshotId
from store.interfaces import Journal, Move, Moved, Pin, Session
from store.layout import refuse_other_than_file
from store.moves import left_by, refuse_other_end
from store.transactions import Log, NoLog, Transactions

BUSY_TIMEOUT_S = 30.0
BUSY_PAUSE_S = 0.005

_ADVANCE = (
    "update sessions set head = ?, used_at_s = ?, runtime = coalesce(?, runtime) where session_id = ? and head = ?"
    f" returning {SESSION}"
)
_EXTEND = f"update sessions set head = ?, used_at_s = ?, runtime = ? where session_id = ? returning {SESSION}"
_Result = TypeVar("_Result")


class HeadsJournal(Journal, Log, Protocol):
    """A journal that makes moves durable before they are committed."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection for any thread, whose transactions are begun and ended by hand."""
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


class SqliteHeads:
    """`Heads`, `HeadSweeper`, `HeadRestorer`, `Pins` and `Epochs`. Safe for many threads and many processes.

    Changes of several threads become one transaction. Reading has a connection of its own and waits for no sync.
    """

    def __init__(
        self,
        path: Path,
        journal: HeadsJournal | None = None,
        *,
        connect: Callable[[Path], sqlite3.Connection] = connect,
    ) -> None:
        self._journal = journal
        self._reading = threading.Lock()
        self.is_new = False
        """Whether the database was made, or brought to this format, just now: it has not followed the packs."""
        for name in (path.name + ending for ending in ("", "-wal", "-shm", "-journal")):
            refuse_other_than_file(path.with_name(name), name)  # SQLite would follow it
        try:
            with ExitStack() as opened:
                writer = connect(path)
                opened.callback(writer.close)
                _enter_wal(writer)
                writer.execute("pragma foreign_keys=on")
                self._transactions = Transactions(writer, journal or NoLog())
                self.is_new = self._transactions.run(prepare)
                self._reader = connect(path)
                opened.pop_all()
        except (sqlite3.DatabaseError, OSError) as error:
            raise StoreUnusable(f"the heads database cannot be used: {error}") from None

    def create(self, sessions: Collection[Session], kind: str, *, epoch: int | None = None) -> None:
        moved = [Moved(session, Move(1, kind, None, session.head, session.created_at_s, b"")) for session in sessions]

        def work(database: sqlite3.Connection) -> list[Moved]:
            _refuse_late(database, epoch)
            for new in moved:
                if not database.execute(ADD_SESSION, row_of(new.session)).rowcount:
                    raise SessionExists(new.session.session_id)
                append_move(database, new)
            return moved

        self._move_heads(work)

    def get(self, session_id: str, tenant: str) -> Session:
        rows = self._read(f"select {SESSION} from sessions where session_id = ? and tenant = ?", session_id, tenant)
        if not rows:
            raise SessionMissing(session_id)
        return session_of(rows[0])

    def advance(
        self,
        session_id: str,
        expected: SnapshotId,
        move: Move,
        *,
        runtime: str | None = None,
        epoch: int | None = None,
    ) -> None:
        def work(database: sqlite3.Connection) -> list[Moved]:
            _refuse_late(database, epoch)
            row = database.execute(_ADVANCE, (move.to_snapshot, move.at_s, runtime, session_id, expected)).fetchone()
            if row is None:
                _raise_moved(database, session_id, expected)
            (last,) = database.execute("select max(sequence) from log where session_id = ?", (session_id,)).fetchone()
            numbered = Move(last + 1, move.kind, expected, move.to_snapshot, move.at_s, move.run_record)
            moved = Moved(session_of(row), numbered)
            append_move(database, moved)
            return [moved]

        self._move_heads(work)

    def log(self, session_id: str, *, before: int | None, limit: int) -> list[Move]:
        rows = self._read(
            f"select {MOVE} from log where session_id = ? and sequence < ? order by sequence desc limit ?",
            session_id,
            before if before is not None else 2**62,
            limit,
        )
        return [move_of(row) for row in rows]

    # -- HeadRestorer ---------------------------------------------------------------------------------------------------

    def restore(self, session: Session, log: Sequence[Move], *, epoch: int | None = None) -> None:
        moved = left_by(session, log)

        def work(database: sqlite3.Connection) -> list[Moved]:
            _refuse_late(database, epoch)
            if not database.execute(ADD_SESSION, row_of(session)).rowcount:
                raise SessionExists(session.session_id)
            for each in moved:
                append_move(database, each)
            return moved

        self._move_heads(work)

    def extend(
        self,
        session_id: str,
        expected_sequence: int,
        moves: Sequence[Move],
        *,
        runtime: str,
        used_at_s: float,
        epoch: int | None = None,
    ) -> None:
        def work(database: sqlite3.Connection) -> list[Moved]:
            _refuse_late(database, epoch)
            row = database.execute(LAST_MOVE, (session_id,)).fetchone()
            if row is None:
                raise SessionMissing(session_id)
            refuse_other_end(moved_of(row), expected_sequence, moves[0])
            extended = database.execute(_EXTEND, (moves[-1].to_snapshot, used_at_s, runtime, session_id)).fetchone()
            moved = left_by(session_of(extended), moves)
            for each in moved:
                append_move(database, each)
            return moved

        self._move_heads(work)

    # -- HeadSweeper ----------------------------------------------------------------------------------------------------

    def drop_unused_since(self, horizon_s: float, *, is_running: Callable[[str], bool]) -> int:
        expired = "used_at_s + ttl_s < ?"
        unused = [
            last for last in self._last_moves(f"where {expired}", horizon_s) if not is_running(last.session.session_id)
        ]

        def work(database: sqlite3.Connection) -> int:
            # Whoever was used meanwhile stays.
            statement = f"delete from sessions where session_id = ? and {expired}"
            dropped = [
                last for last in unused if database.execute(statement, (last.session.session_id, horizon_s)).rowcount
            ]
            for last in dropped:
                if self._journal is not None:
                    self._journal.dropped(last)
            return len(dropped)

        return self._transactions.run(work, logged=True) if unused else 0

    def roots(self) -> Iterator[tuple[str, SnapshotId]]:
        for session_id, snapshot in self._read("select session_id, to_snapshot from log"):
            yield session_id, SnapshotId(snapshot)
        for pin in self.pins():
            yield f"pin {pin.name}", pin.snapshot

    def last_moves(self) -> Iterator[Moved]:
        return self._last_moves("")

    def rebuild(self, session: Session, log: Collection[Move]) -> None:
        """Put a session and its whole log in place of what there is of it. The journal is not told: it has told us."""

        def work(database: sqlite3.Connection) -> None:
            database.execute("delete from sessions where session_id = ?", (session.session_id,))
            database.execute(ADD_SESSION, row_of(session))
            for move in log:
                append_move(database, Moved(session, move))

        self._change(work)

    def settle(self) -> None:
        """Have SQLite make durable what only the journal has."""
        # A transaction that writes nothing syncs nothing.
        self._change(lambda database: database.execute("update epochs set epoch = epoch") and None)

    def followed_bytes(self) -> dict[int, int]:
        """How far the database has followed the moves in each pack, by number."""
        return dict(self._read("select pack, end_bytes from followed"))

    def recover(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do what the journal says and the database does not (store.recovery), durably. The journal is not told."""
        self._change(work)

    def problems(self) -> list[str]:
        """What SQLite itself finds wrong with the database."""
        try:
            rows = self._read("pragma integrity_check")
        except StoreUnusable as error:
            return [str(error)]
        return [f"the heads database is damaged: {text}" for (text,) in rows if text != "ok"]

    # -- Pins -----------------------------------------------------------------------------------------------------------

    def pin(self, pin: Pin, *, epoch: int | None = None) -> None:
        def work(database: sqlite3.Connection) -> None:
            _refuse_late(database, epoch)
            database.execute("insert or replace into pins values (?, ?, ?)", (pin.name, pin.snapshot, pin.at_s))

        self._change(work)

    def unpin(self, name: str) -> bool:
        return self._change(lambda database: database.execute("delete from pins where name = ?", (name,)).rowcount > 0)

    def pins(self) -> list[Pin]:
        rows = self._read("select name, snapshot, at_s from pins order by name")
        return [Pin(name, SnapshotId(snapshot), at_s) for name, snapshot, at_s in rows]

    # -- Epochs ---------------------------------------------------------------------------------------------------------

    def epoch(self) -> int:
        ((epoch,),) = self._read("select epoch from epochs")
        return int(epoch)

    def begin_epoch(self) -> int:
        return self._change(
            lambda database: int(database.execute("update epochs set epoch = epoch + 1 returning epoch").fetchone()[0])
        )

    def refuse_before(self, epoch: int) -> None:
        self._change(lambda database: database.execute("update epochs set refused_before = ?", (epoch,)) and None)

    def close(self) -> None:
        with self._reading:
            self._reader.close()
        self._transactions.close()

    # -- parts ----------------------------------------------------------------------------------------------------------

    def _change(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        return self._transactions.run(work)

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            with self._reading:
                return self._reader.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise StoreUnusable(
                f"the heads database cannot be read: {error}; `psf store check --repair` mends it"
            ) from None

    def _last_moves(self, condition: str, *values: object) -> Iterator[Moved]:
        rows = self._read(
            f"select {SESSION}, {MOVE} from sessions join log using (session_id) {condition}"
            f" {'and' if condition else 'where'} sequence = (select max(sequence) from log as later"
            " where later.session_id = sessions.session_id)",
            *values,
        )
        for row in rows:
            yield moved_of(row)

    def _move_heads(self, work: Callable[[sqlite3.Connection], list[Moved]]) -> None:
        """Do what moves heads, and write it down when nothing speaks against it any more."""

        def written(database: sqlite3.Connection) -> None:
            moved = work(database)
            if self._journal is not None:
                for each in moved:
                    self._journal.moved(each)

        self._transactions.run(written, logged=True)


def _enter_wal(database: sqlite3.Connection) -> None:
    """SQLite's own time-out does not hold for this one switch: of two that make a database at once, one is turned away."""
    for attempts_left in reversed(range(int(BUSY_TIMEOUT_S / BUSY_PAUSE_S))):
        try:
            database.execute("pragma journal_mode=wal")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or not attempts_left:
                raise
            time.sleep(BUSY_PAUSE_S)


def _refuse_late(database: sqlite3.Connection, epoch: int | None) -> None:
    if epoch is not None:
        (refused_before,) = database.execute("select refused_before from epochs").fetchone()
        if epoch < refused_before:
            raise WriterFenced


def _raise_moved(database: sqlite3.Connection, session_id: str, expected: SnapshotId) -> None:
    row = database.execute("select head from sessions where session_id = ?", (session_id,)).fetchone()
    if row is None:
        raise SessionMissing(session_id)
    raise HeadMoved(session_id, expected.hex(), row[0].hex())
