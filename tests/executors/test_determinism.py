"""Who cannot make programs repeat says so before anything is done, and only to those who ask for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from executors import child, determinism, kernel
from executors.errors import DeterminismUnavailable
from executors.interfaces import Capabilities, Cell, Job, Output, RunResult, Usage, Watch
from executors.local import LocalExecutor
from executors.systems import OneSystem, Site
from executors.testing.history import SHELL, make_request
from store.files import Files
from store.memory import MemoryObjects
from store.pool import Workspaces
from store.snapshot import Ending, Limits
from store.tree import EMPTY_TREE
from store.workspace import BindMount, OverlayMount, WorkspaceSettings

ABLE, SILENT = (Capabilities("any", "copy", enforced, ()) for enforced in ({determinism.NAME: "something"}, {}))
UNABLE = Capabilities("any", "copy", {}, (f"{determinism.NAME}: a filter refuses it",))


class Remembering:
    """A sandbox that runs nothing and remembers its jobs."""

    def __init__(self, capabilities: Capabilities, scratch: Path) -> None:
        self.capabilities, self.jobs = capabilities, list[Job]()
        self.scratch = os.open(scratch, os.O_RDONLY)
        self.opened = 0

    @asynccontextmanager
    async def open(self, mount: OverlayMount | BindMount, limits: Limits) -> AsyncIterator[Cell]:
        self.opened += 1
        yield self

    async def run(self, job: Job, watch: Watch | None = None) -> RunResult:
        self.jobs.append(job)
        return RunResult(Ending.EXITED, 0, None, Output(), Output(), (), Usage(0.1))

    async def close(self) -> None:
        os.close(self.scratch)


@asynccontextmanager
async def executor(folder: Path, capabilities: Capabilities) -> AsyncIterator[tuple[LocalExecutor, Remembering]]:
    objects, sandbox = MemoryObjects(), Remembering(capabilities, folder)
    pool = Workspaces(folder / "workspaces", objects, Files(), WorkspaceSettings("copy", os.geteuid() == 0, None))
    local = LocalExecutor(OneSystem(Site(sandbox)), pool, objects, None)
    yield local, sandbox
    await local.close()


@pytest.mark.parametrize(
    ("capabilities", "why"), [(UNABLE, "a filter refuses it"), (SILENT, "nothing provides it")], ids=["told", "silent"]
)
async def test_a_sandbox_that_does_not_offer_it_is_not_asked_for_it(
    tmp_path: Path, capabilities: Capabilities, why: str
) -> None:
    async with executor(tmp_path, capabilities) as (local, sandbox):
        with pytest.raises(DeterminismUnavailable, match=f"the sandbox any cannot .*: {why}"):
            await local.execute(make_request(EMPTY_TREE, 1, SHELL, "", deterministic=True))
        assert sandbox.opened == 0
        await local.execute(make_request(EMPTY_TREE, 1, SHELL, ""))
        assert [job.deterministic for job in sandbox.jobs] == [False]


async def test_a_sandbox_that_offers_it_is_told(tmp_path: Path) -> None:
    async with executor(tmp_path, ABLE) as (local, sandbox):
        for deterministic in (True, False):
            await local.execute(make_request(EMPTY_TREE, 1, SHELL, "", deterministic=deterministic))
        assert [job.deterministic for job in sandbox.jobs] == [True, False]


def test_trying_leaves_no_trace() -> None:
    before = kernel.set_personality(0xFFFFFFFF), os.sched_getaffinity(0)
    assert child.never_repeats() is None
    assert (kernel.set_personality(0xFFFFFFFF), os.sched_getaffinity(0)) == before


REFUSED = """
from executors import child, docker_kernel, seccomp
docker_kernel.drop_capabilities()
docker_kernel.filter_system_calls(seccomp.compile_filter())
print(child.never_repeats())
"""


def test_where_a_filter_around_psf_refuses_it_that_is_said() -> None:
    told = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=True).stdout
    assert "Operation not permitted" in told
