"""What the launcher remembers of a job while it runs. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executors import cgroups, watching

if TYPE_CHECKING:
    from executors import connecting

Message = dict[str, Any]
SETUP_PATIENCE_S = 20.0
"""A confiner takes milliseconds to bring a program to the gate; one that takes this long never will."""


class Job:
    """One sandboxed program, from fork to the death of its last process."""

    def __init__(self, message: Message, group: cgroups.Group | None, disk: watching.DiskWatch) -> None:
        self.identity: int = message["id"]
        self.group = group
        self.wall_time_s: float = message["wall_time_s"]
        self.deadline_s: float | None = time.monotonic() + SETUP_PATIENCE_S
        self.started_s: float | None = None
        self.ended_s = 0.0
        self.outer_pid = self.outer_pidfd = -1
        self.gate: socket.socket | None = None
        self.egress: dict[str, list[str]] | None = message["egress"]
        self.connection: connecting.Connection | None = None
        self.fault: str | None = None
        """Why it could not be started, when that is no word of the confiner's."""
        self.program_pid = self.program_pidfd = self.init_pid = self.init_pidfd = -1
        self.outer_status: int | None = None
        self.timed_out = self.doomed = False
        self._disk, self._maxima = disk, (message["disk_bytes"], message["disk_inodes"])
        self.cpu_time_s: int = message["cpu_time_s"]
        self.watched: bool = message["watched"]
        self.look_s: float | None = None
        """When to look next at what it has taken."""
        self.overrun: watching.Overrun | None = None

    def look(self) -> None:
        """Look at what it has taken so far, and kill it if that is too much."""
        began_s = time.monotonic()
        self.overrun, ended = self._disk.step(*self._maxima, self._processes)
        if self._spent_cpu_time_s() > self.cpu_time_s:
            self.overrun = self.overrun or "cpu"
        if self.overrun:
            self.look_s = None
            self.kill_now()
            return
        now_s = time.monotonic()
        self.look_s = now_s + max(watching.PAUSE_S if ended else 0, watching.SHARE * (now_s - began_s))

    def disk_bytes(self) -> int | None:
        """What its work directory was seen to have grown by, when all of it is dead (`DiskWatch.most_bytes`)."""
        return self._disk.most_bytes()

    def _spent_cpu_time_s(self) -> float:
        """What all of it has taken; without a group what its first process has, which need not heed the signal of its own limit."""
        if self.group is not None:
            return self.group.cpu_time_s() or 0.0
        with contextlib.suppress(OSError):
            return sum(map(int, _status(self.program_pid)[11:13])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def _processes(self) -> list[int]:
        return self.group.processes() if self.group is not None else watching.processes_beside(self.init_pid)

    def kill(self) -> None:
        """Kill all of it: at once, or when the confiner has set it up.

        Killed earlier, a confiner could leave a child that has not yet been told to die with it and that nobody knows.
        """
        self.doomed = True
        if self.started_s is not None:
            self.kill_now()

    def kill_now(self) -> None:
        for descriptor in (self.init_pidfd, self.outer_pidfd):
            if descriptor >= 0:
                try:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def pids(self) -> set[int]:
        """Children of ours that are known to be this job's."""
        return {self.outer_pid, self.init_pid, self.connection.pid if self.connection is not None else -1}

    def adopt_orphan(self, known: set[int]) -> None:
        """Take over, and kill, what the dead confiner of a program that never came to the gate left: its pid namespace's first process.

        Whatever it was told by then, it has become our child; other children of ours are `known`.
        """
        for pid in _children() - known:
            self.init_pid, self.init_pidfd = pid, os.pidfd_open(pid)
            self.kill_now()
            return

    def give_up(self) -> None:
        """Take back what was begun of a job that nobody waits for."""
        if self.outer_pid >= 0:
            os.kill(self.outer_pid, signal.SIGKILL)
            os.waitpid(self.outer_pid, 0)
        self.close()
        if self.group is not None:
            self.group.remove()

    def close(self) -> None:
        self._disk.rest()
        if self.gate is not None:
            self.gate.close()
        if self.connection is not None:
            self.connection.end()
        for descriptor in (self.outer_pidfd, self.program_pidfd, self.init_pidfd):
            if descriptor >= 0:
                os.close(descriptor)


def parent(pid: int) -> int:
    """Who started a process; of a program that stands at the gate: its pid namespace's first process."""
    return int(_status(pid)[1])


def _status(pid: int) -> list[str]:
    """What /proc/[pid]/stat says of a process, from its state on (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _children() -> set[int]:
    found = set()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if parent(int(name)) == os.getpid():
                found.add(int(name))
    return found
