"""What the packs say of heads, beside what the heads say: for check, sweep and repair, also while others go on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, Protocol

from store import moves, pins
from store.errors import DecodeError, ObjectDamaged, ObjectMissing
from store.ids import Kind
from store.interfaces import Epochs, HeadLister, HeadRestorer, ListedObjects, Move, Objects, Pin, Pins, Repeats, Session
from store.moves import Life, LoggedHeads, MoveRecord
from store.pins import PinRecord
from store.records import Name


class FollowedObjects(ListedObjects, Protocol):
    """An object store from which heads are made again."""

    def unfollowed(self, followed_bytes: Mapping[int, int]) -> set[Name]: ...


class PinnedHeads(LoggedHeads, Pins, Protocol):
    """Heads and pins."""


class FollowingHeads(PinnedHeads, Protocol):
    """Heads that say how far they have followed each pack."""

    def followed_bytes(self) -> dict[int, int]: ...


class KeptHeads(FollowingHeads, HeadLister, Repeats, HeadRestorer, Epochs, Protocol):
    """The heads of a store: all that is asked of them, wherever they are, and what mends them."""

    def rebuild(self, session: Session, log: Collection[Move]) -> None: ...

    def rebuild_pin(self, pin: Pin) -> None: ...

    def problems(self) -> list[str]: ...

    def close(self) -> None: ...


Record = MoveRecord | PinRecord
Records = dict[Name, Record]


class Missing(NamedTuple):
    """The sessions of which records know more than the heads do, and the pins that only they know."""

    lives: list[Life]
    pins: list[Pin]

    def texts(self) -> tuple[str, ...]:
        """Each of them in a few words."""
        lives = [
            f"{life.session.session_id}: the packs know {life.last} moves, the heads database less"
            for life in self.lives
        ]
        return (
            *sorted(lives),
            *sorted(f"pin {pin.name}: the packs know it, the heads database does not" for pin in self.pins),
        )


class Comparison(NamedTuple):
    """The records, and what they know and the heads do not."""

    records: Records
    missing: Missing


def read_all(objects: ListedObjects) -> Records:
    """Every record that can be read. The others are named by check; these are worth having."""
    return _read(objects, {name for name in objects if name[0] is Kind.MOVE})


def read_followed(objects: FollowedObjects, heads: FollowingHeads) -> Records:
    """The records that can be read, without those that somebody may be about to follow."""
    followed = heads.followed_bytes()
    names = {name for name in objects if name[0] is Kind.MOVE}
    return _read(objects, names - objects.unfollowed(followed))


def compare(heads: PinnedHeads, look: Callable[[], Records]) -> Comparison:
    """Compare heads with the records that `look` reads."""
    records = look()
    missing = _missing(heads, records)
    if any(missing):
        # What was dropped since we looked is missed by the first look only, what is dropped now by the second only.
        again = _missing(heads, look())
        first = {moves.life_of(life.session) for life in missing.lives}
        missing = Missing(
            [life for life in again.lives if moves.life_of(life.session) in first],
            [pin for pin in again.pins if pin in missing.pins],
        )
    return Comparison(records, missing)


def needed(heads: PinnedHeads, records: Records) -> set[Name]:
    """The records of sessions and pins that are there; and that one was taken away, as long as anything else tells of it."""
    known = moves.lives(moves_of(records.values()))
    present = {moves.life_of(last.session) for last in heads.last_moves()}
    pinned, told = set(heads.pins()), {record.pin for record in pins_of(records.values()) if not record.removed}

    def is_needed(record: Record) -> bool:
        if isinstance(record, PinRecord):
            return record.pin in (told if record.removed else pinned)
        identity = moves.life_of(record.session)
        return identity in present or (record.move is None and bool(known[identity].moves))

    return {name for name, record in records.items() if is_needed(record)}


def decode(data: bytes) -> Record:
    """The record that `data` encodes. Raises DecodeError."""
    return pins.decode(data) if pins.is_pin(data) else moves.decode(data)


def moves_of(records: Iterable[Record]) -> list[MoveRecord]:
    return [record for record in records if isinstance(record, MoveRecord)]


def pins_of(records: Iterable[Record]) -> list[PinRecord]:
    return [record for record in records if isinstance(record, PinRecord)]


def _missing(heads: PinnedHeads, records: Records) -> Missing:
    lives = moves.lives(moves_of(records.values()))
    return Missing(moves.missing_from(heads, lives), pins.missing_from(heads.pins(), pins_of(records.values())))


def _read(objects: Objects, names: Iterable[Name]) -> Records:
    records: Records = {}
    for name in names:
        try:
            records[name] = decode(objects.get(*name))
        except (ObjectDamaged, ObjectMissing, DecodeError):
            continue
    return records
