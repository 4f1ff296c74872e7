"""Large blobs: files of their own, named by their content.

    large/ab/cdef...    the bytes of a blob of LARGE_BYTES or more, under its id

Each is written to a file without a name, hashed, synced, then linked: a name that is there has all its bytes. Where the file
system can, a blob shares its blocks with the file it came from and with those it is written to: nothing is copied.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from store.errors import ObjectDamaged
from store.files import CHUNK_BYTES, Files, read_exactly
from store.ids import BlobId, Kind, hasher, object_id
from store.layout import Stranger, is_directory, is_file, open_file, refuse_other_than_file

LARGE_BYTES = 128 << 10
_UNCHECKED_BYTES_MAX = 64 << 20
"""What is longer is known to be the blob before memory is taken for it: a sparse file may say that it has any length."""
_NAME = re.compile(r"[0-9a-f]{64}\Z")


class LargeBlobs:
    """The large blobs of one store folder: a `BlobFiles`. Any number of threads and processes."""

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder, self._files = folder, files
        self._condemned = folder.parent / "condemned"
        files.ensure_directory(str(folder))
        self._lock = threading.Lock()
        self._epoch = 0
        self._named: set[bytes] = set()
        """Those whose names are known to be durable."""
        self._fans_named: set[int] = set()
        self._damaged: set[bytes] = set()
        """Those whose bytes were found to be others: they are written again when they are put again."""
        self._cannot_share: set[int] = set()
        """Devices whose files cannot be cloned into this folder."""

    def put(self, name: bytes, fill: Callable[[int], None]) -> None:
        """Store the blob of this name, which `fill` writes into a descriptor. Durable on return. Raises OSError, Stranger."""
        epoch = self._epoch
        if not self._stays(name):
            descriptor = self._files.unnamed(str(self._folder))
            try:
                fill(descriptor)
                self._link(descriptor, name)
            finally:
                os.close(descriptor)
        self._make_name_durable(name, epoch)

    def put_file(self, descriptor: int, size_bytes: int) -> BlobId:
        """Store the first `size_bytes` of a file. Durable on return. Raises OSError when it is shorter, or changes meanwhile."""
        if os.fstat(descriptor).st_size < size_bytes:
            raise OSError(errno.EIO, "a file is shorter than said")
        name = self._put_clone(descriptor, size_bytes)
        if name is None:
            name = _hash_file(descriptor, size_bytes)

            def copy(target: int) -> None:
                self._files.copy(descriptor, target, size_bytes)
                if _hash_file(target, size_bytes) != name:
                    raise OSError(errno.EIO, "a file changed while it was stored")

            self.put(name, copy)
        return BlobId(name)

    def write_file(self, name: bytes, descriptor: int) -> bool:
        """See `BlobFiles.write_file`; False when there is none of this name."""
        source = self._open(name, self._files)
        if source is None:
            return False
        try:
            size_bytes = os.fstat(source).st_size
            if not self._files.clone(source, descriptor, size_bytes):
                self._files.copy(source, descriptor, size_bytes)
        finally:
            os.close(source)
        # What was written, not what was read: its pages are also those that are wanted next.
        if _hash_file(descriptor, size_bytes) != name:
            raise self._found_damaged(name)
        return True

    def read(self, name: bytes) -> bytes | None:
        """The blob's bytes, None when there is none of this name. Raises ObjectDamaged."""
        descriptor = self._open(name)
        if descriptor is None:
            return None
        try:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes > _UNCHECKED_BYTES_MAX and _hash_file(descriptor, size_bytes) != name:
                raise self._found_damaged(name)
            data = read_exactly(descriptor, size_bytes, 0)
        finally:
            os.close(descriptor)
        if object_id(Kind.BLOB, data) != name:
            raise self._found_damaged(name)
        return data

    def verify(self, name: bytes) -> None:
        """Read the blob without holding it. Raises ObjectDamaged; says nothing when there is none of this name."""
        descriptor = self._open(name)
        if descriptor is not None:
            try:
                if _hash_file(descriptor, os.fstat(descriptor).st_size) != name:
                    raise self._found_damaged(name)
            finally:
                os.close(descriptor)

    def has(self, name: bytes) -> bool:
        return any(map(is_file, self._paths(name)))

    # -- for gc ---------------------------------------------------------------------------------------------------------

    def enter_epoch(self, epoch: int) -> None:
        """Forget which names are known to be durable: gc may have taken them away, and somebody put them again."""
        with self._lock:
            self._epoch = epoch
            self._named.clear()

    def condemn(self, names: Collection[bytes]) -> None:
        """Put blobs where they are read, but where no writer finds them: whoever puts one of them again writes it again."""
        self._move(names, self._path, self._condemned_path)

    def spare(self, names: Collection[bytes]) -> None:
        """Bring condemned blobs back."""
        self._move(names, self._condemned_path, self._path)

    def condemned(self) -> set[bytes]:
        return set(_names(self._condemned))

    def drop(self, name: bytes) -> int:
        """Remove a condemned blob; returns its size in bytes, 0 when it was written again meanwhile, which stays."""
        path = self._condemned_path(name)
        if is_directory(path):
            return 0  # no blob, so check names it
        size_bytes = 0 if is_file(self._path(name)) else os.lstat(path).st_size
        self._files.unlink(str(path))
        return size_bytes

    def __iter__(self) -> Iterator[bytes]:
        yield from sorted({*_names(self._folder), *self.condemned()})

    def size_bytes(self, name: bytes) -> int:
        """What the blob takes. Raises FileNotFoundError."""
        return os.lstat(self.path(name)).st_size

    def path(self, name: bytes) -> Path:
        """The file that is read for a blob, or what is there instead of it. Raises FileNotFoundError."""
        for path in self._paths(name):
            if os.path.lexists(path):
                return path
        raise FileNotFoundError(errno.ENOENT, "no such large blob", name.hex())

    def _open(self, name: bytes, files: Files | None = None) -> int | None:
        """A descriptor of the blob's file, None when there is none. Raises ObjectDamaged for what is no file."""
        for path in self._paths(name):
            try:
                return open_file(path, os.O_RDONLY, _place(path), files)
            except FileNotFoundError:
                continue
            except Stranger as error:
                raise ObjectDamaged("blob", name.hex(), error.reason) from None
        return None

    def _stays(self, name: bytes) -> bool:
        """Whether the blob is there, not condemned and not known to be damaged: then it need not be written again. Raises Stranger."""
        path = self._path(name)
        refuse_other_than_file(path, _place(path))
        return name not in self._damaged and is_file(path)

    def _move(self, names: Collection[bytes], source: Callable[[bytes], Path], target: Callable[[bytes], Path]) -> None:
        """Rename blobs. Folders are durable before anything is in them; whether a rename is does not matter."""
        for folder in sorted({target(name).parent for name in names}):
            self._files.ensure_directory(str(folder.parent))
            self._files.ensure_directory(str(folder))
        if names:
            self._files.sync_directory(str(self._folder.parent))
            self._files.sync_directory(str(target(next(iter(names))).parent.parent))
        for name in names:
            self._files.rename(str(source(name)), str(target(name)), source_directory=None, target_directory=None)

    def _paths(self, name: bytes) -> tuple[Path, ...]:
        """Where a blob may be. The first place once more, since gc may bring it back while we look."""
        return self._path(name), self._condemned_path(name), self._path(name)

    def _put_clone(self, source: int, size_bytes: int) -> bytes | None:
        """Store a file by sharing its blocks, hashed once; None where that cannot be."""
        device = os.fstat(source).st_dev
        if device in self._cannot_share:
            return None
        epoch = self._epoch
        clone = self._files.unnamed(str(self._folder))
        try:
            if not self._files.clone(source, clone, size_bytes):
                self._cannot_share.add(device)
                return None
            name = _hash_file(clone, size_bytes)
            if not self._stays(name):
                self._link(clone, name)
        finally:
            os.close(clone)
        self._make_name_durable(name, epoch)
        return name

    def _link(self, descriptor: int, name: bytes) -> None:
        path = self._path(name)
        self._files.ensure_directory(str(path.parent))
        self._files.sync(descriptor)
        if name in self._damaged:
            self._replace(descriptor, name)
        else:
            self._files.link(descriptor, str(path))

    def _replace(self, descriptor: int, name: bytes) -> None:
        """Put a whole file in a damaged one's place. In one act: another process may have done so before, and relied on it."""
        path = self._path(name)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        with self._lock:
            self._files.link(descriptor, str(new))
            self._files.rename(str(new), str(path), source_directory=None, target_directory=None)
            self._named.discard(name)
            self._damaged.discard(name)

    def _found_damaged(self, name: bytes) -> ObjectDamaged:
        self._damaged.add(name)
        return ObjectDamaged("blob", name.hex(), "its bytes do not match its name")

    def _make_name_durable(self, name: bytes, epoch: int) -> None:
        """Also for names that were there: another process, or we before a failure, may not have synced the directory."""
        if name in self._named:
            return
        self._files.sync_directory(str(self._path(name).parent))
        if name[0] not in self._fans_named:
            self._files.sync_directory(str(self._folder))
            self._fans_named.add(name[0])
        with self._lock:
            if epoch == self._epoch:  # else the name may be another by now
                self._named.add(name)

    def _path(self, name: bytes) -> Path:
        return _below(self._folder, name)

    def _condemned_path(self, name: bytes) -> Path:
        return _below(self._condemned, name)


def _below(folder: Path, name: bytes) -> Path:
    digits = name.hex()
    return folder / digits[:2] / digits[2:]


def _place(path: Path) -> str:
    """The file of a blob as messages call it: relative to the store folder."""
    return "/".join(path.parts[-3:])


def _names(folder: Path) -> Iterator[bytes]:
    if is_directory(folder):
        for fan in folder.iterdir():
            for file in fan.iterdir() if is_directory(fan) else ():
                if _NAME.match(fan.name + file.name):  # what else lies there is not ours
                    yield bytes.fromhex(fan.name + file.name)


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
