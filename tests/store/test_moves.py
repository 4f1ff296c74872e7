"""The journal of moves: what the packs know of sessions, and what they say about a database that knows less, or else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import moves
from store.errors import DecodeError
from store.files import Files
from store.heads import SqliteHeads
from store.ids import Kind, SnapshotId
from store.interfaces import Move, Session
from store.journal import PackJournal
from store.moves import MoveRecord, lives, missing_from
from store.packs import PackObjects
from store.testing import move, nobody, session, snapshot_name
from store.testing.restoring import at, chain
from tests.store.test_asked import ASKED

IDS = st.binary(min_size=32, max_size=32).map(SnapshotId)
TEXT = st.text(max_size=20)
SESSIONS = st.builds(
    Session,
    TEXT,
    TEXT,
    st.none() | TEXT,
    IDS,
    TEXT,
    TEXT,
    st.floats(0, 1e9),
    st.floats(0, 1e10),
    st.floats(0, 1e10),
    ASKED,
)
MOVES = st.builds(Move, st.integers(1, 1 << 40), TEXT, st.none() | IDS, IDS, st.floats(0, 1e10), st.binary(max_size=50))


@given(st.builds(MoveRecord, st.integers(1, 1 << 40), SESSIONS, st.none() | MOVES))
def test_a_record_round_trips(record: MoveRecord) -> None:
    data = moves.encode(record)
    assert moves.decode(data) == record
    assert moves.encode(moves.decode(data)) == data


@given(st.binary(max_size=200))
def test_noise_is_no_record(data: bytes) -> None:
    with pytest.raises(DecodeError):
        moves.decode(data)


def test_a_text_that_is_not_utf_8_is_refused() -> None:
    data = moves.encode(MoveRecord(1, session("a"), None))
    with pytest.raises(DecodeError, match="not a move"):
        moves.decode(data.replace(b"alice", b"\xfflice"))


def test_another_version_is_refused() -> None:
    data = msgspec.msgpack.decode(moves.encode(MoveRecord(1, session("a"), None)))
    with pytest.raises(DecodeError, match="format 1"):
        moves.decode(msgspec.msgpack.encode([1, *data[1:]]))


class Journalled:
    """Heads and the object store their moves are written to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects = PackObjects(path.parent, Files())
        journal = PackJournal(self.objects, Files().tick)
        self.heads = SqliteHeads(path, journal)
        journal.start()

    def known(self) -> dict[moves.LifeId, moves.Life]:
        return lives(moves.decode(self.objects.get(*name)) for name in self.objects if name[0] is Kind.MOVE)

    def missing(self) -> list[str]:
        return [life.session.session_id for life in missing_from(self.heads, self.known())]

    def alter(self, statement: str, *values: object) -> None:
        with sqlite3.connect(self.path) as database:
            database.execute(statement, values)
        database.close()


@pytest.fixture
def journalled(tmp_path: Path) -> Iterator[Journalled]:
    both = Journalled(tmp_path / "heads.sqlite")
    both.heads.create([session("a"), session("b", used_at_s=10.0)], "create")
    both.heads.advance("a", snapshot_name(0), move(1), runtime="bash")
    both.heads.advance("a", snapshot_name(1), move(2))
    yield both
    both.heads.close()
    both.objects.close()


def test_the_journal_knows_every_move_and_the_session_as_it_is(journalled: Journalled) -> None:
    life = journalled.known()["a", 500.0]
    assert life.session == journalled.heads.get("a", "alice")
    assert [life.moves[number] for number in (3, 2, 1)] == journalled.heads.log("a", before=None, limit=9)
    assert journalled.missing() == []


def test_the_journal_knows_sessions_that_were_restored_and_extended(journalled: Journalled) -> None:
    """Each move with the head where it led: a record may be the last one that a crash left."""
    journalled.heads.restore(at(2, "new"), chain(1, 2))
    journalled.heads.extend("new", 2, chain(3, 4), runtime="bash", used_at_s=5000.0)
    life = journalled.known()["new", 500.0]
    assert life.session == journalled.heads.get("new", "alice")
    assert [life.moves[number] for number in (4, 3, 2, 1)] == journalled.heads.log("new", before=None, limit=9)
    records = [moves.decode(journalled.objects.get(*name)) for name in journalled.objects if name[0] is Kind.MOVE]
    assert all(record.session.head == record.move.to_snapshot for record in records if record.move is not None)
    assert journalled.missing() == []


