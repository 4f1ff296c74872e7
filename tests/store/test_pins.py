"""Pins in the packs: they outlast the database of heads, and what was taken away does not come back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import journalled, pins
from store.errors import DecodeError
from store.faulty import FaultyFiles
from store.gc import GcRefused
from store.ids import SnapshotId
from store.interfaces import Pin
from store.local import LocalStore
from store.pins import PinRecord, missing_from, standing
from store.snapshot import EMPTY_SNAPSHOT_ID
from store.testing import snapshot_name
from tests.store.history import begin, files_of, never, put_step, step, with_heads

IDS = st.binary(min_size=32, max_size=32).map(SnapshotId)
PINS = st.builds(Pin, st.text(max_size=20), IDS, st.floats(0, 1e10))
OLD, NEW = Pin("base", snapshot_name(1), 5.0), Pin("base", snapshot_name(2), 6.0)


@given(st.builds(PinRecord, PINS, st.booleans(), st.integers(0, 1 << 62)))
def test_a_record_round_trips_and_is_no_move(record: PinRecord) -> None:
    data = pins.encode(record)
    assert journalled.decode(data) == pins.decode(data) == record


@pytest.mark.parametrize("data", [b"", b"\x96\x03", b"\x96\x03\xa1p\xc4\x01x\xcb" + bytes(8) + b"\xc2\x00"])
def test_noise_is_no_record(data: bytes) -> None:
    with pytest.raises(DecodeError):
        journalled.decode(data)


def test_what_was_taken_away_stays_away_whatever_the_groups_say() -> None:
    """A later record may have a smaller group: the machine has started again since."""
    told = [PinRecord(OLD, False, 900), PinRecord(OLD, True, 1), PinRecord(NEW, False, 1)]
    assert standing(told) == standing(told[::-1]) == [NEW]
    assert standing([*told, PinRecord(NEW, True, 0)]) == []


def test_heads_that_were_used_since_are_believed() -> None:
    told = [PinRecord(OLD, False)]
    assert missing_from([], told) == [OLD]
    assert missing_from([OLD], told) == missing_from([NEW], told) == []
    assert missing_from([OLD], [PinRecord(NEW, False)]) == [NEW]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path / "store")
    begin(store, "a")
    step(store, "a", {b"f": b"one"})
    yield store
    store.close()


def pin(store: LocalStore, name: str, at_s: float = 5.0) -> Pin:
    """Something new that only a pin keeps."""
    made = Pin(name, put_step(store, EMPTY_SNAPSHOT_ID, 1, {b"f": os.urandom(2000)}), at_s)
    store.heads.pin(made)
    return made


@pytest.mark.parametrize("old", [False, True])
def test_pins_outlast_a_lost_and_an_old_database(store: LocalStore, old: bool) -> None:
    gone, moved = pin(store, "gone"), pin(store, "moved")
    store.heads.settle()
    kept = {name: (store.root / name).read_bytes() for name in ("heads.sqlite", "heads.sqlite-wal")} if old else {}
    store.heads.unpin("gone")
    new, moved = pin(store, "new"), pin(store, "moved", 6.0)
    store.objects.seal()
    root = with_heads(store, kept)
    after = LocalStore(root)
    report, _ = after.check(full=True)
    assert [text for text in report.behind if "pin " in text] == [
        "pin moved: the packs know it, the heads database does not",
        "pin new: the packs know it, the heads database does not",
    ]
    with pytest.raises(GcRefused, match="older than the packs"):
        after.sweep(dry=False, pause=never)
    after.close()
    mended = LocalStore.mend(root)
    assert mended.report.clean
    assert "pin new was set again" in mended.done
    after = LocalStore(root)
    assert {each.name: each for each in after.heads.pins()} == {
        "new": new,
        "moved": moved,
        **({"gone": gone} if old else {}),  # what an old database keeps is left to its owner
    }
    assert files_of(after, new.snapshot)
    after.close()


def test_pins_that_sqlite_had_not_synced_are_there_after_a_power_cut(store: LocalStore) -> None:
    pin(store, "gone")
    store.heads.settle()
    kept = {name: (store.root / name).read_bytes() for name in ("heads.sqlite", "heads.sqlite-wal")}
    new = pin(store, "new")
    store.heads.unpin("gone")
    pin(store, "moved")
    moved = pin(store, "moved", 4.0)  # by a clock that was set back
    after = LocalStore(with_heads(store, kept))
    assert after.heads.pins() == [moved, new]
    assert after.check(full=True)[0].clean
    after.close()


def test_a_pin_takes_one_sync(tmp_path: Path) -> None:
    files = FaultyFiles()
    store = LocalStore(tmp_path / "store", files)
    performed = len(files.performed)
    store.heads.pin(Pin("kept", EMPTY_SNAPSHOT_ID, 1.0))
    assert store.heads.unpin("kept")
    assert not store.heads.unpin("kept")
    assert files.performed[performed:] == ["append", "sync"] * 2
    store.close()


def test_a_sweep_keeps_what_records_of_pins_say_as_long_as_it_is_of_use(store: LocalStore) -> None:
    kept, gone = pin(store, "kept"), pin(store, "gone")
    store.heads.unpin("gone")
    assert useful(store) == [(kept, False), (gone, True)]
    store.objects.seal()
    store.sweep(dry=False, pause=never)
    assert useful(store) == [(kept, False)]  # nothing tells of the other one any more
    assert store.check(full=True)[0].clean


def useful(store: LocalStore) -> list[tuple[Pin, bool]]:
    """The records of pins that a sweep keeps, each with whether it says that the pin was taken away."""
    records = journalled.read_all(store.objects)
    needed = journalled.needed(store.heads, records)
    told = journalled.pins_of(record for name, record in records.items() if name in needed)
    return sorted(((record.pin, record.removed) for record in told), key=lambda each: each[1])
