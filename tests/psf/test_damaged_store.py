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
from tests.store.history import LARGE_TAIL, begin, step


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


def lost_format(root: Path) -> None:
    (root / "FORMAT").unlink()


def other_format(root: Path) -> None:
    (root / "FORMAT").write_bytes(b"psf st\0\0\0\0\0\0")


def noise_for_heads(root: Path) -> None:
    (root / "heads.sqlite").write_bytes(b"noise" * 1000)


@pytest.mark.parametrize(
    "spoil", [fifo_for_format, fifo_for_pack, wrong_value, missing_table, lost_format, other_format, noise_for_heads]
)
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
    assert checked.returncode == 3
    assert "`psf store check --repair`" in " ".join((checked.stdout + checked.stderr).split())
    assert psf("check", "--repair", store=root).returncode == 3
    assert psf("check", store=root).returncode == 0
    assert psf("ls", "a" * 12, "d", store=root).returncode == 0


@pytest.mark.parametrize("arguments", [("check",), ("check", "--repair")])
def test_a_marker_that_was_made_again_is_told(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    root = tmp_path / "store"
    LocalStore(root).close()
    (root / "marker").unlink()
    done = psf(*arguments, store=root)
    assert done.returncode == 3
    assert "the file with the store's marker was lost or damaged" in done.stdout
    assert psf(*arguments, store=root).returncode == 0


def test_whoever_has_lost_something_is_told_how_to_get_it_back(tmp_path: Path) -> None:
    root = tmp_path / "store"
    store = LocalStore(root)
    begin(store, "a" * 12)
    step(store, "a" * 12, {b"file": LARGE_TAIL})
    store.close()
    next((root / "large").glob("*/*")).unlink()
    done = psf("check", "--fast", store=root)
    assert done.returncode == 4
    for command in ("`psf store check --repair`", "`psf store import FILE`", "`psf import PATH`"):
        assert command in done.stdout
