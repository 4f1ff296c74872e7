"""`psf demo`, by everybody who may type it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLAIN_UID = 12345
CHAPTERS = (
    "keeps files between calls",
    "another language",
    "pybash",
    "Every step is a snapshot",
    "Fork",
    "Rollback",
    "Done",
)


def run_demo(command: list[str], temporary: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(temporary), **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_tells_its_story_and_leaves_nothing_behind(tmp_path: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    printed = run_demo([sys.executable, "-m", "psf.cli", "demo"], tmp_path)
    for chapter in CHAPTERS:
        assert chapter in printed
    assert list(tmp_path.iterdir()) == []
    assert Path("/proc/self/mountinfo").read_text() == mounts


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_gets_the_same_demo(tmp_path: Path) -> None:
    home = Path("/var/tmp") / f"psf-plain-{os.getpid()}"
    packages = Path(sys.prefix) / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    try:
        shutil.copytree(packages, home / "packages", ignore=shutil.ignore_patterns("mypy*", "ruff*"))
        for package in ("psf", "executors", "store"):
            shutil.copytree(Path(__file__).parent.parent.parent / package, home / "packages" / package)
        (home / "temporary").mkdir()
        for path in (home, *home.rglob("*")):
            os.chown(path, PLAIN_UID, PLAIN_UID, follow_symlinks=False)
        switch = ["setpriv", "--reuid", str(PLAIN_UID), "--regid", str(PLAIN_UID), "--clear-groups"]
        printed = run_demo(
            [*switch, reachable_python(), "-m", "psf.cli", "demo"],
            home / "temporary",
            HOME=str(home),
            PYTHONPATH=str(home / "packages"),
            PYTHONDONTWRITEBYTECODE="1",
        )
        assert list((home / "temporary").iterdir()) == []
    finally:
        shutil.rmtree(home, ignore_errors=True)
    for chapter in CHAPTERS:
        assert chapter in printed


def reachable_python() -> str:
    """A Python of our version that an ordinary user can start: ours may lie below a private home."""
    for candidate in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if Path(candidate).exists():
            version = subprocess.run(
                [candidate, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, text=True, check=True
            )
            if int(version.stdout) == sys.version_info[1]:
                return candidate
    pytest.skip(f"no Python 3.{sys.version_info[1]} that an ordinary user can reach")
