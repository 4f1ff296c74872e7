"""Long bodies: answers that are written in a thread while they are sent, and bodies that are put aside on the store's disk."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from aiohttp import ClientConnectionResetError, web

from executors.completion import completed
from executors.errors import Overloaded
from psf.api.decode import BodyTooSlow
from psf.errors import InvalidField
from psf.sources import FREE_BYTES_MIN, free_bytes
from psf.turns import to_thread
from store.files import Files

PIECE_BYTES = 256 << 10
PIECES_AHEAD = 4
SENDING_MAX = 64
PATIENCE_S = 60.0
"""So long somebody may take none of what is sent to him, or send none of what he wants to."""
ASIDE = frozenset({"/v1/snapshots", "/v1/bundles"})
"""Whose bodies are put aside, and never held in memory."""
_threads = ThreadPoolExecutor(SENDING_MAX, thread_name_prefix="psf-send")
"""A writer waits for its reader: in threads that nothing else waits for."""
_SENDING: web.AppKey[set[asyncio.Future[None]]] = web.AppKey("sending", set)


class _Sent(io.RawIOBase):
    """A file whose writer, a thread, waits for whoever sends what it writes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue(PIECES_AHEAD)
        self.given_up = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.given_up:
            raise BrokenPipeError(errno.EPIPE, "nobody reads on")
        piece = bytes(data)
        asyncio.run_coroutine_threadsafe(self.pieces.put(piece), self._loop).result()
        return len(piece)


async def send_written(
    request: web.Request, write: Callable[[BinaryIO], None], headers: dict[str, str]
) -> web.StreamResponse:
    """An answer with what `write` writes, in a thread. What fails after it has begun ends the connection: no reader takes it for whole.

    Raises Overloaded when too many are being sent.
    """
    sending = request.app[_SENDING]
    if len(sending) >= SENDING_MAX:
        raise Overloaded(f"{SENDING_MAX} archives and bundles are being sent already")
    sent = _Sent(asyncio.get_running_loop())

    def act() -> None:
        with io.BufferedWriter(sent, PIECE_BYTES) as buffered:
            write(cast("BinaryIO", buffered))

    writing = asyncio.get_running_loop().run_in_executor(_threads, act)
    sending.add(writing)
    writing.add_done_callback(sending.discard)
    writing.add_done_callback(lambda _: asyncio.ensure_future(sent.pieces.put(None)))
    response = web.StreamResponse(headers=headers)
    try:
        first = await sent.pieces.get()
        if first is None:
            await writing  # what fails before anything is sent is an answer like any other
        await response.prepare(request)
        piece = first
        while piece is not None:
            await _taken(response.write(piece))
            piece = await sent.pieces.get()
        await writing
        await response.write_eof()
    except BaseException:
        if response.prepared and request.transport is not None:
            request.transport.abort()
        sent.given_up = True
        await completed(_let_go(sent, writing))
        raise
    return response


def send_long(application: web.Application) -> None:
    """Have the application send long answers."""
    application[_SENDING] = set()


async def _taken(writing: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await writing
    except TimeoutError:
        raise ClientConnectionResetError("nobody takes what is sent") from None


async def _let_go(sent: _Sent, writing: asyncio.Future[None]) -> None:
    """Have a writer end for whom nobody reads."""
    while not writing.done():
        with contextlib.suppress(asyncio.QueueEmpty):
            sent.pieces.get_nowait()
        await asyncio.sleep(0.01)


async def _sent_piece(request: web.Request) -> bytes:
    """The next one of a body; none at its end."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await request.content.read(PIECE_BYTES)
    except TimeoutError:
        raise BodyTooSlow(f"nothing of the body arrived for {PATIENCE_S:g} s") from None
    except web.RequestPayloadError as error:
        raise InvalidField(("body",), f"cannot be read: {error}", kind="body_malformed") from None


@asynccontextmanager
async def put_aside(request: web.Request, folder: Path) -> AsyncIterator[BinaryIO]:
    """The request's body in a file without a name. Raises BodyTooSlow; InvalidField, also when the store's disk has no room for it."""
    files = Files()
    with os.fdopen(files.unnamed(str(folder), 0o600), "r+b") as file:
        while piece := await _sent_piece(request):
            if free_bytes(file.fileno()) - len(piece) < FREE_BYTES_MIN:
                raise InvalidField(("body",), "is more than the disk of the store has room for")
            await to_thread(lambda piece=piece: files.write(file.fileno(), piece))  # type: ignore[misc]
        file.seek(0)
        yield file
