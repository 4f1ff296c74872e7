"""The packs as the log of heads: one sync makes a step's objects and the move of its head durable together.

A move is put as an object, and synced with all that was put before it, inside the transaction that it belongs to. SQLite then commits
without a sync of its own: what it may lose in a power cut is the end of its transactions, and those are in the packs, from which
they are made again (store.recovery). How far each open pack has been followed stands in the database, in the same transaction.
A pack is sealed only when what SQLite knows of it is durable, so open packs are all that recovery must read (docs/adr/0010).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable

from store import pins
from store.ids import Kind
from store.interfaces import Move, Moved, Pin, Session
from store.moves import CONFIRMED, MoveRecord, encode
from store.packs import PackObjects
from store.pins import PinRecord


class PackJournal:
    """`HeadsJournal` in the packs of one store folder. Used by one thread at a time, the one that commits."""

    def __init__(self, objects: PackObjects, tick: Callable[[], int]) -> None:
        self._objects, self._tick = objects, tick
        self._put: list[bytes] = []
        self._group = 0
        self._ends_bytes: dict[int, int] = {}
        """As far as the database has them."""
        self._started = False

    def start(self) -> None:
        """From now on the database follows: before, it must have recovered what it had not followed yet."""
        self._started = True

    def moved(self, moved: Moved) -> None:
        self._write(moved.move.sequence, moved.session, moved.move)

    def confirmed(self, moved: Moved) -> None:
        """Of several moves that are written down for one place this is the one that was made."""
        self._write(moved.move.sequence, moved.session, moved.move, CONFIRMED)

    def dropped(self, last: Moved) -> None:
        self._write(last.move.sequence, last.session, None)

    def pinned(self, pin: Pin) -> None:
        self._put_record(pins.encode(PinRecord(pin, removed=False, group=self._current_group())))

    def unpinned(self, pin: Pin) -> None:
        self._put_record(pins.encode(PinRecord(pin, removed=True, group=self._current_group())))

    def is_full(self) -> bool:
        return self._started and self._objects.waits_for_settling

    def write(self, database: sqlite3.Connection) -> None:
        if not self._started:
            return
        if self._put:
            self._objects.sync()
        # Also with what no record speaks of.
        for pack, end_bytes in self._objects.open_ends_bytes().items():
            if self._ends_bytes.get(pack) != end_bytes:
                database.execute("insert or replace into followed values (?, ?)", (pack, end_bytes))
                self._ends_bytes[pack] = end_bytes
        self._put.clear()

    def undo(self) -> None:
        self._objects.withdraw({(Kind.MOVE, name) for name in self._put})
        self._put.clear()
        self._ends_bytes.clear()

    def settled(self) -> None:
        if self._started:
            with contextlib.suppress(OSError):  # tried again with the next commit
                self._objects.seal_settled()

    def _write(self, sequence: int, session: Session, move: Move | None, group: int | None = None) -> None:
        group = self._current_group() if group is None else group
        self._put_record(encode(MoveRecord(sequence, session, move, group)))

    def _current_group(self) -> int:
        if not self._put:
            self._group = self._tick()
        return self._group

    def _put_record(self, data: bytes) -> None:
        self._put.append(self._objects.put(Kind.MOVE, data))
