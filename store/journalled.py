"""What the packs say of heads, beside what the heads say: for check, sweep and repair, also while others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from store import moves
from store.errors import DecodeError, ObjectDamaged, ObjectMissing
from store.ids import Kind
from store.interfaces import ListedObjects, Objects
from store.moves import Life, LoggedHeads, MoveRecord
from store.records import Name


class FollowedObjects(ListedObjects, Protocol):
    """An object store from which heads are made again."""

    def unfollowed(self, followed_bytes: Mapping[int, int]) -> set[Name]: ...


class FollowingHeads(LoggedHeads, Protocol):
    """Heads that say how far they have followed each pack."""

    def followed_bytes(self) -> dict[int, int]: ...


Records = dict[Name, MoveRecord]


class Comparison(NamedTuple):
    """The records, and the sessions of which they know more than the heads do."""

    records: Records
    missing: list[Life]


def read_all(objects: ListedObjects) -> Records:
    """Every record that can be read. The others are named by check; these are worth having."""
    return _read(objects, {name for name in objects if name[0] is Kind.MOVE})


def read_followed(objects: FollowedObjects, heads: FollowingHeads) -> Records:
    """The records that can be read, without those that somebody may be about to follow."""
    followed = heads.followed_bytes()
    names = {name for name in objects if name[0] is Kind.MOVE}
    return _read(objects, names - objects.unfollowed(followed))


def compare(heads: LoggedHeads, look: Callable[[], Records]) -> Comparison:
    """Compare heads with the records that `look` reads."""
    records = look()
    missing = moves.missing_from(heads, moves.lives(records.values()))
    if missing:
        # What was dropped since we looked is missed by the first look only, what is dropped now by the second only.
        first = {moves.life_of(life.session) for life in missing}
        again = moves.missing_from(heads, moves.lives(look().values()))
        missing = [life for life in again if moves.life_of(life.session) in first]
    return Comparison(records, missing)


def needed(heads: LoggedHeads, records: Records) -> set[Name]:
    """The records of sessions that are there; and that one was dropped, as long as anything else tells of it."""
    known = moves.lives(records.values())
    present = {moves.life_of(last.session) for last in heads.last_moves()}
    return {
        name
        for name, record in records.items()
        if moves.life_of(record.session) in present
        or (record.move is None and known[moves.life_of(record.session)].moves)
    }


def _read(objects: Objects, names: Iterable[Name]) -> Records:
    records = {}
    for name in names:
        try:
            records[name] = moves.decode(objects.get(*name))
        except (ObjectDamaged, ObjectMissing, DecodeError):
            continue
    return records
