"""Work that must come to its end although nobody waits for its result any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

_Value = TypeVar("_Value")


async def completed(work: Awaitable[_Value], undo: Callable[[_Value], Awaitable[object]] | None = None) -> _Value:
    """The result of `work`, which is never abandoned half-done.

    A caller that is cancelled meanwhile, however often, is cancelled when the work has ended, and `undo` has taken back
    what it made: nobody else ever sees it. What failed of either is the cancellation's cause.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if task.cancelled():
        raise cancelled
    if (failure := task.exception()) is not None:
        raise cancelled from failure
    if undo is not None:
        try:
            await completed(undo(task.result()))
        except Exception as error:
            raise cancelled from error
    raise cancelled
