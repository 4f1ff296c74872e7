"""The contracts as tests, for every backend, ours and others'. (A disk that fails is in store.faulty.)

A backend's test file subclasses a contract and gives its fixture:

    class TestMemoryObjects(ObjectsContract):
        @pytest.fixture
        def objects(self) -> Iterator[Objects]:
            yield MemoryObjects()

Only the Protocols of store.interfaces are used here. A test needs a fresh, empty backend each time.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Protocol

import msgspec
import pytest

from store.errors import HeadMoved, ObjectMissing, SessionExists, SessionMissing
from store.ids import BlobId, Kind, SnapshotId, blob_id, object_id
from store.interfaces import Heads, HeadSweeper, Leases, Move, Objects, Session

THREADS = 8
ROUNDS = 5
LARGE_BYTES = (1 << 20) + 1


def snapshot_name(number: int) -> SnapshotId:
    """A snapshot id for tests of heads, which never look behind it."""
    return SnapshotId(object_id(Kind.SNAPSHOT, b"%d" % number))


def session(session_id: str, *, tenant: str = "alice", used_at_s: float = 1000.0, ttl_s: float = 60.0) -> Session:
    return Session(session_id, tenant, None, snapshot_name(0), "python", "fake", ttl_s, 500.0, used_at_s)


def move(number: int, *, at_s: float = 1001.0) -> Move:
    """A move to `snapshot_name(number)`; its sequence and origin are left to the store."""
    return Move(0, "execute", None, snapshot_name(number), at_s, b'{"n":%d}' % number)


def nobody(_: str) -> bool:
    """No session is running."""
    return False


@contextmanager
def file_of(data: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def in_threads(task: Callable[[int], object]) -> list[object]:
    """Run `task(0..THREADS-1)` at the same moment; the results, or what they raised, in order."""
    barrier = threading.Barrier(THREADS)

    def attempt(number: int) -> object:
        barrier.wait()
        try:
            return task(number)
        except Exception as error:  # noqa: BLE001 - the caller looks at it
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(attempt, range(THREADS)))


class ObjectsContract:
    """What every `Objects` promises. Give a fixture `objects`."""

    @pytest.mark.parametrize("kind", list(Kind))
    def test_what_was_put_can_be_read_at_once(self, objects: Objects, kind: Kind) -> None:
        assert objects.get(kind, objects.put(kind, b"payload")) == b"payload"

    def test_the_name_is_the_tagged_hash_of_the_content(self, objects: Objects) -> None:
        assert objects.put(Kind.BLOB, b"abc") == object_id(Kind.BLOB, b"abc")

    def test_putting_twice_gives_the_same_name(self, objects: Objects) -> None:
        first = objects.put(Kind.BLOB, b"twice")
        objects.sync()
        assert objects.put(Kind.BLOB, b"twice") == first
        objects.sync()
        assert objects.get(Kind.BLOB, first) == b"twice"

    def test_equal_bytes_of_two_kinds_are_two_objects(self, objects: Objects) -> None:
        blob, tree = objects.put(Kind.BLOB, b"same"), object_id(Kind.TREE, b"same")
        assert blob != tree
        for kind, name in ((Kind.TREE, tree), (Kind.TREE, blob), (Kind.BLOB, tree)):
            with pytest.raises(ObjectMissing):
                objects.get(kind, name)

    @pytest.mark.parametrize("kind", list(Kind))
    def test_a_missing_object_is_named_in_the_error(self, objects: Objects, kind: Kind) -> None:
        name = object_id(kind, b"never put")
        with pytest.raises(ObjectMissing) as caught:
            objects.get(kind, name)
        assert (caught.value.kind, caught.value.object_id) == (kind.word, name.hex())

    def test_the_empty_blob_is_a_blob(self, objects: Objects) -> None:
        name = objects.put(Kind.BLOB, b"")
        objects.sync()
        assert objects.get(Kind.BLOB, name) == b""

    @pytest.mark.parametrize("size", [(128 << 10) - 1, 128 << 10, (128 << 10) + 1, LARGE_BYTES])
    def test_large_blobs_are_kept_whole(self, objects: Objects, size: int) -> None:
        data = os.urandom(size)
        name = objects.put(Kind.BLOB, data)
        assert objects.get(Kind.BLOB, name) == data
        objects.sync()
        assert objects.get(Kind.BLOB, name) == data

    @pytest.mark.parametrize("kind", [Kind.TREE, Kind.SNAPSHOT])
    def test_large_objects_of_other_kinds_are_kept_whole(self, objects: Objects, kind: Kind) -> None:
        data = os.urandom(LARGE_BYTES)
        name = objects.put(kind, data)
        objects.sync()
        assert objects.get(kind, name) == data

    @pytest.mark.parametrize("size", [0, 10, LARGE_BYTES])
    def test_a_file_and_its_bytes_have_one_name(self, objects: Objects, size: int) -> None:
        data = os.urandom(size)
        with file_of(data) as descriptor:
            name = objects.put_file(descriptor, size)
        assert name == objects.put(Kind.BLOB, data)
        objects.sync()
        assert objects.get(Kind.BLOB, name) == data

    def test_only_the_named_number_of_bytes_is_taken_from_the_start(self, objects: Objects) -> None:
        data = os.urandom(2 * LARGE_BYTES)
        with file_of(data) as descriptor:
            os.lseek(descriptor, 77, os.SEEK_SET)
            for size in (5, LARGE_BYTES):
                assert objects.get(Kind.BLOB, objects.put_file(descriptor, size)) == data[:size]

    @pytest.mark.parametrize("size", [10, LARGE_BYTES])
    def test_a_file_shorter_than_said_is_refused(self, objects: Objects, size: int) -> None:
        data = os.urandom(size)
        with file_of(data) as descriptor, pytest.raises(OSError):
            objects.put_file(descriptor, size + 1)
        with pytest.raises(ObjectMissing):
            objects.get(Kind.BLOB, object_id(Kind.BLOB, data))

    @pytest.mark.parametrize("size", [0, 10, LARGE_BYTES])
    @pytest.mark.parametrize("synced", [False, True], ids=["pending", "synced"])
    def test_a_blob_is_written_into_a_file_whole(self, objects: Objects, size: int, synced: bool) -> None:
        data = os.urandom(size)
        name = BlobId(objects.put(Kind.BLOB, data))
        if synced:
            objects.sync()
        with file_of(b"") as descriptor:
            objects.write_file(name, descriptor)
            assert os.pread(descriptor, size + 1, 0) == data

    def test_a_blob_that_is_missing_is_written_into_no_file(self, objects: Objects) -> None:
        with file_of(b"") as descriptor, pytest.raises(ObjectMissing):
            objects.write_file(blob_id(b"never put"), descriptor)

    def test_everything_put_is_there_after_a_sync(self, objects: Objects) -> None:
        names = {objects.put(Kind.BLOB, b"%d" % number): b"%d" % number for number in range(300)}
        objects.sync()
        assert {name: objects.get(Kind.BLOB, name) for name in names} == names

    def test_a_sync_with_nothing_to_do_is_allowed(self, objects: Objects) -> None:
        objects.sync()
        objects.sync()

    def test_threads_put_sync_and_read_at_the_same_time(self, objects: Objects) -> None:
        def work(number: int) -> bool:
            mine = [b"%d %d" % (number if turn % 2 else 0, turn) for turn in range(40)]
            names = []
            for data in mine:
                names.append(objects.put(Kind.BLOB, data))
                if len(names) % 8 == 0:
                    objects.sync()
            objects.sync()
            return [objects.get(Kind.BLOB, name) for name in names] == mine

        assert in_threads(work) == [True] * THREADS


class SweptHeads(Heads, HeadSweeper, Protocol):
    """A head store with its dangerous view."""


class HeadsContract:
    """What every `Heads` promises, and `HeadSweeper` of the same object. Give a fixture `heads`."""

    def test_a_new_session_is_what_was_created(self, heads: Heads) -> None:
        heads.create([session("a")], "create")
        assert heads.get("a", "alice") == session("a")

    def test_creation_is_the_first_entry_of_the_log(self, heads: Heads) -> None:
        heads.create([session("a")], "fork")
        assert heads.log("a", before=None, limit=10) == [Move(1, "fork", None, snapshot_name(0), 500.0, b"")]

    def test_creation_is_all_or_none(self, heads: Heads) -> None:
        heads.create([session("old")], "create")
        heads.advance("old", snapshot_name(0), move(1))
        with pytest.raises(SessionExists):
            heads.create([session("new"), session("old"), session("newer")], "create")
        for name in ("new", "newer"):
            with pytest.raises(SessionMissing):
                heads.get(name, "alice")
        assert heads.get("old", "alice").head == snapshot_name(1)
        assert len(heads.log("old", before=None, limit=10)) == 2

    def test_one_call_does_not_create_a_session_twice(self, heads: Heads) -> None:
        with pytest.raises(SessionExists):
            heads.create([session("a"), session("a")], "create")
        with pytest.raises(SessionMissing):
            heads.get("a", "alice")

    def test_many_sessions_are_created_in_one_call(self, heads: Heads) -> None:
        heads.create([session(f"fork-{number}") for number in range(100)], "fork")
        assert heads.get("fork-99", "alice").session_id == "fork-99"

    def test_a_session_that_was_never_made_is_missing(self, heads: Heads) -> None:
        with pytest.raises(SessionMissing) as caught:
            heads.get("ghost", "alice")
        assert caught.value.session_id == "ghost"
        with pytest.raises(SessionMissing):
            heads.advance("ghost", snapshot_name(0), move(1))
        assert heads.log("ghost", before=None, limit=10) == []

    def test_another_tenants_session_is_missing(self, heads: Heads) -> None:
        heads.create([session("a", tenant="alice"), session("b", tenant="bob")], "create")
        for session_id, tenant in (("a", "bob"), ("b", "alice"), ("a", "")):
            with pytest.raises(SessionMissing):
                heads.get(session_id, tenant)

    def test_advancing_moves_the_head_and_marks_the_session_used(self, heads: Heads) -> None:
        heads.create([session("a")], "create")
        heads.advance("a", snapshot_name(0), move(1, at_s=2000.0), runtime="bash")
        expected = msgspec.structs.replace(session("a"), head=snapshot_name(1), used_at_s=2000.0, runtime="bash")
        assert heads.get("a", "alice") == expected
        heads.advance("a", snapshot_name(1), move(2))
        assert heads.get("a", "alice").runtime == "bash"

    def test_the_store_numbers_the_moves(self, heads: Heads) -> None:
        heads.create([session("a")], "create")
        for number in (1, 2):
            heads.advance("a", snapshot_name(number - 1), move(number))
        newest, older, _ = heads.log("a", before=None, limit=10)
        assert (newest.sequence, newest.from_snapshot, newest.to_snapshot) == (3, snapshot_name(1), snapshot_name(2))
        assert (older.sequence, older.run_record) == (2, b'{"n":1}')

    def test_a_lost_compare_and_set_changes_nothing(self, heads: Heads) -> None:
        heads.create([session("a")], "create")
        heads.advance("a", snapshot_name(0), move(1))
        before = (heads.get("a", "alice"), heads.log("a", before=None, limit=10))
        with pytest.raises(HeadMoved) as caught:
            heads.advance("a", snapshot_name(0), move(2, at_s=9000.0), runtime="bash")
        assert (caught.value.expected, caught.value.actual) == (snapshot_name(0).hex(), snapshot_name(1).hex())
        assert (heads.get("a", "alice"), heads.log("a", before=None, limit=10)) == before

    def test_a_move_to_the_same_snapshot_is_a_move(self, heads: Heads) -> None:
        """A step that changes nothing may give an equal snapshot after a rollback: still one log entry."""
        heads.create([session("a")], "create")
        heads.advance("a", snapshot_name(0), move(0))
        assert [entry.sequence for entry in heads.log("a", before=None, limit=10)] == [2, 1]

    def test_of_many_threads_exactly_one_wins_each_round(self, heads: Heads) -> None:
        heads.create([session("a")], "create")
        for turn in range(ROUNDS):
            head = heads.get("a", "alice").head

            def attempt(number: int, head: SnapshotId = head, turn: int = turn) -> None:
                heads.advance("a", head, move(1 + turn * THREADS + number))

            results = in_threads(attempt)
            assert results.count(None) == 1
            assert sum(isinstance(result, HeadMoved) for result in results) == THREADS - 1
            winner = move(1 + turn * THREADS + results.index(None)).to_snapshot
            assert heads.get("a", "alice").head == winner
        chain = heads.log("a", before=None, limit=100)
        assert len(chain) == ROUNDS + 1
        assert all(later.from_snapshot == earlier.to_snapshot for later, earlier in pairwise(chain))

    def test_the_log_is_paged_newest_first(self, heads: Heads) -> None:
        heads.create([session("a"), session("b")], "create")
        for number in range(1, 10):
            heads.advance("a", snapshot_name(number - 1), move(number))
        seen: list[int] = []
        before: int | None = None
        while page := heads.log("a", before=before, limit=4):
            assert len(page) <= 4
            seen += [entry.sequence for entry in page]
            before = seen[-1]
        assert seen == list(range(10, 0, -1))
        assert heads.log("a", before=None, limit=0) == []

    def test_only_sessions_that_expired_before_the_horizon_are_dropped(self, heads: SweptHeads) -> None:
        """Expiry is last use plus time to live; the neighbours and their logs stay as they are."""
        ages = {"first": 100.0, "gone-1": 10.0, "middle": 101.0, "gone-2": 39.0, "last": 9000.0, "edge": 40.0}
        heads.create([session(name, used_at_s=used) for name, used in ages.items()], "create")
        heads.advance("last", snapshot_name(0), move(1))
        assert heads.drop_unused_since(100.0, is_running=nobody) == 2
        for name in ages:
            if name.startswith("gone"):
                with pytest.raises(SessionMissing):
                    heads.get(name, "alice")
                assert heads.log(name, before=None, limit=10) == []
            else:
                assert heads.get(name, "alice").session_id == name
                assert heads.log(name, before=None, limit=10) != []
        assert {name for name, _ in heads.roots()} == {"first", "middle", "last", "edge"}
        assert heads.drop_unused_since(100.0, is_running=nobody) == 0

    def test_a_running_session_is_not_dropped(self, heads: SweptHeads) -> None:
        heads.create([session("idle", used_at_s=10.0), session("busy", used_at_s=10.0)], "create")
        assert heads.drop_unused_since(1000.0, is_running=lambda name: name == "busy") == 1
        assert {name for name, _ in heads.roots()} == {"busy"}

    def test_use_keeps_a_session_alive(self, heads: SweptHeads) -> None:
        heads.create([session("a", used_at_s=10.0)], "create")
        heads.advance("a", snapshot_name(0), move(1, at_s=500.0))
        assert heads.drop_unused_since(200.0, is_running=nobody) == 0

    def test_a_dropped_name_may_be_used_again_with_a_fresh_log(self, heads: SweptHeads) -> None:
        heads.create([session("a", used_at_s=10.0)], "create")
        heads.advance("a", snapshot_name(0), move(1, at_s=11.0))
        heads.drop_unused_since(1000.0, is_running=nobody)
        heads.create([session("a")], "create")
        assert [entry.sequence for entry in heads.log("a", before=None, limit=10)] == [1]

    def test_roots_are_every_snapshot_that_a_log_names(self, heads: SweptHeads) -> None:
        heads.create([session("a"), session("b")], "create")
        heads.advance("a", snapshot_name(0), move(1))
        heads.advance("a", snapshot_name(1), move(2))
        assert set(heads.roots()) == {*(("a", snapshot_name(number)) for number in range(3)), ("b", snapshot_name(0))}


class LeasesContract:
    """What every `Leases` promises. Give a fixture `leases`."""

    def test_a_held_turn_is_not_given_again(self, leases: Leases) -> None:
        assert leases.try_acquire("a") is not None
        assert leases.try_acquire("a") is None

    def test_a_released_turn_is_free(self, leases: Leases) -> None:
        for _ in range(3):
            lease = leases.try_acquire("a")
            assert lease is not None
            lease.release()

    def test_looking_whether_a_turn_is_held_takes_nothing(self, leases: Leases) -> None:
        assert not leases.is_held("a")
        lease = leases.try_acquire("a")
        assert lease is not None
        assert leases.is_held("a")
        assert not leases.is_held("b")
        lease.release()
        assert not leases.is_held("a")

    def test_sessions_do_not_wait_for_each_other(self, leases: Leases) -> None:
        held = [leases.try_acquire(f"session-{number}") for number in range(100)]
        assert None not in held

    def test_releasing_one_turn_leaves_the_others(self, leases: Leases) -> None:
        one, other = leases.try_acquire("one"), leases.try_acquire("other")
        assert one is not None and other is not None
        one.release()
        assert leases.try_acquire("other") is None
        assert leases.try_acquire("one") is not None

    def test_of_many_threads_one_gets_the_turn(self, leases: Leases) -> None:
        for turn in range(ROUNDS):
            results = in_threads(lambda _, turn=turn: leases.try_acquire(f"turn {turn}"))  # type: ignore[misc]
            assert sum(result is not None for result in results) == 1

    def test_holders_never_overlap(self, leases: Leases) -> None:
        inside: list[int] = []
        overlaps: list[int] = []

        def work(number: int) -> None:
            taken = 0
            while taken < 10:
                lease = leases.try_acquire("shared")
                if lease is None:
                    continue
                inside.append(number)
                overlaps.extend(inside[1:])
                inside.clear()
                taken += 1
                lease.release()

        assert in_threads(work) == [None] * THREADS
        assert overlaps == []
