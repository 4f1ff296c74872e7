"""The Docker sandbox for a plain user in the socket's group: run by tests/executors/test_unprivileged.py, which makes one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from executors.docker import start
from executors.docker_exec import DockerExecSandbox
from executors.interfaces import Sandbox
from executors.local import LocalExecutor
from executors.sandboxes import Options
from executors.systems import OneSystem, Site
from executors.testing import History
from executors.testing.confinement import ConfinementContract
from executors.testing.determinism import DeterminismContract
from executors.testing.endings import EndingsContract
from executors.testing.trial import TrialFixtures
from store.files import Files
from store.memory import MemoryObjects
from store.pool import Workspaces
from store.workspace import WorkspaceSettings
from tests.dockerd import image
from tests.dockerd.daemon import TestDaemon
from tests.executors import bench


class TestSandbox(ConfinementContract, EndingsContract, DeterminismContract, TrialFixtures):
    @pytest.fixture
    async def sandbox(self, docker_daemon: TestDaemon, tmp_path: Path) -> AsyncIterator[Sandbox]:
        settings = {"image": image.NAME, "base_url": docker_daemon.url}
        sandbox = await start(bench.profile(), Options(tmp_path / "probes", settings=settings))
        assert isinstance(sandbox, DockerExecSandbox)
        yield sandbox
        await sandbox.close()
        assert list((tmp_path / "probes").iterdir()) == []

    async def test_steps_are_history(self, sandbox: Sandbox, tmp_path: Path) -> None:
        objects = MemoryObjects()
        settings = WorkspaceSettings(sandbox.capabilities.workspace, privileged=False, owner=None)
        pool = Workspaces(tmp_path / "workspaces", objects, Files(), settings)
        executor = LocalExecutor(OneSystem(Site(sandbox)), pool, objects, None)
        history = History(executor, objects)
        await history.shell("mkdir -m 000 d; echo 1 > a")
        assert await history.says("cat a; ls -d d") == "1\nd"
        assert history.contents() == {"a": b"1\n", "d": None}
        await executor.close()
