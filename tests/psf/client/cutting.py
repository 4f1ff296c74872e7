"""A proxy that cuts its first connection after so many bytes one way or the other, and lets all later ones through."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Cutting:
    """`up` and `down`: after how many bytes to the server, or from it, the first connection is cut; None: never. Counts what passes."""

    def __init__(self, target: str, up: int | None = None, down: int | None = None) -> None:
        self._target = urlsplit(target)
        self._left = {"up": up, "down": down}
        self.passed = {"up": 0, "down": 0}
        self.connections = 0
        self._busy: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        counted = self.connections == 1
        there, back = await asyncio.open_connection(self._target.hostname, self._target.port)
        ends = (writer, back)
        ways = [self._pipe("up", reader, back, ends, counted), self._pipe("down", there, writer, ends, counted)]
        tasks = [asyncio.create_task(way) for way in ways]
        self._busy.update(tasks)
        await asyncio.wait(tasks)

    async def _pipe(
        self,
        way: str,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        ends: tuple[asyncio.StreamWriter, ...],
        counted: bool,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                left = self._left[way] if counted else None
                if left == 0:
                    break
                data = await source.read(65536 if left is None else left)
                if not data:
                    break
                if counted:
                    self.passed[way] += len(data)
                    if left is not None:
                        self._left[way] = left - len(data)
                sink.write(data)
                await sink.drain()
                if way == "up" and left is not None and self._left[way] == 0:
                    await asyncio.sleep(0.005)  # what was sent is there before the connection is gone
        for end in ends:
            end.transport.abort()

    async def close(self) -> None:
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)


@asynccontextmanager
async def cutting(target: str, up: int | None = None, down: int | None = None) -> AsyncIterator[tuple[str, Cutting]]:
    proxy = Cutting(target, up, down)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", proxy
    finally:
        server.close()
        await proxy.close()
