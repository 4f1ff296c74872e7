"""The Docker sandbox, started for a test on the tests' own daemon, and an executor on it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from executors.docker import DockerSandbox, DockerSettings
from executors.interfaces import Sandbox
from executors.local import LocalExecutor
from executors.testing import MakeExecutor
from store.files import Files
from store.interfaces import Objects
from store.pool import Workspaces
from store.workspace import WorkspaceSettings
from tests.dockerd import image
from tests.dockerd.daemon import TestDaemon
from tests.executors import bench


def settings(daemon: TestDaemon, folder: Path, **fields: Any) -> DockerSettings:
    plain = DockerSettings(image.NAME, folder / "probes", base_url=daemon.url, patience_s=20)
    return msgspec.structs.replace(plain, **fields)


@asynccontextmanager
async def docker(daemon: TestDaemon, folder: Path, **fields: Any) -> AsyncIterator[DockerSandbox]:
    sandbox = await DockerSandbox.start(bench.profile(), settings(daemon, folder, **fields))
    try:
        yield sandbox
    finally:
        await sandbox.close()


class Supply:
    """One sandbox for many tests. A test that closes it gets the next one a new one."""

    def __init__(self, daemon: TestDaemon, folder: Path) -> None:
        self._daemon, self._folder = daemon, folder
        self._sandbox: DockerSandbox | None = None

    async def sandbox(self) -> DockerSandbox:
        if self._sandbox is None or self._sandbox._closed:
            self._sandbox = await DockerSandbox.start(bench.profile(), settings(self._daemon, self._folder))
        return self._sandbox

    async def close(self) -> None:
        if self._sandbox is not None:
            await self._sandbox.close()


class _Lent:
    """`Sandbox` that belongs to somebody else: whoever closes it only stops using it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.capabilities, self.open = sandbox.capabilities, sandbox.open

    async def close(self) -> None:
        return None


def maker(supply: Supply, folder: Path, kind: bench.Kind) -> MakeExecutor:
    """Makes executors with a pool of their own: what another one left live is not there."""
    numbers = itertools.count()
    return lambda objects: local_executor(supply, folder / f"docker-{kind}-{next(numbers)}", objects, kind)


@asynccontextmanager
async def local_executor(
    supply: Supply, folder: Path, objects: Objects, kind: bench.Kind
) -> AsyncIterator[LocalExecutor]:
    workspaces = WorkspaceSettings(kind, bench.profile().privileged, bench.owner())
    pool = Workspaces(folder / "workspaces", objects, Files(), workspaces)
    executor = LocalExecutor(_Lent(await supply.sandbox()), pool, objects, bench.owner())
    try:
        yield executor
    finally:
        await executor.close()
