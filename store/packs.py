"""Objects in append-only pack files, with large blobs as files of their own.

    packs/00000007.open   being appended to by the one process that holds its flock
    packs/00000003.pack   sealed: complete, synced, never written again
    large/ab/cdef...      a blob of LARGE_BYTES or more

The packs are the write-ahead log: what a commit puts is appended in one writev and made durable by one fdatasync, which
commits in flight share (the first waiter syncs for all). A record is header and payload; the id in the header is the hash
of the payload, so a torn tail is recognised and cut when its pack is next taken over. Nobody cuts a pack whose lock is held.

A deduplication hit counts only where the bytes are known to be durable after our next sync: in our own pack or a sealed one.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from store import files as files_module
from store.errors import ObjectDamaged, ObjectMissing, StoreUnusable
from store.files import Files, read_exactly
from store.ids import BlobId, Kind, hasher, object_id
from store.index import PACK_HEADER, RECORD, Name, Place, read_records, record_header

LARGE_BYTES = 128 << 10
SEAL_BYTES = 64 << 20
PENDING_BYTES_MAX = 4 << 20
PACK_MODE = 0o600
"""Writable, also for users without the rights of root: the next start goes on with it."""


class PackObjects:
    """`Objects` and `ObjectLister` on a local file system. One per process and store folder; any number of threads."""

    def __init__(self, root: Path, files: Files, *, seal_bytes: int = SEAL_BYTES) -> None:
        self._root, self._files, self._seal_bytes = root, files, seal_bytes
        self._packs = root / "packs"
        self._large = root / "large"
        for folder in (self._packs, self._large):
            folder.mkdir(parents=True, exist_ok=True)
        files.sync_directory(str(root))
        self._state = threading.Condition()
        self._index: dict[Name, Place] = {}
        self._foreign: dict[Name, Place] = {}
        self._foreign_ends: dict[int, int] = {}
        self._readers: dict[int, int] = {}
        self._pending: dict[Name, bytes] = {}
        self._pending_bytes = 0
        self._put_count = self._synced_count = 0
        self._syncing = False
        self._large_known: set[bytes] = set()
        self._fans_known: set[int] = set()
        self._own: _OpenPack | None = None
        self._load()

    # -- Objects ----------------------------------------------------------------------------------------------------

    def put(self, kind: Kind, data: bytes) -> bytes:
        name = (kind, object_id(kind, data))
        if kind is Kind.BLOB and len(data) >= LARGE_BYTES:
            self._put_large(name[1], lambda target: self._files.write(target, data))
            return name[1]
        if self._pending_bytes >= PENDING_BYTES_MAX:
            self.sync()
        with self._state:
            if name not in self._index and name not in self._pending:
                self._pending[name] = bytes(data)
                self._pending_bytes += RECORD.size + len(data)
                self._put_count += 1
        return name[1]

    def put_file(self, descriptor: int, size_bytes: int) -> BlobId:
        if size_bytes < LARGE_BYTES:
            data = read_exactly(descriptor, size_bytes, 0)
            if len(data) < size_bytes:
                raise OSError(errno.EIO, "a file is shorter than said")
            return BlobId(self.put(Kind.BLOB, data))
        if os.fstat(descriptor).st_size < size_bytes:
            raise OSError(errno.EIO, "a file is shorter than said")
        name = _hash_file(descriptor, size_bytes)

        def fill(target: int) -> None:
            os.lseek(descriptor, 0, os.SEEK_SET)
            self._files.copy(descriptor, target, size_bytes)

        self._put_large(name, fill)
        return BlobId(name)

    def get(self, kind: Kind, object_id: bytes) -> bytes:
        name = (kind, object_id)
        with self._state:
            pending = self._pending.get(name)
            place = self._index.get(name) or self._foreign.get(name)
        if pending is not None:
            return pending
        if place is None:
            large = self._read_large(object_id) if kind is Kind.BLOB else None
            if large is not None:
                return large
            with self._state:
                self._read_foreign()
                place = self._index.get(name) or self._foreign.get(name)
        if place is None:
            raise ObjectMissing(kind.word, object_id.hex())
        return self._read(name, place)

    def sync(self) -> None:
        """See `Objects.sync`. After a failure all that was put is still pending, and a later call writes it to a new pack."""
        with self._state:
            goal = self._put_count
            while self._syncing and self._synced_count < goal:
                self._state.wait()
            if self._synced_count >= goal:
                return
            self._syncing = True
            batch, reached = dict(self._pending), self._put_count
        places: dict[Name, Place] | None = None
        try:
            places = self._write(batch)
        finally:
            with self._state:
                self._syncing = False
                if places is None:
                    self._abandon()
                else:
                    self._index.update(places)
                    for name, data in batch.items():
                        del self._pending[name]
                        self._pending_bytes -= RECORD.size + len(data)
                    self._synced_count = reached
                self._state.notify_all()

    # -- ObjectLister -----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Name]:
        with self._state:
            self._read_foreign()
            names = set(self._index) | set(self._foreign) | set(self._pending)
        yield from names
        for fan in sorted(self._large.iterdir()):
            for file in sorted(fan.iterdir()):
                yield Kind.BLOB, bytes.fromhex(fan.name + file.name)

    def find_missing(self, objects: Collection[Name]) -> set[Name]:
        with self._state:
            missing = {name for name in objects if name not in self._index and name not in self._pending}
            if missing - self._foreign.keys():
                self._read_foreign()
            missing -= self._foreign.keys()
        return {name for name in missing if not (name[0] is Kind.BLOB and self._large_path(name[1]).exists())}

    def close(self) -> None:
        """Close every descriptor. What was not synced is lost, as after a crash."""
        with self._state:
            for descriptor in self._readers.values():
                os.close(descriptor)
            self._readers.clear()
            self._own = None

    # -- appending --------------------------------------------------------------------------------------------------

    def _write(self, batch: dict[Name, bytes]) -> dict[Name, Place]:
        """Append and sync; only the thread that set `_syncing` comes here. Returns where each object lies."""
        if self._own is None:
            self._own = self._new_pack()
        pack, offset = self._own, self._own.end
        places: dict[Name, Place] = {}
        buffers: list[bytes] = []
        for name, data in batch.items():
            buffers += (record_header(*name, len(data)), data)
            places[name] = Place(pack.number, offset + RECORD.size, len(data))
            offset += RECORD.size + len(data)
        self._files.append(pack.descriptor, buffers)
        self._files.sync(pack.descriptor)
        pack.end = offset
        if pack.end >= self._seal_bytes:
            self._own = None
            self._rename_sealed(pack.number)
        return places

    def _abandon(self) -> None:
        """After a failed write or sync, never use that descriptor again: the kernel may have dropped its pages."""
        self._own = None

    def _new_pack(self) -> _OpenPack:
        # Locked before it has a name, so that no other process can take it for an abandoned one.
        descriptor = self._files.unnamed(str(self._packs), PACK_MODE)
        try:
            files_module.lock(descriptor, wait=False)
            self._files.append(descriptor, [PACK_HEADER])
            self._files.sync(descriptor)
            number = 1 + max((_number(path) for path in self._packs.iterdir()), default=0)
            while not self._name_pack(descriptor, number):
                number += 1
            self._files.sync_directory(str(self._packs))
        except BaseException:
            os.close(descriptor)
            raise
        self._readers[number] = descriptor
        return _OpenPack(number, descriptor, len(PACK_HEADER))

    def _name_pack(self, descriptor: int, number: int) -> bool:
        path = self._packs / f"{number:08d}.open"
        if path.exists() or path.with_suffix(".pack").exists():
            return False
        self._files.link(descriptor, str(path))
        return os.path.samestat(os.fstat(descriptor), path.stat())

    def _rename_sealed(self, number: int) -> None:
        path = self._packs / f"{number:08d}.open"
        self._files.rename(str(path), str(path.with_suffix(".pack")), source_directory=None, target_directory=None)
        self._files.sync_directory(str(self._packs))

    # -- loading ----------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        for path in sorted(self._packs.iterdir()):
            if path.suffix == ".pack":
                self._read_pack(_number(path), self._index, len(PACK_HEADER), verify=False)
            elif path.suffix == ".open":
                self._take_over(path)
        self._read_foreign()

    def _take_over(self, path: Path) -> None:
        """Adopt a pack whose writer is gone: cut its torn tail, make the rest durable, go on with it or seal it."""
        try:
            descriptor = self._files.open(str(path), os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return  # another process has taken it over and sealed it meanwhile
        if not files_module.lock(descriptor, wait=False) or not _still_named(descriptor, path):
            os.close(descriptor)
            return
        number = _number(path)
        self._readers[number] = descriptor
        end = self._read_pack(number, self._index, len(PACK_HEADER), verify=True)
        self._files.truncate(descriptor, end)
        self._files.sync(descriptor)
        if self._own is None and end < self._seal_bytes:
            self._own = _OpenPack(number, descriptor, end)
        else:
            self._rename_sealed(number)

    def _read_foreign(self) -> None:
        """Learn what other processes have added since the last look; the caller holds the lock (or is alone)."""
        for path in sorted(self._packs.iterdir()):
            number = _number(path)
            if self._own is not None and number == self._own.number:
                continue
            if path.suffix == ".pack" and number in self._readers and number not in self._foreign_ends:
                continue
            start = self._foreign_ends.get(number, len(PACK_HEADER))
            self._foreign_ends[number] = self._read_pack(number, self._foreign, start, verify=True)

    def _read_pack(self, number: int, into: dict[Name, Place], start: int, *, verify: bool) -> int:
        descriptor = self._reader(number)
        if os.pread(descriptor, len(PACK_HEADER), 0) != PACK_HEADER:
            raise StoreUnusable(f"pack {number} does not begin as a pack of this format")
        end = start
        for name, offset, length in read_records(descriptor, start, verify=verify):
            into[name] = Place(number, offset, length)
            end = offset + length
        return end

    # -- reading ----------------------------------------------------------------------------------------------------

    def _reader(self, number: int) -> int:
        descriptor = self._readers.get(number)
        if descriptor is None:
            path = self._packs / f"{number:08d}.pack"
            try:
                descriptor = self._files.open(str(path.with_suffix(".open")), os.O_RDONLY)
            except FileNotFoundError:  # sealed, perhaps just now: names change in this direction only
                descriptor = self._files.open(str(path), os.O_RDONLY)
            self._readers[number] = descriptor
        return descriptor

    def _read(self, name: Name, place: Place) -> bytes:
        kind, expected = name
        header = record_header(kind, expected, place.length)
        with self._state:
            descriptor = self._reader(place.pack)
        record = read_exactly(descriptor, RECORD.size + place.length, place.offset - RECORD.size)
        if record[: RECORD.size] != header:
            raise ObjectDamaged(kind.word, expected.hex(), "its record's header is not the one that was written")
        data = record[RECORD.size :]
        if len(data) != place.length or object_id(kind, data) != expected:
            raise ObjectDamaged(kind.word, expected.hex(), "its bytes do not match its name")
        return data

    # -- large blobs ------------------------------------------------------------------------------------------------

    def _large_path(self, name: bytes) -> Path:
        digits = name.hex()
        return self._large / digits[:2] / digits[2:]

    def _put_large(self, name: bytes, fill: Callable[[int], None]) -> None:
        if name in self._large_known:
            return
        path = self._large_path(name)
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            descriptor = self._files.unnamed(str(self._large))
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
            self._files.sync_directory(str(self._large))
            self._fans_known.add(name[0])
        self._large_known.add(name)

    def _read_large(self, name: bytes) -> bytes | None:
        try:
            data = self._large_path(name).read_bytes()
        except FileNotFoundError:
            return None
        if object_id(Kind.BLOB, data) != name:
            raise ObjectDamaged("blob", name.hex(), "its bytes do not match its name")
        return data


class _OpenPack:
    """The pack this process appends to. `end` is where the next record goes, in bytes."""

    def __init__(self, number: int, descriptor: int, end: int) -> None:
        self.number, self.descriptor, self.end = number, descriptor, end


def _number(path: Path) -> int:
    try:
        return int(path.stem)
    except ValueError:
        raise StoreUnusable(f"{path.name!r} in the packs folder is not a pack") from None


def _still_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _hash_file(descriptor: int, size_bytes: int) -> bytes:
    with mmap.mmap(descriptor, size_bytes, prot=mmap.PROT_READ) as pages, memoryview(pages) as view:
        digest: bytes = hasher(Kind.BLOB).update(view).digest()
    return digest
