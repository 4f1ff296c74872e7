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

from tests.e2e.test_demo import PLAIN_UID, reachable_python

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDED = ("psf", "executors", "store", "tests", "pyproject.toml")


@pytest.fixture
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_gets_the_same_sandbox_and_executor(plain_home: Path) -> None:
    switch = ["setpriv", "--reuid", str(PLAIN_UID), "--regid", str(PLAIN_UID), "--clear-groups"]
    tests = ("tests/executors/test_bubblewrap.py", "-k", "Overlays")
    done = subprocess.run(
        [*switch, reachable_python(), "-m", "pytest", "-p", "no:cacheprovider", "--timeout", "60", *tests],
        cwd=plain_home,
        env={
            **os.environ,
            "HOME": str(plain_home),
            "TMPDIR": str(plain_home / "temporary"),
            "PYTHONPATH": f"{plain_home}:{plain_home}/packages",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
