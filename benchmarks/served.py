"""A server in this process, on a loop in a thread of its own, and a client that calls it over loopback; and a bare aiohttp beside it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
from aiohttp import web

from psf import app
from psf.config import Settings

_Value = TypeVar("_Value")


class Served:
    """`psf serve` with its default settings, with bubblewrap, over a store in `folder`. Used from one thread."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.folder = folder
        self.url = self.echo = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The decoded answer of a call that must succeed."""
        return self._do(self._call(method, self.url + path, body))

    def echoed(self, body: object) -> Any:
        """The floor: the same client and library, and a handler that gives back what it is sent."""
        return self._do(self._call("POST", self.echo, body))

    def _do(self, work: Coroutine[Any, Any, _Value]) -> _Value:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _call(self, method: str, url: str, body: object) -> Any:
        async with self._client.request(method, url, json=body) as response:
            answer = await response.json() if response.content_type == "application/json" else await response.read()
            if response.status >= 300:
                raise RuntimeError(f"{method} {url}: {response.status}: {str(answer)[:500]}")
            return answer

    async def _start(self) -> None:
        settings = Settings(port=0, store=str(self.folder), executor="bubblewrap", log_level="error")
        self._serving = app.serve(settings)
        self.url = await self._serving.__aenter__()
        bare = web.Application()
        bare.router.add_post("/", _echo)
        self._bare = web.AppRunner(bare, access_log=None)
        await self._bare.setup()
        await web.TCPSite(self._bare, "127.0.0.1", 0).start()
        self.echo = f"http://127.0.0.1:{self._bare.addresses[0][1]}/"
        self._client = aiohttp.ClientSession()

    async def _stop(self) -> None:
        await self._client.close()
        await self._bare.cleanup()
        await self._serving.__aexit__(None, None, None)


async def _echo(request: web.Request) -> web.Response:
    return web.json_response(await request.json())
