"""Containers that are warm: made before they are needed, used by one cell at a time, kept while they are clean."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import msgspec

from executors.completion import completed
from executors.docker_daemon import Daemon, Started
from executors.errors import SandboxBroken
from executors.launcher import Launcher


class Warm(msgspec.Struct, frozen=True):
    """A container that the launcher has adopted, and what it found there."""

    started: Started
    launcher: Launcher
    facts: dict[str, Any]

    @property
    def identity(self) -> str:
        return self.started.identity


class Pool:
    """`idle_max` containers that nobody uses are kept; others are removed when they come back."""

    def __init__(self, daemon: Daemon, configuration: dict[str, Any], idle_max: int) -> None:
        self._daemon, self._configuration, self._idle_max = daemon, configuration, idle_max
        self._idle: list[Warm] = []
        self._all: dict[str, Warm] = {}
        self._closed = False

    async def take(self, launcher: Launcher) -> Warm:
        """A clean container: a warm one, else a new one. Raises SandboxBroken when there is none to be had."""
        while self._idle:
            container = self._idle.pop()
            if container.launcher is launcher and container.started.alive:
                return container
            await self.throw_away(container)
        return await completed(self._make(launcher), undo=self.throw_away)

    async def give_back(self, container: Warm) -> None:
        """Take back a container in which nothing is left of its cell."""
        if self._closed or len(self._idle) >= self._idle_max:
            await self.throw_away(container)
        else:
            self._idle.append(container)

    async def throw_away(self, container: Warm) -> None:
        """End a container, and with it all that may be left in it, and remove it."""
        if self._all.pop(container.identity, None) is not None:
            await completed(self._end(container))

    async def close(self) -> None:
        """End all of them, used or not."""
        self._closed = True
        self._idle.clear()
        await asyncio.gather(*(self.throw_away(container) for container in list(self._all.values())))

    async def _make(self, launcher: Launcher) -> Warm:
        started = await self._daemon.start(self._configuration)
        container = Warm(started, launcher, {})
        self._all[started.identity] = container
        try:
            if self._closed:
                raise SandboxBroken("the sandbox is closed")
            command = self._configuration["Entrypoint"]
            facts, _ = await launcher.ask("adopt", [], container=started.identity, pid=started.pid, command=command)
        except BaseException:
            await self.throw_away(container)
            raise
        container = msgspec.structs.replace(container, facts=facts)
        self._all[started.identity] = container
        return container

    async def _end(self, container: Warm) -> None:
        # The end of its input ends its init, also when the daemon is not there to be asked.
        os.close(container.started.stdin)
        with contextlib.suppress(SandboxBroken):
            await container.launcher.ask("abandon", [], container=container.identity)
        # When the daemon cannot be asked, which the log says, it removes the container itself once it is back.
        with contextlib.suppress(SandboxBroken):
            await self._daemon.remove(container.identity)
