"""The launcher, in the test's own process: what it takes back when the machine has no more to give."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from executors import kernel
from executors.launcher_process import Launcher
from executors.watching import DiskWatch
from tests.e2e.conftest import descendants

ORDER: dict[str, Any] = {
    "id": 1, "cell": "cell", "argv": [], "arguments": [], "egress": None, "network": "loopback", "rlimits": {}, "processes": 100,
    "memory_bytes": 1 << 30, "group_processes": 100, "cpus": None, "cpu_time_s": 1, "wall_time_s": 1.0, "disk_bytes": 1, "disk_inodes": 1,
    "watched": False, "turn": None,
}  # fmt: skip


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    with socket.socket() as unused:
        made = Launcher(unused)
        made._privileged = False
        made._program, made._command = "/bin/sh", ["sh", "-c", "exec sleep 600"]
        made._disks["cell"] = DiskWatch(str(tmp_path))
        yield made


def test_a_run_that_cannot_be_watched_is_not_begun(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is forked already when there are no more descriptors."""

    def refused(_: int) -> int:
        raise OSError("refused")

    monkeypatch.setattr(os, "pidfd_open", refused)
    monkeypatch.setattr(kernel, "die_with_parent", lambda _: None)
    before, descriptors = descendants(os.getpid()), len(os.listdir("/proc/self/fd"))
    streams = [os.open(os.devnull, os.O_RDWR) for _ in range(3)]
    with pytest.raises(OSError, match="refused"):
        launcher._on_run(ORDER, streams)
    for stream in streams:
        os.close(stream)
    assert descendants(os.getpid()) - before == set()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert launcher._jobs == {}


def test_a_run_in_no_cell_is_refused(launcher: Launcher) -> None:
    with pytest.raises(OSError, match="closed"):
        launcher._on_run({**ORDER, "cell": "another"}, [])
