"""Sweeping: garbage goes, what anybody can reach stays, and writers beside it lose nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store.errors import HeadMoved, ObjectMissing, WriterFenced
from store.gc import GcRefused, GcReport, GcRunning
from store.ids import Kind, SnapshotId, blob_id
from store.interfaces import Move, Pin
from store.local import LocalStore
from store.snapshot import EMPTY_SNAPSHOT_ID
from store.testing import nobody
from tests.store.history import LARGE_TAIL, begin, files_of, never, put_step, step

SEAL_BYTES = 3000


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[[], LocalStore]]:
    """Opens the same store again and again, with small packs."""
    stores: list[LocalStore] = []

    def opened() -> LocalStore:
        store = LocalStore(tmp_path)
        store.objects.seal_bytes = SEAL_BYTES
        stores.append(store)
        return store

    yield opened
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], LocalStore]) -> LocalStore:
    return open_store()


def contents(session_id: str, number: int) -> dict[bytes, bytes]:
    """What a session's step leaves: incompressible, and every fifth time a large file."""
    files = {b"small": b"%s %d " % (session_id.encode(), number) + os.urandom(300)}
    if number % 5 == 0:
        files[b"large"] = b"%s %d " % (session_id.encode(), number) + LARGE_TAIL
    return files


def fill(
    store: LocalStore, session_id: str, steps: int, *, used_at_s: float = 1000.0
) -> dict[SnapshotId, dict[bytes, bytes]]:
    """A session with a history; what each of its snapshots holds."""
    begin(store, session_id, used_at_s=used_at_s)
    history = {}
    for number in range(1, steps + 1):
        files = contents(session_id, number)
        history[step(store, session_id, files, at_s=used_at_s)] = files
    return history


def drop(store: LocalStore, *kept: str) -> None:
    store.heads.drop_unused_since(1e9, is_running=lambda name: name in kept)


def sweep(store: LocalStore) -> GcReport:
    return store.sweep(dry=False, pause=never)


def names_of(store: LocalStore) -> dict[str, int]:
    """Every pack and large file with its size."""
    folders = [store.root / name for name in ("packs", "large", "condemned")]
    return {str(path): path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()}


def held_bytes(root: Path) -> int:
    return sum(
        path.stat().st_size for name in ("packs", "large") for path in (root / name).rglob("*") if path.is_file()
    )


def assert_whole(store: LocalStore, *histories: dict[SnapshotId, dict[bytes, bytes]]) -> None:
    for history in histories:
        assert {snapshot: files_of(store, snapshot) for snapshot in history} == history
    report, _ = store.check(full=True)
    assert report.clean, report


def test_a_dropped_session_is_swept_and_its_neighbour_is_whole(store: LocalStore) -> None:
    gone, kept = fill(store, "gone", 30), fill(store, "kept", 30)
    drop(store, "kept")
    before = held_bytes(store.root)
    report = sweep(store)
    assert_whole(store, kept)
    for snapshot, files in gone.items():
        with pytest.raises(ObjectMissing):
            store.objects.get(Kind.SNAPSHOT, snapshot)
        for data in files.values():
            with pytest.raises(ObjectMissing):
                store.objects.get(Kind.BLOB, blob_id(data))
    assert (report.large_dropped, report.fenced) == (6, False)
    assert before - held_bytes(store.root) > 0.3 * before
    assert report.freed_bytes > 6 * len(LARGE_TAIL)


def test_a_second_sweep_finds_nothing_to_do(store: LocalStore) -> None:
    fill(store, "gone", 20)
    kept = fill(store, "kept", 20)
    drop(store, "kept")
    sweep(store)
    epoch = store.heads.epoch()
    names = sorted(os.listdir(store.root / "packs"))
    again = sweep(store)
    assert (again.packs, again.large_dropped, again.freed_bytes) == ((), 0, 0)
    assert (store.heads.epoch(), sorted(os.listdir(store.root / "packs"))) == (epoch, names)
    assert_whole(store, kept)


def test_a_dry_run_says_what_would_go_and_changes_nothing(
    store: LocalStore, open_store: Callable[[], LocalStore]
) -> None:
    gone, kept = fill(store, "gone", 20), fill(store, "kept", 20)
    drop(store, "kept")
    before = names_of(store)
    dry = store.sweep(dry=True, pause=never)
    assert names_of(store) == before
    assert_whole(store, gone, kept)
    wet = sweep(store)
    assert dry.dry
    assert not wet.dry
    assert (dry.large_dropped, dry.large_dropped_bytes) == (wet.large_dropped, wet.large_dropped_bytes)
    assert [plan.number for plan in dry.packs] == [plan.number for plan in wet.packs]
    assert abs(dry.freed_bytes - wet.freed_bytes) < 0.2 * wet.freed_bytes


