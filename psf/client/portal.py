"""A loop in a thread of its own, so that who has none, or one that is running already as in a notebook, can wait for coroutines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

from psf.client.errors import Misused

_Value = TypeVar("_Value")


class Portal:
    """The thread ends with `close`, or when nobody holds the portal any more."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="psf-client", daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)

    @property
    def alive(self) -> bool:
        return self._end.alive

    def wait(self, work: Coroutine[Any, Any, _Value]) -> _Value:
        """Do it in the loop; who is interrupted meanwhile cancels it. Raises whatever it raises, and Misused from the loop itself."""
        if threading.current_thread() is self._thread or not self.alive:
            work.close()
            raise Misused("this client is closed, or is called from its own thread; make a client of its own there")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                concurrent.futures.wait([future], timeout=5)
            raise

    def iterate(self, items: AsyncIterator[_Value]) -> Iterator[_Value]:
        """What comes from the loop, one by one, as it is asked for."""
        while True:
            try:
                yield self.wait(_next(items))
            except StopAsyncIteration:
                return

    def close(self) -> None:
        if self.alive:
            self._end()
            self._thread.join()


async def _next(items: AsyncIterator[_Value]) -> _Value:
    return await items.__anext__()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
