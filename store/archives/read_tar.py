"""Taking in a tar archive: V7, POSIX (ustar, pax) and GNU, plain or gzipped, from any stream.

Every header's checksum is verified. A member's name and link come from the nearest of: its extended header, GNU's long names,
a global extended header, its own header. Owners, times and other records are not kept. An archive without its end mark is
truncated: what is missing might be members.
"""

from __future__ import annotations

import os

import msgspec

from store.archives.headers import BLOCK_BYTES, Header, parse_decimal, parse_header, parse_records
from store.archives.members import (
    DEFAULT_LIMITS,
    ArchiveLimits,
    Imported,
    Members,
    Progress,
    member_path,
    no_progress,
)
from store.archives.unpacking import Blocks, Readable
from store.errors import ArchiveRefused
from store.files import Files
from store.interfaces import Objects

_REGULAR = (b"0", b"\0", b"7")
_HARD_LINK, _SYMLINK, _DIRECTORY, _GNU_DIRECTORY, _GNU_SPARSE = b"1", b"2", b"5", b"D", b"S"
_WITHOUT_CONTENTS = (b"1", b"2", b"3", b"4", b"5", b"6")
_LONG_NAMES = {b"L": b"path", b"K": b"linkpath"}
_LEFT_OUT = {b"3": "a device", b"4": "a device", b"6": "a FIFO", _GNU_SPARSE: "a sparse file"}
_NOT_PATHS = {
    b"V": "a volume label",
    b"M": "the rest of a file that another volume begins",
    b"N": "a list of long names",
}
_SPARSE_GOES_ON = 504


class _Member(msgspec.Struct, frozen=True):
    """A member with all that its headers say of it."""

    name: bytes
    link: bytes
    kind: bytes
    executable: bool
    size_bytes: int
    goes_on: bool


def import_tar(
    stream: Readable,
    objects: Objects,
    files: Files,
    folder: str | os.PathLike[str],
    limits: ArchiveLimits = DEFAULT_LIMITS,
    progress: Progress = no_progress,
) -> Imported:
    """The tree that a tar archive holds; reads `stream` to its end, without seeking.

    `folder` is where large contents lie meanwhile, unnamed: one on the store's file system. Nothing is synced. Raises
    ArchiveRefused, and OSError when the stream or the disk fails.
    """
    members = Members(objects, files, folder, limits, progress)
    reading = _Reading(Blocks(stream, limits.total_bytes), members, limits)
    while (member := reading.next_member()) is not None:
        reading.take(member)
    reading.finish()
    return members.finish()


class _Reading:
    def __init__(self, blocks: Blocks, members: Members, limits: ArchiveLimits) -> None:
        self._blocks, self._members, self._limits = blocks, members, limits
        self._global: dict[bytes, bytes] = {}

    def next_member(self) -> _Member | None:
        """The next member; None at the end mark."""
        own: dict[bytes, bytes] = {}
        long_names: dict[bytes, bytes] = {}
        extension_bytes = 0
        while (header := self._next_header()) is not None:
            if header.kind not in (b"x", b"X", b"g", *_LONG_NAMES):
                return self._described(header, own, {**self._global, **long_names})
            extension_bytes += BLOCK_BYTES + header.size_bytes
            if extension_bytes > self._limits.header_bytes:
                raise ArchiveRefused(f"more than {self._limits.header_bytes} bytes of headers", header.name)
            data = self._extension(header.size_bytes)
            if header.kind in _LONG_NAMES:
                long_names[_LONG_NAMES[header.kind]] = data.rstrip(b"\0")
            else:
                (self._global if header.kind == b"g" else own).update(parse_records(data))
        if own or long_names:
            raise ArchiveRefused("the archive is truncated: the last member has an extended header only")
        return None

    def take(self, member: _Member) -> None:
        self._blocks.begin(0 if member.kind in _WITHOUT_CONTENTS else member.size_bytes)
        if member.kind in _REGULAR or member.kind in _LEFT_OUT or member.kind in _WITHOUT_CONTENTS:
            self._take_path(member)
        elif member.kind == _GNU_DIRECTORY:
            self._members.add_directory(member_path(member.name))
        else:
            reason = _NOT_PATHS.get(member.kind, f"a member of the unknown type {member.kind!r}")
            self._members.note(member.name, reason)
        self._blocks.skip()

    def finish(self) -> None:
        self._blocks.finish()

    def _take_path(self, member: _Member) -> None:
        path = member_path(member.name)
        if member.kind == _DIRECTORY:
            self._members.add_directory(path)
        elif member.kind == _SYMLINK:
            self._members.add_symlink(path, member.link)
        elif member.kind == _HARD_LINK:
            self._members.add_hard_link(path, member_path(member.link))
        elif member.kind in _LEFT_OUT:
            self._pass_sparse_map(goes_on=member.goes_on)
            self._members.leave_out(path, _LEFT_OUT[member.kind])
        elif member.name.endswith(b"/"):
            # As V7 wrote directories, which had no type of their own.
            if member.size_bytes:
                raise ArchiveRefused("its name is a directory's, but it has contents", member.name)
            self._members.add_directory(path)
        else:
            self._members.add_file(path, self._blocks.chunks(), executable=member.executable)

    def _next_header(self) -> Header | None:
        block = self._blocks.next_block()
        if block is None:
            raise ArchiveRefused("the archive is truncated: it has no end-of-archive mark")
        return parse_header(block) if any(block) else None

    def _extension(self, size_bytes: int) -> bytes:
        self._blocks.begin(size_bytes)
        data = b"".join(self._blocks.chunks())
        self._blocks.skip()
        return data

    def _described(self, header: Header, own: dict[bytes, bytes], others: dict[bytes, bytes]) -> _Member:
        # An empty value in an extended header takes back what a global one said.
        records = {key: value for key, value in {**others, **own}.items() if value}
        name = records.get(b"path", header.name)
        size_bytes, kind = header.size_bytes, header.kind
        if b"size" in records:
            size = parse_decimal(records[b"size"])
            if size is None:
                raise ArchiveRefused("its extended header gives a size that is no number", name)
            size_bytes = size
        if any(key.startswith(b"GNU.sparse.") for key in own):
            kind, name = _GNU_SPARSE, records.get(b"GNU.sparse.name", name)
        if not name:
            raise ArchiveRefused("a member has no name")
        link = records.get(b"linkpath", header.link)
        goes_on = header.goes_on and header.kind == _GNU_SPARSE
        return _Member(name, link, kind, bool(header.mode & 0o100), size_bytes, goes_on)

    def _pass_sparse_map(self, *, goes_on: bool) -> None:
        while goes_on:
            goes_on = bool(self._blocks.exactly(BLOCK_BYTES)[_SPARSE_GOES_ON])
