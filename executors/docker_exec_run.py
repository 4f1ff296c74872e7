"""One run in a container of its own: its streams, its time, its disk, and what its end means."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from executors import cgroups, docker_exec_container, docker_groups, watching
from executors.completion import completed
from executors.docker_daemon import Started
from executors.docker_exec_daemon import ExecDaemon
from executors.docker_exec_streams import Streams
from executors.endings import ending_of, limits_hit, told_code
from executors.errors import SandboxBroken
from executors.interfaces import Job, RunResult, Usage, Watch
from executors.output import Following
from executors.paths import SCRATCH
from executors.profile import User
from store.snapshot import Limits
from store.workspace import BindMount, OverlayMount

_SETUP_PATIENCE_S = 20.0
_END_PATIENCE_S = 5.0
_KILLED = 128 + signal.SIGKILL

Watches = list[tuple[watching.DiskWatch, int, int]]
"""What is watched while a program runs: each with how many bytes and inodes it may come to hold."""


def folder_watches(
    mount: OverlayMount | BindMount,
    before: tuple[int, int],
    work_dir: str,
    pid: int,
    scratch: Path,
    limits: Limits,
    cell: Limits,
) -> Watches:
    """For the work directory, by the limits of the run, and for scratch, by those of the cell. `before`: what the work directory holds; `pid`: of the container's init."""
    device = None
    with contextlib.suppress(OSError):  # an overlay is mounted there only, where only root may look
        device = os.stat(mount.folder if isinstance(mount, BindMount) else f"/proc/{pid}/root{work_dir}").st_dev
    work = watching.of_mount(msgspec.to_builtins(mount), before, watching.Shown((work_dir,), device))
    shown = watching.Shown(tuple(SCRATCH), scratch.stat().st_dev)
    return [
        (work, limits.disk_bytes, limits.disk_inodes),
        (watching.DiskWatch(str(scratch), shown=shown), cell.scratch_bytes, cell.scratch_inodes),
    ]


