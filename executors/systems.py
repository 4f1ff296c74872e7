"""Which system programs see: the server's own, or that of sessions that ask for another image or another work directory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import msgspec

from executors.completion import completed
from executors.errors import SandboxBroken, SystemUnknown
from executors.interfaces import OWN_SYSTEM, Sandbox, System
from executors.paths import WORK

_log = logging.getLogger(__name__)
IDLE_MAX = 4
"""So many systems that nobody uses are kept; each has a launcher and warm containers of its own."""


class Site(msgspec.Struct, frozen=True):
    """A sandbox that is running, where its programs see the work directory, and the digest of the system that they see."""

    sandbox: Sandbox
    work_dir: str = WORK
    identity: bytes = b""


class Systems(Protocol):
    def site(self, system: System) -> AbstractAsyncContextManager[Site]:
        """The site of a system, which stays while the context lasts. Raises SandboxUnavailable, SystemUnknown on entering."""
        ...

    async def close(self) -> None:
        """Close the sandboxes of all sites. Idempotent."""
        ...


class OneSystem:
    """`Systems` of a sandbox that shows every session the same."""

    def __init__(self, own: Site) -> None:
        self._own = own

    @asynccontextmanager
    async def site(self, system: System) -> AsyncIterator[Site]:
        if system.image or system.work_dir not in ("", self._own.work_dir):
            raise SystemUnknown(
                f"the sandbox {self._own.sandbox.capabilities.sandbox} has one system for all sessions, and this session asks"
                " for an image or a work directory of its own; a server with --executor docker has them"
            )
        yield self._own

    async def close(self) -> None:
        await self._own.sandbox.close()


class ManySystems:
    """`Systems` that are started when they are first asked for, and closed when others are used more.

    `own_system` is what the server's own site stands for, by all its names; `start` makes the site of another one.
    """

    def __init__(self, own: Site, own_system: System, start: Callable[[System], Awaitable[Site]]) -> None:
        self._own, self._own_system, self._start = own, own_system, start
        self._kept: dict[System, _Kept] = {}
        """In the order of their last use."""
        self._closed = False

    @asynccontextmanager
    async def site(self, system: System) -> AsyncIterator[Site]:
        if self._closed:
            raise SandboxBroken("the sandbox is closed")
        whole = System(system.image or self._own_system.image, system.work_dir or self._own_system.work_dir)
        if system == OWN_SYSTEM or whole == self._own_system:
            yield self._own
            return
        kept = self._kept.pop(whole, None) or _Kept(asyncio.ensure_future(self._begin(whole)))
        self._kept[whole] = kept
        kept.users += 1
        try:
            yield await asyncio.shield(kept.starting)
        finally:
            kept.users -= 1
            await completed(self._tidy())

    async def close(self) -> None:
        self._closed = True
        kept, self._kept = self._kept, {}
        await self._own.sandbox.close()
        await asyncio.gather(*(one.starting for one in kept.values()), return_exceptions=True)
        await _close(kept.values())

    async def _begin(self, system: System) -> Site:
        _log.info(
            "starting a system for sessions with the image %s and the work directory %s", system.image, system.work_dir
        )
        return await self._start(system)

    async def _tidy(self) -> None:
        """Forget systems that could not be started, so that they are tried again, and close those used longest ago."""
        idle = [system for system, kept in self._kept.items() if not kept.users and kept.starting.done()]
        failed = [system for system in idle if self._kept[system].failed()]
        running = [system for system in idle if system not in failed]
        surplus = running[: max(0, len(running) - IDLE_MAX)]
        await _close([self._kept.pop(system) for system in (*failed, *surplus)])


class _Kept:
    def __init__(self, starting: asyncio.Future[Site]) -> None:
        self.starting = starting
        self.users = 0

    def failed(self) -> bool:
        return self.starting.cancelled() or self.starting.exception() is not None


async def _close(several: Iterable[_Kept]) -> None:
    await asyncio.gather(*(kept.starting.result().sandbox.close() for kept in several if not kept.failed()))
