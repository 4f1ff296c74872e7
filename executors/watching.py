"""What a run takes, watched while it runs: where the kernel cannot be told to limit it. Standard library only.

The work directory lies on a file system of the host that knows no limit for it. So the launcher counts what lies in it, again and
again, a few milliseconds at a time, while its programs write, rename and remove what they like. Directories are opened
one by one from their parents' descriptors, never through a symlink, never upwards, however deep they lie; few descriptors
are held. What was removed and is still open is found at the processes that hold it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Literal, NamedTuple

Overrun = Literal["disk", "inodes", "cpu"]

SLICE_S = 0.004
PAUSE_S = 0.2
"""Between two rounds, at least: most runs end before the first."""
SHARE = 10
"""A run is counted for one part in so many of the time at most."""
DESCRIPTORS_MAX = 32
LAST_LOOK_S = 0.02
BLOCK_BYTES = 512


class Shown(NamedTuple):
    """Where programs see what is watched, and the device that they see it on; None: not known."""

    folders: tuple[str, ...] = ("/work",)
    device: int | None = None

    def has(self, name: str) -> bool:
        return any(name.startswith(f"{folder}/") for folder in self.folders)


class Directory:
    """One directory by its name in its parent; the root has neither. Equal only to itself: nests may be very deep."""

    __slots__ = ("name", "parent")

    def __init__(self, parent: Directory | None, name: bytes) -> None:
        self.parent, self.name = parent, name


ROOT = Directory(None, b"")


class DiskWatch:
    """Counts what lies below `folder` (a host path that no program shapes).

    `holders` gives the run's processes. `before`: bytes and inodes that were there before programs could write (`held`).
    """

    def __init__(self, folder: str, *, before: tuple[int, int] = (0, 0), shown: Shown | None = None) -> None:
        self._folder, self._shown = folder, shown or Shown()
        self._before_bytes, self._before_inodes = before
        self._free_bytes = _free_bytes(folder)
        self._most_bytes = 0
        self._open: OrderedDict[Directory, int] = OrderedDict()
        self._round: Iterator[Overrun | None] | None = None

    def step(
        self, bytes_max: int, inodes_max: int, holders: Callable[[], Iterable[int]]
    ) -> tuple[Overrun | None, bool]:
        """Count on for a moment: what is found to be overrun, and whether a round has ended."""
        if self._round is None:
            self._round = self._count(bytes_max, inodes_max, holders)
        end_s = time.monotonic() + SLICE_S
        for overrun in self._round:
            if overrun or time.monotonic() >= end_s:
                return overrun, False
        self.rest()
        return None, True

    def most_bytes(self) -> int:
        """What has been seen to be taken at most; to be asked when no process runs any more, since it looks a last time.

        At least so much was: not what was given back between two looks, nor, of very many entries, what LAST_LOOK_S is too short
        for.
        """
        self.rest()
        end_s = time.monotonic() + LAST_LOOK_S
        for _ in self._count(1 << 62, 1 << 62, list):
            if time.monotonic() >= end_s:
                break
        self.rest()
        return self._most_bytes

    def rest(self) -> None:
        """Forget the round begun."""
        self._round = None
        while self._open:
            os.close(self._open.popitem()[1])

    def held(self) -> tuple[int, int]:
        """Bytes and inodes that it holds now, counted in one go."""
        blocks = [status.st_blocks for status in self._entries() if status is not None]
        self.rest()
        return sum(blocks) * BLOCK_BYTES, len(blocks)

    def _count(self, bytes_max: int, inodes_max: int, holders: Callable[[], Iterable[int]]) -> Iterator[Overrun | None]:
        total_bytes, inodes = -self._before_bytes, -self._before_inodes
        for status in chain(self._entries(), removed_files(holders, self._shown)):
            if status is not None:
                total_bytes += status.st_blocks * BLOCK_BYTES
                inodes += 1
                self._most_bytes = max(self._most_bytes, total_bytes)
            yield _over(total_bytes, inodes, bytes_max, inodes_max)
        if self._free_bytes - _free_bytes(self._folder) > bytes_max:
            # Others may have taken it. But who has put something out of our sight as well may have put there what he took.
            for unseen in chain(descriptors_in_flight(holders), hidden_files(holders, self._shown)):
                yield "disk" if unseen else None

    def _entries(self) -> Iterator[os.stat_result | None]:
        """All that has a name, each file once; None for each further name."""
        pending, linked = [ROOT], set[int]()
        while pending:
            directory = pending.pop()
            for name, status in self._look(directory):
                if stat.S_ISDIR(status.st_mode):
                    pending.append(Directory(directory, name))
                elif status.st_nlink > 1:
                    if status.st_ino in linked:
                        yield None
                        continue
                    linked.add(status.st_ino)
                yield status

    def _look(self, directory: Directory) -> Iterator[tuple[bytes, os.stat_result]]:
        """The entries of a directory, if it is still there."""
        descriptor = self._descriptor(directory)
        if descriptor is None:
            return
        with contextlib.suppress(OSError), os.scandir(descriptor) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    yield os.fsencode(entry.name), entry.stat(follow_symlinks=False)

    def _descriptor(self, directory: Directory) -> int | None:
        missing: list[Directory] = []
        place: Directory | None = directory
        while place is not None and place not in self._open:
            missing.append(place)
            place = place.parent
        if place is not None:
            self._open.move_to_end(place)
        for place in reversed(missing):
            parent = self._open[place.parent] if place.parent else None
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                self._open[place] = os.open(place.name if place.parent else self._folder, flags, dir_fd=parent)
            except OSError:
                return None
            if len(self._open) > DESCRIPTORS_MAX:
                os.close(self._open.popitem(last=False)[1])
        return self._open[directory]


def held(folder: str) -> tuple[int, int]:
    """Bytes and inodes in a folder in which no program is at work."""
    return DiskWatch(folder).held()


def of_mount(mount: dict[str, Any], before: tuple[int, int], shown: Shown) -> DiskWatch:
    """For a workspace as the launchers are told of it (`OverlayMount`, `BindMount`)."""
    if "lowers" in mount:
        return DiskWatch(f"{mount['folder']}/{mount['upper']}", shown=shown)
    return DiskWatch(mount["folder"], before=before, shown=shown)


def _over(total_bytes: int, inodes: int, bytes_max: int, inodes_max: int) -> Overrun | None:
    if total_bytes > bytes_max:
        return "disk"
    return "inodes" if inodes > inodes_max else None


def _free_bytes(folder: str) -> int:
    """0 for a folder that is gone: it may be removed under a run."""
    try:
        system = os.statvfs(folder)
    except OSError:
        return 0
    return system.f_bfree * system.f_frsize


def threads(pids: Iterable[int]) -> Iterator[int]:
    """All threads of processes: each may have descriptors of its own, and go on when the first of its process has ended."""
    for pid in pids:
        for name in _names(f"/proc/{pid}/task"):
            yield int(name)


def removed_files(holders: Callable[[], Iterable[int]], shown: Shown) -> Iterator[os.stat_result | None]:
    """Files that have no name any more and that a process has open or mapped, or is a program of; None for each other file."""
    seen = set[tuple[int, int]]()
    for thread in threads(holders()):
        folders = (f"/proc/{thread}/fd", f"/proc/{thread}/map_files")
        for link in chain((f"/proc/{thread}/exe",), *(_paths(folder) for folder in folders)):
            status = _removed_file(link, shown)
            known = status is None or (status.st_dev, status.st_ino) in seen
            yield None if known else status
            if status is not None:
                seen.add((status.st_dev, status.st_ino))


def _paths(folder: str) -> Iterator[str]:
    return (f"{folder}/{name}" for name in _names(folder))


def descriptors_in_flight(holders: Callable[[], Iterable[int]]) -> Iterator[int]:
    """For each descriptor of the processes, how many others lie in it: sent over a socket and not yet received."""
    for thread in threads(holders()):
        for name in _names(f"/proc/{thread}/fdinfo"):
            try:
                with open(f"/proc/{thread}/fdinfo/{name}") as lines:
                    yield sum(int(line.split()[1]) for line in lines if line.startswith("scm_fds:"))
            except OSError:
                yield 0


def hidden_files(holders: Callable[[], Iterable[int]], shown: Shown) -> Iterator[bool]:
    """For each thread, whether it has files that the kernel shows to root only: any of one that hides, else what is only mapped."""
    for thread in threads(holders() if os.geteuid() else ()):
        try:
            os.scandir(f"/proc/{thread}/fd").close()
            with open(f"/proc/{thread}/maps", errors="surrogateescape") as lines:
                removed = [line.split(maxsplit=5)[5] for line in lines if line.endswith(" (deleted)\n")]
            yield any(shown.has(name) for name in removed)
        except PermissionError:
            yield _is_ours(thread)
        except OSError:
            yield False  # it has ended


def _is_ours(thread: int) -> bool:
    """Whether it has our user id, as a program has that could hide; others beside it, such as a container's init, have not."""
    try:
        with open(f"/proc/{thread}/status") as lines:
            return any(line.split()[1] == str(os.geteuid()) for line in lines if line.startswith("Uid:"))
    except OSError:
        return False


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []  # the process has ended, or the kernel shows mappings to nobody but root


def _removed_file(link: str, shown: Shown) -> os.stat_result | None:
    try:
        status = os.stat(link)
        removed = status.st_nlink == 0 and stat.S_ISREG(status.st_mode)
        return status if removed and _is_shown(link, status, shown) else None
    except OSError:
        return None


def _is_shown(link: str, status: os.stat_result, shown: Shown) -> bool:
    try:
        return shown.has(os.readlink(link))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        # The kernel tells no name of more than a page. Then the device must do.
        return shown.device in (None, status.st_dev)


def processes_beside(pid: int) -> list[int]:
    """The processes in the pid namespace of `pid`, as they are seen here."""
    namespace = _pid_namespace(pid)
    return [
        int(name)
        for name in os.listdir("/proc")
        if name.isdecimal()
        and namespace is not None
        and any(_pid_namespace(thread) == namespace for thread in threads([int(name)]))
    ]


def _pid_namespace(thread: int) -> int | None:
    try:
        return os.stat(f"/proc/{thread}/ns/pid").st_ino
    except OSError:
        return None
