"""Threads that read and advance the heads of a few sessions as fast as they can, and write down what they saw.

As a process of its own: python -m tests.faults.hammering HEADS WORKER THREADS ROUNDS; prints the history as JSON.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from store.errors import HeadMoved
from store.heads import SqliteHeads
from store.ids import Kind, SnapshotId, object_id
from store.interfaces import Heads
from store.testing import move
from tests.faults.linear import Read, Swap

SESSIONS = ("a", "b", "c")
TENANT = "alice"
History = dict[str, list[Read | Swap]]


def hammer(heads: Heads, worker: str, threads: int, rounds: int) -> History:
    """The history of each session, of all threads."""
    history: defaultdict[str, list[Read | Swap]] = defaultdict(list)
    begin = threading.Barrier(threads)

    def work(number: int) -> None:
        generator = random.Random(f"{worker} {number}")
        begin.wait()
        for turn in range(rounds):
            session_id = generator.choice(SESSIONS)
            head = _read(heads, session_id, history[session_id])
            # Now and then with a head that has been waited with.
            if generator.random() < 0.3:
                time.sleep(0.001)
            value = SnapshotId(object_id(Kind.SNAPSHOT, f"{worker} {number} {turn}".encode()))
            _swap(heads, session_id, head, value, history[session_id])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return dict(history)


def _read(heads: Heads, session_id: str, history: list[Read | Swap]) -> SnapshotId:
    called = time.monotonic()
    head = heads.get(session_id, TENANT).head
    history.append(Read(head.hex(), called, time.monotonic()))
    return head


def _swap(heads: Heads, session_id: str, head: SnapshotId, value: SnapshotId, history: list[Read | Swap]) -> None:
    seen = None
    called = time.monotonic()
    try:
        heads.advance(session_id, head, msgspec.structs.replace(move(1), to_snapshot=value))
    except HeadMoved as moved:
        seen = moved.actual
    history.append(Swap(head.hex(), value.hex(), seen is None, seen, called, time.monotonic()))


def chain(heads: Heads, session_id: str) -> list[str]:
    """The session's heads, oldest first, as its log has them."""
    return [entry.to_snapshot.hex() for entry in reversed(heads.log(session_id, before=None, limit=100_000))]


def read_history(text: str) -> History:
    """What a process of its own has printed."""
    return {
        session_id: [Read(*values) if len(values) == len(Read._fields) else Swap(*values) for values in operations]
        for session_id, operations in json.loads(text).items()
    }


if __name__ == "__main__":
    store_of_heads = SqliteHeads(Path(sys.argv[1]))
    print(json.dumps(hammer(store_of_heads, sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    store_of_heads.close()