def test_sealed_packs_are_compressed(store: LocalStore) -> None:
    begin(store, "a")
    history = {}
    for number in range(1, 30):
        files = {b"text": b"line %d\n" % number * 150}
        history[step(store, "a", files)] = files
    before = held_bytes(store.root)
    report = sweep(store)
    assert {plan.reason for plan in report.packs} == {"not compressed"}
    assert held_bytes(store.root) < 0.6 * before
    assert_whole(store, history)


def test_small_packs_are_put_together(store: LocalStore, open_store: Callable[[], LocalStore]) -> None:
    histories = []
    for number in range(4):
        histories.append(fill(store, f"s{number}", 1))
        store.objects.seal()
        sweep(store)
    store.objects.seal_bytes = 1 << 20
    sweep(store)
    assert len([path for path in (store.root / "packs").iterdir() if path.suffix == ".pack"]) == 1
    assert_whole(store, *histories)


def test_garbage_in_the_pack_being_written_goes_too(store: LocalStore) -> None:
    store.objects.seal_bytes = 1 << 30
    fill(store, "gone", 1)
    for number in range(3):
        put_step(
            store, EMPTY_SNAPSHOT_ID, 1, {b"f%d" % n: os.urandom(2000) for n in range(20)} | {b"n": b"%d" % number}
        )
    kept = fill(store, "kept", 3)
    drop(store, "kept")
    before = held_bytes(store.root)
    sweep(store)
    assert held_bytes(store.root) < 0.2 * before
    assert_whole(store, kept)


def test_pins_keep_what_no_session_reaches(store: LocalStore) -> None:
    files = contents("pinned", 5)
    snapshot = put_step(store, EMPTY_SNAPSHOT_ID, 1, files)
    store.heads.pin(Pin("base", snapshot, 1.0))
    fill(store, "gone", 10)
    drop(store)
    sweep(store)
    assert_whole(store, {snapshot: files})
    store.heads.unpin("base")
    sweep(store)
    with pytest.raises(ObjectMissing):
        store.objects.get(Kind.SNAPSHOT, snapshot)


def test_what_was_rolled_back_stays_as_long_as_the_log_names_it(store: LocalStore) -> None:
    history = fill(store, "a", 10)
    first = next(iter(history))
    head = store.heads.get("a", "alice").head

    store.heads.advance("a", head, Move(0, "rollback", head, first, 1002.0, b""))
    sweep(store)
    assert_whole(store, history)


# -- beside writers -----------------------------------------------------------------------------------------------------


class Beside:
    """Does something at a named moment of a sweep, once."""

    def __init__(self, stage: str, act: Callable[[], None]) -> None:
        self.stage, self.act, self.done = stage, act, False

    def __call__(self, stage: str, _done: int, _total: int) -> None:
        if stage == self.stage and not self.done:
            self.done = True
            self.act()


def test_an_object_that_is_put_again_while_its_pack_is_condemned_survives(
    store: LocalStore, open_store: Callable[[], LocalStore]
) -> None:
    """The race that every sweep has to win: a writer finds that the object is stored, and does not write it."""
    gone = fill(store, "gone", 10)
    kept = fill(store, "kept", 10)
    other = open_store()
    begin(other, "late")
    drop(store, "kept", "late")
    late: dict[SnapshotId, dict[bytes, bytes]] = {}

    def put_again() -> None:
        for files in gone.values():
            late[step(other, "late", files)] = files

    report = store.sweep(dry=False, pause=never, progress=Beside("copying", put_again))
    assert report.packs
    assert len(late) == 10
    assert_whole(store, kept, late)
    assert_whole(open_store(), kept, late)
    sweep(store)
    assert_whole(store, kept, late)


