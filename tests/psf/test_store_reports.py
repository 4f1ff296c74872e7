"""What is printed of a store: as it is found, without what a terminal or rich would obey, and no longer than anybody reads."""

from __future__ import annotations

import io
import json
import os
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psf import cli, store_commands, store_reports
from psf.terminal import as_json, named, printable, shown_name
from store.asked import AskedLimits
from store.capture import put_tree
from store.ids import Kind, SnapshotId
from store.interfaces import Moved, Pin
from store.local import LocalStore
from store.snapshot import Snapshot, encode
from store.testing import move, session
from store.tree import EMPTY_TREE, Entry, EntryKind
from tests.store.history import begin

NASTY = ["\x1b[31m", ":bomb:", "[red]", "[/]", "[link=http://a.example/]b[/link]", "back\\", "\x9b31m", "\u202egpj", "a\nb", "\0"]  # fmt: skip
NAMES = st.lists(st.binary(min_size=1, max_size=255), min_size=1, max_size=300).map(tuple)


@given(NAMES)
def test_a_path_is_shown_whole_or_with_both_its_ends(path: tuple[bytes, ...]) -> None:
    shown, cut = store_reports.shown_path(path)
    if len(b"/".join(path)) < store_reports.PATH_BYTES_SHOWN:
        assert (shown, cut) == (b"/".join(path), False)
    else:
        assert cut
        assert len(shown) <= store_reports.PATH_BYTES_SHOWN + len(b"/.../")
        assert shown.startswith(path[0] + b"/")
        assert shown.endswith(b"/" + path[-1])
        assert b"/.../" in shown


def test_a_long_text_is_shown_with_both_its_ends() -> None:
    assert store_reports.shortened("a" * 1000) == "a" * 1000
    assert store_reports.shortened("begin" + "a" * 5000 + "end") == "begin" + "a" * 495 + " ... " + "a" * 497 + "end"


@pytest.mark.parametrize("name", NASTY)
def test_names_of_strangers_are_shown_as_they_are(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    moved = Moved(msgspec.structs.replace(session("a"), name=name, runtime=name), move(1))
    row = {"snapshot": "00", "pin": name, "files": 1, "total_bytes": 1, "left_out": [{"path": name, "reason": name}]}
    entry = Entry(name.encode(), EntryKind.FILE, b"x" * 32, 1, 1)
    pin = store_reports.pin_row(Pin(name, SnapshotId(bytes(32)), 1.0))
    store_reports.show_sessions({"sessions": [store_reports.session_row(moved, 1.0)], "pins": [pin]})
    store_reports.show_entries([store_reports.entry_row(entry)])
    store_reports.show_imported_tree(row)
    store_reports.show_changes([{"path": name, "what": "added", "after": {"kind": "file"}}])
    shown = capsys.readouterr().out
    assert printable(shown.replace("\n", "")) == shown.replace("\n", "")
    assert shown.count(printable(name)) >= 4
    assert shown.count(shown_name(name.encode())) >= 3


@given(
    st.lists(st.one_of(st.binary(max_size=8), st.sampled_from([b"\\", b"n", b"x41", "\x80é\U000e0001".encode()]))).map(
        b"".join
    )
)
def test_a_name_is_told_from_all_others_by_what_is_shown(name: bytes) -> None:
    shown = shown_name(name)
    assert shown.isprintable()
    assert named(shown.encode()) == name


def test_what_is_no_escape_stays_as_it_is() -> None:
    assert named(rb"\q \x4 \uffff1 \Uffffffff \ud800") == b"\\q \\x4 \xef\xbf\xbf1 \\Uffffffff \xed\xa0\x80"


@pytest.mark.parametrize("name", [*NASTY, "\U000e0001", "\u00e9 \u4e2d"])
def test_json_says_the_same_and_commands_no_terminal(name: str) -> None:
    line = as_json([name, {name: 1.5}]).decode()
    assert line.isprintable()
    assert json.loads(line) == [name, {name: 1.5}]


def test_changes_are_printed_as_they_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for show in (store_reports.show_changes, store_commands.print_array):
        sink = io.TextIOWrapper(io.BytesIO(), write_through=True)
        monkeypatch.setattr(sys, "stdout", sink)

        def rows(sink: io.TextIOWrapper = sink) -> Iterator[dict[str, Any]]:
            for name in ("one", "two", "three"):
                yield {"path": name, "what": "added", "after": {"kind": "file", "size_bytes": 1}}
                assert name.encode() in sink.buffer.getvalue()  # type: ignore[attr-defined]

        show(rows())
    monkeypatch.undo()
    assert [row["path"] for row in json.loads(sink.buffer.getvalue())] == ["one", "two", "three"]  # type: ignore[attr-defined]


def test_an_array_of_nothing_is_one(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    store_commands.print_array(iter(()))
    assert capfdbinary.readouterr().out == b"[]\n"


@pytest.fixture
def bomb(tmp_path: Path) -> Path:
    """A store with a pin on a few trees that have 8190 paths of some 2 KiB together."""
    store = LocalStore(tmp_path / "store")
    begin(store, "a1b2c3d4e5f6")
    tree = EMPTY_TREE
    for _ in range(12):
        tree = put_tree(
            store.objects, [Entry(letter * 200, EntryKind.DIRECTORY, tree, 0, 0) for letter in (b"a", b"b")]
        )
    head = SnapshotId(store.objects.put(Kind.SNAPSHOT, encode(Snapshot(1, 0, (), tree, None, None))))
    store.objects.sync()
    store.heads.pin(Pin("bomb", head, 1.0))
    store.close()
    return tmp_path / "store"


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_difference_of_any_length_takes_no_memory(
    bomb: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Path(os.devnull).open("w"))  # noqa: SIM115 - closed below
    tracemalloc.start()
    with sys.stdout:
        assert cli.main(["store", "diff", "a1b2c3d4e5f6", "bomb", "--store", str(bomb), "--exit-code", *flags]) == 1
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_sessions_row_has_the_limits_it_asks_for_and_no_others() -> None:
    limited = msgspec.structs.replace(session("a"), limits=AskedLimits(processes=7, network="none"))
    assert store_reports.session_row(Moved(limited, move(1)), 1.0)["limits"] == {"processes": 7, "network": "none"}
    assert store_reports.session_row(Moved(session("a"), move(1)), 1.0)["limits"] == {}
