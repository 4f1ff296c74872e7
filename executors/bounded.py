"""An executor that does no more than so many steps at once; others wait their turn, for a while."""

from __future__ import annotations

import asyncio

from executors.errors import Overloaded
from executors.interfaces import Executor, Request, Result, StageWatch, System


class BoundedExecutor:
    """`Executor` with `slots` steps at once, first come first served. A step waits at most `patience_s` for its slot."""

    def __init__(self, inner: Executor, slots: int, patience_s: float) -> None:
        self._inner, self._slots, self._patience_s = inner, asyncio.Semaphore(slots), patience_s

    async def execute(self, request: Request, watch: StageWatch | None = None) -> Result:
        """As the inner executor. Raises Overloaded when no slot came free in time."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._slots.acquire()
        except TimeoutError:
            raise Overloaded(f"no execution slot became free within {self._patience_s:g} s") from None
        try:
            return await self._inner.execute(request, watch)
        finally:
            self._slots.release()

    async def prepare(self, system: System) -> bytes:
        return await self._inner.prepare(system)

    async def close(self) -> None:
        await self._inner.close()
