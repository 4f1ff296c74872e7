"""The Docker sandbox by the daemon alone keeps the contracts too, with two runtimes; its capabilities say what it lacks.

Tests share one sandbox as long as none closes it.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from executors.interfaces import Sandbox
from executors.testing import SandboxContract
from store.files import Owner
from tests.dockerd.daemon import TestDaemon
from tests.executors import bench
from tests.executors.docker_bench import Supply

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[pytest.param("runc", marks=pytest.mark.slow), "crun"]
)
async def supply(
    request: pytest.FixtureRequest, docker_daemon: TestDaemon, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Supply]:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    supply = Supply(docker_daemon, tmp_path_factory.mktemp("supply"), request.param)
    yield supply
    await supply.close()


class TestSandbox(SandboxContract):
    @pytest_asyncio.fixture(loop_scope="module")
    async def sandbox(self, supply: Supply, request: pytest.FixtureRequest) -> Sandbox:
        if "canary" in request.fixturenames:
            await supply.close()  # for one that starts with the canary in the environment
        return await supply.sandbox()

    @pytest.fixture
    def owner(self) -> Owner | None:
        return bench.owner()
