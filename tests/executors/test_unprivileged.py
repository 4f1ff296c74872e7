"""The contracts once more, by an ordinary user: other mounts, no control groups, other limits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dockerd.daemon import TestDaemon
from tests.e2e.test_demo import PLAIN_UID, reachable_python

ROOT = Path(__file__).resolve().parent.parent.parent
SOCKET_GROUP = 12346
NEEDED = ("psf", "executors", "store", "tests", "pyproject.toml")


@pytest.fixture(scope="module")
def plain_home() -> Iterator[Path]:
    """A copy of psf, its tests and what they need, in a folder that belongs to an ordinary user."""
    home = Path(tempfile.mkdtemp(prefix="psf-plain-", dir="/var/tmp"))
    packages = Path(sys.prefix) / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    try:
        shutil.copytree(packages, home / "packages", ignore=shutil.ignore_patterns("mypy*", "ruff*", "*.pth"))
        for name in NEEDED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, home / name)
        (home / "temporary").mkdir()
        for path in (home, *home.rglob("*")):
            os.chown(path, PLAIN_UID, PLAIN_UID, follow_symlinks=False)
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def run_as_plain_user(home: Path, *tests: str, groups: str = "--clear-groups", **variables: str) -> None:
    switch = ["setpriv", "--reuid", str(PLAIN_UID), "--regid", str(PLAIN_UID), groups]
    done = subprocess.run(
        [*switch, reachable_python(), "-m", "pytest", "-p", "no:cacheprovider", "--timeout", "60", *tests],
        cwd=home,
        env={
            **os.environ,
            **variables,
            "HOME": str(home),
            "TMPDIR": str(home / "temporary"),
            "PYTHONPATH": f"{home}:{home}/packages",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_gets_the_same_sandbox_and_executor(plain_home: Path) -> None:
    run_as_plain_user(plain_home, "tests/executors/test_bubblewrap.py", "-k", "Overlays")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_member_of_the_group_docker_gets_the_docker_sandbox(plain_home: Path, docker_daemon: TestDaemon) -> None:
    lent = docker_daemon.lent_to(SOCKET_GROUP)
    chosen = (
        "tests/executors/docker_plain.py",
        "-k",
        "history or root or belongs or work_directory or holds or memory",
    )
    run_as_plain_user(plain_home, *chosen, groups=f"--groups={SOCKET_GROUP}", **lent)