@pytest.mark.parametrize("same_process", [True, False])
def test_a_step_in_flight_is_waited_for(
    store: LocalStore, open_store: Callable[[], LocalStore], same_process: bool
) -> None:
    """It has put nothing new, since all is stored, and moves its head only when the sweep has begun."""
    gone = fill(store, "gone", 10)
    kept = fill(store, "kept", 5)
    writer = store if same_process else open_store()
    begin(writer, "slow")
    lease = writer.leases.try_acquire("slow")
    assert lease is not None
    head = EMPTY_SNAPSHOT_ID
    put: dict[SnapshotId, dict[bytes, bytes]] = {}
    for number, files in enumerate(gone.values(), 1):
        head = put_step(writer, head, number, files)
        put[head] = files
    drop(store, "kept", "slow")
    paused = []

    def pause() -> bool:
        paused.append(True)
        if len(paused) == 3:
            writer.heads.advance("slow", EMPTY_SNAPSHOT_ID, Move(0, "execute", None, head, 1e9, b""), epoch=lease.epoch)
            lease.release()
        return True

    report = store.sweep(dry=False, pause=pause)
    assert len(paused) == 3
    assert not report.fenced
    assert_whole(store, kept, put)
    assert_whole(open_store(), kept, put)


def test_a_writer_that_takes_too_long_is_refused_and_harms_nothing(
    store: LocalStore, open_store: Callable[[], LocalStore]
) -> None:
    gone, kept = fill(store, "gone", 10), fill(store, "kept", 5)
    writer = open_store()
    begin(writer, "late")
    lease = writer.leases.try_acquire("late")
    assert lease is not None
    files = list(gone.values())[4]
    snapshot = put_step(writer, EMPTY_SNAPSHOT_ID, 1, files)
    drop(store, "kept", "late")
    assert sweep(store).fenced

    moved = Move(0, "execute", None, snapshot, 1001.0, b"")
    with pytest.raises(WriterFenced):
        writer.heads.advance("late", EMPTY_SNAPSHOT_ID, moved, epoch=lease.epoch)
    assert writer.heads.get("late", "alice").head == EMPTY_SNAPSHOT_ID
    lease.release()
    assert_whole(writer, kept)
    # And does the same again under a new turn.
    again = step(writer, "late", files)
    assert_whole(store, kept, {again: files})
    with pytest.raises(HeadMoved):
        writer.heads.advance("late", EMPTY_SNAPSHOT_ID, moved, epoch=lease.epoch + 1)


def test_readers_with_an_old_view_find_what_was_moved(store: LocalStore, open_store: Callable[[], LocalStore]) -> None:
    fill(store, "gone", 20)
    kept = fill(store, "kept", 20)
    reader = open_store()
    drop(store, "kept")
    sweep(store)
    assert_whole(reader, kept)
    fill(store, "more", 20)
    drop(store, "kept")
    sweep(store)
    assert_whole(reader, kept)


def test_numbers_of_packs_are_never_used_again(store: LocalStore, open_store: Callable[[], LocalStore]) -> None:
    """Another process may still know what lay in a pack of that number."""
    seen: dict[str, int] = {}
    for number in range(6):
        fill(store, f"s{number}", 6)
        drop(store)
        sweep(store)
        for path in (store.root / "packs").iterdir():
            if path.suffix in (".pack", ".open"):
                inode = path.stat().st_ino
                assert seen.setdefault(path.stem, inode) == inode
    assert_whole(store)


def test_nor_is_the_highest_number_when_the_pack_being_written_has_a_lower_one(
    open_store: Callable[[], LocalStore],
) -> None:
    """Else somebody with an old view relies on what lay in the pack that had the number before."""
    one, two = open_store(), open_store()
    kept, gone = fill(one, "kept", 1), fill(two, "gone", 4)
    one.close()
    two.close()
    server = open_store()  # goes on with the first pack, seals the second
    other = open_store()
    drop(server, "kept")
    assert sweep(server).packs
    assert 2 not in server.objects.folder.numbers()
    third = open_store()
    late = fill(third, "late", 12)
    assert 2 not in third.objects.folder.numbers()
    begin(other, "other")
    again = {step(other, "other", files): files for files in gone.values()}
    for store in (server, other, third):
        assert_whole(store, kept, late, again)
    assert_whole(open_store(), kept, late, again)


def test_the_highest_number_outlasts_its_pack_also_when_none_is_being_written(
    store: LocalStore, open_store: Callable[[], LocalStore]
) -> None:
    kept = fill(store, "kept", 9)
    store.objects.seal()
    sweep(store)
    fill(store, "gone", 3)
    drop(store, "kept")
    store.objects.seal()
    last = 0
    while sweep(store).packs:
        last = max(last, *store.objects.folder.numbers())
    store.close()
    store = open_store()
    begin(store, "new")
    assert max(store.objects.folder.numbers()) >= last
    assert_whole(store, kept)


