"""The memo: which snapshot an equal step led to before. A cache beside the store: what is lost of it costs a run, never a result.

Equal is a step when all that its result may depend on is: the tree that it starts from with its number, the program, what it is given, its
limits, its environment (store.snapshot.Run), and whose it is. Only what repeats is remembered (`record.may_be_remembered`), and a share
of what is found is run again all the same, and compared.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import blake3
import msgspec

from store import snapshot as snapshots
from store.ids import ID_BYTES, Kind, SnapshotId
from store.interfaces import HeadLister, Objects
from store.layout import refuse_other_than_file
from store.snapshot import Run, Snapshot

_log = logging.getLogger(__name__)
FILE = "memo.sqlite"
ENTRIES_MAX = 1_000_000
_FORGET_AT_ONCE = 10_000
_MAKE = "create table if not exists memo (key blob primary key, snapshot blob not null) without rowid"


class MemoCounts(msgspec.Struct):
    """Since the server began. `hits` were found, audits among them; `mismatches` of `audits` did not come out as they were remembered, and were forgotten."""

    hits: int = 0
    misses: int = 0
    audits: int = 0
    mismatches: int = 0


def memo_key(tenant: str, parent: Snapshot, step: Run) -> bytes:
    """What names a step that is equal. Pure."""
    equal = snapshots.encode(Snapshot(snapshots.VERSION, parent.depth + 1, (), parent.tree, step, None))
    return blake3.blake3(msgspec.msgpack.encode((tenant, equal))).digest()


class Memo:
    """Safe for many threads, and for many processes on one store. `audit_rate`: the share of what is found that is run again."""

    def __init__(self, folder: Path, objects: Objects, heads: HeadLister, audit_rate: float) -> None:
        self._objects, self._heads, self._audit_rate = objects, heads, audit_rate
        self.counts = MemoCounts()
        self._lock = threading.Lock()
        self._path = folder / FILE
        refuse_other_than_file(self._path, FILE)
        self._database = self._opened()

    def find(self, key: bytes, tenant: str) -> SnapshotId | None:
        """The snapshot of an equal step. Only one in the log of a session of the tenant's: that is kept whole as long as the log is."""
        rows = self._do(lambda database: database.execute("select snapshot from memo where key = ?", (key,)).fetchall())
        found = (
            SnapshotId(rows[0][0]) if rows and isinstance(rows[0][0], bytes) and len(rows[0][0]) == ID_BYTES else None
        )
        if found is not None and self._heads.led_to(tenant, found):
            self.counts.hits += 1
            return found
        if rows:
            self.forget(key)
        self.counts.misses += 1
        return None

    def remember(self, key: bytes, snapshot: SnapshotId) -> None:
        """That an equal step led there."""

        def put(database: sqlite3.Connection) -> list[tuple[object, ...]]:
            if database.execute("insert or ignore into memo values (?, ?)", (key, snapshot)).rowcount:
                (entries,) = database.execute("select count(*) from memo").fetchone() if key[0] == 0 else (0,)
                if entries > ENTRIES_MAX:
                    # Keys are digests: the first by key are any.
                    database.execute("delete from memo where key in (select key from memo limit ?)", (_FORGET_AT_ONCE,))
            return []

        self._do(put)

    def forget(self, key: bytes) -> None:
        """Remember nothing of an equal step."""
        self._do(lambda database: database.execute("delete from memo where key = ?", (key,)).fetchall())

    def is_audited(self, chance: float) -> bool:
        """Whether something that was found is to be run again: `chance` is evenly spread over 0 to 1."""
        return chance < self._audit_rate

    def compare(self, key: bytes, remembered: SnapshotId, fresh: SnapshotId | None) -> None:
        """After an audit: forget what did not come out the same, and say so."""
        assert fresh is not None
        self.counts.audits += 1
        before, after = (
            snapshots.decode(self._objects.get(Kind.SNAPSHOT, identity)) for identity in (remembered, fresh)
        )
        if (before.tree, before.outcome) != (after.tree, after.outcome):
            self.counts.mismatches += 1
            self.forget(key)
            _log.error(
                "memo: a step that was remembered as %s came out as %s; `psf diff` shows how",
                remembered.hex(),
                fresh.hex(),
            )

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def _do(self, act: Callable[[sqlite3.Connection], list[tuple[object, ...]]]) -> list[tuple[object, ...]]:
        """Nothing found when the database fails: the memo must not stand in the way of steps."""
        with self._lock:
            try:
                return act(self._database)
            except sqlite3.Error as error:
                _log.warning("the memo cannot be used just now, and steps run: %s", error)
                return []

    def _opened(self) -> sqlite3.Connection:
        database = self._connect()
        try:
            database.execute(_MAKE)
            database.execute("select 1 from memo limit 1").fetchall()
        except sqlite3.DatabaseError as error:
            _log.warning("the memo is damaged, and begins anew: %s", error)
            database.close()
            for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
                with contextlib.suppress(OSError):
                    self._path.with_name(name).unlink()
            database = self._connect()
            database.execute(_MAKE)
        return database

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=5.0, isolation_level=None, check_same_thread=False)
        with contextlib.suppress(sqlite3.DatabaseError):
            database.execute("pragma journal_mode=wal")
            database.execute("pragma synchronous=off")
        return database
