"""SQLite whose writes, syncs and deletions are recorded too: heads.sqlite is part of the same crash as the objects.

The `sqlite3` of the standard library offers no seam below SQL, so tests connect by apsw, which has one (a VFS), and which speaks to
the code of store.heads in the words of `sqlite3`. What SQLite itself does is the same C code; that the code really is used
with the library it ships with is shown by the power cuts.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import apsw

from store.recording import DiskLog, Sync, Truncate, Write

BUSY_TIMEOUT_MS = 30_000
_SYNCED_WITH_THEIR_NAME = ("-wal", "-journal")


class RecordedFile(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int], log: DiskLog) -> None:
        self._path = name if isinstance(name, str) else name.filename()
        self._log = log
        there = os.path.exists(self._path)
        super().__init__("unix", name, flags)
        if not there:
            descriptor = os.open(self._path, os.O_RDONLY)
            log.named(self._path, log.new_file(descriptor))
            os.close(descriptor)
        self._number = log.node(self._path)
        # SQLite's own rule: the first sync of a log that it has made syncs the directory as well.
        self._name_is_due = not there and self._path.endswith(_SYNCED_WITH_THEIR_NAME)

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._log.record(Write(self._number, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:
        super().xTruncate(size)
        self._log.record(Truncate(self._number, size))

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._log.record(Sync(self._number))
        if self._name_is_due:
            self._name_is_due = False
            self._log.record(Sync(self._log.node(os.path.dirname(self._path))))


class RecordedVfs(apsw.VFS):
    """SQLite's way to the disk, but for the index of its WAL, which is made anew after a crash. Randomness is not random, so that a scenario writes the same bytes each time."""

    def __init__(self, name: str, log: DiskLog) -> None:
        self._log, self._drawn = log, 0
        # The default, since that is where the one source of randomness is sown from.
        super().__init__(name, "unix", makedefault=True)
        apsw.randomness(0)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return RecordedFile(name, flags, self._log)

    def xDelete(self, path: str, sync_directory: bool) -> None:
        super().xDelete(path, sync_directory)
        self._log.unlinked(path)
        if sync_directory:
            self._log.record(Sync(self._log.node(os.path.dirname(path))))

    def xRandomness(self, count: int) -> bytes:
        self._drawn += 1
        return (b"%016d" % self._drawn) * (count // 16 + 1)


class _Rows:
    def __init__(self, rows: list[tuple[Any, ...]], changed: int) -> None:
        self._rows, self.rowcount = rows, changed

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows, []
        return rows

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.fetchall())


class RecordedConnection:
    """As much of `sqlite3.Connection` as store.heads uses. `instead` replaces statements that begin so, to take care away."""

    def __init__(self, path: Path, vfs: str, instead: Mapping[str, str]) -> None:
        self._connection, self._instead = apsw.Connection(str(path), vfs=vfs), instead
        self._connection.set_busy_timeout(BUSY_TIMEOUT_MS)

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, statement: str, parameters: Iterable[Any] = ()) -> _Rows:
        for beginning, other in self._instead.items():
            if statement.startswith(beginning):
                statement = other
        try:
            rows = self._connection.execute(statement, tuple(parameters)).fetchall()
        except (apsw.NotADBError, apsw.CorruptError) as damage:  # what carelessness leaves, as the store knows it
            raise sqlite3.DatabaseError(str(damage)) from None
        return _Rows(rows, self._connection.changes())

    def executemany(self, statement: str, rows: Iterable[Iterable[Any]]) -> None:
        self._connection.executemany(statement, [tuple(row) for row in rows])

    def close(self) -> None:
        self._connection.close()


def connector(vfs: str, instead: Mapping[str, str]) -> Callable[[Path], sqlite3.Connection]:
    """What SqliteHeads connects by."""
    return lambda path: cast("sqlite3.Connection", RecordedConnection(path, vfs, instead))
