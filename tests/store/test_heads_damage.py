"""A database of heads that SQLite finds nothing wrong with, and that says what cannot be: told, never believed, and mended."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store.errors import StoreError, StoreUnusable
from store.gc import GcRunning, alone
from store.head_tables import COUNT_MAX, TEXT_CHARACTERS_MAX, TIME_S_MAX, VALUE_BYTES_MAX
from store.heads import SqliteHeads
from store.ids import SnapshotId
from store.interfaces import Pin, Session
from store.local import LocalStore
from store.testing import move, nobody, session, snapshot_name
from tests.store.history import begin, never, step

pytestmark = pytest.mark.timeout(60)
ADVICE = "`psf store check --repair` mends it"

WRONG_VALUES = {
    "update sessions set used_at_s = 1e300": "column used_at_s of sessions holds 1e+300",
    "update sessions set used_at_s = 'x'": "column used_at_s of sessions holds 'x'",
    "update sessions set ttl_s = -1": "column ttl_s of sessions holds -1.0",
    "update sessions set created_at_s = 9e999": "column created_at_s of sessions holds inf",
    "update sessions set head = x''": "column head of sessions holds b'', not 32 bytes",
    "update sessions set head = 5": "column head of sessions holds 5, not 32 bytes",
    "update sessions set session_id = x'ff00' where session_id = 'a'": "belong to no session",
    "update sessions set tenant = cast(x'ff' as text)": "cannot be read: Could not decode to UTF-8",
    "update sessions set name = x'00ff'": r"column name of sessions holds b'\x00\xff'",
    "update sessions set name = printf('%.*c', 5000, 'x')": "column name of sessions holds 'xxx",
    f"update sessions set name = zeroblob({VALUE_BYTES_MAX + 1})": "cannot be read: string or blob too big",
    "update sessions set limits = 'x'": "column limits of sessions holds 'x', not limits",
    "update sessions set limits = x'00'": r"column limits of sessions holds b'\x00', not limits",
    "update sessions set limits = '{\"processes\":-1}'": "column limits of sessions holds",
    "update log set to_snapshot = 3000000000": "column to_snapshot of log holds 3000000000",
    "update log set to_snapshot = x''": "column to_snapshot of log holds b''",
    "update log set from_snapshot = 'x'": "column from_snapshot of log holds 'x'",
    "update log set sequence = 'z' where sequence = 2": "column sequence of log holds 'z'",
    "update log set sequence = -4 where sequence = 2": "column sequence of log holds -4",
    "update log set kind = x'00'": r"column kind of log holds b'\x00'",
    "update log set at_s = 'x'": "column at_s of log holds 'x'",
    "update log set run_record = 'text'": "column run_record of log holds 'text', not bytes",
    "update log set session_id = 'none' where session_id = 'a'": "belong to no session",
    "insert into pins values ('p', x'00', 1)": r"column snapshot of pins holds b'\x00'",
    "insert into pins values ('p', zeroblob(32), 'x')": "column at_s of pins holds 'x'",
    "delete from epochs": "epochs has 0 rows",
    "insert into epochs values (0, 0)": "epochs has 2 rows",
    "update epochs set epoch = -1": "column epoch of epochs holds -1",
    "update epochs set epoch = 9223372036854775807": "column epoch of epochs holds 9223372036854775807",
    "update epochs set epoch = 'x'": "column epoch of epochs holds 'x'",
    "update epochs set refused_before = x'00'": r"column refused_before of epochs holds b'\x00'",
}
OTHER_TABLES = [
    "drop table log",
    "drop table sessions",
    "drop table pins",
    "drop table epochs",
    "drop index sessions_by_expiry",
    "alter table sessions rename column tenant to somebody",
    "alter table pins add column more",
    "create trigger t after insert on log begin delete from sessions; end",
    "drop table pins; create view pins as with recursive n(i) as (select 1 union all select i from n) select 'p', i, i from n",
    "pragma user_version = 0",
    "pragma user_version = 1",
    "pragma user_version = -7",
]


def alter(path: Path, script: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(script)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A closed store with two sessions of two moves each, and a pin."""
    store = LocalStore(tmp_path / "store")
    for name in ("a", "b"):
        begin(store, name)
        head = step(store, name, {b"file": name.encode()})
    store.heads.pin(Pin("kept", head, 5.0))
    store.close()
    return store.root


def sessions(root: Path) -> list[Session]:
    store = LocalStore(root)
    try:
        return [store.heads.get(name, "alice") for name in ("a", "b")]
    finally:
        store.close()


def stored_head(root: Path) -> SnapshotId:
    """Where the session a stands, whatever else is wrong."""
    with contextlib.closing(sqlite3.connect(root / "heads.sqlite")) as database:
        row = database.execute("select head from sessions where session_id = 'a'").fetchone()
    return SnapshotId(row[0] if row else b"")


WAYS: dict[str, Callable[[LocalStore], object]] = {
    "get": lambda store: store.heads.get("a", "alice"),
    "log": lambda store: store.heads.log("a", before=None, limit=10),
    "roots": lambda store: list(store.heads.roots()),
    "last moves": lambda store: list(store.heads.last_moves()),
    "pins": lambda store: store.heads.pins(),
    "epoch": lambda store: store.heads.epoch(),
    "lease": lambda store: store.leases.try_acquire("b"),
    "advance": lambda store: store.heads.advance("a", stored_head(store.root), move(9)),
    "advance in an epoch": lambda store: store.heads.advance("b", snapshot_name(0), move(9), epoch=0),
    "extend": lambda store: store.heads.extend("a", 2, [move(3)], runtime="bash", used_at_s=2000.0),
    "create": lambda store: store.heads.create([session("new")], "create", epoch=0),
    "drop": lambda store: store.heads.drop_unused_since(1e11, is_running=nobody),
    "begin an epoch": lambda store: store.heads.begin_epoch(),
    "sweep": lambda store: store.sweep(dry=False, pause=never),
}


