"""Power cuts on a real file system, with the real store and the SQLite of the standard library. See tests/faults/powercut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMESPACES = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Mounts, loop devices and processes end with the run, however it ends."""
MEMORY = Path("/dev/shm")
NEEDED_BYTES = 256 << 20
TOOLS = ("unshare", "losetup", "nbdkit", "nbdfuse", "mkfs.ext4", "mkfs.xfs")
PROBES = (
    ("nbdkit", "--dump-plugin", "python"),
    (*NAMESPACES, "losetup", "--find"),
    ("test", "-c", "/dev/fuse"),
)


def why_not() -> str | None:
    """Why no block device of our own can be had here."""
    if os.geteuid():
        return "power cuts need root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"power cuts need {', '.join(missing)}"
    for probe in PROBES:
        if subprocess.run(probe, capture_output=True).returncode:
            return f"power cuts need `{' '.join(probe)}` to succeed"
    return None


def cut_power(folder: Path, file_system: str, states: int, seed: int, careless: str = "nowhere") -> dict[str, Any]:
    arguments = f"{folder} --file-system {file_system} --states {states} --seed {seed} --careless {careless}".split()
    result = subprocess.run(
        [*NAMESPACES, sys.executable, "-m", "tests.faults.powercut", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["states"] == states
    assert report["flushes"] > 100, report
    return report


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where images may lie: in memory, where there is room, so that nothing is waited for.

    Removed when the namespaces are gone, and with them every mount below it.
    """
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > NEEDED_BYTES
    with tempfile.TemporaryDirectory(prefix="psf-powercut-", dir=MEMORY if roomy else None) as path:
        yield Path(path)


@pytest.mark.parametrize("file_system", ["ext4", "xfs"])
def test_what_was_acknowledged_survives_a_power_cut(folder: Path, file_system: str) -> None:
    report = cut_power(folder, file_system, 60, 1)
    assert not report["failing"], report
    assert report["pending_writes"] > 20, report


@pytest.mark.parametrize("where", ["objects", "heads"])
def test_a_store_that_does_not_sync_is_found_out(folder: Path, where: str) -> None:
    assert cut_power(folder, "ext4", 20, 1, where)["failing"] > 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file_system", "seed"), [("ext4", 10 + n) for n in range(10)] + [("xfs", n) for n in range(30, 35)]
)
def test_it_survives_many_power_cuts(folder: Path, file_system: str, seed: int) -> None:
    report = cut_power(folder, file_system, 200, seed)
    assert not report["failing"], report
