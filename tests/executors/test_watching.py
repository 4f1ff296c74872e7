"""Counting what lies in a directory while it changes: in portions, never out of it, with few descriptors."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from executors import watching
from executors.watching import DiskWatch, Shown

PLENTY = 1 << 40


def nobody() -> list[int]:
    return []


def looked(
    watch: DiskWatch, bytes_max: int = PLENTY, inodes_max: int = PLENTY, holders=nobody
) -> watching.Overrun | None:
    """What one whole round finds."""
    for _ in range(10_000):
        overrun, ended = watch.step(bytes_max, inodes_max, holders)
        if overrun or ended:
            watch.rest()
            return overrun
    raise AssertionError("the round does not end")


def test_as_many_bytes_and_names_as_allowed_are_no_overrun(tmp_path: Path) -> None:
    for name in ("a", "b/c", "b/d/e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(1 << 20))
    taken = sum(path.lstat().st_blocks * 512 for path in tmp_path.rglob("*"))
    watch = DiskWatch(str(tmp_path))
    assert looked(watch, taken, 5) is None
    assert looked(watch, taken - 1, 5) == "disk"
    assert looked(watch, taken, 4) == "inodes"


def test_a_hole_takes_nothing_and_a_second_name_takes_only_a_name(tmp_path: Path) -> None:
    os.truncate(os.open(tmp_path / "hole", os.O_CREAT | os.O_WRONLY), 1 << 40)
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    for number in range(100):
        (tmp_path / f"hard{number}").hardlink_to(tmp_path / "file")
    assert looked(DiskWatch(str(tmp_path)), 2 << 20, 2) is None


def test_with_what_was_there_only_growth_counts(tmp_path: Path) -> None:
    (tmp_path / "before").write_bytes(bytes(1 << 20))
    watch = DiskWatch(str(tmp_path), before=watching.held(str(tmp_path)))
    assert looked(watch, 0, 0) is None
    (tmp_path / "since").write_bytes(b"x")
    assert looked(watch, PLENTY, 0) == "inodes"


def test_the_most_that_was_there_is_told_also_when_it_is_gone(tmp_path: Path) -> None:
    watch = DiskWatch(str(tmp_path))
    assert watch.most_bytes() == 0
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    assert watch.most_bytes() == 1 << 20
    assert looked(watch) is None
    (tmp_path / "file").unlink()
    assert watch.most_bytes() == 1 << 20
    assert watch._open == {}


def test_how_much_was_added_is_told_without_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "before").write_bytes(bytes(1 << 20))
    watch = DiskWatch(str(tmp_path), before=watching.held(str(tmp_path)))
    (tmp_path / "since").write_bytes(bytes(2 << 20))
    assert watch.most_bytes() == 2 << 20


def test_a_last_look_at_very_much_ends_in_time(tmp_path: Path) -> None:
    for number in range(20_000):
        (tmp_path / f"{number}").symlink_to("x" * 100)
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    began_s = time.thread_time()
    taken = DiskWatch(str(tmp_path)).most_bytes()
    assert time.thread_time() - began_s < 5 * watching.LAST_LOOK_S
    assert taken is not None
    assert 0 <= taken <= sum(path.lstat().st_blocks * 512 for path in tmp_path.rglob("*"))


def test_symlinks_lead_nowhere_and_other_kinds_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for target in ("/usr", "..", ".", "loop"):
        (folder / target.replace("/", "_").replace(".", "_")).symlink_to(target)
    os.mkfifo(folder / "fifo")
    assert looked(DiskWatch(str(folder)), PLENTY, 5) is None
    assert looked(DiskWatch(str(folder)), PLENTY, 4) == "inodes"


def test_a_deep_nest_is_counted_to_its_bottom_with_few_descriptors(tmp_path: Path) -> None:
    depth = 1500
    nest = f"import os\nfor _ in range({depth}):\n    os.mkdir('n')\n    os.chdir('n')\nopen('f', 'wb').write(bytes(1 << 20))"
    subprocess.run([sys.executable, "-c", nest], cwd=tmp_path, check=True)
    watch, most = DiskWatch(str(tmp_path)), 0
    try:
        while not (found := watch.step(PLENTY, depth, nobody))[1] and found[0] is None:
            most = max(most, len(watch._open))
        assert found[0] == "inodes"
        watch.rest()
        assert looked(watch, PLENTY, depth + 1) is None
        assert 0 < most <= watching.DESCRIPTORS_MAX
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "n")], check=True)


def test_a_wide_tree_is_counted_in_portions(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number}").touch()
    watch, began_s, portions = DiskWatch(str(tmp_path)), time.thread_time(), 0
    while not watch.step(PLENTY, 3000, nobody)[1]:
        portions += 1
    assert portions >= 1
    assert (time.thread_time() - began_s) / (portions + 1) < 10 * watching.SLICE_S


def test_what_vanishes_meanwhile_is_no_error(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "x").touch()
    watch = DiskWatch(str(tmp_path))
    assert watch.step(PLENTY, PLENTY, nobody)[0] is None
    for number in range(200):
        (tmp_path / f"{number}" / "x").unlink()
        (tmp_path / f"{number}").rmdir()
    looked(watch, PLENTY, PLENTY)
    assert looked(DiskWatch(str(tmp_path)), 0, 0) is None


def test_when_it_rests_nothing_is_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(100):
        (tmp_path / f"{number}").mkdir()
    watch = DiskWatch(str(tmp_path))
    watch.step(PLENTY, PLENTY, nobody)
    watch.rest()
    assert len(os.listdir("/proc/self/fd")) == before


HOLD = """
import array, mmap, os, socket, sys, threading, time
def take():
    file = open('f', 'w+b')
    file.write(bytes(1 << 20))
    file.flush()
    os.unlink('f')
    return file
