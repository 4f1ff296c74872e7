"""Many runs, of programs that leave all they can and of programs that are killed, leave the host as it was."""

from __future__ import annotations

import gc
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks import traces
from benchmarks.confined import containers_of, launcher_of
from executors.interfaces import Job, Sandbox
from store.snapshot import Ending, Limits
from store.workspace import BindMount
from tests.dockerd.daemon import TestDaemon
from tests.executors import bench, docker_bench

RUNS = 50
CONTAINERS = 20
MARK = f"psf-traces-{os.getpid()}"


async def run(sandbox: Sandbox, folder: Path, number: int) -> None:
    work = folder / "work"
    work.mkdir()
    if (owner := bench.owner()) is not None:
        os.chown(work, owner.uid, owner.gid)
    killed = number % 10 == 0
    limits = Limits(wall_time_s=0.1 if killed else 60)
    async with sandbox.open(BindMount(str(work)), limits) as cell:
        result = await cell.run(Job(("sleep", "1000") if killed else traces.litterer(MARK), (), b"", limits))
    assert (result.ending, result.exit_code) == ((Ending.TIMED_OUT, None) if killed else (Ending.EXITED, 0)), result
    for name in os.listdir(work):
        (work / name).unlink()
    work.rmdir()


async def leaves_the_host_as_it_was(sandbox: Sandbox, folder: Path) -> None:
    await run(sandbox, folder, 0)
    await run(sandbox, folder, 1)
    gc.collect()  # what other tests have left open
    watched = traces.Watched(launcher_of(sandbox), containers_of(sandbox), folder, MARK)
    before = traces.look(watched)
    for number in range(RUNS):
        await run(sandbox, folder, number)
    after = traces.settled(before, lambda: traces.look(watched))
    assert traces.difference(before, after) == []
    assert after["processes"], "the launcher is one of ours"


async def test_runs_of_bubblewrap_leave_the_host_as_it_was(tmp_path: Path) -> None:
    async with bench.bubblewrap(tmp_path, "copy") as sandbox:
        await leaves_the_host_as_it_was(sandbox, tmp_path)


async def test_runs_of_nsjail_leave_the_host_as_it_was(tmp_path: Path) -> None:
    async with bench.nsjail(tmp_path) as sandbox:
        await leaves_the_host_as_it_was(sandbox, tmp_path)


async def test_runs_of_docker_leave_the_host_as_it_was(tmp_path: Path, docker_daemon: TestDaemon) -> None:
    async with docker_bench.docker(docker_daemon, tmp_path) as sandbox:
        await leaves_the_host_as_it_was(sandbox, tmp_path)


async def test_containers_that_come_and_go_leave_the_host_as_it_was(
    tmp_path: Path, docker_daemon: TestDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    async with docker_bench.docker(docker_daemon, tmp_path, warm_containers=0) as sandbox:
        await run(sandbox, tmp_path, 1)
        gc.collect()
        watched = traces.Watched(launcher_of(sandbox), (), tmp_path, MARK)
        before = traces.look(watched)
        for number in range(CONTAINERS):
            await run(sandbox, tmp_path, number)
        after = traces.look(watched)
        # The library for Docker keeps some connections to the daemon, ten at most.
        kept = len(after.pop("server descriptors")) - len(before.pop("server descriptors"))
        assert kept <= 10
        assert traces.difference(before, after) == []
    assert not caplog.messages


async def test_a_process_a_descriptor_and_a_file_too_many_are_seen(tmp_path: Path) -> None:
    async with bench.bubblewrap(tmp_path, "copy") as sandbox:
        watched = traces.Watched(launcher_of(sandbox), (), tmp_path, MARK)
        before = traces.look(watched)
        (tmp_path / "left").touch()
        child = subprocess.Popen(["true"])
        descriptor = os.open(tmp_path, os.O_RDONLY)
        try:
            found = traces.difference(before, traces.look(watched))
        finally:
            os.close(descriptor)
            child.wait()
    assert sorted(words.split(": ")[0] for words in found) == ["files", "processes", "server descriptors"]
