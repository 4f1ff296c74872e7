"""Where commands write: a file that is there when it is complete, or stdout, a pipe, a device.

Links are followed, as tar and cp follow them: what a link leads to is written, and the link stays.
"""

from __future__ import annotations

import io
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from psf.errors import PsfError
from store.tree import NAME_BYTES_MAX

TERMINAL = "that is a terminal, which would obey some of the bytes; --force writes them all the same"
PIECE_BYTES = 64 << 10
_ZEROS = bytes(PIECE_BYTES)
_LINKS_MAX = 40
"""As many as Linux follows."""


class CannotWrite(PsfError):
    """Nothing can be written where a command was told to. The text says what can be."""

    code = "cannot_write"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"cannot write {name!r}: {reason}")


@contextmanager
def written(name: str, *, to_terminal: bool = True) -> Iterator[Any]:
    """A file that gets its name when it is complete; or stdout, a pipe or a device, which cannot wait. Raises CannotWrite."""
    if name == "-":
        if not to_terminal and sys.stdout.isatty():
            raise CannotWrite(name, TERMINAL)
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    _refuse_folder(name)
    path = _end_of_links(name)
    partial = _partial(name, path) if path is not None else None
    file = _made(name, path, partial)
    try:
        with file:
            if not to_terminal and file.isatty():
                raise CannotWrite(name, TERMINAL)
            yield file
            file.flush()
            if partial is not None:
                os.ftruncate(file.fileno(), file.seek(0, os.SEEK_END))
                os.fsync(file.fileno())
        if partial is not None and path is not None:
            partial.replace(path)
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _refuse_folder(name: str) -> None:
    try:
        if not name or Path(name).is_dir() or name.endswith(("/", "/.", "/..")):
            raise CannotWrite(name, "that is a folder; name a file in it, or - for stdout")
    except OSError as error:
        raise CannotWrite(name, error.strerror or "no such place") from None


def _end_of_links(name: str) -> Path | None:
    """Where the links of a name lead in the end; None for what a process has open, as /dev/stdout. Raises CannotWrite."""
    path = Path(name)
    for _ in range(_LINKS_MAX):
        folder = Path(os.path.realpath(path.parent))
        if folder.is_relative_to("/proc"):
            return None  # its links lead to what is open, whatever has that name by now
        if not path.is_symlink():
            return folder / path.name
        path = folder / path.readlink()
    raise CannotWrite(name, "too many links, one after the other")


def _partial(name: str, path: Path) -> Path | None:
    """Where a file is until it is complete; None for what is there and no file. Raises CannotWrite."""
    try:
        if path.exists() and not path.is_file():
            return None
    except OSError as error:
        raise CannotWrite(name, error.strerror or "no such place") from None
    # Short, since the name itself may be as long as names can be.
    return path.with_name(f".psf-{secrets.token_hex(8)}.partial")


def _made(name: str, path: Path | None, partial: Path | None) -> BinaryIO:
    try:
        if path is None or partial is None:
            return Path(name).open("wb")
        if len(os.fsencode(path.name)) > NAME_BYTES_MAX:
            raise CannotWrite(name, f"no file has a name of more than {NAME_BYTES_MAX} bytes")
        # As private as the store that it comes from.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        return io.BufferedWriter(_HoledFile(descriptor, "wb"), PIECE_BYTES)
    except OSError as error:
        raise CannotWrite(name, error.strerror or "it cannot be made") from None


class _HoledFile(io.FileIO):
    """A file in which long zeros at its end become a hole: what a store keeps as holes takes no room on its way out either."""

    _end = 0

    def write(self, data: Any) -> int:
        piece = memoryview(data).cast("B")[:PIECE_BYTES]
        if len(piece) < PIECE_BYTES or self.tell() < self._end or piece != _ZEROS:
            written_bytes = super().write(piece)
            self._end = max(self._end, self.tell())
            return written_bytes
        self._end = self.seek(PIECE_BYTES, os.SEEK_CUR)
        return PIECE_BYTES

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_END:
            return super().seek(self._end + offset)
        return super().seek(offset, whence)
