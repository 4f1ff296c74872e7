"""Large blobs: files of their own, named by their content.

    large/ab/cdef...    the bytes of a blob of LARGE_BYTES or more, under its id

Each is written to a file without a name, hashed, synced, then linked: a name that is there has all its bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from store.errors import ObjectDamaged
from store.files import CHUNK_BYTES, Files, read_exactly
from store.ids import BlobId, Kind, hasher, object_id

LARGE_BYTES = 128 << 10


class LargeBlobs:
    """The large blobs of one store folder. Any number of threads and processes."""

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder, self._files = folder, files
        folder.mkdir(parents=True, exist_ok=True)
        self._known: set[bytes] = set()
        self._fans_known: set[int] = set()

    def put(self, name: bytes, fill: Callable[[int], None]) -> None:
        """Store the blob that `fill` writes into a descriptor. Durable on return. Raises OSError when it is not `name`."""
        if name in self._known:
            return
        path = self._path(name)
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            descriptor = self._files.unnamed(str(self._folder))
            try:
                fill(descriptor)
                if _hash_file(descriptor, os.fstat(descriptor).st_size) != name:
                    raise OSError(errno.EIO, "a file changed while it was stored")
                self._files.sync(descriptor)
                self._files.link(descriptor, str(path))
            finally:
                os.close(descriptor)
        # Also for names that were there: another process, or we before a failure, may not have synced the directory.
        self._files.sync_directory(str(path.parent))
        if name[0] not in self._fans_known:
            self._files.sync_directory(str(self._folder))
            self._fans_known.add(name[0])
        self._known.add(name)

    def put_file(self, descriptor: int, size_bytes: int) -> BlobId:
        """Store the first `size_bytes` of a file. Raises OSError when it is shorter, or changes meanwhile."""
        if os.fstat(descriptor).st_size < size_bytes:
            raise OSError(errno.EIO, "a file is shorter than said")
        name = _hash_file(descriptor, size_bytes)

        self.put(name, lambda target: self._files.copy(descriptor, target, size_bytes))
        return BlobId(name)

    def read(self, name: bytes) -> bytes | None:
        """The blob's bytes, None when there is none of this name. Raises ObjectDamaged."""
        try:
            data = self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        if object_id(Kind.BLOB, data) != name:
            raise ObjectDamaged("blob", name.hex(), "its bytes do not match its name")
        return data

    def has(self, name: bytes) -> bool:
        return self._path(name).exists()

    def __iter__(self) -> Iterator[bytes]:
        for fan in sorted(self._folder.iterdir()):
            for file in sorted(fan.iterdir()):
                yield bytes.fromhex(fan.name + file.name)

    def _path(self, name: bytes) -> Path:
        digits = name.hex()
        return self._folder / digits[:2] / digits[2:]


def _hash_file(descriptor: int, size_bytes: int) -> bytes:
    digest, offset = hasher(Kind.BLOB), 0
    while offset < size_bytes:
        chunk = read_exactly(descriptor, min(CHUNK_BYTES, size_bytes - offset), offset)
        if not chunk:
            raise OSError(errno.EIO, "a file became shorter while it was read")
        digest.update(chunk)
        offset += len(chunk)
    name: bytes = digest.digest()
    return name
