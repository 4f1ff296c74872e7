"""The Docker sandbox, started for a test on the tests' own daemon, and an executor on it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from executors.docker import DockerSandbox, DockerSettings
from executors.docker_container import SERVER_LABEL
from executors.docker_exec import DockerExecSandbox
from executors.interfaces import Sandbox
from executors.local import LocalExecutor
from executors.systems import OneSystem, Site
from executors.testing import MakeExecutor
from store.files import Files
from store.interfaces import Objects
from store.pool import Workspaces
from store.workspace import WorkspaceSettings
from tests.dockerd import image
from tests.dockerd.daemon import TestDaemon, with_client
from tests.executors import bench


def settings(daemon: TestDaemon, folder: Path, **fields: Any) -> DockerSettings:
    plain = DockerSettings(image.NAME, folder / "probes", base_url=daemon.url, patience_s=20)
    return msgspec.structs.replace(plain, **fields)


def containers(daemon: TestDaemon, **labels: str) -> list[str]:
    """Ids of all containers that a psf server made, running or not."""
    wanted = [f"{key}={value}" for key, value in labels.items()] or [SERVER_LABEL]
    found: list[dict[str, Any]] = with_client(
        daemon.url, lambda api: api.containers(all=True, filters={"label": wanted})
    )
    return sorted(container["Id"] for container in found)


async def gone(daemon: TestDaemon) -> None:
    """Wait until no container is left: the daemon removes one a moment after its end."""
    deadline_s = time.monotonic() + 20
    while containers(daemon):
        assert time.monotonic() < deadline_s, containers(daemon)
        await asyncio.sleep(0.05)


@asynccontextmanager
async def docker(daemon: TestDaemon, folder: Path, **fields: Any) -> AsyncIterator[DockerSandbox]:
    sandbox = await DockerSandbox.start(bench.profile(), settings(daemon, folder, **fields))
    try:
        yield sandbox
    finally:
        await sandbox.close()


class Supply:
    """One sandbox for many tests. A test that closes it gets the next one a new one. With `runtime`: by the daemon alone."""

    def __init__(self, daemon: TestDaemon, folder: Path, runtime: str | None = None) -> None:
        self._kind = DockerExecSandbox if runtime else DockerSandbox
        self._settings = settings(daemon, folder, runtime=runtime)
        self._sandbox: DockerSandbox | DockerExecSandbox | None = None

    async def sandbox(self) -> Sandbox:
        if self._sandbox is None or self._sandbox._closed:
            self._sandbox = await self._kind.start(bench.profile(), self._settings)
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
    executor = LocalExecutor(OneSystem(Site(_Lent(await supply.sandbox()))), pool, objects, bench.owner())
    try:
        yield executor
    finally:
        await executor.close()
