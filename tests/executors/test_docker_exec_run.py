"""Runs by the daemon alone, with one that is made up: for moments at which a real one is seldom caught."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from executors.docker_container import DockerSettings
from executors.docker_daemon import Started
from executors.docker_exec import DockerExecSandbox
from executors.docker_exec_folders import HostFolders
from executors.docker_exec_run import Run
from executors.errors import SandboxBroken
from executors.interfaces import Job
from executors.watching import DiskWatch
from store.snapshot import Limits
from store.workspace import BindMount
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

    watches = [(DiskWatch(str(tmp_path)), 1 << 30, 1000)]
    daemon: Any = StubDaemon()
    run = Run(daemon, Started("container", NOBODYS_PID, -1), Job(("true",), (), b"", Limits()), watches, end, None)
    with pytest.raises(SandboxBroken):
        await run.result({}, bench.profile().user, "/work")


async def test_a_cell_that_is_cancelled_while_it_is_opened_leaves_no_folder(tmp_path: Path) -> None:
    class SlowFolders(HostFolders):
        def make_scratch(self) -> Path:
            made = super().make_scratch()
            time.sleep(0.1)
            return made

    folders = SlowFolders(tmp_path, {}, bench.profile().user)
    daemon: Any = StubDaemon()
    sandbox = DockerExecSandbox(bench.profile(), DockerSettings("image", tmp_path), daemon, folders)

    async def enter() -> None:
        async with sandbox.open(BindMount(str(tmp_path)), Limits()):
            raise AssertionError

    opening = asyncio.create_task(enter())
    await asyncio.sleep(0.05)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not [path for path in folders._root.iterdir() if path.is_dir()]
    folders.remove()
