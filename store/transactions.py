"""Group commit: what several threads want of one SQLite database at the same time becomes one transaction, one sync.

The sync is SQLite's, or that of a log which is written before each commit and has all that SQLite may lose.
"""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from store.errors import StoreError

GROUP_MAX = 256

_Result = TypeVar("_Result")


class Log(Protocol):
    """What makes transactions durable in place of SQLite. Used by the thread that commits."""

    def is_full(self) -> bool:
        """Whether the database must be made durable now, so that the log can be shortened."""
        ...

    def write(self, database: sqlite3.Connection) -> None:
        """Make durable what the transaction so far says. Raises OSError: then nothing is committed, and `undo` follows."""
        ...

    def undo(self) -> None:
        """The transaction did not come to be."""
        ...

    def settled(self) -> None:
        """All transactions are durable in the database itself."""
        ...


class NoLog:
    """SQLite itself syncs each commit."""

    def is_full(self) -> bool:
        return True

    def write(self, database: sqlite3.Connection) -> None: ...

    def undo(self) -> None: ...

    def settled(self) -> None: ...


class _Ticket(Generic[_Result]):
    """One piece of work that waits for its transaction."""

    def __init__(self, work: Callable[[sqlite3.Connection], _Result], *, logged: bool) -> None:
        self.work, self.logged = work, logged
        self.done = False
        self.error: Exception | None = None
        self.result: _Result | None = None


class Transactions:
    """Runs work on one connection, in the order in which it came. Any number of threads."""

    def __init__(self, database: sqlite3.Connection, log: Log) -> None:
        self._database, self._log = database, log
        self._syncs: bool | None = None
        self._waiting: deque[_Ticket[Any]] = deque()
        self._turn = threading.Lock()

    def run(self, work: Callable[[sqlite3.Connection], _Result], *, logged: bool = False) -> _Result:
        """What `work` returns, when the transaction it was part of is durable. `logged`: the log has all that it changes.

        Raises what `work` raises when that is a StoreError: then its changes are undone, and nobody else's. Raises OSError
        when the database could not be written: then nothing of the whole group has changed.
        """
        ticket = _Ticket(work, logged=logged)
        self._waiting.append(ticket)
        # Whoever has the turn commits for all that wait; the others find their work done.
        with self._turn:
            while not ticket.done:
                self._commit([self._waiting.popleft() for _ in range(min(GROUP_MAX, len(self._waiting)))])
        if ticket.error is not None:
            raise ticket.error
        return ticket.result  # type: ignore[return-value]

    def close(self) -> None:
        with self._turn:
            self._database.close()

    def _commit(self, group: list[_Ticket[Any]]) -> None:
        try:
            syncs = self._log.is_full() or not all(ticket.logged for ticket in group)
            self._set_synchronous(syncs)
            self._database.execute("begin immediate")
            for ticket in group:
                self._perform(ticket)
            self._log.write(self._database)
            self._database.execute("commit")
        except BaseException as error:
            if self._database.in_transaction:
                self._database.execute("rollback")
            self._log.undo()
            for ticket in group:
                ticket.error = _renamed(error)
            if not isinstance(error, Exception):
                raise
        else:
            if syncs:
                self._log.settled()
        finally:
            for ticket in group:
                ticket.done = True

    def _set_synchronous(self, syncs: bool) -> None:
        """Which commits SQLite syncs. In WAL mode the others are never torn, only lost."""
        if syncs != self._syncs:
            self._database.execute(f"pragma synchronous={'full' if syncs else 'normal'}")
            self._syncs = syncs

    def _perform(self, ticket: _Ticket[Any]) -> None:
        self._database.execute("savepoint work")
        try:
            ticket.result = ticket.work(self._database)
        except StoreError as error:
            ticket.error = error
            self._database.execute("rollback to work")
        self._database.execute("release work")


def _renamed(error: BaseException) -> Exception:
    """SQLite's failures to write as what they are: the disk's."""
    if isinstance(error, sqlite3.Error):
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        return OSError(errno.ENOSPC if full else errno.EIO, f"the heads database could not be written: {error}")
    return error if isinstance(error, Exception) else OSError(errno.EINTR, "interrupted while heads were written")
