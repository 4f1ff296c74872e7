"""The only module that writes files. Everything else in the store asks a `Files` for it.

One class, one method per thing done to a disk, so that a test can make the n-th of them fail, or record and reorder them.
Durability is spelt out by the caller: `write` makes bytes visible, `sync` makes them last, `sync_directory` makes a name last.
A failed sync is final for its descriptor: the kernel may have dropped the pages, so nobody may try again on it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

PRIVATE_DIRECTORY_MODE = 0o700
IOV_MAX = 1024
CHUNK_BYTES = 1 << 20
_FICLONE = 0x40049409
_CANNOT_CLONE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS)


class Owner(Protocol):
    """Who owns the files of workspaces: psf's own uid, under which programs run."""

    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...


class Files:
    """Direct access to the operating system. All paths may be relative to a directory descriptor."""

    def open(self, path: str | bytes, flags: int, mode: int = 0o644, *, directory: int | None = None) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=directory)

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        """Write all of `data` at the descriptor's position."""
        view = memoryview(data)
        while view:
            view = view[self._write_some(descriptor, [view]) :]

    def append(self, descriptor: int, buffers: Sequence[bytes]) -> int:
        """Write all buffers, in order, with as few calls as the kernel allows; returns the bytes written."""
        total = first = 0
        pending = [memoryview(buffer) for buffer in buffers if buffer]
        while first < len(pending):
            written = self._write_some(descriptor, pending[first : first + IOV_MAX])
            total += written
            while first < len(pending) and written >= len(pending[first]):
                written -= len(pending[first])
                first += 1
            if written:
                pending[first] = pending[first][written:]
        return total

    def _write_some(self, descriptor: int, buffers: Sequence[memoryview]) -> int:
        """One system call, which may write less than it was given."""
        return os.writev(descriptor, buffers)

    def sync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def sync_directory(self, path: str | bytes) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def truncate(self, descriptor: int, length: int) -> None:
        os.ftruncate(descriptor, length)

    def unnamed(self, directory: str, mode: int = 0o444) -> int:
        """A descriptor of a new file without a name in `directory`'s file system; `link` may give it one."""
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)

    def link(self, descriptor: int, path: str) -> None:
        """Give an unnamed file its name. A file of that name already there is kept: names are content."""
        # A directory descriptor makes CPython pass AT_SYMLINK_FOLLOW; without one it calls plain link(2): EXDEV.
        anchor = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=anchor, follow_symlinks=True)
        except FileExistsError:
            pass
        finally:
            os.close(anchor)

    def clone(self, source: int, target: int, length: int) -> bool:
        """Make an empty file share the first `length` bytes of another; False where the file system cannot. Holes stay holes."""
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError as error:
            if error.errno not in _CANNOT_CLONE:
                raise
            return False
        if os.fstat(target).st_size < length:
            raise OSError(errno.EIO, "a file became shorter while it was cloned")
        os.ftruncate(target, length)
        return True

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` bytes of a file into an empty one, inside the kernel where it can. Holes stay holes."""
        for start, end in _extents(source, length):
            os.lseek(source, start, os.SEEK_SET)
            os.lseek(target, start, os.SEEK_SET)
            self._copy_extent(source, target, end - start)
        if os.fstat(source).st_size < length:
            raise OSError(errno.EIO, "a file became shorter while it was copied")
        os.ftruncate(target, length)

    @staticmethod
    def _copy_extent(source: int, target: int, length: int) -> None:
        remaining = length
        while remaining:
            try:
                copied = os.copy_file_range(source, target, remaining)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                copied = os.sendfile(target, source, None, min(remaining, CHUNK_BYTES))
            if copied == 0:
                raise OSError(errno.EIO, "a file became shorter while it was copied")
            remaining -= copied

    def random(self, length: int) -> bytes:
        """Bytes that nobody can guess."""
        return os.urandom(length)

    def tick(self) -> int:
        """A number that grows, for all processes of this machine, until it starts again."""
        return time.monotonic_ns()

    def make_directory(self, path: str | bytes, mode: int = 0o755, *, directory: int | None = None) -> None:
        os.mkdir(path, mode, dir_fd=directory)

    def ensure_directory(self, path: str, mode: int = 0o755) -> None:
        """Make a directory unless it is there already. Its parent must be."""
        with contextlib.suppress(FileExistsError):
            self.make_directory(path, mode)

    def symlink(self, target: bytes, path: bytes, *, directory: int) -> None:
        os.symlink(target, path, dir_fd=directory)

    def rename(
        self, source: str | bytes, target: str | bytes, *, source_directory: int | None, target_directory: int | None
    ) -> None:
        os.rename(source, target, src_dir_fd=source_directory, dst_dir_fd=target_directory)

    def unlink(self, path: str | bytes, *, directory: int | None = None) -> None:
        os.unlink(path, dir_fd=directory)

    def remove_directory(self, path: str | bytes, *, directory: int | None = None) -> None:
        os.rmdir(path, dir_fd=directory)

    def make_whiteout(self, path: bytes, *, directory: int) -> None:
        """An overlay's mark that the name below is gone: a character device 0/0, which needs no rights to make."""
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory)

    def set_attribute(self, descriptor: int, name: str, value: bytes) -> None:
        os.setxattr(descriptor, name, value)

    def set_mode(self, descriptor: int, mode: int) -> None:
        os.fchmod(descriptor, mode)

    def set_owner(self, path: bytes, owner: Owner, *, directory: int) -> None:
        os.chown(path, owner.uid, owner.gid, dir_fd=directory, follow_symlinks=False)

    def set_time(self, path: bytes, time_s: int, *, directory: int | None) -> None:
        os.utime(path, ns=(time_s * 10**9, time_s * 10**9), dir_fd=directory, follow_symlinks=False)

    def remove_tree(self, path: bytes, *, directory: int | None = None) -> None:
        """Remove whatever `path` names. Follows no symlink and opens nothing but directories."""
        if not stat.S_ISDIR(os.stat(path, dir_fd=directory, follow_symlinks=False).st_mode):
            self.unlink(path, directory=directory)
            return
        descriptor = open_directory(path, directory)
        try:
            self.empty_directory(descriptor)
        finally:
            os.close(descriptor)
        self.remove_directory(path, directory=directory)

    def empty_directory(self, descriptor: int) -> None:
        """Remove all that a directory holds, in constant stack depth.

        Deep nests are cut short by moving grandchildren up, so that a program cannot exhaust descriptors or the stack.
        """
        serial = 0
        while names := [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in _scan(descriptor)]:
            for name, is_directory in names:
                if not is_directory:
                    self.unlink(name, directory=descriptor)
                    continue
                child = open_directory(name, descriptor)
                try:
                    self.set_mode(child, PRIVATE_DIRECTORY_MODE)
                    for grandchild in _scan(child):
                        inner = os.fsencode(grandchild.name)
                        if grandchild.is_dir(follow_symlinks=False):
                            serial = _free_serial(descriptor, serial)
                            _make_accessible(inner, child)
                            self.rename(
                                inner, _lifted_name(serial), source_directory=child, target_directory=descriptor
                            )
                        else:
                            self.unlink(inner, directory=child)
                finally:
                    os.close(child)
                self.remove_directory(name, directory=descriptor)


def open_directory(path: bytes | str, directory: int | None = None) -> int:
    """Open a directory without following a symlink, making it accessible first when its owner took the rights away."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, dir_fd=directory)
    except PermissionError:
        _make_accessible(path, directory)
        return os.open(path, flags, dir_fd=directory)
    # One that may be read may still not be searched or written.
    if os.geteuid() and os.fstat(descriptor).st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.fchmod(descriptor, PRIVATE_DIRECTORY_MODE)
    return descriptor


def mode_of(name: bytes, directory: int) -> int | None:
    """File type and mode of what `name` is itself; None when there is nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def lock(descriptor: int, *, wait: bool) -> bool:
    """Take an exclusive flock; False when another process holds it and `wait` is false."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def read_exactly(descriptor: int, length: int, offset: int) -> bytes:
    """`length` bytes at `offset`, fewer only at the end of the file."""
    parts: list[bytes] = []
    while length:
        part = os.pread(descriptor, length, offset)
        if not part:
            break
        parts.append(part)
        length -= len(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _extents(descriptor: int, length: int) -> Iterator[tuple[int, int]]:
    """Where the first `length` bytes of a file hold data: start and end of each piece. What lies between is zeros."""
    end = 0
    while end < length:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        if start < length:
            yield start, min(end, length)


def _scan(descriptor: int) -> list[os.DirEntry[str]]:
    with os.scandir(descriptor) as entries:
        return list(entries)


def _lifted_name(serial: int) -> bytes:
    return b".lifted-%d" % serial


def _free_serial(descriptor: int, serial: int) -> int:
    """The next number whose name is free: a program may have made such names too, but not all numbers."""
    serial += 1
    while mode_of(_lifted_name(serial), descriptor) is not None:
        serial += 1
    return serial


def _make_accessible(path: bytes | str, directory: int | None) -> None:
    if stat.S_ISDIR(os.stat(path, dir_fd=directory, follow_symlinks=False).st_mode):
        os.chmod(path, PRIVATE_DIRECTORY_MODE, dir_fd=directory)
