"""What commands read: a file, or what comes through stdin, a pipe or a device, and comes only once."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, Protocol

from psf.errors import PsfError
from store.files import CHUNK_BYTES, Files

FREE_BYTES_MIN = 64 << 20
"""What a copy leaves free on the disk of a store, for steps that are under way."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


class CannotRead(PsfError):
    """What a command was told to read cannot be read. The text says what can be."""

    code = "cannot_read"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"cannot read {name!r}: {reason}")


class Stream(Protocol):
    """Something to read from, once."""

    def read(self, size: int, /) -> bytes: ...


@contextmanager
def readable(name: str) -> Iterator[BinaryIO]:
    """What lies at a path, or for - comes from stdin. Raises CannotRead."""
    if name == "-":
        if sys.stdin is None:
            raise CannotRead(name, "stdin is closed")
        if sys.stdin.isatty():
            raise CannotRead(name, "stdin is a terminal; name a file, or send one through a pipe")
        yield sys.stdin.buffer
        return
    with _opened(name) as file:
        yield file


def _opened(name: str) -> BinaryIO:
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise CannotRead(name, error.strerror or "it cannot be opened") from None


class Resumed:
    """A stream whose beginning was read to see what it is: reads it again, and then the rest."""

    def __init__(self, stream: Stream, length: int) -> None:
        self._stream = stream
        self.beginning = self._ahead = stream.read(length)

    def read(self, size: int, /) -> bytes:
        if not self._ahead:
            return self._stream.read(size)
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data


def can_go_back(file: BinaryIO) -> bool:
    """Whether a file lies there whole, and is open at its beginning."""
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.tell() == 0
    except (OSError, io.UnsupportedOperation):
        return False


def free_bytes(descriptor: int) -> int:
    """What is free on the disk where a file lies."""
    status = os.fstatvfs(descriptor)
    return status.f_bavail * status.f_frsize


@contextmanager
def copied(
    stream: Stream, name: str, folder: Path, *, beginning: bytes = b"", free_bytes: Callable[[int], int] = free_bytes
) -> Iterator[BinaryIO]:
    """All that a stream gives, in a file without a name in `folder`; less when it does not start with `beginning`.

    Raises CannotRead when the disk has no room for it, OSError when the stream fails.
    """
    files = Files()
    with os.fdopen(files.unnamed(str(folder), 0o600), "r+b") as file:
        while data := stream.read(CHUNK_BYTES):
            try:
                if free_bytes(file.fileno()) - len(data) < FREE_BYTES_MIN:
                    raise OSError(errno.ENOSPC, "")
                files.write(file.fileno(), data)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                reason = "it is copied to the store's disk first, which has no room for it; write it to a file, and name that"  # fmt: skip
                raise CannotRead(name, reason) from None
            if file.tell() == len(data) and not data.startswith(beginning):
                break  # whoever reads it will say what it is not: it may be endless
        file.seek(0)
        yield file


@contextmanager
def whole(file: BinaryIO, name: str, folder: Path, beginning: bytes) -> Iterator[BinaryIO]:
    """`file`, or what it gives as one that can be read twice. Raises as `copied` does."""
    with nullcontext(file) if can_go_back(file) else copied(file, name, folder, beginning=beginning) as read_twice:
        yield read_twice
