"""Damage to every kind of file: noticed, or without effect; never wrong bytes; mended where anything whole is left.

One store with everything in it is copied, harmed in one place, looked at, checked, mended and checked again.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from store.errors import ObjectDamaged, ObjectMissing, SessionMissing, StoreUnusable
from store.ids import SnapshotId
from store.interfaces import Move, Session
from store.local import FORMAT, LocalStore
from store.snapshot import EMPTY_SNAPSHOT_BYTES
from store.testing import nobody
from tests.store.history import LARGE_TAIL, begin, files_of, never, step

SESSIONS = ("first", "second", "third")
CASES, CASES_DEEP = 9, 700


class View(NamedTuple):
    """All that a store says of its sessions."""

    sessions: dict[str, Session]
    logs: dict[str, list[Move]]
    files: dict[SnapshotId, dict[bytes, bytes]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, View]:
    """A store with compressed, sealed and open packs, large files, a log of heads in its WAL; and what it says."""
    root = tmp_path_factory.mktemp("original") / "store"
    store = LocalStore(root)
    store.objects.seal_bytes = 8000
    chance = random.Random(1)
    for name in ("gone", *SESSIONS):
        begin(store, name, used_at_s=10.0 if name == "gone" else 1e9)
    for number in range(12):
        for name in ("gone", *SESSIONS):
            files = {b"data": chance.randbytes(400), b"text": b"%d line\n" % number * 40}
            if number % 4 == 0:
                files[b"large"] = chance.randbytes(9) + LARGE_TAIL
            step(store, name, files, at_s=20.0 if name == "gone" else 1e9 + number)
        if number == 6:
            store.sweep(dry=False, pause=never)
    store.heads.drop_unused_since(1e6, is_running=nobody)
    store.objects.sync()
    copy = root.with_name("copy")
    shutil.copytree(root, copy)  # while it is open, so that there is a WAL to harm
    store.close()
    assert all(files_by_kind(copy).values()), "every kind of file is there to be harmed"
    return copy, look(root)


@contextmanager
def opened(root: Path) -> Iterator[LocalStore]:
    store = LocalStore(root)
    try:
        yield store
    finally:
        store.close()


def look(root: Path) -> View:
    """Everything that can be read. What cannot is left out; what is read is asserted by whoever compares."""
    with opened(root) as store:
        view = View({}, {}, {})
        for name in SESSIONS:
            try:
                view.sessions[name] = store.heads.get(name, "alice")
                view.logs[name] = store.heads.log(name, before=None, limit=1000)
            except (SessionMissing, StoreUnusable):
                continue
            for move in view.logs[name]:
                try:
                    view.files[move.to_snapshot] = files_of(store, move.to_snapshot)
                except (ObjectDamaged, ObjectMissing) as error:
                    assert len(error.object_id) == 64  # noqa: PT017 - most can be read
        return view


def files_by_kind(root: Path) -> dict[str, list[Path]]:
    kinds = {
        "sealed pack": "packs/*.pack",
        "open pack": "packs/*.open",
        "index": "packs/*.idx",
        "large": "large/*/*",
        "heads": "heads.sqlite",
        "wal": "heads.sqlite-wal",
        "format": "FORMAT",
        "marker": "marker",
    }
    return {kind: sorted(root.glob(pattern)) for kind, pattern in kinds.items()}


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    _overwrite(path, bytes(data))


def zero_sector(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = chance.randrange(len(data)) // 512 * 512
    data[start : start + 512] = bytes(len(data[start : start + 512]))
    _overwrite(path, bytes(data))


def cut(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    _overwrite(path, data[: chance.randrange(len(data))])


def delete(path: Path, chance: random.Random) -> None:
    path.unlink()


def swap(path: Path, chance: random.Random) -> None:
    """Two files of the folder trade places; a file that is alone in it becomes noise."""
    others = [other for other in path.parent.glob("*") if other.is_file() and other != path]
    if not others:
        _overwrite(path, chance.randbytes(path.stat().st_size))
        return
    other = chance.choice(others)
    mine, its = path.read_bytes(), other.read_bytes()
    _overwrite(path, its)
    _overwrite(other, mine)


def _overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(data)


HARMS: list[Callable[[Path, random.Random], None]] = [flip, zero_sector, cut, delete, swap]
KINDS = ["sealed pack", "open pack", "index", "large", "heads", "wal", "format"]
each_kind = pytest.mark.parametrize("kind", KINDS)
each_harm = pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)


def attack(kind: str, harm: Callable[[Path, random.Random], None], seed: int, original: Path, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(original, root)
    chance = random.Random(seed)
    harm(chance.choice(files_by_kind(root)[kind]), chance)


def assert_noticed_and_mended(root: Path, whole: View, *, may_lose: bool) -> None:
    trial = root.with_name("trial")
    shutil.rmtree(trial, ignore_errors=True)
    shutil.copytree(root, trial)
    try:
        seen = look(trial)
        for snapshot, files in seen.files.items():
            assert snapshot not in whole.files or files == whole.files[snapshot], "wrong bytes"
        with opened(trial) as store:
            clean = store.check(full=True)[0].clean
        if clean:
            assert seen == whole, "neither noticed nor without effect"
    except StoreUnusable:
        pass  # noticed indeed
    try:
        mended = LocalStore.mend(root)
    except StoreUnusable as refusal:
        # A digit that is another cannot be told from another format: it is said what to do, and nothing is touched.
        assert "write 'psf store 2' and a newline into it" in str(refusal)  # noqa: PT017
        assert re.fullmatch(rb"psf store [0-9]\n", (root / "FORMAT").read_bytes())
        (root / "FORMAT").write_bytes(FORMAT)
        assert look(root) == whole
        return
    broken = mended.report.broken
    again = look(root)
    lost = {name for name in SESSIONS if any(move.to_snapshot not in again.files for move in whole.logs[name])}
    assert lost <= broken.keys()
    assert again.sessions == whole.sessions
    assert again.logs == whole.logs
    assert {snapshot: whole.files[snapshot] for snapshot in again.files} == again.files
    if not may_lose:
        assert mended.report.clean, mended
        assert again == whole
    with opened(root) as store:
        assert store.check(full=True)[0].clean == mended.report.clean
        step(store, "first", {b"more": b"goes on"}, at_s=2e9)
    assert all(loss.startswith(("step", "before step", "its log")) for losses in broken.values() for loss in losses)


@each_kind
@each_harm
def test_damage_is_noticed_and_mended(
    kind: str, harm: Callable[[Path, random.Random], None], original: tuple[Path, View], tmp_path: Path
) -> None:
    for seed in range(CASES):
        attack(kind, harm, seed, original[0], tmp_path / "store")
        may_lose = kind in ("sealed pack", "open pack", "large") or harm is swap
        assert_noticed_and_mended(tmp_path / "store", original[1], may_lose=may_lose)


@pytest.mark.slow
@each_kind
@each_harm
def test_much_damage_is_noticed_and_mended(
    kind: str, harm: Callable[[Path, random.Random], None], original: tuple[Path, View], tmp_path: Path
) -> None:
    for seed in range(CASES, CASES_DEEP):
        attack(kind, harm, seed, original[0], tmp_path / "store")
        may_lose = kind in ("sealed pack", "open pack", "large") or harm is swap
        assert_noticed_and_mended(tmp_path / "store", original[1], may_lose=may_lose)


def test_a_damaged_base_of_all_histories_is_no_loss(original: tuple[Path, View], tmp_path: Path) -> None:
    """Everybody knows what it holds."""
    root = tmp_path / "store"
    shutil.copytree(original[0], root)
    copies = 0
    for pack in (root / "packs").iterdir():
        data = bytearray(pack.read_bytes())
        start = data.find(EMPTY_SNAPSHOT_BYTES)
        if pack.suffix != ".idx" and start >= 0:
            data[start] ^= 1
            pack.write_bytes(data)
            copies += 1
    assert copies == 1
    mended = LocalStore.mend(root)
    assert mended.report.clean
    assert len(mended.done) == 1
    assert look(root) == original[1]
    with opened(root) as store:
        assert store.check(full=True)[0].clean


@pytest.mark.parametrize("sealed", [False, True])
def test_an_old_database_of_heads_is_brought_up_to_date(
    original: tuple[Path, View], tmp_path: Path, sealed: bool
) -> None:
    """At once by what open packs say, as after a power cut. What it lacks of sealed ones is noticed."""
    root = tmp_path / "store"
    shutil.copytree(original[0], root)
    LocalStore(root).close()
    old = (root / "heads.sqlite").read_bytes()
    with opened(root) as store:
        step(store, "second", {b"new": b"after the backup"}, at_s=2e9)
        begin(store, "newer", used_at_s=2e9)
        if sealed:
            store.objects.seal()
    whole = look(root)
    (root / "heads.sqlite").write_bytes(old)
    with opened(root) as store:
        report, _ = store.check(full=False)
        assert {text.split(":")[0] for text in report.behind} == ({"second", "newer"} if sealed else set())
    mended = LocalStore.mend(root)
    assert mended.report.clean
    assert len(mended.done) == (2 if sealed else 0)
    assert look(root) == whole
    with opened(root) as store:
        assert store.heads.get("newer", "alice")


def test_a_clean_store_is_left_as_it_is(original: tuple[Path, View], tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(original[0], root)
    mended = LocalStore.mend(root)
    assert (mended.report.clean, mended.done) == (True, ())
    assert not (root / "damaged").exists()
    assert look(root) == original[1]
