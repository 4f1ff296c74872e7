"""Runs by the daemon alone, with one that is made up: for moments at which a real one is seldom caught."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from executors.docker_daemon import Started
from executors.docker_exec_run import Run
from executors.errors import SandboxBroken
from executors.interfaces import Job
from executors.watching import DiskWatch
from store.snapshot import Limits
from tests.executors import bench

NOBODYS_PID = 1 << 22


class StubDaemon:
    """Programs begin and end at once; how, the daemon does not say. Their container lives."""

    image_variables = ()

    async def begin(self, *_: Any) -> tuple[str, socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(struct.pack(">BxxxI", 1, 1) + b"\n")
        return "program", ours

    async def exit_code(self, _: str) -> int | None:
        return None

    async def lives(self, _: str) -> bool:
        return True

    async def ran_out_of_memory(self, *_: Any) -> bool:
        return False


async def test_a_program_of_whose_end_the_daemon_knows_nothing_has_no_ending(tmp_path: Path) -> None:
    async def end(_: Started) -> None:
        pass

    watches = [(DiskWatch(str(tmp_path), grown=False), 1 << 30, 1000)]
    daemon: Any = StubDaemon()
    run = Run(daemon, Started("container", NOBODYS_PID, -1), Job(("true",), (), b"", Limits()), watches, end)
    with pytest.raises(SandboxBroken):
        await run.result({}, bench.profile().user, "/work")