def told():
    print(flush=True)
    sys.stdin.read()
"""
HOLDERS = {
    "open": "file = take(); told()",
    "mapped": "file = take(); held = mmap.mmap(file.fileno(), 4096); file.close(); told()",
    "open in a process whose first thread has ended": "file = take(); threading.Thread(target=told).start(); import ctypes;"
    " ctypes.CDLL(None).pthread_exit(0)",
}


@contextmanager
def held(folder: Path, program: str) -> Iterator[int]:
    """A process that runs `program` in the folder until it has said that it holds something, and on."""
    command = [sys.executable, "-c", HOLD + program]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid
        child.kill()


@pytest.mark.parametrize("program", HOLDERS.values(), ids=HOLDERS.keys())
def test_files_without_a_name_are_found_at_their_holders(tmp_path: Path, program: str) -> None:
    if "mmap" in program and os.geteuid() != 0:
        pytest.skip("the kernel shows mappings to root only")
    shown = Shown((str(tmp_path),), tmp_path.stat().st_dev)
    with held(tmp_path, program) as pid:
        watch = DiskWatch(str(tmp_path), shown=shown)
        assert looked(watch, 1 << 19, 1) is None
        assert looked(watch, 1 << 19, 1, lambda: [pid]) == "disk"
        assert looked(watch, 2 << 20, 1, lambda: [pid]) is None
        assert pid in watching.processes_beside(os.getpid())


def test_who_sends_away_what_he_takes_is_found_by_what_is_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A descriptor in flight is held by no process, and what it is of cannot be seen."""
    free_bytes = 100 << 20
    monkeypatch.setattr(watching, "_free_bytes", lambda _: free_bytes)
    watch = DiskWatch(str(tmp_path))
    send = "a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [file.fileno()]))])"
    sending = f"file = take(); a, b = socket.socketpair(); {send}; file.close(); told()"
    with held(tmp_path, sending) as sender, held(tmp_path, "told()") as other:
        assert looked(watch, 10 << 20, 1, lambda: [sender]) is None
        free_bytes = 80 << 20
        assert looked(watch, 10 << 20, 1, lambda: [other]) is None
        assert looked(watch, 30 << 20, 1, lambda: [sender]) is None
        assert looked(watch, 10 << 20, 1, lambda: [other, sender]) == "disk"


def test_a_plain_user_sees_who_holds_what_he_may_not_see(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel shows root only what is mapped, and all that a process has which hides."""
    shown, free_bytes = Shown((str(tmp_path),)), 100 << 20
    monkeypatch.setattr(watching, "_free_bytes", lambda _: free_bytes)
    monkeypatch.setattr(watching, "removed_files", lambda *_: ())
    watch = DiskWatch(str(tmp_path), shown=shown)
    mapping = "file = take(); held = mmap.mmap(file.fileno(), 4096); file.close(); told()"
    hiding = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); file = take(); told()"
    with held(tmp_path, mapping) as mapper, held(tmp_path, hiding) as hider, held(tmp_path, "told()") as other:
        free_bytes = 80 << 20
        if os.geteuid() == 0:
            monkeypatch.setattr(os, "geteuid", lambda: 1000)
            monkeypatch.setattr(watching, "_is_ours", lambda thread: thread == hider)
            monkeypatch.setattr(os, "scandir", scandir_of_a_plain_user(hider))
        for unseen in (mapper, hider):
            assert looked(watch, 10 << 20, 1, lambda unseen=unseen: [other, unseen]) == "disk"
        assert looked(watch, 10 << 20, 1, lambda: [other]) is None
        assert looked(watch, 30 << 20, 1, lambda: [mapper, hider]) is None


def scandir_of_a_plain_user(hider: int):
    scandir = os.scandir

    def refusing(folder):
        if folder == f"/proc/{hider}/fd":
            raise PermissionError
        return scandir(folder)

    return refusing


def test_the_processes_of_a_namespace_are_found() -> None:
    assert os.getpid() in watching.processes_beside(os.getpid())
    assert watching.processes_beside(1 << 22) == []