class Run:
    """A job in a container that is there for it alone; `end` throws that away. `watch` sees what it prints."""

    def __init__(
        self,
        daemon: ExecDaemon,
        container: Started,
        job: Job,
        watches: Watches,
        end: Callable[[Started], Awaitable[None]],
        watch: Watch | None,
    ) -> None:
        self._following = Following(watch, job.limits.output_kept_bytes)
        self._daemon, self._container, self._job, self._watches, self._end = daemon, container, job, watches, end
        self._since_s = time.time()
        self._program = ""
        self._group = docker_groups.group_of(container.pid, container.identity)
        self._overrun: watching.Overrun | None = None

    async def result(self, environment: dict[str, str], user: User, work_dir: str) -> RunResult:
        """Start the program and see it off. Raises SandboxBroken."""
        command = docker_exec_container.command(self._job.argv, self._job.limits)
        limits = self._job.limits
        begun = self._daemon.begin(self._container.identity, command, user, environment, work_dir)
        self._program, connection = await completed(begun, undo=_hang_up)
        kept_bytes, flood_bytes = limits.output_kept_bytes, limits.output_flood_bytes
        streams = Streams(connection, self._job.stdin, kept_bytes, flood_bytes, self._following)
        try:
            timed_out = await self._attend(streams)
            return await self._concluded(streams, timed_out=timed_out)
        finally:
            self._following.close()
            streams.close()

    async def _attend(self, streams: Streams) -> bool:
        """Wait until the program has ended or done too much. Whether it is its time that is over."""
        if not await _any_of(_SETUP_PATIENCE_S, streams.began.wait(), streams.ended.wait()):
            raise SandboxBroken("a container did not start a program in time")
        if not streams.began.is_set():
            return False
        left_s = streams.began_s + self._job.limits.wall_time_s - time.monotonic()
        return not await _any_of(max(0.0, left_s), streams.ended.wait(), streams.flooded.wait(), self._watch())

    async def _concluded(self, streams: Streams, *, timed_out: bool) -> RunResult:
        spent = self._spent()
        killed = timed_out or bool(self._overrun) or streams.flooded.is_set()
        code = None
        if killed:
            await completed(self._end(self._container))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(streams.ended.wait(), _END_PATIENCE_S)
        else:
            code = await self._daemon.exit_code(self._program)
        streams.close()
        out_of_memory = await self._ran_out_of_memory(spent, code, killed=killed)
        died = not killed and not out_of_memory and code in (None, _KILLED)
        if died and not await self._daemon.lives(self._container.identity):
            raise SandboxBroken("the container was ended from outside while a program ran in it")
        if not streams.began.is_set() and not out_of_memory:
            reason = streams.complaint.decode(errors="replace").strip() or f"it ended with {code}"
            raise SandboxBroken("the sandbox could not be set up; the server's log says why", detail=reason)
        if died and code is None:
            raise SandboxBroken("the Docker daemon does not tell how a program ended")
        stdout, stderr = streams.outputs()
        self._following.end(stdout, stderr)
        ending, exit_code, number = ending_of(
            None if code is None else told_code(code),
            timed_out=timed_out,
            overrun=self._overrun,
            flooded=streams.flooded.is_set(),
            out_of_memory=out_of_memory,
        )
        hit = limits_hit(
            ending,
            self._overrun,
            memory=out_of_memory,
            processes=spent is not None and spent.process_refusals > 0,
            output=stdout.truncated or stderr.truncated,
        )
        wall_time_s = streams.ended_s - streams.began_s if streams.began.is_set() else 0.0
        disk_bytes = await completed(asyncio.get_running_loop().run_in_executor(None, self._watches[0][0].most_bytes))
        usage = Usage(wall_time_s, spent and spent.cpu_time_s, spent and spent.memory_peak_bytes, disk_bytes)
        return RunResult(ending, exit_code, number, stdout, stderr, hit, usage)

    def _spent(self) -> cgroups.GroupUsage | None:
        """What the container has taken so far; None where that cannot be seen, or when it is gone."""
        try:
            return self._group.usage() if self._group is not None else None
        except OSError:
            return None

    async def _ran_out_of_memory(self, spent: cgroups.GroupUsage | None, code: int | None, *, killed: bool) -> bool:
        """Where the group is not to be seen the daemon tells, a moment late: it is asked only when something was killed."""
        if spent is not None and code is not None:
            return spent.memory_kills > 0
        died = code == _KILLED or (code is None and not killed)
        return died and await self._daemon.ran_out_of_memory(self._container.identity, self._since_s)

    async def _watch(self) -> None:
        """Look at what it writes until that is too much. Ends only then."""
        pause_s = watching.PAUSE_S
        try:
            while self._overrun is None:
                await asyncio.sleep(pause_s)
                began_s = time.monotonic()
                ended = await completed(asyncio.get_running_loop().run_in_executor(None, self._look))
                pause_s = max(watching.PAUSE_S if ended else 0, watching.SHARE * (time.monotonic() - began_s))
        finally:
            for watch, _, _ in self._watches:
                watch.rest()

    def _look(self) -> bool:
        """Count on for a moment, in a thread. Whether all has been counted once more."""
        rounds = []
        for watch, bytes_max, inodes_max in self._watches:
            overrun, ended = watch.step(bytes_max, inodes_max, self._processes)
            self._overrun = self._overrun or overrun
            rounds.append(ended)
        if self._group is not None and (self._group.cpu_time_s() or 0) > self._job.limits.cpu_time_s:
            self._overrun = self._overrun or "cpu"
        return all(rounds)

    def _processes(self) -> list[int]:
        return self._group.processes() if self._group is not None else []


async def _hang_up(begun: tuple[str, socket.socket]) -> None:
    begun[1].close()


async def _any_of(patience_s: float, *waits: Awaitable[object]) -> bool:
    """Wait until one of them is done; False when none is in time."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        return bool(done)
    finally:
        for task in tasks:
            task.cancel()
        await completed(asyncio.wait(tasks))
