"""The directories that are measured: packages as pip unpacks them, a checkout of this repository, and made ones of any size."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("numpy==2.4.6", "scipy==1.17.1", "pandas==3.1.1", "python-dateutil==4.0.0", "six==1.17.0", "tzdata==2026.6")
"""What pandas needs is named too, so that pip chooses nothing."""
PER_DIRECTORY_MAX = 200
FILE_BYTES = 300


class SourceTree(msgspec.Struct, frozen=True):
    """A directory to take snapshots of. `changed` is the file that a step rewrites; it is not there before the first one."""

    name: str
    path: Path
    changed: str
    files: int
    directories: int
    total_bytes: int


def packages(folder: Path) -> SourceTree:
    """numpy, scipy and pandas as pip unpacks and compiles them."""
    path = folder / "packages"
    if not path.exists():
        aside = _aside(path)
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
        # --target with a changed directory: pip complains of nothing that way, whatever else is installed.
        subprocess.run([*command, "--only-binary", ":all:", "--target", str(aside), *PACKAGES], check=True)
        aside.rename(path)
    return _described("packages", path, "numpy/linalg/_step.py")


def checkout(folder: Path) -> SourceTree:
    """The files of this repository's last commit."""
    path = folder / "checkout"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    with subprocess.Popen(["git", "-C", str(ROOT), "archive", "HEAD"], stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "x", "-C", str(path)], stdin=archive.stdout, check=True)
    if archive.returncode:
        raise RuntimeError(f"git archive of {ROOT} ended with {archive.returncode}")
    return _described("checkout", path, "store/_step.py")


def made(folder: Path, files: int) -> SourceTree:
    """`files` small files, at most 200 entries in a directory: the same bytes each time."""
    path = folder / f"made-{files}"
    if not path.exists():
        aside = _aside(path)
        chosen = random.Random(files)
        for number in range(files):
            directory = aside / _directory_of(number, files)
            if number % PER_DIRECTORY_MAX == 0:
                directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{number:06d}.txt").write_bytes(chosen.randbytes(FILE_BYTES))
        aside.rename(path)
    middle = _directory_of(files // 2, files)
    return _described(f"{files // 1000}k", path, f"{middle}/_step.py")


def _directory_of(number: int, files: int) -> str:
    """One level of directories up to 20,000 files, two beyond: the depth that a tree of that size has."""
    leaf = number // PER_DIRECTORY_MAX
    return f"{leaf // 100:02d}/{leaf % 100:02d}" if files > 100 * PER_DIRECTORY_MAX else f"{leaf:03d}"


def flat(folder: Path, files: int) -> SourceTree:
    """`files` small files in a single directory: what a tree of trees is worst at."""
    path = folder / f"flat-{files}"
    if not path.exists():
        aside = _aside(path)
        chosen = random.Random(files)
        for number in range(files):
            (aside / f"{number:06d}.txt").write_bytes(chosen.randbytes(FILE_BYTES))
        aside.rename(path)
    return _described(f"{files // 1000}k flat", path, "_step.py")


def _aside(path: Path) -> Path:
    aside = path.with_name(f".{path.name}-unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def _described(name: str, path: Path, changed: str) -> SourceTree:
    (path / changed).unlink(missing_ok=True)  # an interrupted run's
    files = directories = total_bytes = 0
    for folder, names, inner in os.walk(path):
        directories += len(names)
        files += len(inner)
        total_bytes += sum(os.lstat(os.path.join(folder, file)).st_size for file in inner)
    return SourceTree(name, path, changed, files, directories, total_bytes)
