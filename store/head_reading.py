"""Reading session heads in SQLite, by a connection of its own that waits for no sync."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

from store import head_tables
from store.errors import SessionMissing
from store.ids import SnapshotId
from store.interfaces import Move, Moved, Pin, Session


class SqliteHeadsReader:
    """What `store.heads.SqliteHeads` tells. Safe for many threads."""

    def __init__(self, reader: sqlite3.Connection) -> None:
        self._reader, self._reading = reader, threading.Lock()

    def get(self, session_id: str, tenant: str) -> Session:
        rows = self._read(
            f"select {head_tables.SESSION} from sessions where session_id = ? and tenant = ?", session_id, tenant
        )
        if not rows:
            raise SessionMissing(session_id)
        return head_tables.session(rows[0])

    def log(self, session_id: str, *, before: int | None, limit: int) -> list[Move]:
        rows = self._read(
            f"select {head_tables.MOVE} from log where session_id = ? and sequence < ? order by sequence desc limit ?",
            session_id,
            before if before is not None else 2**62,
            limit,
        )
        return [head_tables.move(row) for row in rows]

    def made_under(self, key: bytes) -> list[Moved]:
        rows = self._read(
            f"select {head_tables.SESSION}, {head_tables.MOVE} from sessions join log using (session_id)"
            " where key = ? and key != x'' order by session_id, sequence",
            key,
        )
        return [head_tables.moved(row) for row in rows]

    def sessions(self, tenant: str, *, before: tuple[float, str] | None = None, limit: int) -> list[Session]:
        at_s, session_id = before if before is not None else (head_tables.TIME_S_MAX, "\U0010ffff")
        rows = self._read(
            f"select {head_tables.SESSION} from sessions where tenant = ? and (created_at_s, session_id) < (?, ?)"
            " order by created_at_s desc, session_id desc limit ?",
            tenant, at_s, session_id, limit,
        )  # fmt: skip
        return [head_tables.session(row) for row in rows]

    def count(self, tenant: str) -> int:
        rows = self._read("select count(*) from sessions where tenant = ?", tenant)
        return head_tables.count(rows[0], "sessions.tenant")

    def led_to(self, tenant: str, snapshot: SnapshotId) -> bool:
        found = self._read(
            "select 1 from log join sessions using (session_id) where to_snapshot = ? and tenant = ? limit 1",
            snapshot,
            tenant,
        )
        return bool(found)

    def roots(self) -> Iterator[tuple[str, SnapshotId]]:
        for session_id, snapshot in self._read("select session_id, to_snapshot from log"):
            yield (
                head_tables.text(session_id, "log.session_id"),
                head_tables.snapshot(snapshot, "log.to_snapshot"),
            )
        for pin in self.pins():
            yield f"pin {pin.name}", pin.snapshot

    def last_moves(self) -> Iterator[Moved]:
        return self._last_moves("")

    def pins(self) -> list[Pin]:
        return [head_tables.pin(row) for row in self._read(f"select {head_tables.PIN} from pins order by name")]

    def epoch(self) -> int:
        rows = self._read("select epoch from epochs")
        return head_tables.count(rows[0] if rows else None, "epochs.epoch")

    def followed_bytes(self) -> dict[int, int]:
        """How far the database has followed the moves in each pack, by number; nothing before it has followed any (store.recovery)."""
        return dict(self._read("select pack, end_bytes from followed"))

    def problems(self) -> list[str]:
        """What is wrong with the database: what SQLite itself finds, and rows that say what cannot be. Raises StoreUnusable when
        it cannot be read just now.
        """
        try:
            rows = self._read("pragma integrity_check")
            if rows == [("ok",)]:
                self._read_all()
                return []
        except head_tables.HeadsDamaged as error:
            return [str(error)]
        return [f"the heads database is damaged: {text}" for (text,) in rows]

    def close(self) -> None:
        with self._reading:
            self._reader.close()

    # -- parts ----------------------------------------------------------------------------------------------------------

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        self._read_each(rows.append, query, *values)
        return rows

    def _read_each(self, look: Callable[[tuple[Any, ...]], object], query: str, *values: object) -> None:
        try:
            with self._reading:
                for row in self._reader.execute(query, values):
                    look(row)
        except sqlite3.DatabaseError as error:
            raise head_tables.failed("the heads database cannot be read", error) from None

    def _read_all(self) -> None:
        """Raises StoreUnusable for the first row that is not right."""
        if strays := self._read("pragma foreign_key_check"):
            head_tables.unusable(f"{len(strays)} rows of log belong to no session")
        self._read_each(head_tables.session, f"select {head_tables.SESSION} from sessions")
        self._read_each(head_tables.move, f"select {head_tables.MOVE} from log")
        self.pins()
        epochs = self._read("select epoch, refused_before from epochs")
        if len(epochs) != 1:
            head_tables.unusable(f"epochs has {len(epochs)} rows, not 1")
        for value, name in zip(epochs[0], ("epoch", "refused_before"), strict=True):
            head_tables.count((value,), f"epochs.{name}")

    def _last_moves(self, condition: str, *values: object) -> Iterator[Moved]:
        rows = self._read(
            f"select {head_tables.SESSION}, {head_tables.MOVE} from sessions join log using (session_id) {condition}"
            f" {'and' if condition else 'where'} sequence = (select max(sequence) from log as later"
            " where later.session_id = sessions.session_id)",
            *values,
        )
        for row in rows:
            yield head_tables.moved(row)
