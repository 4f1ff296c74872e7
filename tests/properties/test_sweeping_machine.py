"""A state machine: whatever is begun, moved, dropped, swept and reopened in whatever order, what a head reaches stays whole.

Two stores on one folder, as two processes have it; steps that are under way while others sweep; sweeps that are given up midway.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, multiple, rule

from store.errors import WriterFenced
from store.ids import Kind, SnapshotId
from store.interfaces import Lease, Pin
from store.local import LocalStore
from store.snapshot import EMPTY_SNAPSHOT_ID
from store.testing import move
from tests.store.history import LARGE_TAIL, TENANT, begin, files_of, never, put_step

SEAL_BYTES = 1500
STORES = st.integers(0, 1)
SESSIONS = ("a", "b", "c")
LARGE_EVERY = 5


def contents(number: int) -> dict[bytes, bytes]:
    """Small files of which many are equal, and now and then a large one."""
    files = {b"small": b"%d " % number * (number + 1), b"fixed": b"the same in all"}
    return files | ({b"large": b"%d" % number + LARGE_TAIL} if number % LARGE_EVERY == 0 else {})


class GivenUp(Exception):
    """Whoever swept has ended."""


class Flight:
    """A step under way: it has its turn and has put its objects, and its head has not moved."""

    def __init__(self, which: int, session_id: str, lease: Lease, start: SnapshotId, end: SnapshotId) -> None:
        self.which, self.session_id, self.lease, self.start, self.end = which, session_id, lease, start, end


class SweepingMachine(RuleBasedStateMachine):
    """The model keeps what each snapshot holds, and the log of each session."""

    flights = Bundle("flights")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.stores = [self.opened(), self.opened()]
        self.files: dict[SnapshotId, dict[bytes, bytes]] = {EMPTY_SNAPSHOT_ID: {}}
        self.logs: dict[str, list[SnapshotId]] = {}
        self.pinned: dict[str, SnapshotId] = {}
        self.running: dict[str, Flight] = {}

    def opened(self) -> LocalStore:
        return LocalStore(self.root, seal_bytes=SEAL_BYTES)

    @rule(which=STORES, session_id=st.sampled_from(SESSIONS))
    def begin(self, which: int, session_id: str) -> None:
        if session_id not in self.logs:
            begin(self.stores[which], session_id)
            self.logs[session_id] = [EMPTY_SNAPSHOT_ID]

    @rule(target=flights, which=STORES, session_id=st.sampled_from(SESSIONS), number=st.integers(0, 12))
    def start(self, which: int, session_id: str, number: int) -> object:
        store = self.stores[which]
        if session_id not in self.logs or (lease := store.leases.try_acquire(session_id)) is None:
            return multiple()
        head = store.heads.get(session_id, TENANT).head
        assert head == self.logs[session_id][-1]
        end = put_step(store, head, number, contents(number))
        self.files[end] = contents(number)
        self.running[session_id] = Flight(which, session_id, lease, head, end)
        return self.running[session_id]

    @rule(flight=consumes(flights))
    def land_one(self, flight: Flight) -> None:
        self.land(flight)

    def land(self, flight: Flight) -> None:
        """The head moves, unless a sweep has gone on without this step or its process has ended."""
        if self.running.get(flight.session_id) is not flight:
            return
        self.advance(self.stores[flight.which], flight.session_id, flight.start, flight.end, flight.lease)
        del self.running[flight.session_id]
        flight.lease.release()

    @rule(which=STORES, session_id=st.sampled_from(SESSIONS), back=st.integers(0, 5))
    def roll_back(self, which: int, session_id: str, back: int) -> None:
        store = self.stores[which]
        if session_id in self.logs and (lease := store.leases.try_acquire(session_id)) is not None:
            log = self.logs[session_id]
            self.advance(store, session_id, log[-1], log[max(0, len(log) - 1 - back)], lease)
            lease.release()

    def advance(self, store: LocalStore, session_id: str, start: SnapshotId, end: SnapshotId, lease: Lease) -> None:
        moved = move(1)
        moved = type(moved)(0, moved.kind, None, end, moved.at_s, moved.run_record)
        try:
            store.heads.advance(session_id, start, moved, epoch=lease.epoch)
        except WriterFenced:
            return
        self.logs[session_id].append(end)

    @rule(which=STORES, session_id=st.sampled_from(SESSIONS))
    def drop(self, which: int, session_id: str) -> None:
        store = self.stores[which]
        store.heads.drop_unused_since(
            1e12, is_running=lambda name: name != session_id or store.leases.is_held(session_id)
        )
        if session_id not in self.running:
            self.logs.pop(session_id, None)

    @rule(which=STORES, session_id=st.sampled_from(SESSIONS), back=st.integers(0, 5))
    def pin(self, which: int, session_id: str, back: int) -> None:
        """What a log has may be pinned, under the turn of its session."""
        store = self.stores[which]
        if session_id in self.logs and (lease := store.leases.try_acquire(session_id)) is not None:
            log = self.logs[session_id]
            snapshot = log[max(0, len(log) - 1 - back)]
            store.heads.pin(Pin("kept", snapshot, 1.0), epoch=lease.epoch)
            self.pinned["kept"] = snapshot
            lease.release()

    @rule(which=STORES)
    def unpin(self, which: int) -> None:
        assert self.stores[which].heads.unpin("kept") == (self.pinned.pop("kept", None) is not None)

    @rule(which=STORES)
    def sweep(self, which: int) -> None:
        self.stores[which].sweep(dry=False, pause=never)
        self.all_is_whole()

    @rule(which=STORES)
    def sweep_while_steps_land(self, which: int) -> None:
        """The sweep waits for the steps that began before it."""

        def pause() -> bool:
            if flight := next(iter(self.running.values()), None):
                self.land(flight)
            return True

        self.stores[which].sweep(dry=False, pause=pause)
        self.all_is_whole()

    @rule(which=STORES, after=st.integers(0, 30))
    def give_a_sweep_up(self, which: int, after: int) -> None:
        left = after

        def progress(_what: str, _done: int, _total: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise GivenUp

        with contextlib.suppress(GivenUp):
            self.stores[which].sweep(dry=False, pause=never, progress=progress)
        self.all_is_whole()

    @rule(which=STORES)
    def reopen(self, which: int) -> None:
        """Steps under way end with their process."""
        for flight in [flight for flight in self.running.values() if flight.which == which]:
            flight.lease.release()
            del self.running[flight.session_id]
        self.stores[which].close()
        self.stores[which] = self.opened()
        self.all_is_whole()

    def all_is_whole(self) -> None:
        for store in self.stores:
            for session_id, log in self.logs.items():
                assert [m.to_snapshot for m in reversed(store.heads.log(session_id, before=None, limit=1 << 20))] == log
                for snapshot in log:
                    assert files_of(store, snapshot) == self.files[snapshot]
            for snapshot in self.pinned.values():
                assert files_of(store, snapshot) == self.files[snapshot]

    def teardown(self) -> None:
        self.all_is_whole()
        for flight in self.running.values():
            flight.lease.release()
        report, _ = self.stores[0].check(full=True)
        assert report.clean, report
        self.nothing_stays_for_ever()
        for store in self.stores:
            store.close()
        shutil.rmtree(self.root)

    def nothing_stays_for_ever(self) -> None:
        """When nobody needs anything any more, no content is left after two sweeps: the first cannot empty what is open elsewhere."""
        self.stores[1].close()
        self.stores[1] = self.opened()
        self.stores[1].heads.drop_unused_since(1e12, is_running=lambda _: False)
        self.stores[1].heads.unpin("kept")
        for store in self.stores:
            store.objects.seal()
        for _ in range(2):
            self.stores[1].sweep(dry=False, pause=never)
        left = {name for name in set(self.stores[1].objects) if name[0] in (Kind.BLOB, Kind.TREE)}
        assert len(left) <= 1, left  # the empty tree


TestSweeping = SweepingMachine.TestCase
TestSweeping.settings = settings(stateful_step_count=40)
