"""Upper and work directories that stay for the next run: only where nothing tells them from new ones."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store.faulty import FaultyFiles
from store.files import Files, open_directory
from store.remover import Remover
from store.upper import Upper
from store.usage import Usage

PREFIX = "user.overlay."
NO_DUMP, SYNC = 0x40, 0x8
SET_FLAGS = 0x40086602


@pytest.fixture
def remover(tmp_path: Path) -> Iterator[Remover]:
    remover = Remover(tmp_path / "removed", Files())
    yield remover
    remover.close()


@pytest.fixture
def upper(tmp_path: Path, remover: Remover) -> Upper:
    made = Upper(tmp_path, FaultyFiles(), None, PREFIX, remover)
    made.prepare()
    return made


def use(upper: Upper) -> None:
    """What the kernel leaves in `work` after a volatile mount."""
    volatile = upper.path.parent / "work/work/incompat/volatile"
    volatile.mkdir(parents=True)
    (volatile / "dirty").touch()


def clear(upper: Upper) -> bool:
    """Settle as a workspace does; whether the directories were kept."""
    descriptor = open_directory(str(upper.path))
    try:
        kept = upper.clear(descriptor)
    finally:
        os.close(descriptor)
    if not kept:
        upper.give_up(few=True)
    return kept


def state(upper: Upper) -> tuple[object, ...]:
    """All of `upper` that a later program could notice, and whether `work` is ready to be mounted."""
    status = upper.path.stat()
    with _opened(upper.path) as descriptor:
        flags = b""
        with contextlib.suppress(OSError):
            flags = fcntl.ioctl(descriptor, 0x80086601, bytes(8))
    names = set(os.listxattr(upper.path)) - {PREFIX + "impure", PREFIX + "uuid"}
    work = os.listdir(upper.path.parent / "work")
    return status.st_mode, status.st_uid, status.st_size, flags, names, os.listdir(upper.path), work


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write(path: Path) -> None:
    (path / "d").mkdir()
    (path / "d" / "file").write_bytes(b"x")


def note(path: Path) -> None:
    os.setxattr(path, PREFIX + "impure", b"y")
    os.setxattr(path, PREFIX + "uuid", bytes(16))


def count_up(path: Path) -> None:
    """Room that ext4 gives a directory, and never takes back."""
    for number in range(100):
        (path / f"{number:0200d}").touch()
        (path / f"{number:0200d}").unlink()
    for number in range(100):
        (path / f"{number:0200d}").touch()


def set_flags(path: Path) -> None:
    with _opened(path) as descriptor, contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, SET_FLAGS, struct.pack("q", NO_DUMP | SYNC))


def deny(path: Path) -> None:
    path.chmod(0o700)


def annotate(path: Path) -> None:
    os.setxattr(path, "user.note", b"for the next")


def make_opaque(path: Path) -> None:
    os.setxattr(path, PREFIX + "opaque", b"y")


@pytest.mark.parametrize("change", [lambda _: None, write, note], ids=["nothing", "files", "notes of the kernel"])
def test_a_run_that_leaves_only_entries_costs_no_new_directories(upper: Upper, change: Callable[[Path], None]) -> None:
    before, inodes = state(upper), [os.stat(upper.path).st_ino, os.stat(upper.path.parent / "work").st_ino]
    use(upper)
    change(upper.path)
    assert clear(upper)
    upper.prepare()
    assert state(upper) == before
    assert [os.stat(upper.path).st_ino, os.stat(upper.path.parent / "work").st_ino] == inodes


@pytest.mark.parametrize("change", [deny, annotate, make_opaque, set_flags, count_up])
def test_nothing_else_that_a_run_leaves_reaches_the_next(upper: Upper, change: Callable[[Path], None]) -> None:
    before = state(upper)
    use(upper)
    change(upper.path)
    clear(upper)
    upper.prepare()
    assert state(upper) == before


@pytest.mark.parametrize("change", [deny, annotate, make_opaque])
def test_what_differs_is_made_anew(upper: Upper, change: Callable[[Path], None]) -> None:
    change(upper.path)
    assert not clear(upper)
    assert not upper.path.exists()
    assert not (upper.path.parent / "work").exists()


def test_whatever_the_kernel_left_beside_its_mark_goes_too(upper: Upper) -> None:
    use(upper)
    (upper.path.parent / "work/work/#1").touch()
    (upper.path.parent / "work/work/#2").mkdir()
    assert clear(upper)
    assert os.listdir(upper.path.parent / "work") == []


def test_an_unused_pair_is_kept(upper: Upper) -> None:
    assert clear(upper)
    assert clear(upper)


def test_after_a_failure_neither_is_taken_for_a_new_one(tmp_path: Path, remover: Remover) -> None:
    """The n-th disk operation of a clearing fails: whoever goes on makes both anew or has them empty."""
    files = FaultyFiles()
    for number in range(1, 100):
        folder = tmp_path / str(number)
        folder.mkdir()
        upper = Upper(folder, files, None, PREFIX, remover)
        upper.prepare()
        before = state(upper)
        use(upper)
        write(upper.path)
        files.failed.clear()
        files.fail_at = files.operations + number
        kept = False
        with contextlib.suppress(OSError), _opened(upper.path) as descriptor:
            kept = upper.clear(descriptor)
        files.heal()
        if not kept:
            assert upper.usage == Usage()
            upper.give_up(few=True)
            upper.prepare()
        assert state(upper) == before
        if not files.failed:
            break
    assert 2 < number < 99


def test_what_the_kernel_left_is_gone_in_the_end(upper: Upper, remover: Remover) -> None:
    use(upper)
    assert clear(upper)
    remover.wait()
    assert os.listdir(upper.path.parent / "removed") == os.listdir(upper.path.parent / "work") == []
