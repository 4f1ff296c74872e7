"""Taking in a zip archive. The standard zipfile parses it; what it says is not believed: sizes are those that were read.

Names are kept as the bytes that the archive has, whatever their encoding. Modes and symlinks are known from archives made on
Unix. Compression other than deflate is refused, since its memory is not bounded, and so are encrypted members.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import Protocol
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from store import tree as trees
from store.archives.members import (
    CHUNK_BYTES,
    DEFAULT_LIMITS,
    ArchiveLimits,
    Imported,
    Members,
    Progress,
    member_path,
    no_progress,
)
from store.capture import special_word
from store.errors import ArchiveRefused
from store.files import Files
from store.interfaces import Objects

_UTF8_FLAG, _ENCRYPTED_FLAG = 0x800, 0x1
_UNIX_SYSTEMS = (3, 19)
"""Unix and macOS: where the upper half of a member's attributes is its mode."""
_MEMBER_SIGNATURE = b"PK\x01\x02"
_MEMBER_HEADER_BYTES = 30
LIST_BYTES_MAX = 256 << 20
_BROKEN = (BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ValueError, OverflowError)
"""What zipfile raises for bytes that are no good zip."""


class Seekable(Protocol):
    """A binary file open for reading."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, whence: int, /) -> int: ...
    def tell(self) -> int: ...


def import_zip(
    file: Seekable,
    objects: Objects,
    files: Files,
    folder: str | os.PathLike[str],
    limits: ArchiveLimits = DEFAULT_LIMITS,
    progress: Progress = no_progress,
) -> Imported:
    """The tree that a zip archive holds. `file` must be able to seek: a zip's list of members stands at its end.

    `folder` is where large contents lie meanwhile, unnamed: one on the store's file system. Nothing is synced. Raises
    ArchiveRefused, and OSError when the file or the disk fails.
    """
    members = Members(objects, files, folder, limits, progress)
    watched = Watched(file, limits.entries)
    try:
        with ZipFile(watched) as archive:
            watched.list_is_read = True
            _refuse_overlaps(archive.infolist())
            for member in archive.infolist():
                _take(archive, member, members)
    except _Outside:
        raise ArchiveRefused("the zip archive is damaged or truncated: it points outside of itself") from None
    except _BROKEN as error:
        raise ArchiveRefused(f"the zip archive is damaged, or none: {error or type(error).__name__}") from None
    return members.finish()


def _take(archive: ZipFile, member: ZipInfo, members: Members) -> None:
    name = _raw_name(member)
    path = member_path(name)
    mode = member.external_attr >> 16 if member.create_system in _UNIX_SYSTEMS else 0
    if name.endswith(b"/") or stat.S_ISDIR(mode):
        if member.file_size:
            raise ArchiveRefused("it is a directory, but it has contents", name)
        members.add_directory(path)
    elif stat.S_ISLNK(mode):
        members.add_symlink(path, _target(_contents(archive, member, name)))
    elif stat.S_IFMT(mode) and not stat.S_ISREG(mode):
        members.leave_out(path, special_word(mode))
    else:
        members.add_file(path, _contents(archive, member, name), executable=bool(mode & stat.S_IXUSR))


def _contents(archive: ZipFile, member: ZipInfo, name: bytes) -> Iterator[bytes]:
    if member.flag_bits & _ENCRYPTED_FLAG:
        raise ArchiveRefused("it is encrypted", name)
    if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise ArchiveRefused(f"it is compressed by method {member.compress_type}; psf reads deflate", name)
    size_bytes = 0
    with archive.open(member) as contents:
        while data := contents.read(CHUNK_BYTES):
            size_bytes += len(data)
            yield data
    if size_bytes != member.file_size:
        raise ArchiveRefused(f"it holds {size_bytes} bytes where the archive says {member.file_size}", name)


def _target(contents: Iterator[bytes]) -> bytes:
    """A symlink's target; of one that is too long as much as shows that it is."""
    target = b""
    for data in contents:
        target += data
        if len(target) > trees.TARGET_BYTES_MAX:
            break
    return target


def _raw_name(member: ZipInfo) -> bytes:
    """The name's bytes as the archive has them: zipfile takes for code page 437 what is not marked as UTF-8."""
    return member.orig_filename.encode("utf-8" if member.flag_bits & _UTF8_FLAG else "cp437")


def _refuse_overlaps(members: list[ZipInfo]) -> None:
    """Members that share bytes are how a small zip unpacks into a huge one."""
    end, last = 0, b""
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise ArchiveRefused(f"it shares bytes with {last!r}", _raw_name(member))
        last = _raw_name(member)
        end = member.header_offset + _MEMBER_HEADER_BYTES + len(last) + member.compress_size


class _Outside(OSError):
    """A place was asked for that the file does not have. An OSError, since zipfile looks where nothing may be."""


class Watched:
    """The file as zipfile may see it: no place outside of it, and no list of more members than there may be.

    zipfile reads the list whole, with one read, before anything of it can be looked at.
    """

    def __init__(self, file: Seekable, entries_max: int, list_bytes_max: int = LIST_BYTES_MAX) -> None:
        self._file, self._entries_max, self._list_bytes_max = file, entries_max, list_bytes_max
        self._size_bytes = file.seek(0, os.SEEK_END)
        self.list_is_read = False

    def read(self, size: int = -1) -> bytes:
        if self.list_is_read:
            return self._file.read(size)
        beyond = self._list_bytes_max + 1
        data = self._file.read(beyond if size < 0 else min(size, beyond))
        if len(data) == beyond:
            raise ArchiveRefused(f"the list of members has more than {self._list_bytes_max} bytes")
        if data.count(_MEMBER_SIGNATURE) > self._entries_max:
            raise ArchiveRefused(f"more than {self._entries_max} entries")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._size_bytes}[whence]
        if not 0 <= start + offset <= self._size_bytes:
            raise _Outside(errno.EINVAL, "outside of the archive")
        return self._file.seek(start + offset, os.SEEK_SET)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True
