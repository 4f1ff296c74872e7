"""Crashes at random points of scenarios, on a simulated disk that keeps what it likes of what was not synced."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from math import ceil
from pathlib import Path

import pytest

from store.recording import (
    ROOT,
    DiskLog,
    Event,
    Link,
    MakeDirectory,
    RecordingFiles,
    Rename,
    Sync,
    SyncFailed,
    Truncate,
    Unlink,
    Write,
)
from tests.faults.crashing import crash
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.faults.scenes import PLACE, Carelessness, Scene, played
from tests.faults.simulation import STATES_OF_ONE_SCENE, quick_folder, simulate

STATES = 2000
SEEDS = range(ceil(STATES / STATES_OF_ONE_SCENE / len(SCENARIOS)))


def test_after_a_crash_at_any_point_all_that_was_acknowledged_is_there_and_work_goes_on() -> None:
    tally = simulate(SEEDS)
    assert not tally.failing, tally.examples[:5]
    assert tally.states >= STATES


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_so_it_is_after_two_hundred_thousand_crashes(part: int) -> None:
    seeds = ceil(10_000 / STATES_OF_ONE_SCENE / len(SCENARIOS))
    tally = simulate(range(1000 + part * seeds, 1000 + (part + 1) * seeds))
    assert not tally.failing, tally.examples[:5]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scene_that_is_played_twice_writes_the_same(scenario: Scenario) -> None:
    """A seed that failed can be looked into."""

    def events() -> list[Event]:
        with (
            quick_folder() as folder,
            played(scenario, folder, random.Random("again"), Carelessness()) as scene,
        ):
            return list(scene.log.events)

    first = events()
    assert first == events()
    assert len(first) > 20


def test_the_journal_of_a_database_whose_first_opening_was_cut_off_is_gone_for_good() -> None:
    """It switched to a WAL that was there already: with the journal back, SQLite would read nothing of that."""
    with quick_folder() as folder:

        def opened(scene: Scene) -> None:
            scene.close(scene.open())

        with played(opened, folder, random.Random(1), Carelessness()):
            pass
        root = folder / PLACE
        (root / "heads.sqlite").unlink()
        (root / "heads.sqlite-wal").touch()
        with played(opened, folder, random.Random(2), Carelessness()) as scene:
            events = list(scene.log.events)
    unlinked = [event for event in events if isinstance(event, Unlink) and event.name == b"heads.sqlite-journal"]
    behind = events[events.index(unlinked[-1]) + 1 :]
    assert Sync(unlinked[-1].directory) in behind
    assert not any(isinstance(event, Write) for event in behind[: behind.index(Sync(unlinked[-1].directory))])


# -- the disk itself: as kind as promised, and as harsh -----------------------------------------------------------------


def outcomes(tmp_path: Path, events: Sequence[Event], draws: int = 400) -> set[tuple[tuple[str, bytes], ...]]:
    """All that the disk was seen to hold: names with their contents."""
    seen = set()
    for number in range(draws):
        folder = tmp_path / str(number)
        folder.mkdir()
        crash(events, random.Random(number), folder)
        files = [path for path in folder.rglob("*") if path.is_file()]
        seen.add(tuple(sorted((path.relative_to(folder).as_posix(), path.read_bytes()) for path in files)))
    return seen


def test_what_is_synced_is_there_and_nothing_else_can_be_seen(tmp_path: Path) -> None:
    events: list[Event] = [Link(ROOT, b"a", 1), Write(1, 0, b"whole"), Sync(1), Sync(ROOT)]
    assert outcomes(tmp_path, events) == {(("a", b"whole"),)}


def test_a_name_waits_for_no_bytes_and_bytes_for_no_name(tmp_path: Path) -> None:
    events: list[Event] = [Link(ROOT, b"a", 1), Write(1, 0, b"ab")]
    seen = outcomes(tmp_path, events)
    assert seen >= {(), *((("a", data),) for data in (b"", b"ab", b"\0\0", b"\0b"))}
    assert seen <= {(), *((("a", data),) for data in (b"", b"ab", b"\0\0", b"\0b", b"a", b"a\0"))}


def test_synced_bytes_without_a_synced_name_may_be_lost(tmp_path: Path) -> None:
    assert outcomes(tmp_path, [Link(ROOT, b"a", 1), Write(1, 0, b"x"), Sync(1)]) == {(), (("a", b"x"),)}


def test_a_rename_happened_or_did_not(tmp_path: Path) -> None:
    made: list[Event] = [Link(ROOT, b"old", 1), Write(1, 0, b"x"), Sync(1), Sync(ROOT)]
    renamed = Rename(ROOT, b"old", ROOT, b"new", 1)
    assert outcomes(tmp_path, [*made, renamed]) == {(("old", b"x"),), (("new", b"x"),)}


def test_a_lost_folder_takes_what_was_synced_in_it_along(tmp_path: Path) -> None:
    events: list[Event] = [MakeDirectory(ROOT, b"d", 1), Link(1, b"a", 2), Write(2, 0, b"x"), Sync(2), Sync(1)]
    assert outcomes(tmp_path, events) == {(), (("d/a", b"x"),)}


def test_later_writes_may_overtake_earlier_ones(tmp_path: Path) -> None:
    named: list[Event] = [Link(ROOT, b"a", 1), Sync(ROOT)]
    seen = outcomes(tmp_path, [*named, Write(1, 0, b"x"), Write(1, 1, b"y"), Truncate(1, 1)])
    assert seen >= {(("a", data),) for data in (b"", b"x", b"xy", b"\0y", b"\0")}
    assert all(len(data) <= 2 for ((_, data),) in seen)


def test_no_sync_helps_after_one_that_failed(tmp_path: Path) -> None:
    events: list[Event] = [Link(ROOT, b"a", 1), Sync(ROOT), Write(1, 0, b"x"), SyncFailed(1), Sync(1)]
    assert outcomes(tmp_path, events) == {(("a", data),) for data in (b"", b"x", b"\0")}


def test_all_that_is_asked_of_a_disk_is_recorded_and_can_be_made_again(tmp_path: Path) -> None:
    """Each operation once, then a sync of everything: what can be made of the record is what is there."""
    live, made = tmp_path / "live", tmp_path / "made"
    live.mkdir()
    made.mkdir()
    (live / "before").write_bytes(b"was there")
    files = RecordingFiles(DiskLog(live))
    files.make_directory(str(live / "folder"))
    files.ensure_directory(str(live / "folder"))
    files.make_directory(str(live / "gone"))
    files.remove_directory(str(live / "gone"))
    opened = files.open(str(live / "folder" / "written"), os.O_RDWR | os.O_CREAT)
    files.write(opened, b"0123456789")
    files.truncate(opened, 4)
    appended = files.open(str(live / "before"), os.O_RDWR | os.O_APPEND)
    files.append(appended, [b" and", b" is longer"])
    unnamed = files.unnamed(str(live))
    files.copy(appended, unnamed, 5)
    files.link(unnamed, str(live / "copied"))
    files.link(opened, str(live / "copied"))  # is there: kept
    folder = os.open(live / "folder", os.O_RDONLY)
    files.rename(b"written", str(live / "moved"), source_directory=folder, target_directory=None)
    emptied = files.open(b"emptied", os.O_RDWR | os.O_CREAT, directory=folder)
    files.write(emptied, b"x")
    os.close(emptied)
    emptied = files.open(b"emptied", os.O_RDWR | os.O_TRUNC, directory=folder)
    files.make_directory(b"inner", directory=folder)
    lost = files.open(str(live / "lost"), os.O_RDWR | os.O_CREAT)
    files.unlink(str(live / "lost"))
    for descriptor in (opened, appended, unnamed, emptied, lost):
        files.sync(descriptor)
        os.close(descriptor)
    os.close(folder)
    for path in (live, live / "folder"):
        files.sync_directory(str(path))
    crash(files.log.events, random.Random(0), made)

    def seen(root: Path) -> dict[str, bytes | None]:
        return {
            path.relative_to(root).as_posix(): None if path.is_dir() else path.read_bytes() for path in root.rglob("*")
        }

    assert seen(made) == seen(live)
    assert seen(live) == {
        "before": b"was there and is longer",
        "copied": b"was t",
        "folder": None,
        "folder/emptied": b"",
        "folder/inner": None,
        "moved": b"0123",
    }
