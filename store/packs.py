"""Objects in append-only pack files, with large blobs as files of their own.

    packs/00000007.open   being appended to by the one process that holds its flock
    packs/00000003.pack   sealed: complete, synced, never written again
    large/ab/cdef...      a blob of LARGE_BYTES or more

The packs are the write-ahead log: what a commit puts is appended in one writev and made durable by one fdatasync, which
commits in flight share (the first waiter syncs for all). A record is header and payload; the id in the header is the hash
of the payload, so a torn tail is recognised and cut when its pack is next taken over. Nobody cuts a pack whose lock is held,
and nobody cuts what a whole record follows: that is damage, not a torn tail, and what lies beyond it is read on.

A deduplication hit counts only where the bytes are known to be durable after our next sync: in our own pack or a sealed one.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from store import files as files_module
from store.errors import ObjectDamaged, ObjectMissing, StoreUnusable
from store.files import Files, read_exactly
from store.ids import BlobId, Kind, object_id
from store.index import (
    PACK_HEADER,
    RECORD,
    Name,
    Place,
    Record,
    is_whole,
    next_whole_record,
    read_records,
    record_at,
    record_header,
)
from store.large import LARGE_BYTES, LargeBlobs

SEAL_BYTES = 64 << 20
PENDING_BYTES_MAX = 4 << 20
PACK_MODE = 0o600
"""Writable, also for users without the rights of root: the next start goes on with it."""


class PackObjects:
    """`Objects` and `ObjectLister` on a local file system. One per process and store folder; any number of threads."""

    def __init__(self, root: Path, files: Files, *, seal_bytes: int = SEAL_BYTES) -> None:
        self._files, self._seal_bytes = files, seal_bytes
        self._packs = root / "packs"
        self._packs.mkdir(parents=True, exist_ok=True)
        self._large = LargeBlobs(root / "large", files)
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
        self._own: _OpenPack | None = None
        self._own_numbers: set[int] = set()
        self._load()

    # -- Objects ----------------------------------------------------------------------------------------------------

    def put(self, kind: Kind, data: bytes) -> bytes:
        name = (kind, object_id(kind, data))
        if kind is Kind.BLOB and len(data) >= LARGE_BYTES:
            self._large.put(name[1], lambda target: self._files.write(target, data))
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
        return self._large.put_file(descriptor, size_bytes)

    def get(self, kind: Kind, object_id: bytes) -> bytes:
        name = (kind, object_id)
        with self._state:
            pending = self._pending.get(name)
            place = self._index.get(name) or self._foreign.get(name)
        if pending is not None:
            return pending
        if place is None:
            large = self._large.read(object_id) if kind is Kind.BLOB else None
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
                if places is not None:
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
        for name in self._large:
            yield Kind.BLOB, name

    def find_missing(self, objects: Collection[Name]) -> set[Name]:
        with self._state:
            missing = {name for name in objects if name not in self._index and name not in self._pending}
            if missing - self._foreign.keys():
                self._read_foreign()
            missing -= self._foreign.keys()
        return {name for name in missing if not (name[0] is Kind.BLOB and self._large.has(name[1]))}

    def close(self) -> None:
        """Close every descriptor, when a sync under way has ended. What was not synced is lost, as after a crash."""
        with self._state:
            while self._syncing:
                self._state.wait()
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
        self._append(pack, buffers)
        pack.end = offset
        if pack.end >= self._seal_bytes:
            self._own = None
            self._rename_sealed(pack.number)
        return places

    def _append(self, pack: _OpenPack, buffers: list[bytes]) -> None:
        """Append and sync, or leave the pack as it was; after a failed sync never use it again: the kernel may have dropped its
        pages.
        """
        self._own = None
        try:
            self._files.append(pack.descriptor, buffers)
        except OSError:
            # Nothing of it was promised, and a full disk must not be filled with it.
            self._files.truncate(pack.descriptor, pack.end)
            self._own = pack
            raise
        self._files.sync(pack.descriptor)
        self._own = pack

    def _new_pack(self) -> _OpenPack:
        number = 1 + max((_number(path) for path in self._packs.iterdir()), default=0)
        while (descriptor := self._try_new_pack(number)) is None:
            number += 1
        return _OpenPack(number, descriptor, len(PACK_HEADER))

    def _try_new_pack(self, number: int) -> int | None:
        """The descriptor of a new pack of this number; None when another process has one."""
        # Locked before it has a name, so that no other process can take it for an abandoned one.
        descriptor = self._files.unnamed(str(self._packs), PACK_MODE)
        try:
            files_module.lock(descriptor, wait=False)
            self._files.append(descriptor, [PACK_HEADER])
            self._files.sync(descriptor)
            named = self._name_pack(descriptor, number)
            if named:
                self._files.sync_directory(str(self._packs))
        except BaseException:
            os.close(descriptor)
            with self._state:
                self._own_numbers.discard(number)  # whoever takes it over may append to it
            raise
        if not named:
            os.close(descriptor)
            return None
        with self._state:
            self._readers[number] = descriptor
        return descriptor

    def _name_pack(self, descriptor: int, number: int) -> bool:
        """Call our pack so, unless another process has a pack of that number, also one that it seals meanwhile."""
        path = self._packs / f"{number:08d}.open"
        sealed = path.with_suffix(".pack")
        if path.exists() or sealed.exists():
            return False
        with self._state:
            self._own_numbers.add(number)  # before it can be seen, so that no reader of ours takes it for another's
        self._files.link(descriptor, str(path))
        ours = _still_named(descriptor, path)
        if ours and not sealed.exists():
            return True
        if ours:
            self._files.unlink(str(path))
        with self._state:
            self._own_numbers.discard(number)
        return False

    def _rename_sealed(self, number: int) -> None:
        path = self._packs / f"{number:08d}.open"
        self._files.rename(str(path), str(path.with_suffix(".pack")), source_directory=None, target_directory=None)
        self._files.sync_directory(str(self._packs))

    # -- loading ----------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        for path in sorted(self._packs.iterdir()):
            if path.suffix == ".pack":
                self._read_whole_pack(_number(path), verify=False)
            elif path.suffix == ".open":
                self._take_over(path)
        self._read_foreign()

    def _take_over(self, path: Path) -> None:
        """Adopt a pack whose writer is gone: cut its torn tail, make the rest durable, go on with it or seal it.

        One with damage in it is sealed as it is: where its end should be is not sure.
        """
        try:
            descriptor = self._files.open(str(path), os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return  # another process has taken it over and sealed it meanwhile
        if not files_module.lock(descriptor, wait=False) or not _still_named(descriptor, path):
            os.close(descriptor)
            return
        number = _number(path)
        self._readers[number] = descriptor
        self._own_numbers.add(number)
        end, damaged = self._read_whole_pack(number, verify=True)
        if not damaged:
            self._files.truncate(descriptor, end)
        self._files.sync(descriptor)
        if self._own is None and end < self._seal_bytes and not damaged:
            self._own = _OpenPack(number, descriptor, end)
        else:
            self._rename_sealed(number)

    def _read_foreign(self) -> None:
        """Learn what other processes have added since the last look; the caller holds the lock (or is alone)."""
        for path in sorted(self._packs.iterdir()):
            number = _number(path)
            if number in self._own_numbers:
                continue
            if path.suffix == ".pack" and number in self._readers and number not in self._foreign_ends:
                continue
            start = self._foreign_ends.get(number, len(PACK_HEADER))
            self._foreign_ends[number] = self._read_foreign_pack(number, start)

    def _read_foreign_pack(self, number: int, start: int) -> int:
        """What another process has appended since `start`, up to what is not whole yet; returns where that begins."""
        end = start
        for record in read_records(self._checked_reader(number), start, verify=True):
            self._foreign[record.name] = Place(number, record.offset, record.length)
            end = record.end
        return end

    def _read_whole_pack(self, number: int, *, verify: bool) -> tuple[int, bool]:
        """Index a pack that nobody appends to; returns where its last record ends, and whether there is damage before that."""
        descriptor = self._checked_reader(number)
        end, damaged = len(PACK_HEADER), False
        position: int | None = end
        while position is not None:
            last: Record | None = None
            for last in read_records(descriptor, position, verify=verify):
                self._index[last.name] = Place(number, last.offset, last.length)
                end = last.end
            position = _beyond_damage(descriptor, end, last if not verify else None)
            if position is not None:
                damaged = True
                lost = record_at(descriptor, end, position)
                if lost is not None and lost.end == position:
                    # Its header is whole: whoever asks for it is told that it is damaged, not that it never was.
                    self._index[lost.name] = Place(number, lost.offset, lost.length)
        return end, damaged

    def _checked_reader(self, number: int) -> int:
        descriptor = self._reader(number)
        if read_exactly(descriptor, len(PACK_HEADER), 0) != PACK_HEADER:
            raise StoreUnusable(f"pack {number} does not begin as a pack of this format")
        return descriptor

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


def _beyond_damage(descriptor: int, end: int, unverified: Record | None) -> int | None:
    """Where records go on after the one that ends at `end`; None when nothing whole follows, as after a torn tail.

    `unverified` is that last record when it was not verified: a wrong length in its header leads astray.
    """
    if end == os.fstat(descriptor).st_size:
        return None
    if unverified is not None and not is_whole(descriptor, unverified):
        return next_whole_record(descriptor, unverified.start + 1)
    return next_whole_record(descriptor, end)
