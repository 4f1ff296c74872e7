"""The Docker sandbox by the daemon alone keeps the contracts too, with two runtimes; its capabilities say what it lacks.

Tests share one sandbox as long as none closes it.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from executors.interfaces import Sandbox
from executors.testing import ExecutorContract, History, MakeExecutor, SandboxContract
from executors.testing.equality import Restoring
from store.files import Owner
from store.interfaces import Objects
from tests.dockerd.daemon import TestDaemon
from tests.executors import bench, docker_bench
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


@pytest.mark.slow
class TestExecutor(ExecutorContract):
    @pytest.fixture
    def make_executor(self, supply: Supply, tmp_path: Path) -> MakeExecutor:
        return docker_bench.maker(supply, tmp_path, "overlay")

    @pytest.fixture
    def other_executors(self, supply: Supply, tmp_path: Path) -> list[MakeExecutor]:
        return [docker_bench.maker(supply, tmp_path, "copy")]

    @pytest.fixture
    def repeats(self) -> bool:
        return False

    # As the contract's own, on the loop that the shared sandbox lives on.

    @pytest_asyncio.fixture(loop_scope="module")
    async def history(self, make_executor: MakeExecutor, objects: Objects) -> AsyncIterator[History]:
        async with make_executor(objects) as executor:
            yield History(executor, objects)

    @pytest_asyncio.fixture(loop_scope="module", params=["live", "restored"])
    async def session(
        self, request: pytest.FixtureRequest, make_executor: MakeExecutor, objects: Objects
    ) -> AsyncIterator[History]:
        async with make_executor(objects) as executor:
            yield History(executor if request.param == "live" else Restoring(make_executor, objects), objects)
