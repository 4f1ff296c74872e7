"""A folder of the host is taken in as it is, changed in nothing, and what cannot be read is named."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from store.archives import read_folder
from store.archives.members import ArchiveLimits, Imported, Members
from store.archives.read_folder import import_folder
from store.errors import ArchiveRefused
from store.files import Files
from store.memory import MemoryObjects
from store.tree import EMPTY_TREE
from tests.store.live import as_user
from tests.store.workbench import contents


def left_out(imported: Imported) -> dict[bytes, str]:
    return {item.path: item.reason for item in imported.left_out}


def test_all_that_a_tree_can_hold_is_taken_in_and_the_rest_is_named(tmp_path: Path) -> None:
    (tmp_path / "d" / "empty").mkdir(parents=True)
    (tmp_path / "d" / "run").write_bytes(b"#!")
    (tmp_path / "d" / "run").chmod(0o700)
    (tmp_path / "large").write_bytes(bytes(300_000))
    (tmp_path / "passwd").symlink_to("/etc/passwd")
    (tmp_path / "etc").symlink_to("/etc")
    (tmp_path / "_psf_main.py").touch()
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    objects = MemoryObjects()
    done: list[int] = []
    imported = import_folder(tmp_path, objects, progress=done.append)
    assert contents(objects, imported.tree) == {
        b"d": None, b"d/empty": None, b"d/run": b"#!", b"etc": b"-> /etc", b"large": bytes(300_000),
        b"passwd": b"-> /etc/passwd",
    }  # fmt: skip
    assert left_out(imported) == {
        b"_psf_main.py": "a name that psf uses itself", b"fifo": "a FIFO", b"socket": "a socket"
    }  # fmt: skip
    assert (imported.files, imported.total_bytes, done[-1]) == (2, 300_002, 300_002)


def test_the_order_in_which_names_were_made_makes_no_difference(tmp_path: Path) -> None:
    names = [b"%d" % number for number in range(60)] + [b"\xff", "ü".encode()]
    trees = set()
    for turn in range(3):
        folder = os.fsencode(tmp_path / str(turn))
        os.mkdir(folder)
        random.Random(turn).shuffle(names)
        for name in names:
            os.mkfifo(folder + b"/f" + name)
            os.mkdir(folder + b"/" + name)
        imported = import_folder(folder, MemoryObjects())
        trees.add(imported.tree)
        assert [item.path for item in imported.left_out] == sorted(b"f" + name for name in names)
    assert len(trees) == 1


def test_the_folder_itself_may_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").touch()
    (tmp_path / "link").symlink_to("real")
    assert import_folder(tmp_path / "link", MemoryObjects()).files == 1


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_no_folder_is_an_oserror(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=name):
        import_folder(tmp_path / name, MemoryObjects())


def test_what_may_not_be_read_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    tmp_path.chmod(0o777)
    descriptor = os.open(tmp_path, os.O_RDONLY)

    def work() -> None:
        modes = {"closed": 0o000, "listed": 0o444, "read-only": 0o555}
        for name, mode in modes.items():
            os.mkdir(name, dir_fd=descriptor)
            os.close(os.open(f"{name}/file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
            os.chmod(name, mode, dir_fd=descriptor)
        os.close(os.open("secret", os.O_CREAT | os.O_WRONLY, 0o200, dir_fd=descriptor))
        imported = import_folder(b"/proc/self/fd/%d" % descriptor, MemoryObjects())
        denied = "not readable: Permission denied"
        assert left_out(imported) == {b"closed": denied, b"listed/file": denied, b"secret": denied}
        assert imported.files == 1
        for name, mode in modes.items():
            assert os.stat(name, dir_fd=descriptor).st_mode & 0o777 == mode

    try:
        as_user(12345, work)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        (ArchiveLimits(entries=5), "more than 5 entries"),
        (ArchiveLimits(total_bytes=59), "more than 59 bytes"),
        (ArchiveLimits(depth=1), "deeper than 1"),
    ],
)
def test_a_folder_beyond_a_limit_is_refused_and_every_descriptor_closed(
    tmp_path: Path, limits: ArchiveLimits, word: str
) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    for name in ("a", "b", "d/c", "d/e/f"):
        (tmp_path / name).write_bytes(b"x" * 15)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ArchiveRefused, match=word):
        import_folder(tmp_path, MemoryObjects(), limits)
    assert set(os.listdir("/proc/self/fd")) == before
    assert import_folder(tmp_path, MemoryObjects(), ArchiveLimits(6, 60, 0, 2)).files == 4
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_list_of_names_is_bounded_while_it_is_read(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / str(number)).touch()
    reading = read_folder._Reading(
        Members(MemoryObjects(), Files(), "", ArchiveLimits(), print), ArchiveLimits(entries=5)
    )
    reading.enter(os.open(tmp_path, os.O_RDONLY), ())
    assert len(reading._open[0][2]) == 6
    reading.close()


class Meanwhile:
    """Does something just before a name is opened, by the interpreter's own audit events: nothing is replaced."""

    name = b""
    deed: Callable[[], None] | None = None

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and self.deed is not None and arguments[0] == self.name:
            deed, self.deed = self.deed, None
            deed()


MEANWHILE = Meanwhile()
sys.addaudithook(MEANWHILE)


@pytest.mark.parametrize("now", ["symlink", "fifo", "gone"])
@pytest.mark.parametrize("was", ["directory", "file"])
def test_what_is_replaced_before_it_is_opened_is_left_out(tmp_path: Path, was: str, now: str) -> None:
    victim, elsewhere = tmp_path / "folder" / "victim", tmp_path / "elsewhere"
    victim.parent.mkdir()
    for path in (victim, elsewhere):
        path.mkdir() if was == "directory" else path.touch()

    def replace() -> None:
        victim.rename(tmp_path / "old")
        if now == "symlink":
            victim.symlink_to(elsewhere)
        elif now == "fifo":
            os.mkfifo(victim)

    MEANWHILE.name, MEANWHILE.deed = b"victim", replace
    imported = import_folder(victim.parent, MemoryObjects())
    assert MEANWHILE.deed is None
    assert (imported.tree, list(left_out(imported))) == (EMPTY_TREE, [b"victim"])


def test_a_nest_as_deep_as_capture_keeps_is_taken_in_and_one_deeper_is_refused(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "/".join("d" * 256))
    objects = MemoryObjects()
    assert len(contents(objects, import_folder(tmp_path, objects).tree)) == 256
    os.mkdir(tmp_path / "/".join("d" * 257))
    with pytest.raises(ArchiveRefused, match="deeper than 256"):
        import_folder(tmp_path, objects)
