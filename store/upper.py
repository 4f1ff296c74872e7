"""What an overlay is written to: `upper`, for what one run changes, and `work`, the kernel's own.

To make and remove directories is what a small step would spend most of its time on, so both stay for the next run where `upper`
cannot be told from a new one: it is empty, nothing of the kernel's refers to it, and all that a program could have left on it
(owner, mode, flags, attributes, room for many names) is as it was made. Otherwise both are made anew.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import NamedTuple

from store.delta import DIRECTORY, DIRECTORY_MODE
from store.files import Files, Owner, open_directory
from store.remover import Remover
from store.usage import Usage

_GET_FLAGS, _FLAGS_BYTES = 0x80086601, 8
_GET_EXTENDED_FLAGS, _EXTENDED_FLAGS_BYTES = 0x801C581F, 28
_EXTENTS = slice(8, 12)
"""Where extended flags count extents: the one thing in them that nobody sets."""
_KERNELS_NOTES = ("impure", "uuid")
"""Attributes of an upper directory that refer to nothing in it or outside: that files were copied up into it once, and the mount's name."""
_HAS_NONE = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class _Nature(NamedTuple):
    """All that tells one empty directory from another, but for its times, which are set for each run."""

    mode: int
    owner: tuple[int, int]
    size_bytes: int
    flags: tuple[bytes, bytes]
    attributes: dict[str, bytes]


class Upper:
    """`upper` and `work` in `folder`, both there between `prepare` and `give_up`, and after a `clear` that gave True."""

    def __init__(
        self, folder: Path, files: Files, owner: Owner | None, attribute_prefix: str, remover: Remover
    ) -> None:
        self.path, self._work = folder / "upper", folder / "work"
        self._files, self._owner, self._remover = files, owner, remover
        self._kernels = {attribute_prefix + name for name in _KERNELS_NOTES}
        self._made: _Nature | None = None

    @property
    def usage(self) -> Usage:
        """What is kept of both for the next run."""
        return DIRECTORY + DIRECTORY if self._made is not None else Usage()

    def prepare(self) -> None:
        """Make both, unless they were kept."""
        if self._made is not None:
            return
        for path in (self.path, self._work):
            make_owned(path, self._files, self._owner)
        descriptor = open_directory(str(self.path))
        try:
            self._made = self._nature(descriptor)
        finally:
            os.close(descriptor)

    def clear(self, descriptor: int) -> bool:
        """Remove all that lies in `upper`, opened, and in `work`; whether both are kept. If not, `give_up` must follow."""
        made, self._made = self._made, None
        self._files.empty_directory(descriptor)
        if self._nature(descriptor) != made:
            return False
        self._clear_work()
        self._made = made
        return True

    def give_up(self, *, few: bool) -> None:
        """Remove both; `few`: there is not much in `upper`, which can go at once."""
        self._made = None
        if few or not self._remover.remove(self.path):
            self._files.remove_tree(os.fsencode(self.path))
        self._files.remove_tree(os.fsencode(self._work))

    def _clear_work(self) -> None:
        kernels = self._work / "work"
        # One name changes now instead of four that go: where that is not allowed, since the kernel made it, all goes now.
        if not (os.access(kernels, os.W_OK) and self._remover.remove(kernels)):
            work = open_directory(str(self._work))
            try:
                self._files.empty_directory(work)
            finally:
                os.close(work)

    def _nature(self, descriptor: int) -> _Nature:
        status = os.fstat(descriptor)
        flags = (
            _asked(descriptor, _GET_FLAGS, _FLAGS_BYTES),
            _asked(descriptor, _GET_EXTENDED_FLAGS, _EXTENDED_FLAGS_BYTES),
        )
        names = [name for name in os.listxattr(descriptor) if name not in self._kernels]
        attributes = {name: os.getxattr(descriptor, name) for name in names}
        return _Nature(status.st_mode, (status.st_uid, status.st_gid), status.st_size, flags, attributes)


def make_owned(path: Path, files: Files, owner: Owner | None) -> None:
    """Make a directory that programs may write to."""
    files.make_directory(str(path))
    path.chmod(DIRECTORY_MODE)
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)


def _asked(descriptor: int, request: int, length: int) -> bytes:
    """A directory's flags as the file system gives them; empty where it has none that anybody could set."""
    try:
        answer = bytearray(fcntl.ioctl(descriptor, request, bytes(length)))
    except OSError as error:
        if error.errno not in _HAS_NONE:
            raise
        return b""
    if request == _GET_EXTENDED_FLAGS:
        del answer[_EXTENTS]
    return bytes(answer)
