"""Turns: who moves a session's head holds its turn from reading the head to moving it, first among ours, then among all processes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar
from weakref import WeakValueDictionary

from executors.errors import Overloaded
from store.interfaces import Leases

TURN_POLL_S_MIN, TURN_POLL_S_MAX = 0.002, 0.05
WAITING_STEPS_MAX = 100
SHARE_MAX = 10_000

_Value = TypeVar("_Value")


class Turns:
    """The turns of one process on the sessions of a store, by leases that all processes share."""

    def __init__(self, leases: Leases, share_max: int = SHARE_MAX) -> None:
        self._leases, self._share_max = leases, share_max
        self._shares: Counter[str] = Counter()
        self._queues: WeakValueDictionary[str, _Queue] = WeakValueDictionary()

    @contextmanager
    def share(self, tenant: str) -> Iterator[None]:
        """Be one of the steps of a tenant that run or wait. Raises Overloaded when there are too many: others want to run, too."""
        if self._shares[tenant] >= self._share_max:
            raise Overloaded(f"{self._share_max} steps of yours run or wait already")
        self._shares[tenant] += 1
        try:
            yield
        finally:
            self._shares[tenant] -= 1
            if not self._shares[tenant]:
                del self._shares[tenant]

    @asynccontextmanager
    async def take(self, session_id: str) -> AsyncIterator[int]:
        """A turn on the session; gives the epoch it began in. Raises Overloaded when too many wait for one already."""
        queue = self._queues.setdefault(session_id, _Queue())
        if queue.waiting >= WAITING_STEPS_MAX:
            raise Overloaded(f"{WAITING_STEPS_MAX} steps wait for this session already")
        queue.waiting += 1
        try:
            await queue.lock.acquire()
        finally:
            queue.waiting -= 1
        try:
            pause_s = TURN_POLL_S_MIN
            while (lease := self._leases.try_acquire(session_id)) is None:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, TURN_POLL_S_MAX)
            try:
                yield lease.epoch
            finally:
                lease.release()
        finally:
            queue.lock.release()


class _Queue:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


async def to_thread(act: Callable[[], _Value]) -> _Value:
    """The one seam between asynchronous callers and the synchronous store."""
    return await asyncio.to_thread(act)
