"""Runs with egress in containers, on a machine of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from executors import egress
from executors.interfaces import Sandbox
from tests.dockerd.daemon import TestDaemon
from tests.executors import docker_bench, world
from tests.executors.egress_contract import EgressContract, Open
from tests.executors.world import World


@pytest.fixture(scope="module")
def whole(docker_daemon: TestDaemon) -> Iterator[World]:
    """After the daemon, which stays when the machine goes."""
    with world.machine() as made:
        yield made


@pytest.fixture
def outer(whole: World) -> World:
    whole.came()
    return whole


class TestDocker(EgressContract):
    @pytest.fixture
    def open_sandbox(self, docker_daemon: TestDaemon, outer: World, tmp_path: Path) -> Open:
        return lambda **settings: _opened(docker_daemon, tmp_path, settings)


@asynccontextmanager
async def _opened(daemon: TestDaemon, folder: Path, settings: dict[str, str]) -> AsyncIterator[Sandbox]:
    configured = egress.configured("docker", settings)
    async with docker_bench.docker(daemon, folder, workspace="copy", egress=configured) as sandbox:
        yield sandbox
