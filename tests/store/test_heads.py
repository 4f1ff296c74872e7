"""SQLite heads and file leases: the contracts, and what only files can show: reopening, other processes, damage."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.errors import HeadMoved, StoreUnusable
from store.heads import SqliteHeads
from store.interfaces import Leases
from store.leases import FileLeases
from store.testing import HeadsContract, LeasesContract, SweptHeads, in_threads, move, session, snapshot_name
from store.testing.keyed import KeyedContract, RepeatableHeads
from store.testing.pins import PinnedHeads, PinsContract
from store.testing.restoring import RestoredHeads, RestorerContract


class TestSqliteHeads(HeadsContract):
    @pytest.fixture
    def heads(self, tmp_path: Path) -> Iterator[SweptHeads]:
        heads = SqliteHeads(tmp_path / "heads.sqlite")
        yield heads
        heads.close()


class TestSqlitePins(PinsContract):
    @pytest.fixture
    def heads(self, tmp_path: Path) -> Iterator[PinnedHeads]:
        heads = SqliteHeads(tmp_path / "heads.sqlite")
        yield heads
        heads.close()


class TestSqliteKeyed(KeyedContract):
    @pytest.fixture
    def heads(self, tmp_path: Path) -> Iterator[RepeatableHeads]:
        heads = SqliteHeads(tmp_path / "heads.sqlite")
        yield heads
        heads.close()


class TestSqliteRestorer(RestorerContract):
    @pytest.fixture
    def heads(self, tmp_path: Path) -> Iterator[RestoredHeads]:
        heads = SqliteHeads(tmp_path / "heads.sqlite")
        yield heads
        heads.close()


class TestFileLeases(LeasesContract):
    @pytest.fixture
    def leases(self, tmp_path: Path) -> Leases:
        return FileLeases(tmp_path / "leases.lock")


def test_heads_are_there_after_reopening(tmp_path: Path) -> None:
    heads = SqliteHeads(tmp_path / "heads.sqlite")
    heads.create([session("a")], "create")
    heads.advance("a", snapshot_name(0), move(1))
    log = heads.log("a", before=None, limit=10)
    heads.close()
    again = SqliteHeads(tmp_path / "heads.sqlite")
    assert again.get("a", "alice").head == snapshot_name(1)
    assert again.log("a", before=None, limit=10) == log
    again.close()


def test_two_connections_see_and_exclude_each_other(tmp_path: Path) -> None:
    one, other = (SqliteHeads(tmp_path / "heads.sqlite") for _ in range(2))
    one.create([session("a")], "create")
    other.advance("a", snapshot_name(0), move(1))
    with pytest.raises(HeadMoved):
        one.advance("a", snapshot_name(0), move(2))
    assert one.get("a", "alice").head == snapshot_name(1)
    one.close()
    other.close()


def test_a_session_that_is_used_while_unused_ones_are_dropped_stays(tmp_path: Path) -> None:
    """Its step may begin and end between the look at what is unused and the dropping."""
    heads = SqliteHeads(tmp_path / "heads.sqlite")
    heads.create([session("used", used_at_s=10.0), session("unused", used_at_s=10.0)], "create")

    def use(session_id: str) -> bool:
        if session_id == "used":
            heads.advance("used", snapshot_name(0), move(1, at_s=5000.0))
        return False

    assert heads.drop_unused_since(3000.0, is_running=use) == 1
    assert [last.session.session_id for last in heads.last_moves()] == ["used"]
    heads.close()


def test_many_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    opened = in_threads(lambda _: SqliteHeads(tmp_path / "heads.sqlite"))
    assert all(isinstance(heads, SqliteHeads) for heads in opened), opened
    for heads in opened:
        assert isinstance(heads, SqliteHeads)
        heads.close()


def test_commits_survive_power_loss_by_configuration(tmp_path: Path) -> None:
    """WAL with synchronous=FULL is what syncs each commit; NORMAL would not."""
    heads = SqliteHeads(tmp_path / "heads.sqlite")
    database = heads._transactions._database
    assert database.execute("pragma journal_mode").fetchone() == ("wal",)
    assert database.execute("pragma synchronous").fetchone() == (2,)
    heads.close()


def test_another_format_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "heads.sqlite") as database:
        database.execute("pragma user_version = 99")
    database.close()
    with pytest.raises(StoreUnusable, match="99"):
        SqliteHeads(tmp_path / "heads.sqlite")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "heads.sqlite").write_bytes(b"not a database " * 100)
    with pytest.raises(StoreUnusable):
        SqliteHeads(tmp_path / "heads.sqlite")


_HOLDER = """
import sys
from pathlib import Path
from store.leases import FileLeases
lease = FileLeases(Path(sys.argv[1])).try_acquire("a")
print("held" if lease else "refused", flush=True)
sys.stdin.read()
"""


def test_a_turn_is_exclusive_across_processes_and_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "leases.lock"
    leases = FileLeases(path)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert leases.try_acquire("a") is None
        assert leases.try_acquire("b") is not None
        holder.kill()
        holder.wait()
    assert leases.try_acquire("a") is not None