@pytest.mark.parametrize(("statement", "said"), WRONG_VALUES.items())
def test_what_cannot_be_is_told_by_check_and_mended(root: Path, statement: str, said: str) -> None:
    before = sessions(root)
    alter(root / "heads.sqlite", statement)
    store = LocalStore(root)
    (problem,) = store.check(full=False)[0].behind
    store.close()
    assert said in problem
    assert problem.endswith(ADVICE)
    assert len(problem) < 300
    mended = LocalStore.mend(root)
    assert mended.report.clean
    assert mended.done[0].startswith("the damaged database of heads was put aside")
    assert (root / "damaged" / "heads.sqlite").is_file()
    assert sessions(root) == before


@pytest.mark.parametrize("statement", WRONG_VALUES)
def test_what_cannot_be_is_an_error_of_the_store_and_nothing_else(root: Path, statement: str) -> None:
    alter(root / "heads.sqlite", statement)
    store = LocalStore(root)
    refused = set()
    for name, way in WAYS.items():
        try:
            way(store)
        except (StoreError, OSError):
            refused.add(name)
    assert refused
    store.close()


@pytest.mark.parametrize("statement", [text for text in WRONG_VALUES if text.startswith("update sessions set head")])
def test_whoever_reads_what_cannot_be_is_told_what_to_type(root: Path, statement: str) -> None:
    alter(root / "heads.sqlite", statement)
    store = LocalStore(root)
    for way in ("get", "last moves", "extend", "drop"):
        with pytest.raises(StoreUnusable, match=re.escape(ADVICE)):
            WAYS[way](store)
    with pytest.raises(StoreUnusable, match=re.escape(ADVICE)):
        store.heads.advance("a", snapshot_name(0), move(9))
    store.close()


@pytest.mark.parametrize("script", OTHER_TABLES)
def test_a_database_with_other_tables_is_refused_and_mended(root: Path, script: str) -> None:
    before = sessions(root)
    alter(root / "heads.sqlite", script)
    with pytest.raises(StoreUnusable, match=f"heads format -?[0-9].*{re.escape(ADVICE)}"):
        LocalStore(root)
    assert LocalStore.mend(root).report.clean
    assert sessions(root) == before


def test_a_database_of_a_later_format_is_left_to_those_who_know_it(root: Path) -> None:
    alter(root / "heads.sqlite", "pragma user_version = 99")
    for _ in range(2):
        with pytest.raises(StoreUnusable, match="heads format 99 is not known"):
            LocalStore.mend(root)
    assert not (root / "damaged").exists()


def test_a_database_that_says_it_is_for_reading_only_is_mended(root: Path) -> None:
    """As SQLite takes one with a number in its header that only a later SQLite knows."""
    path = root / "heads.sqlite"
    data = bytearray(path.read_bytes())
    data[18] = 7
    path.write_bytes(data)
    assert LocalStore.mend(root).report.clean


@pytest.mark.parametrize("when", ["opened", "read"])
def test_mending_leaves_a_database_that_is_only_busy_as_it_is(root: Path, when: str) -> None:
    """Or one that cannot be read just now: it is right, and what only it knows would be gone."""
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_IOERR

    class Busy(sqlite3.Connection):
        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            if when == "opened" or statement == "pragma integrity_check":
                raise busy
            return super().execute(statement, *values)

    def connect(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Busy)

    with pytest.raises(StoreUnusable, match=r"database is locked$"):
        LocalStore.mend(root, connect=connect)
    assert not (root / "damaged").exists()
    store = LocalStore(root)
    assert len(store.heads.pins()) == 1
    store.close()


def test_mending_takes_nothing_away_while_somebody_sweeps(root: Path) -> None:
    alter(root / "heads.sqlite", "drop table log")
    with alone(root), pytest.raises(GcRunning):
        LocalStore.mend(root)
    assert not (root / "damaged").exists()
    assert LocalStore.mend(root).report.clean


def test_mending_keeps_the_pins(root: Path) -> None:
    """What they keep would be swept."""
    alter(root / "heads.sqlite", "update sessions set head = 5; update pins set at_s = 'x'")
    assert "pin kept was set again" in LocalStore.mend(root).done
    store = LocalStore(root)
    assert [(pin.name, pin.at_s) for pin in store.heads.pins()] == [("kept", 5.0)]
    store.close()


def test_what_is_just_right_is_no_damage(tmp_path: Path) -> None:
    heads = SqliteHeads(tmp_path / "heads.sqlite")
    text = "x" * TEXT_CHARACTERS_MAX
    extreme = Session("a", text, text, snapshot_name(0), text, text, TIME_S_MAX, 0.0, TIME_S_MAX)
    heads.create([extreme], "create")
    heads.pin(Pin(text, snapshot_name(0), 0.0))
    heads.refuse_before(COUNT_MAX)
    assert heads.get("a", text) == extreme
    assert heads.problems() == []
    heads.close()


def test_white_space_in_the_schema_is_no_difference(root: Path) -> None:
    script = "pragma writable_schema = on; update sqlite_master set sql = replace(sql, '    ', '  ') where name = 'log'"
    alter(root / "heads.sqlite", script)
    assert len(sessions(root)) == 2
