"""Session heads, their logs, pins and epochs in SQLite, in WAL mode. A commit that returned survives power loss: by SQLite's own
sync, or, for sessions, their moves and pins, by that of a journal.

SQLite decides and is what is read. Times are seconds since 1970, given by the caller: the store reads no clock.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from store import asked, head_tables
from store.errors import HeadMoved, SessionExists, SessionMissing, WriterFenced
from store.head_reading import SqliteHeadsReader
from store.ids import SnapshotId
from store.interfaces import UNKEYED, Journal, Keyed, Move, Moved, Pin, Session, SessionSettings
from store.layout import refuse_other_than_file
from store.moves import first_move, left_by, refuse_other_end
from store.transactions import Log, NoLog, Transactions

BUSY_TIMEOUT_S = 30.0
BUSY_PAUSE_S = 0.005

_ADVANCE = (
    "update sessions set head = ?, used_at_s = ?, runtime = coalesce(?, runtime) where session_id = ? and head = ?"
    f" returning {head_tables.SESSION}"
)
_SET = f"update sessions set name = ?, ttl_s = ?, limits = ? where session_id = ? returning {head_tables.SESSION}"
_EXTEND = (
    f"update sessions set head = ?, used_at_s = ?, runtime = ? where session_id = ? returning {head_tables.SESSION}"
)
_Result = TypeVar("_Result")


class HeadsJournal(Journal, Log, Protocol):
    """A journal that makes moves durable before they are committed."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection for any thread, whose transactions are begun and ended by hand."""
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, head_tables.VALUE_BYTES_MAX)
    return database