def test_an_index_that_could_not_be_written_is_not_missed(store: LocalStore) -> None:
    """The disk was full: then memory does."""
    fill(store, "gone", 20)
    kept = fill(store, "kept", 5)
    drop(store, "kept")
    for path in (store.root / "packs").glob("*.idx"):
        path.unlink()
    assert sweep(store).packs
    assert not list((store.root / "packs").glob("*.condemned"))
    assert_whole(store, kept)


@pytest.mark.parametrize("anything_else", [False, True])
def test_indexes_whose_packs_are_gone_go_too(store: LocalStore, anything_else: bool) -> None:
    kept = fill(store, "kept", 20)
    sweep(store)
    if anything_else:
        fill(store, "gone", 20)
        drop(store, "kept")
    packs = store.root / "packs"
    stray, foreign = packs / "00000001.idx", packs / "notes.idx"
    assert not stray.exists()
    for path in (stray, foreign):
        path.write_bytes(b"left behind")
    store.sweep(dry=True, pause=never)
    assert stray.exists()
    sweep(store)
    assert not stray.exists()
    assert foreign.exists()
    assert {path.stem for path in packs.glob("*.pack")} == {path.stem for path in packs.glob("*.idx")} - {"notes"}
    assert_whole(store, kept)


# -- refusing -------------------------------------------------------------------------------------------------------------


def test_only_one_sweeps_at_a_time(store: LocalStore, open_store: Callable[[], LocalStore]) -> None:
    fill(store, "gone", 10)
    drop(store)
    other = open_store()

    def meanwhile() -> None:
        with pytest.raises(GcRunning):
            sweep(other)

    beside = Beside("copying", meanwhile)
    store.sweep(dry=False, pause=never, progress=beside)
    assert beside.done
    sweep(other)


def test_nothing_is_removed_while_something_live_is_missing(store: LocalStore) -> None:
    """What is lost already may be found again in what would be swept."""
    fill(store, "gone", 10)
    kept = fill(store, "kept", 10)
    drop(store, "kept")
    (large, *_) = [files[b"large"] for files in kept.values() if b"large" in files]
    store.objects.large.path(blob_id(large)).unlink()
    before = sorted(os.listdir(store.root / "packs"))
    with pytest.raises(GcRefused, match="missing"):
        sweep(store)
    assert sorted(os.listdir(store.root / "packs")) == before


def damage(path: Path, content: bytes) -> None:
    """Change a byte of what a file holds."""
    data = bytearray(path.read_bytes())
    data[data.index(content)] ^= 1
    path.write_bytes(data)


def test_nothing_is_removed_when_what_must_be_copied_is_damaged_and_nothing_is_left_of_the_copy(
    store: LocalStore,
) -> None:
    kept = fill(store, "kept", 20)
    store.objects.seal()
    packs = sorted((store.root / "packs").glob("*.pack"))
    (last,) = [files[b"small"] for files in kept.values() if files[b"small"] in packs[-2].read_bytes()][-1:]
    damage(packs[-2], last)
    before = sorted((path.stem, path.stat().st_size) for path in (store.root / "packs").iterdir())
    store.objects.seal_bytes = 1 << 20  # so that one pack of the sweep's takes all
    for _ in range(2):
        with pytest.raises(GcRefused, match=f"blob {blob_id(last).hex()} is damaged"):
            sweep(store)
        assert sorted((path.stem, path.stat().st_size) for path in (store.root / "packs").iterdir()) == before
    report, _ = store.check(full=True)
    assert len(report.damaged) == 1


def test_nothing_is_removed_when_what_must_be_copied_was_cut_off(store: LocalStore) -> None:
    begin(store, "a")
    data = os.urandom(500)
    store.objects.put(Kind.BLOB, data)
    store.objects.seal()
    step(store, "a", {b"f": data})
    (pack,) = (store.root / "packs").glob("*.pack")
    os.truncate(pack, pack.stat().st_size - len(data) - 10)
    with pytest.raises(GcRefused, match=f"blob {blob_id(data).hex()} is damaged"):
        sweep(store)


@pytest.mark.parametrize("damaged_stays", [True, False])
def test_of_two_copies_the_whole_one_is_kept(open_store: Callable[[], LocalStore], damaged_stays: bool) -> None:
    """An index says where an object lies, not that it is whole there."""
    one, two = open_store(), open_store()
    for store in (one, two):
        store.objects.seal_bytes = 1 << 20
    files = {b"f%d" % number: os.urandom(5000) for number in range(4)}
    begin(one, "a")
    begin(two, "b")
    # Neither counts on what is in the other's pack, which may be cut.
    kept = {step(one, "a", files): files, step(two, "b", files): files}
    one.objects.seal()
    if damaged_stays:
        sweep(one)  # now it is compressed: nothing more is done with it
    damage(next((one.root / "packs").glob("*.pack")), files[b"f2"])
    two.objects.seal()
    assert sweep(one).packs
    for store in (one, two, open_store()):
        assert {snapshot: files_of(store, snapshot) for snapshot in kept} == kept


