"""A crowd of processes on one store: those that make steps, with content that others have just stopped needing, and one that sweeps.

As a process of its own: python -m tests.faults.crowd steps STORE WORKER THREADS ROUNDS, which prints what was seen of heads as JSON; or
python -m tests.faults.crowd sweep STORE CARE, which sweeps until it is killed. CARE is `careful`, or what is left out.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from store.errors import HeadMoved, WriterFenced
from store.gc import GcRefused, Sweep
from store.ids import SnapshotId
from store.local import LocalStore
from store.testing import move
from tests.faults.hammering import History
from tests.faults.linear import Read, Swap
from tests.store.history import LARGE_TAIL, TENANT, begin, put_step

SESSIONS = ("a", "b", "c")
CONTENTS = 12
"""So few different files that one is garbage now and needed again a moment later."""
SEAL_BYTES = 4000
PATIENCE_S = 0.05


def content(number: int) -> bytes:
    """One of few files; every fourth is a large one."""
    small = b"content %d " % number + bytes([number]) * 300
    return small + LARGE_TAIL if number % 4 == 0 else small


def make_steps(store: LocalStore, worker: str, threads: int, rounds: int) -> History:
    """Steps on shared sessions, and sessions of one's own that end at once; the history of the shared ones."""
    history: defaultdict[str, list[Read | Swap]] = defaultdict(list)
    numbers = itertools.count(1)

    def work(thread: int) -> None:
        generator = random.Random(f"{worker} {thread}")
        for turn in range(rounds):
            name = generator.choice(SESSIONS)
            with contextlib.suppress(WriterFenced):
                _step(store, name, generator, next(numbers), history[name])
            if turn % 2:
                with contextlib.suppress(WriterFenced):
                    _short_life(store, f"{worker} {thread} {turn}", generator, next(numbers))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return dict(history)


def _step(store: LocalStore, name: str, generator: random.Random, number: int, history: list[Read | Swap]) -> None:
    while (lease := store.leases.try_acquire(name)) is None:
        time.sleep(0.001)
    try:
        called = time.monotonic()
        head = store.heads.get(name, TENANT).head
        history.append(Read(head.hex(), called, time.monotonic()))
        files = {b"%d" % chosen: content(chosen) for chosen in generator.sample(range(CONTENTS), 2)}
        snapshot = put_step(store, head, number, files | {b"own": generator.randbytes(20)})
        if generator.random() < 0.2:
            time.sleep(generator.choice((0.01, 3 * PATIENCE_S)))  # some take longer than a sweep will wait
        _swap(store, name, head, snapshot, lease.epoch, history)
    finally:
        lease.release()


def _swap(
    store: LocalStore, name: str, head: SnapshotId, snapshot: SnapshotId, epoch: int, history: list[Read | Swap]
) -> None:
    called = time.monotonic()
    moved = msgspec.structs.replace(move(1, at_s=1e9), to_snapshot=snapshot)
    try:
        store.heads.advance(name, head, moved, epoch=epoch)
    except HeadMoved as error:
        history.append(Swap(head.hex(), snapshot.hex(), False, error.actual, called, time.monotonic()))
        return
    history.append(Swap(head.hex(), snapshot.hex(), True, None, called, time.monotonic()))


def _short_life(store: LocalStore, name: str, generator: random.Random, number: int) -> None:
    """A session that ends: what it put is garbage, but for what others have put as well."""
    lease = store.leases.try_acquire(name)
    assert lease is not None
    try:
        head = begin(store, name, used_at_s=10.0)
        files = {b"%d" % chosen: content(chosen) for chosen in generator.sample(range(CONTENTS), 3)}
        snapshot = put_step(store, head, number, files)
        moved = msgspec.structs.replace(move(1, at_s=10.0), to_snapshot=snapshot)
        store.heads.advance(name, head, moved, epoch=lease.epoch)
    finally:
        lease.release()
    store.heads.drop_unused_since(1e6, is_running=store.leases.is_held)


def sweep_for_ever(store: LocalStore, care: str) -> None:
    if care == "no waiting":
        Sweep._wait_for_writers = lambda *_: False  # type: ignore[method-assign]
        store.heads.refuse_before = lambda _: None  # type: ignore[method-assign]
    if care == "no second look":
        first = Sweep._mark
        Sweep._mark = lambda self: set() if self._live else first(self)  # type: ignore[method-assign]
    print("ready", flush=True)
    while True:
        deadline_s = time.monotonic() + PATIENCE_S
        with contextlib.suppress(GcRefused):
            store.sweep(dry=False, pause=lambda: time.sleep(0.005) or time.monotonic() < deadline_s)  # type: ignore[func-returns-value]  # noqa: B023


def main(arguments: list[str]) -> None:
    store = LocalStore(Path(arguments[1]), seal_bytes=SEAL_BYTES)
    if arguments[0] == "sweep":
        sweep_for_ever(store, arguments[2])
    print(json.dumps(make_steps(store, arguments[2], int(arguments[3]), int(arguments[4]))))
    store.close()


if __name__ == "__main__":
    main(sys.argv[1:])