class SqliteHeads(SqliteHeadsReader):
    """`Heads`, `HeadLister`, `Repeats`, `HeadSweeper`, `HeadRestorer`, `Pins` and `Epochs`. Safe for many threads and many processes.

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
        for name in (path.name + ending for ending in ("", "-wal", "-shm", "-journal")):
            refuse_other_than_file(path.with_name(name), name)  # SQLite would follow it
        try:
            with ExitStack() as opened:
                writer = connect(path)
                opened.callback(writer.close)
                # The journal with which the mode is switched must be gone for good: after a power cut it would take the switch back, and
                # SQLite then reads nothing of the WAL. Where the WAL is there already, nothing else makes its end durable.
                writer.execute("pragma synchronous=extra")
                _enter_wal(writer)
                writer.execute("pragma foreign_keys=on")
                self._transactions = Transactions(writer, journal or NoLog())
                self._transactions.run(head_tables.prepare)
                super().__init__(connect(path))
                opened.pop_all()
        except (sqlite3.DatabaseError, OSError) as error:
            raise head_tables.failed("the heads database cannot be used", error) from None

    def create(
        self, sessions: Collection[Session], kind: str, *, keyed: Keyed = UNKEYED, epoch: int | None = None
    ) -> None:
        moved = [Moved(session, first_move(session, kind, keyed)) for session in sessions]

        def work(database: sqlite3.Connection) -> list[Moved]:
            _refuse_late(database, epoch)
            for new in moved:
                if not database.execute(head_tables.ADD_SESSION, head_tables.session_row(new.session)).rowcount:
                    raise SessionExists(new.session.session_id)
                head_tables.append_move(database, new)
            return moved

        self._move_heads(work)

    def advance(
        self,
        session_id: str,
        expected: SnapshotId,
        move: Move,
        *,
        runtime: str | None = None,
        settings: SessionSettings | None = None,
        epoch: int | None = None,
    ) -> None:
        def work(database: sqlite3.Connection) -> list[Moved]:
            _refuse_late(database, epoch)
            row = database.execute(_ADVANCE, (move.to_snapshot, move.at_s, runtime, session_id, expected)).fetchone()
            if row is None:
                _raise_moved(database, session_id, expected)
            if settings is not None:
                values = (settings.name, settings.ttl_s, asked.to_text(settings.limits), session_id)
                row = database.execute(_SET, values).fetchone()
            row_of_last = database.execute(
                "select max(sequence) from log where session_id = ?", (session_id,)
            ).fetchone()
            last = head_tables.count(row_of_last, "log.sequence")
            numbered = msgspec.structs.replace(move, sequence=last + 1, from_snapshot=expected)
            moved = Moved(head_tables.session(row), numbered)
            head_tables.append_move(database, moved)
            return [moved]

        self._move_heads(work)

    # -- HeadRestorer ---------------------------------------------------------------------------------------------------

    def restore(self, session: Session, log: Sequence[Move], *, epoch: int | None = None) -> None:
        moved = left_by(session, log)

        def work(database: sqlite3.Connection) -> list[Moved]:
            _refuse_late(database, epoch)
            if not database.execute(head_tables.ADD_SESSION, head_tables.session_row(session)).rowcount:
                raise SessionExists(session.session_id)
            for each in moved:
                head_tables.append_move(database, each)
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
            row = database.execute(head_tables.LAST_MOVE, (session_id,)).fetchone()
            if row is None:
                raise SessionMissing(session_id)
            refuse_other_end(head_tables.moved(row), expected_sequence, moves[0])
            extended = database.execute(_EXTEND, (moves[-1].to_snapshot, used_at_s, runtime, session_id)).fetchone()
            moved = left_by(head_tables.session(extended), moves)
            for each in moved:
                head_tables.append_move(database, each)
            return moved

        self._move_heads(work)

    # -- HeadSweeper ----------------------------------------------------------------------------------------------------

    def drop_unused_since(self, horizon_s: float, *, is_running: Callable[[str], bool]) -> int:
        expired = "used_at_s + ttl_s < ?"
        found = [last.session.session_id for last in self._last_moves(f"where {expired}", horizon_s)]
        unused = [session_id for session_id in found if not is_running(session_id)]

        def work(database: sqlite3.Connection) -> int:
            dropped: list[Moved] = []
            for session_id in unused:
                # Whoever was used meanwhile stays, and who moved meanwhile is dropped after that move.
                row = database.execute(head_tables.LAST_MOVE, (session_id,)).fetchone()
                statement = f"delete from sessions where session_id = ? and {expired}"
                if row is not None and database.execute(statement, (session_id, horizon_s)).rowcount:
                    dropped.append(head_tables.moved(row))
            for last in dropped:
                if self._journal is not None:
                    self._journal.dropped(last)
            return len(dropped)

        return self._transactions.run(work, logged=True) if unused else 0

    def rebuild(self, session: Session, log: Collection[Move]) -> None:
        """Put a session and its whole log in place of what there is of it. The journal is not told: it has told us."""

        def work(database: sqlite3.Connection) -> None:
            database.execute("delete from sessions where session_id = ?", (session.session_id,))
            database.execute(head_tables.ADD_SESSION, head_tables.session_row(session))
            for move in log:
                head_tables.append_move(database, Moved(session, move))

        self._change(work)

    def rebuild_pin(self, pin: Pin) -> None:
        """Set a pin. The journal is not told: it has told us."""
        self._change(lambda database: head_tables.set_pin(database, pin))

    def settle(self) -> None:
        """Have SQLite make durable what only the journal has."""
        # A transaction that writes nothing syncs nothing.
        self._change(lambda database: database.execute("update epochs set epoch = epoch") and None)

    def recover(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do what the journal says and the database does not (store.recovery), durably. The journal is not told."""
        self._change(work)

    # -- Pins -----------------------------------------------------------------------------------------------------------

    def pin(self, pin: Pin, *, epoch: int | None = None) -> None:
        def work(database: sqlite3.Connection) -> None:
            _refuse_late(database, epoch)
            replaced = _pin_of(database, pin.name)
            head_tables.set_pin(database, pin)
            if self._journal is not None and replaced != pin:
                if replaced is not None:
                    self._journal.unpinned(replaced)
                self._journal.pinned(pin)

        self._transactions.run(work, logged=True)

    def unpin(self, name: str) -> bool:
        def work(database: sqlite3.Connection) -> bool:
            pin = _pin_of(database, name)
            if pin is None:
                return False
            database.execute("delete from pins where name = ?", (name,))
            if self._journal is not None:
                self._journal.unpinned(pin)
            return True

        return self._transactions.run(work, logged=True)

    # -- Epochs ---------------------------------------------------------------------------------------------------------

    def begin_epoch(self) -> int:
        def work(database: sqlite3.Connection) -> int:
            row = database.execute("update epochs set epoch = epoch + 1 returning epoch").fetchone()
            return head_tables.count(row, "epochs.epoch")

        return self._change(work)

    def refuse_before(self, epoch: int) -> None:
        self._change(lambda database: database.execute("update epochs set refused_before = ?", (epoch,)) and None)

    def close(self) -> None:
        super().close()
        self._transactions.close()

    # -- parts ----------------------------------------------------------------------------------------------------------

    def _change(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        return self._transactions.run(work)

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
        row = database.execute("select refused_before from epochs").fetchone()
        if epoch < head_tables.count(row, "epochs.refused_before"):
            raise WriterFenced


def _pin_of(database: sqlite3.Connection, name: str) -> Pin | None:
    row = database.execute(f"select {head_tables.PIN} from pins where name = ?", (name,)).fetchone()
    return head_tables.pin(row) if row is not None else None


def _raise_moved(database: sqlite3.Connection, session_id: str, expected: SnapshotId) -> None:
    row = database.execute("select head from sessions where session_id = ?", (session_id,)).fetchone()
    if row is None:
        raise SessionMissing(session_id)
    raise HeadMoved(session_id, expected.hex(), head_tables.snapshot(row[0], "sessions.head").hex())