def two_sessions_with_moves(store: LocalStore) -> dict[SnapshotId, dict[bytes, bytes]]:
    """Of which only the moves have the names in them; `gone` is dropped."""
    for session_id in ("gone", "kept"):
        begin(store, session_id)
        last = step(store, session_id, {b"f": b"1"})
    drop(store, "kept")
    store.objects.seal()
    return {last: {b"f": b"1"}}


def test_a_damaged_move_of_a_session_that_was_dropped_is_swept(store: LocalStore) -> None:
    store.objects.seal_bytes = 1 << 20
    kept = two_sessions_with_moves(store)
    damage(next((store.root / "packs").glob("*.pack")), b"gone")
    report, _ = store.check(full=True)
    assert len(report.harmless) == 1
    assert store.sweep(dry=True, pause=never).packs
    assert sweep(store).packs
    assert_whole(store, kept)
    report, _ = store.check(full=True)
    assert report.harmless == ()


def test_a_damaged_move_of_a_session_that_is_there_is_not(store: LocalStore) -> None:
    """Its bytes may be of use to somebody, if the database is lost."""
    store.objects.seal_bytes = 1 << 20
    kept = two_sessions_with_moves(store)
    (pack,) = (store.root / "packs").glob("*.pack")
    damage(pack, b"kept")
    for dry in (True, False):
        with pytest.raises(GcRefused, match="session kept lacks"):
            store.sweep(dry=dry, pause=never)
    assert pack.exists()
    assert_whole(store, kept)


def test_nothing_is_removed_with_a_database_older_than_the_packs(
    tmp_path: Path, open_store: Callable[[], LocalStore]
) -> None:
    store = open_store()
    fill(store, "old", 3)
    store.heads.close()
    old = (tmp_path / "heads.sqlite").read_bytes()
    store = open_store()
    fill(store, "new", 10)
    store.close()
    (tmp_path / "heads.sqlite").write_bytes(old)
    store = open_store()
    with pytest.raises(GcRefused, match="older"):
        sweep(store)


# -- killed -----------------------------------------------------------------------------------------------------------------

_SWEEPER = """
import os, sys
from pathlib import Path
from store.files import Files
from store.local import LocalStore

class Dying(Files):
    left = int(sys.argv[2])
    def _step(self):
        Dying.left -= 1
        if Dying.left == 0:
            os.kill(os.getpid(), 9)
for name in ("append", "sync", "rename", "link", "unlink", "sync_directory", "write", "unnamed"):
    def around(self, *arguments, _name=name, **named):
        self._step()
        return getattr(Files, _name)(self, *arguments, **named)
    setattr(Dying, name, around)

store = LocalStore(Path(sys.argv[1]), Dying())
store.objects.seal_bytes = 3000
print(store.sweep(dry=False, pause=lambda: False).freed_bytes)
"""


def test_a_sweep_may_be_killed_at_any_operation(tmp_path: Path) -> None:
    """The next one finishes its work, and what is live is whole in between."""
    for number in range(1, 200, 3):
        root = tmp_path / str(number)
        store = LocalStore(root)
        store.objects.seal_bytes = SEAL_BYTES
        fill(store, "gone", 10)
        kept = fill(store, "kept", 10)
        drop(store, "kept")
        store.close()
        swept = subprocess.run([sys.executable, "-c", _SWEEPER, str(root), str(number)], capture_output=True)
        store = LocalStore(root)
        store.objects.seal_bytes = SEAL_BYTES
        assert_whole(store, kept)
        late = fill(store, "late", 2)
        sweep(store)
        assert_whole(store, kept, late)
        assert store.objects.large.condemned() == set()
        assert not list((root / "packs").glob("*.condemned"))
        store.close()
        if swept.returncode == 0:
            break
        assert swept.returncode == -9, swept.stderr
    assert 10 < number < 199


def test_the_empty_snapshot_is_never_swept(store: LocalStore) -> None:
    fill(store, "gone", 10)
    drop(store)
    sweep(store)
    assert store.objects.get(Kind.SNAPSHOT, EMPTY_SNAPSHOT_ID)
    assert store.heads.drop_unused_since(1e9, is_running=nobody) == 0
