"""Giving out a tree as a tar archive: sorted, with fixed owners and logical times, so that equal trees give equal bytes.

POSIX (ustar, and pax where a name is long or not ASCII). `changed` becomes the modification time; it is not read back.
"""

from __future__ import annotations

from store import tree as trees
from store.archives.headers import BLOCK_BYTES, Described, encode_headers, padding_bytes
from store.archives.members import DEFAULT_LIMITS, ArchiveLimits, Progress, no_progress
from store.archives.writing import Writable, read_file, walk, write_all
from store.delta import DIRECTORY_MODE, FILE_MODES
from store.ids import TreeId
from store.interfaces import Objects
from store.tree import Entry, EntryKind

_SYMLINK_MODE = 0o777


def export_tar(
    objects: Objects,
    tree: TreeId,
    stream: Writable,
    limits: ArchiveLimits = DEFAULT_LIMITS,
    progress: Progress = no_progress,
) -> None:
    """Write `tree` to `stream`, which is neither sought in nor closed. Holds one file at a time in memory.

    Raises ArchiveRefused for a tree beyond the limits, ObjectMissing, ObjectDamaged, OSError. What was written then has no
    end mark, and whoever reads it sees that.
    """
    done_bytes = 0
    for path, entry in walk(objects, tree, limits):
        data = read_file(objects, entry) if entry.is_file else b""
        write_all(stream, encode_headers(_described(path, entry)))
        if data:
            write_all(stream, data)
            write_all(stream, bytes(padding_bytes(len(data))))
            done_bytes += len(data)
            progress(done_bytes)
    write_all(stream, bytes(2 * BLOCK_BYTES))


def _described(path: bytes, entry: Entry) -> Described:
    time_s = trees.logical_time_s(entry.changed)
    if entry.kind is EntryKind.DIRECTORY:
        return Described(path + b"/", b"5", DIRECTORY_MODE, 0, time_s)
    if entry.kind is EntryKind.SYMLINK:
        return Described(path, b"2", _SYMLINK_MODE, 0, time_s, entry.content)
    return Described(path, b"0", FILE_MODES[entry.kind], entry.size_bytes, time_s)
