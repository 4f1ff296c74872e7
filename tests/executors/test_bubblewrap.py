"""The bubblewrap sandbox keeps every contract: with overlays and with copies, for root and for a plain user."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from executors.interfaces import Sandbox
from executors.testing import ExecutorContract, MakeExecutor, SandboxContract
from store.files import Owner
from tests.executors import bench


class TestSandboxWithOverlays(SandboxContract):
    @pytest.fixture
    async def sandbox(self, tmp_path: Path) -> AsyncIterator[Sandbox]:
        async with bench.bubblewrap(tmp_path, "overlay") as sandbox:
            yield sandbox

    @pytest.fixture
    def owner(self) -> Owner | None:
        return bench.owner()


class TestExecutorWithOverlays(ExecutorContract):
    @pytest.fixture
    def make_executor(self, tmp_path: Path) -> MakeExecutor:
        return bench.maker(tmp_path, "overlay")

    @pytest.fixture
    def other_executors(self, tmp_path: Path) -> list[MakeExecutor]:
        return [bench.maker(tmp_path, "copy")]


class TestExecutorWithCopies(ExecutorContract):
    @pytest.fixture
    def make_executor(self, tmp_path: Path) -> MakeExecutor:
        return bench.maker(tmp_path, "copy")
