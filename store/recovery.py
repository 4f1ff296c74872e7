"""Heads from the packs, when a store is opened: what was durable there and SQLite had not made durable itself.

Only packs of processes that are gone are read, behind where the database has followed them. Usually nothing is there. After a
power cut it is what was committed since SQLite's last sync; after the end of a process at a bad moment, one move that
nobody was told of.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable

from store import head_tables, journalled
from store.errors import DecodeError, ObjectDamaged, ObjectMissing
from store.heads import SqliteHeads
from store.ids import Kind, SnapshotId
from store.interfaces import Move, Moved
from store.journal import PackJournal
from store.journalled import Record, moves_of, pins_of
from store.moves import LifeId, MoveRecord, life_of
from store.pack_writer import PackWriter
from store.packs import PackObjects
from store.pins import PinRecord
from store.reachable import is_implied, mark
from store.records import Name

_STARTED = 0
"""Instead of a pack's number: the database has begun to follow."""


def recover(objects: PackObjects, heads: SqliteHeads, journal: PackJournal) -> None:
    """Bring the heads to where the packs are, and have the journal go on from there. Raises StoreUnusable, OSError."""
    packs = objects.taken_over
    followed = heads.followed_bytes()
    records = []
    # A database that has followed nothing is new, or lost: what was dropped is not known to it. `check --repair` reads all packs.
    if _STARTED in followed:
        records = [record for pack in packs for record in _unfollowed(objects, pack, followed.get(pack.number, 0))]
    ends_bytes = {pack.number: pack.end for pack in packs}
    journal.start()
    ends_bytes[_STARTED] = 0
    if any(followed.get(number) != end for number, end in ends_bytes.items()):
        heads.recover(lambda database: _follow(database, records, ends_bytes, journal))
    packs.clear()
    if objects.waits_for_settling:
        heads.settle()


def continuation(last: Moved | None, records: Iterable[MoveRecord]) -> list[MoveRecord]:
    """Those of one session's moves that go on from the last one known, without a gap.

    Of two for one place the later group counts: the other is that of a step that failed, whose record could not be taken back.
    """
    sequence, head = (last.move.sequence, last.session.head) if last is not None else (0, None)
    found: list[MoveRecord] = []
    candidates: defaultdict[int, list[MoveRecord]] = defaultdict(list)
    for record in records:
        candidates[record.sequence].append(record)
    while fitting := [
        record for record in candidates[sequence + 1] if record.move is not None and record.move.from_snapshot == head
    ]:
        found.append(max(fitting, key=lambda record: record.group))
        sequence, head = sequence + 1, found[-1].session.head
    return found


def _unfollowed(objects: PackObjects, pack: PackWriter, start: int) -> list[Record]:
    """The records in a pack from `start` on, without those of an append that tore: these go away."""
    damage = next((damage for damage in pack.damages if damage >= start), None)
    if damage is not None and _is_torn(objects, pack, _records(objects, pack, damage)):
        pack.cut(damage)
    return _records(objects, pack, start)


def _records(objects: PackObjects, pack: PackWriter, start: int) -> list[Record]:
    records: list[Record] = []
    for name, record in pack.records.items():
        if name[0] is Kind.MOVE and record.start >= start:
            try:
                records.append(journalled.decode(objects.get(*name)))
            except (ObjectDamaged, ObjectMissing, DecodeError):
                continue  # named by check
    return records


def _is_torn(objects: PackObjects, pack: PackWriter, behind: list[Record]) -> bool:
    """Whether damage is that of the last append, which was never synced: `behind` it stand records of that append only, and of some
    what they need is not there. Behind damage to what was durable stand later groups too, or they are whole.
    """
    if len({record.group for record in behind}) != 1:
        return False
    moved = [(move.to_snapshot, move.from_snapshot) for record in moves_of(behind) if (move := record.move) is not None]
    pinned = [(record.pin.snapshot, None) for record in pins_of(behind) if not record.removed]
    return not all(_is_whole(objects, pack, snapshot, before) for snapshot, before in (*moved, *pinned))


def _is_whole(objects: PackObjects, pack: PackWriter, snapshot: SnapshotId, before: SnapshotId | None) -> bool:
    """Whether all is there that a snapshot needs and the one `before` it does not."""
    known: set[Name] = {(Kind.SNAPSHOT, before)} if before else set()
    needed = set(known)
    if mark(objects, [(Kind.SNAPSHOT, snapshot)], needed):
        return False
    needed -= known
    try:
        for name in needed & pack.records.keys():
            objects.get(*name)
    except ObjectDamaged:
        return False
    return not objects.find_missing({name for name in needed if not is_implied(name)})


def _follow(
    database: sqlite3.Connection, records: Iterable[Record], ends_bytes: dict[int, int], journal: PackJournal
) -> None:
    lives: defaultdict[LifeId, list[MoveRecord]] = defaultdict(list)
    for record in moves_of(records):
        lives[life_of(record.session)].append(record)
    for _, life in sorted(lives.items(), key=lambda item: item[0][1]):
        last = _follow_life(database, life)
        if last is not None and any(_is_rival(record, last.move) for record in life):
            journal.confirmed(last)
    for told in sorted(pins_of(records), key=lambda told: told.group):
        _follow_pin(database, told)
    for pack, end_bytes in ends_bytes.items():
        database.execute("insert or replace into followed values (?, ?)", (pack, end_bytes))


def _follow_pin(database: sqlite3.Connection, told: PinRecord) -> None:
    pin = told.pin
    if told.removed:
        statement = "delete from pins where name = ? and snapshot = ? and at_s = ?"
        database.execute(statement, (pin.name, pin.snapshot, pin.at_s))
    else:
        head_tables.set_pin(database, pin)


def _is_rival(record: MoveRecord, last: Move) -> bool:
    """Whether a record tells of another move in the place of the last one: that of a step that failed, or came too late."""
    return record.sequence == last.sequence and record.move not in (None, last)


def _follow_life(database: sqlite3.Connection, life: list[MoveRecord]) -> Moved | None:
    """Returns the session with its last move, None when it is dropped or another one of this name is there."""
    session = life[0].session
    row = database.execute(head_tables.LAST_MOVE, (session.session_id,)).fetchone()
    last = head_tables.moved(row) if row is not None else None
    if last is not None and life_of(last.session) != life_of(session):
        return None  # another session of this name came after it
    followed = continuation(last, life)
    for record in followed:
        assert record.move is not None
        append = Moved(record.session, record.move)
        if last is None:
            database.execute(head_tables.ADD_SESSION, head_tables.session_row(record.session))
        else:
            database.execute(
                head_tables.UPDATE_SESSION, (*head_tables.session_row(record.session)[1:], record.session.session_id)
            )
        head_tables.append_move(database, append)
        last = append
    dropped_after = max((record.sequence for record in life if record.move is None), default=0)
    if last is not None and last.move.sequence <= dropped_after:
        database.execute("delete from sessions where session_id = ?", (session.session_id,))
        return None
    return last
