"""Taking in a folder of this machine, as far as this process may read it. Nothing in it is changed.

Reached by directory descriptors, opened without following and without blocking, like what a run left (store.capture). Another
reader, though: capture may mend modes that stand in its way, since what it reads is dead and ours, and takes in as much as a
step may keep; a user's folder is only read, and all of it or, beyond a limit, nothing. What changes meanwhile is taken in as
it was read, or left out.
"""

from __future__ import annotations

import os
import stat
from itertools import islice

from store.archives.members import DEFAULT_LIMITS, ArchiveLimits, Imported, Members, Progress, no_progress
from store.capture import Path, special_word
from store.files import Files
from store.interfaces import Objects

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def import_folder(
    folder: str | bytes | os.PathLike[str],
    objects: Objects,
    limits: ArchiveLimits = DEFAULT_LIMITS,
    progress: Progress = no_progress,
) -> Imported:
    """The tree that a folder holds. The folder itself may be a symlink; none below it is followed. Nothing is synced.

    Raises ArchiveRefused, and OSError when `folder` cannot be opened or a file becomes shorter while it is read.
    """
    members = Members(objects, Files(), "", limits, progress)
    reading = _Reading(members, limits)
    try:
        reading.enter(os.open(folder, _DIRECTORY_FLAGS), ())
        while reading.step():
            pass
    finally:
        reading.close()
    return members.finish()


class _Reading:
    """A walk with one descriptor for each directory on the way."""

    def __init__(self, members: Members, limits: ArchiveLimits) -> None:
        self._members, self._limits = members, limits
        self._open: list[tuple[int, Path, list[bytes]]] = []

    def enter(self, descriptor: int, path: Path) -> None:
        # On the list first, so that it is closed whatever happens.
        ahead: list[bytes] = []
        self._open.append((descriptor, path, ahead))
        with os.scandir(descriptor) as entries:
            # One more than there may be is enough to be refused.
            ahead += [os.fsencode(entry.name) for entry in islice(entries, self._limits.entries + 1)]
        ahead.sort(reverse=True)

    def step(self) -> bool:
        """Take the next name; False when there is none left."""
        if not self._open:
            return False
        descriptor, path, ahead = self._open[-1]
        if ahead:
            self._take(descriptor, (*path, ahead.pop()))
        else:
            os.close(descriptor)
            self._open.pop()
        return True

    def close(self) -> None:
        for descriptor, _, _ in self._open:
            os.close(descriptor)
        self._open.clear()

    def _take(self, parent: int, path: Path) -> None:
        try:
            mode = os.stat(path[-1], dir_fd=parent, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                child = os.open(path[-1], _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
            elif stat.S_ISREG(mode):
                child = os.open(path[-1], _FILE_FLAGS, dir_fd=parent)
            elif stat.S_ISLNK(mode):
                self._members.add_symlink(path, os.fsencode(os.readlink(path[-1], dir_fd=parent)))
                return
            else:
                self._members.leave_out(path, special_word(mode))
                return
        except OSError as error:
            self._members.leave_out(path, f"not readable: {error.strerror}")
            return
        if stat.S_ISDIR(mode):
            self._directory(child, path)
        else:
            self._file(child, path)

    def _directory(self, descriptor: int, path: Path) -> None:
        try:
            self._members.add_directory(path)
        except BaseException:
            os.close(descriptor)
            raise
        self.enter(descriptor, path)

    def _file(self, descriptor: int, path: Path) -> None:
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                self._members.leave_out(path, "replaced while it was opened")
                return
            executable = bool(status.st_mode & stat.S_IXUSR)
            self._members.add_open_file(path, descriptor, status.st_size, executable=executable)
        finally:
            os.close(descriptor)
