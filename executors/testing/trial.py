"""What tests of a sandbox stand on: programs run on one work directory, each in a cell of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from executors import guarantees
from executors.interfaces import Job, RunResult, Sandbox, Watch
from store.files import Owner
from store.snapshot import Ending, Limits
from store.workspace import BindMount

LIMITS = Limits(
    wall_time_s=20.0,
    cpu_time_s=20,
    memory_bytes=256 << 20,
    processes=24,
    output_kept_bytes=64 << 10,
    output_flood_bytes=8 << 20,
    file_bytes=8 << 20,
    scratch_bytes=4 << 20,
    scratch_inodes=200,
    open_files=64,
)
"""Small, so that reaching a limit takes no time; generous in time, so that a busy machine fails no test."""


class Trial:
    """One sandbox with one work directory. `work` is that directory on the host."""

    def __init__(self, sandbox: Sandbox, work: Path) -> None:
        self.sandbox, self.work = sandbox, work
        self.mount = BindMount(str(work))

    async def run(
        self,
        *argv: str,
        stdin: bytes = b"",
        env: tuple[tuple[str, str], ...] = (),
        limits: Limits = LIMITS,
        deterministic: bool = False,
        watch: Watch | None = None,
    ) -> RunResult:
        """Run one program in a new cell, to the death of its last process."""
        async with self.sandbox.open(self.mount, limits) as cell:
            return await cell.run(Job(argv, env, stdin, limits, deterministic), watch)

    async def python(self, source: str, *, stdin: bytes = b"", limits: Limits = LIMITS) -> RunResult:
        return await self.run(*python(source), stdin=stdin, limits=limits)

    async def shell(self, script: str, *, limits: Limits = LIMITS) -> RunResult:
        return await self.run("sh", "-c", script, limits=limits)

    async def says(self, source: str, *, limits: Limits = LIMITS) -> str:
        """What a Python program prints that must end well."""
        result = await self.python(source, limits=limits)
        assert (result.ending, result.exit_code) == (Ending.EXITED, 0), result
        return result.stdout.data.decode().strip()

    def lacks(self, guarantee: str) -> bool:
        """Whether the sandbox itself says that it cannot give a guarantee here."""
        assert guarantee in guarantees.NAMES, guarantee
        return any(lack.startswith(guarantee + ":") for lack in self.sandbox.capabilities.missing)


class TrialFixtures:
    """Give a fixture `sandbox`; and `owner`, when programs run under another user id."""

    @pytest.fixture
    def owner(self) -> Owner | None:
        return None

    @pytest.fixture
    def trial(self, sandbox: Sandbox, owner: Owner | None, tmp_path: Path) -> Trial:
        work = tmp_path / "trial-work"
        work.mkdir()
        if owner is not None:
            os.chown(work, owner.uid, owner.gid)
        return Trial(sandbox, work)


def python(source: str) -> tuple[str, ...]:
    """The command that runs a short Python program, started as fast as Python starts."""
    return ("python3", "-I", "-S", "-c", source)
