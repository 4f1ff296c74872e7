"""The packs as a copy of what Redis has promised: from it `psf store check --repair` makes heads again when Redis is lost.

Redis decides and is what is read, so a record is put after Redis has accepted what it says: no record may know more than Redis does.
It is durable with the next sync, which the next change brings, or the end of a second. That something goes away is written
down and durable before Redis is told: a record that outlives it is of no use, and one that is missing would bring it back.
"""

from __future__ import annotations

from collections.abc import Callable

from store import pins
from store.ids import Kind
from store.interfaces import Moved, Objects, Pin
from store.moves import MoveRecord, encode
from store.pins import PinRecord


class RedisJournal:
    """`Journal` in the packs, for any number of threads. `tick` numbers records, as in store.journal."""

    def __init__(self, objects: Objects, tick: Callable[[], int]) -> None:
        self._objects, self._tick = objects, tick

    def moved(self, moved: Moved) -> None:
        self._put(encode(MoveRecord(moved.move.sequence, moved.session, moved.move, self._tick())))

    def dropped(self, last: Moved) -> None:
        self._put(encode(MoveRecord(last.move.sequence, last.session, None, self._tick())))

    def pinned(self, pin: Pin) -> None:
        self._put(pins.encode(PinRecord(pin, removed=False, group=self._tick())))

    def unpinned(self, pin: Pin) -> None:
        self._put(pins.encode(PinRecord(pin, removed=True, group=self._tick())))

    def _put(self, data: bytes) -> None:
        self._objects.put(Kind.MOVE, data)


class NoJournal:
    """Nothing is written down a second time."""

    def moved(self, moved: Moved) -> None: ...

    def dropped(self, last: Moved) -> None: ...

    def pinned(self, pin: Pin) -> None: ...

    def unpinned(self, pin: Pin) -> None: ...