def test_a_lost_database_lacks_every_session(journalled: Journalled, tmp_path: Path) -> None:
    empty = SqliteHeads(tmp_path / "empty.sqlite")
    assert {life.session.session_id for life in missing_from(empty, journalled.known())} == {"a", "b"}
    empty.close()


def test_a_database_that_knows_more_than_the_journal_is_fine(journalled: Journalled) -> None:
    """The last record is durable only with the next sync."""
    behind = journalled.known()
    journalled.heads.advance("a", snapshot_name(2), move(3))
    assert missing_from(journalled.heads, behind) == []


def test_a_step_that_lands_while_heads_are_compared_is_no_loss(
    journalled: Journalled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a server its log is longer than the last move that was seen."""
    known, log = journalled.known(), journalled.heads.log

    def meanwhile(session_id: str, *, before: int | None, limit: int) -> list[Move]:
        monkeypatch.undo()
        journalled.heads.advance("a", snapshot_name(2), move(3))
        return log(session_id, before=before, limit=limit)

    monkeypatch.setattr(journalled.heads, "log", meanwhile)
    assert missing_from(journalled.heads, known) == []
    assert len(log("a", before=None, limit=9)) == 4


@pytest.mark.parametrize(
    "statement",
    [
        "delete from log where session_id = 'a' and sequence = 3",
        "delete from log where session_id = 'a' and sequence = 2",
        "update log set to_snapshot = zeroblob(32) where session_id = 'a' and sequence = 2",
        "update log set run_record = x'00' where session_id = 'a' and sequence = 2",
        "update log set kind = 'rollback' where session_id = 'a' and sequence = 3",
        "update sessions set head = zeroblob(32) where session_id = 'a'",
        "update sessions set tenant = 'mallory' where session_id = 'a'",
        "update sessions set runtime = 'perl' where session_id = 'a'",
        "update sessions set limits = '{\"processes\":7}' where session_id = 'a'",
        "delete from sessions where session_id = 'a'",
    ],
)
def test_whatever_is_changed_behind_our_back_is_noticed(journalled: Journalled, statement: str) -> None:
    journalled.alter("pragma foreign_keys=on")
    journalled.alter(statement)
    assert journalled.missing() == ["a"]


def test_a_dropped_session_is_not_missed(journalled: Journalled) -> None:
    assert journalled.heads.drop_unused_since(100.0, is_running=nobody) == 1
    assert journalled.missing() == []
    assert journalled.known()["b", 500.0].dropped


def test_a_session_that_moved_on_was_not_dropped(journalled: Journalled) -> None:
    last = next(moved for moved in journalled.heads.last_moves() if moved.session.session_id == "b")
    journalled.objects.put(Kind.MOVE, moves.encode(MoveRecord(last.move.sequence, last.session, None)))
    assert journalled.known()["b", 500.0].dropped
    journalled.heads.advance("b", snapshot_name(0), move(7))
    assert not journalled.known()["b", 500.0].dropped


def test_a_name_that_is_used_again_is_another_session(journalled: Journalled) -> None:
    journalled.heads.drop_unused_since(100.0, is_running=nobody)
    again = msgspec.structs.replace(session("b"), created_at_s=700.0)
    journalled.heads.create([again], "create")
    assert journalled.missing() == []
    assert {identity for identity in journalled.known() if identity[0] == "b"} == {("b", 500.0), ("b", 700.0)}


def test_an_old_database_that_was_used_on_purpose_is_believed(journalled: Journalled) -> None:
    """Somebody put a backup back and went on with it: both ways were written down, and the one taken since counts."""
    journalled.alter("delete from log where session_id = 'a' and sequence = 3")
    journalled.alter("update sessions set head = ? where session_id = 'a'", snapshot_name(1))
    assert journalled.missing() == ["a"]
    journalled.heads.advance("a", snapshot_name(1), move(8, at_s=5000.0))
    assert journalled.missing() == []
