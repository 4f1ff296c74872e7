"""What is asked of limits: as text, as a part of sessions, moves and bundles; and in databases of before there was any."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import asked, bundle_header, head_tables, moves
from store.asked import AMOUNT_MAX, NAMES, NOTHING_ASKED, OPEN_FILES_MAX, PROCESSES_MAX, AskedLimits
from store.bundle_header import Header
from store.errors import DecodeError
from store.heads import SqliteHeads
from store.ids import Kind
from store.interfaces import Move
from store.local import LocalStore
from store.memory import MemoryHeads
from store.moves import MoveRecord
from store.snapshot import EMPTY_SNAPSHOT_BYTES, EMPTY_SNAPSHOT_ID, Limits
from store.testing import SweptHeads, move, session, snapshot_name

_AMOUNTS = st.integers(4096, AMOUNT_MAX)
_KINDS: dict[str, st.SearchStrategy[Any]] = {
    "wall_time_s": st.floats(0, 1e9, exclude_min=True),
    "cpu_time_s": st.integers(1, 10**9),
    "processes": st.integers(1, PROCESSES_MAX),
    "open_files": st.integers(32, OPEN_FILES_MAX),
    "cpus": st.floats(0.01, 1e4),
    "network": st.sampled_from(("none", "loopback", "egress")),
}
ASKED = st.builds(AskedLimits, **{name: st.none() | _KINDS.get(name, _AMOUNTS) for name in NAMES})
SOME = AskedLimits(wall_time_s=2.0, processes=7, network="none")


@given(ASKED)
def test_what_is_asked_is_the_same_from_its_text(limits: AskedLimits) -> None:
    text = asked.to_text(limits)
    assert asked.from_text(text) == limits
    assert (text == "") == (limits == NOTHING_ASKED)
    assert len(text) <= head_tables.TEXT_CHARACTERS_MAX
    assert set(limits.given()) == set(msgspec.json.decode(text or "{}"))


@given(ASKED)
def test_what_is_given_is_what_limits_take(limits: AskedLimits) -> None:
    effective = msgspec.structs.replace(Limits(), **limits.given())
    assert all(getattr(effective, name) == value for name, value in limits.given().items())


def test_whole_seconds_are_the_same_seconds_and_what_is_no_limit_is_not_written() -> None:
    assert asked.to_text(AskedLimits(wall_time_s=5)) == asked.to_text(AskedLimits(wall_time_s=5.0))
    assert asked.from_text(asked.to_text(AskedLimits(cpus=1))) == AskedLimits(cpus=1.0)
    for wrong in (AskedLimits(processes=-1), AskedLimits(wall_time_s=float("nan")), AskedLimits(network="all")):  # type: ignore[arg-type]
        with pytest.raises(DecodeError, match="not limits"):
            asked.to_text(wrong)


WRONG = [
    '{"wall_time_s":0}', '{"wall_time_s":-1.0}', '{"wall_time_s":1e10}', '{"wall_time_s":NaN}', '{"cpu_time_s":0}', '{"cpu_time_s":1.5}', '{"memory_bytes":0}',
    '{"processes":-1}', '{"processes":4000001}', '{"open_files":1048577}', '{"processes":null}', '{"output_kept_bytes":1125899906842625}', '{"scratch_bytes":4095}', '{"scratch_inodes":0}', '{"open_files":3}',
    '{"cpus":0.0}', '{"cpus":1e5}', '{"network":"all"}', '{"speed":1}', '{"processes":"7"}', '{ "processes":7}', "{}", "[]", "7", "x", '{"network":"\udc80"}',
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_a_text_that_is_no_limits_is_refused(text: str) -> None:
    with pytest.raises(DecodeError, match="not limits"):
        asked.from_text(text)


@pytest.fixture(params=["sqlite", "memory"])
def heads(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SweptHeads]:
    if request.param == "memory":
        yield MemoryHeads()
        return
    opened = SqliteHeads(tmp_path / "heads.sqlite")
    yield opened
    opened.close()


def test_a_session_keeps_its_limits_over_moves(heads: SweptHeads) -> None:
    limited = msgspec.structs.replace(session("a"), limits=SOME)
    heads.create([limited, session("b")], "create")
    assert heads.get("a", "alice") == limited
    heads.advance("a", snapshot_name(0), move(1), runtime="bash")
    assert heads.get("a", "alice").limits == SOME
    assert heads.get("b", "alice").limits == NOTHING_ASKED
    assert {last.session.session_id: last.session.limits for last in heads.last_moves()} == {
        "a": SOME,
        "b": NOTHING_ASKED,
    }


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_database_of_before_is_opened_and_its_sessions_have_no_limits(tmp_path: Path, version: int) -> None:
    path = tmp_path / "heads.sqlite"
    before = head_tables.SESSION.partition(", limits")[0]
    with contextlib.closing(sqlite3.connect(path)) as database:
        for script in head_tables._SCHEMA[:version]:
            database.executescript(script)
        row = head_tables.session_row(session("old"))[:9]
        database.execute(f"insert into sessions ({before}) values (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        database.execute("insert into log values ('old', 1, 'create', null, ?, 1.0, x'')", (snapshot_name(0),))
        database.execute(f"pragma user_version = {version}")
        database.commit()
    for _ in range(2):
        heads = SqliteHeads(path)
        assert heads.get("old", "alice") == session("old")
        assert heads.problems() == []
        heads.close()
    heads = SqliteHeads(path)
    heads.create([msgspec.structs.replace(session("new"), limits=SOME)], "create")
    heads.advance("old", snapshot_name(0), move(1))
    assert heads.get("new", "alice").limits == SOME
    heads.close()


def test_limits_are_there_when_the_heads_are_made_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.objects.put(Kind.SNAPSHOT, EMPTY_SNAPSHOT_BYTES)
    limited = msgspec.structs.replace(session("a"), head=EMPTY_SNAPSHOT_ID, limits=SOME)
    store.heads.create([limited], "create")
    store.close()
    for path in store.root.glob("heads.sqlite*"):
        path.unlink()
    assert LocalStore.mend(store.root).done
    again = LocalStore(store.root)
    assert again.heads.get("a", "alice") == limited
    again.close()


def test_a_record_of_a_session_without_limits_is_written_as_it_always_was() -> None:
    """And one of before is one of a session without limits."""
    data = moves.encode(MoveRecord(1, session("a"), None, 5))
    _, _, fields, _, _ = msgspec.msgpack.decode(data)
    assert len(fields) == 9
    assert moves.decode(data).session.limits == NOTHING_ASKED
    _, _, fields, _, _ = msgspec.msgpack.decode(
        moves.encode(MoveRecord(1, msgspec.structs.replace(session("a"), limits=SOME), None))
    )
    assert fields[9:] == [{"wall_time_s": 2.0, "processes": 7, "network": "none"}]


def header(limits: AskedLimits) -> Header:
    limited = msgspec.structs.replace(session("a"), limits=limits)
    return Header(limited, (Move(1, "create", None, limited.head, 500.0, b""),), (), 0)


@given(ASKED)
def test_a_bundle_carries_limits(limits: AskedLimits) -> None:
    data = bundle_header.encode_header(header(limits))
    assert bundle_header.decode_header(data) == header(limits)
    assert bundle_header.encode_header(bundle_header.decode_header(data)) == data


@pytest.mark.parametrize(
    "limits",
    [{}, {"processes": 0}, {"wall_time_s": float("nan")}, {"speed": 1}, None, {"processes": 7, "wall_time_s": 2.0}],
)
def test_a_bundle_with_limits_that_are_none_is_refused(limits: object) -> None:
    version, fields, *rest = msgspec.msgpack.decode(bundle_header.encode_header(header(NOTHING_ASKED)))
    with pytest.raises(DecodeError, match="is not one"):
        bundle_header.decode_header(msgspec.msgpack.encode([version, [*fields, limits], *rest]))
