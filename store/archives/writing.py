"""What all ways out share: a tree's entries in order, and a stream to write them to."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterator
from typing import Protocol

from store import tree as trees
from store.archives.members import ArchiveLimits
from store.capture import load_tree
from store.errors import ArchiveRefused, ObjectDamaged
from store.ids import Kind, TreeId
from store.interfaces import Objects
from store.tree import Entry, EntryKind

REST_BYTES = 1 << 20
_GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
_COMPRESSION_LEVEL = 6


class Writable(Protocol):
    """A binary stream that waits. `write` says how much it took, which may be less than all."""

    def write(self, data: bytes, /) -> int | None: ...


def write_all(stream: Writable, data: bytes) -> None:
    """Write all of `data`, also to a raw stream, which may take less at once. Raises OSError when it takes nothing."""
    ahead = memoryview(data)
    while ahead:
        # The whole is passed on as it is: only what a raw stream left is cut out.
        written = stream.write(data if len(ahead) == len(data) else bytes(ahead[:REST_BYTES]))
        if not written:
            raise OSError(errno.EAGAIN, "the stream takes nothing; one that waits is needed")
        ahead = ahead[written:]


class Gzipping:
    """Compresses into a stream as gzip does, with no name and no time: equal data give equal bytes wherever the same zlib compresses.

    Without `finish` it has no end, and whoever reads it sees that.
    """

    def __init__(self, stream: Writable) -> None:
        self._stream = stream
        self._packing = zlib.compressobj(_COMPRESSION_LEVEL, zlib.DEFLATED, _GZIP_WINDOW_BITS)

    def write(self, data: bytes, /) -> int:
        write_all(self._stream, self._packing.compress(data))
        return len(data)

    def finish(self) -> None:
        write_all(self._stream, self._packing.flush())


def walk(objects: Objects, tree: TreeId, limits: ArchiveLimits) -> Iterator[tuple[bytes, Entry]]:
    """Every entry below `tree` with its path, sorted, a directory before what it holds. Memory for the directories on the way.

    Raises ArchiveRefused for a tree beyond the limits: equal trees are stored once, so a small store may hold an endless one.
    """
    ahead = [(b"", iter(load_tree(objects, tree)))]
    entries = total_bytes = 0
    while ahead:
        prefix, rest = ahead[-1]
        entry = next(rest, None)
        if entry is None:
            ahead.pop()
            continue
        path = prefix + entry.name
        entries += 1
        total_bytes += entry.size_bytes if entry.is_file else 0
        if entries > limits.entries:
            raise ArchiveRefused(f"the tree holds more than {limits.entries} entries")
        if total_bytes > limits.total_bytes:
            raise ArchiveRefused(f"the tree holds more than {limits.total_bytes} bytes")
        yield path, entry
        if entry.kind is EntryKind.DIRECTORY:
            if len(ahead) > limits.depth:
                raise ArchiveRefused(f"it lies deeper than {limits.depth} directories", path)
            ahead.append((path + b"/", iter(load_tree(objects, trees.entry_tree(entry)))))


def read_file(objects: Objects, entry: Entry) -> bytes:
    """A file's contents. Raises ObjectMissing, or ObjectDamaged, also when it is not as long as its entry says."""
    data = objects.get(Kind.BLOB, entry.content)
    if len(data) != entry.size_bytes:
        raise ObjectDamaged("blob", entry.content.hex(), f"it has {len(data)} bytes, its entry says {entry.size_bytes}")
    return data
