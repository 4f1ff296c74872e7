"""What `psf store` says to a folder that somebody has tampered with: one line that says what to type, and never a traceback."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from store.local import LocalStore
from tests.store.history import begin, step


def psf(*arguments: str, store: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "psf.cli", "store", *arguments]
    environment = {**os.environ, "PSF_STORE": str(store)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def fifo_for_format(root: Path) -> None:
    (root / "FORMAT").unlink()
    os.mkfifo(root / "FORMAT")


def fifo_for_pack(root: Path) -> None:
    os.mkfifo(root / "packs" / "00000009.pack")


def wrong_value(root: Path) -> None:
    with contextlib.closing(sqlite3.connect(root / "heads.sqlite")) as database:
        database.executescript("update sessions set used_at_s = 1e300")


def missing_table(root: Path) -> None:
    with contextlib.closing(sqlite3.connect(root / "heads.sqlite")) as database:
        database.executescript("drop table log")


@pytest.mark.parametrize("spoil", [fifo_for_format, fifo_for_pack, wrong_value, missing_table])
def test_a_tampered_store_is_told_in_a_line_and_mended(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    root = tmp_path / "store"
    store = LocalStore(root)
    begin(store, "a" * 12)
    step(store, "a" * 12, {b"file": b"content"})
    store.close()
    spoil(root)
    for arguments in (("ls",), ("stats",), ("gc",), ("ls", "a" * 12)):
        done = psf(*arguments, store=root)
        assert (done.returncode, done.stdout) == (1, ""), done
        (line,) = done.stderr.splitlines()
        assert line.startswith("psf: ")
        assert "`psf store check --repair`" in line
        assert str(tmp_path) not in line
    checked = psf("check", store=root)
    assert checked.returncode in (1, 3)
    assert "`psf store check --repair`" in " ".join((checked.stdout + checked.stderr).split())
    assert psf("check", "--repair", store=root).returncode == 3
    assert psf("check", store=root).returncode == 0
    assert psf("ls", "a" * 12, "d", store=root).returncode == 0
