"""Giving out a tree as a zip archive: sorted, with fixed owners and logical times.

Equal trees give equal bytes wherever the same zlib compresses. Names that are UTF-8 are marked so; others stand as they are.
"""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from store import tree as trees
from store.archives.members import DEFAULT_LIMITS, ArchiveLimits, Progress, no_progress
from store.archives.writing import Writable, read_file, walk, write_all
from store.delta import DIRECTORY_MODE, FILE_MODES
from store.ids import TreeId
from store.interfaces import Objects
from store.tree import Entry, EntryKind

_UNIX = 3
_UTF8_FLAG = 0x800
_DOS_DIRECTORY = 0x10
_COMPRESSION_LEVEL = 6
_LAST_TIME_S = int(datetime(2107, 12, 31, 23, 59, 58, tzinfo=UTC).timestamp())
"""The latest time that a zip can say."""
_MODES = {
    EntryKind.FILE: stat.S_IFREG | FILE_MODES[EntryKind.FILE],
    EntryKind.EXECUTABLE: stat.S_IFREG | FILE_MODES[EntryKind.EXECUTABLE],
    EntryKind.SYMLINK: stat.S_IFLNK | 0o777,
    EntryKind.DIRECTORY: stat.S_IFDIR | DIRECTORY_MODE,
}


def export_zip(
    objects: Objects,
    tree: TreeId,
    stream: Writable,
    limits: ArchiveLimits = DEFAULT_LIMITS,
    progress: Progress = no_progress,
) -> None:
    """Write `tree` to `stream`, which is neither sought in nor closed. Holds one file at a time, and the list of all members.

    Raises ArchiveRefused for a tree beyond the limits, ObjectMissing, ObjectDamaged, OSError. What was written then has no
    list of members, and is no zip.
    """
    sink = _Sink(stream)
    try:
        # zipfile's own clean-up would write the list of members also when only half of them are there.
        _write(ZipFile(sink, "w", ZIP_DEFLATED), objects, tree, limits, progress)
    except BaseException:
        sink.shut()
        raise


def _write(archive: ZipFile, objects: Objects, tree: TreeId, limits: ArchiveLimits, progress: Progress) -> None:
    done_bytes = 0
    for path, entry in walk(objects, tree, limits):
        member = _Member(path, entry)
        if entry.kind is EntryKind.DIRECTORY:
            archive.mkdir(member)
            continue
        data = entry.content if entry.kind is EntryKind.SYMLINK else read_file(objects, entry)
        archive.writestr(member, data, ZIP_DEFLATED, _COMPRESSION_LEVEL)
        if entry.is_file:
            done_bytes += len(data)
            progress(done_bytes)
    archive.close()


class _Member(ZipInfo):
    """What a zip says of one entry, with the name's own bytes."""

    CRC = 0

    def __init__(self, path: bytes, entry: Entry) -> None:
        slash = b"/" if entry.kind is EntryKind.DIRECTORY else b""
        time_s = min(trees.logical_time_s(entry.changed), _LAST_TIME_S)
        # Bytes that are no UTF-8 become characters that no other name has: zipfile looks for names that it has already.
        super().__init__(
            (path + slash).decode(errors="surrogateescape"), datetime.fromtimestamp(time_s, UTC).timetuple()[:6]
        )
        self.create_system = _UNIX
        self.external_attr = _MODES[entry.kind] << 16 | (_DOS_DIRECTORY if slash else 0)

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802
        # zipfile knows no names but text; this is the one place where it asks for their bytes.
        encoded = self.filename.encode(errors="surrogateescape")
        try:
            encoded.decode()
        except UnicodeDecodeError:
            return encoded, self.flag_bits
        return encoded, self.flag_bits if encoded.isascii() else self.flag_bits | _UTF8_FLAG


class _Sink:
    """A stream that zipfile can do nothing with but write: so it never goes back, and the bytes are those of a pipe."""

    def __init__(self, stream: Writable) -> None:
        self._stream: Writable | None = stream

    def write(self, data: bytes) -> int:
        if self._stream is not None:
            write_all(self._stream, data)
        return len(data)

    def flush(self) -> None:
        """The stream's owner flushes it."""

    def close(self) -> None:
        """The stream's owner closes it."""

    def shut(self) -> None:
        """Pass nothing on any more."""
        self._stream = None
