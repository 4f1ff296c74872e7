"""Objects in append-only pack files, with large blobs as files of their own.

The packs are the write-ahead log: what a commit puts is appended in one writev and made durable by one fdatasync, which
commits in flight share (the first waiter syncs for all). A record is header and payload; the id in the header is the hash
of the payload, so a torn tail is recognised and cut when its pack is next taken over. Nobody cuts a pack whose lock is held,
and nobody cuts what a whole record follows: that is damage, not a torn tail, and what lies beyond it is read on.

A deduplication hit counts only where the bytes are known to be durable after our next sync, and to stay: in our own pack or a
sealed one that gc has not condemned. Else the object is written again; so is one of which no whole copy was found.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from store.errors import ObjectDamaged, ObjectMissing, ObjectTooLong
from store.files import Files, read_exactly
from store.ids import BlobId, Kind, object_id
from store.large import LARGE_BYTES, LargeBlobs
from store.marker import hold_marker
from store.pack_folder import PackFolder, Place, packs_in
from store.pack_writer import PackWriter
from store.records import COMPRESSED, OBJECT_BYTES_MAX, RECORD, Name, restore

SEAL_BYTES = 64 << 20
PENDING_BYTES_MAX = 4 << 20


class PackObjects:
    """`Objects` and `ObjectLister` on a local file system. One per process and store folder; any number of threads."""

    def __init__(self, root: Path, files: Files, *, seal_bytes: int = SEAL_BYTES) -> None:
        self._files, self.seal_bytes = files, seal_bytes
        packs = root / "packs"
        root.mkdir(parents=True, exist_ok=True)
        files.ensure_directory(str(packs))
        self.large = LargeBlobs(root / "large", files)
        marker, mended = hold_marker(root, packs_in(packs), files)
        files.sync_directory(str(root))
        self.folder = PackFolder(packs, files, marker)
        if mended:
            self.folder.rebuilt.append("the file with the store's marker was lost or damaged")
        self._state = threading.Condition()
        self._pending: dict[Name, bytes] = {}
        self._pending_bytes = 0
        self._damaged: set[Name] = set()
        """Of which no whole copy was found, though packs list them."""
        self._put_count = self._synced_count = 0
        self._syncing = False
        self._epoch = 0
        self._stale = False
        self._own: PackWriter | None = None
        self._retired: list[PackWriter] = []
        self._full: list[PackWriter] = []
        self.taken_over: list[PackWriter] = []
        """Packs of processes that are gone, as they were found: from them heads recover (store.recovery)."""
        self.settle: Callable[[], None] = self.seal_settled
        """Has the heads made durable, and then calls `seal_settled`."""
        try:
            self._take_over_abandoned()
        except BaseException:
            self.close()
            raise

    # -- Objects ----------------------------------------------------------------------------------------------------

    def put(self, kind: Kind, data: bytes) -> bytes:
        if kind is not Kind.BLOB and len(data) > OBJECT_BYTES_MAX:
            raise ObjectTooLong(kind.word, len(data), OBJECT_BYTES_MAX)
        name = (kind, object_id(kind, data))
        if kind is Kind.BLOB and len(data) >= LARGE_BYTES:
            self.large.put(name[1], lambda target: self._files.write(target, data))
            return name[1]
        if self._stale:
            self._look_again()
        if self._pending_bytes >= PENDING_BYTES_MAX:
            self.sync()
        with self._state:
            stays = name not in self._damaged and (self._holds(name) or self.folder.durable(name))
            if name not in self._pending and not stays:
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
        return self.large.put_file(descriptor, size_bytes)

    def write_file(self, blob: BlobId, descriptor: int) -> None:
        data = self._pending.get((Kind.BLOB, blob)) or self._read_somewhere((Kind.BLOB, blob))
        if data is not None or not self.large.write_file(blob, descriptor):
            self._files.write(descriptor, data if data is not None else self.get(Kind.BLOB, blob))

    def get(self, kind: Kind, object_id: bytes) -> bytes:
        name = (kind, object_id)
        pending = self._pending.get(name)
        if pending is not None:
            return pending
        data = self._read_somewhere(name)
        if data is None and kind is Kind.BLOB:
            data = self.large.read(object_id)
        if data is None:
            # Another process may have written it, or gc moved it, or a pack been cut and continued since we looked.
            damaged = bool(self._places(name))
            if damaged:
                self.folder.forget_foreign()
            self.folder.refresh()
            data = self._read_somewhere(name)
            if data is None and damaged and self._places(name):
                self._damaged.add(name)
                raise ObjectDamaged(kind.word, object_id.hex(), "its bytes do not match its name")
        if data is None:
            raise ObjectMissing(kind.word, object_id.hex())
        return data

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
        written = False
        try:
            self._write(batch)
            written = True
        finally:
            with self._state:
                self._syncing = False
                if written:
                    for name, data in batch.items():
                        del self._pending[name]
                        self._pending_bytes -= RECORD.size + len(data)
                    self._damaged.difference_update(batch)
                    self._synced_count = reached
                self._state.notify_all()

    # -- ObjectLister -----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Name]:
        self.folder.refresh()
        with self._state:
            names = self.folder.names() | set(self._pending)
            for writer in self._writers():
                names |= writer.records.keys()
        yield from names
        for name in self.large:
            yield Kind.BLOB, name

    def find_missing(self, objects: Collection[Name]) -> set[Name]:
        missing = {name for name in objects if name not in self._pending and not self._places(name)}
        if missing:
            self.folder.refresh()
            missing = {name for name in missing if not self._places(name)}
        return {name for name in missing if not (name[0] is Kind.BLOB and self.large.has(name[1]))}

    # -- house-keeping ------------------------------------------------------------------------------------------------

    def enter_epoch(self, epoch: int) -> None:
        """Before anything is put under a lease of this epoch: what gc has condemned must be learnt (see store.gc)."""
        if epoch != self._epoch:
            self.large.enter_epoch(epoch)
            # Looked at by the next put: whoever enters an epoch may be in no place to wait for a disk.
            self._stale = True
            self._epoch = epoch

    def _look_again(self) -> None:
        with self._state:  # as every look for a stored object: none is done with the old view while this goes on
            if self._stale:
                self._stale = False
                try:
                    self.folder.refresh()
                except BaseException:
                    self._stale = True
                    raise

    def own_pack(self) -> PackWriter | None:
        """The pack that this process appends to, when there is one."""
        return self._own

    def open_packs(self) -> list[PackWriter]:
        """The packs that this process has open."""
        return self._writers()

    def unfollowed(self, followed_bytes: Mapping[int, int]) -> set[Name]:
        """Moves in open packs, also of other processes, behind where heads have followed them: perhaps under way."""
        with self._state:
            found = {
                name
                for writer in self._writers()
                for name, record in writer.records.items()
                if name[0] is Kind.MOVE and record.start >= followed_bytes.get(writer.number, 0)
            }
        return found | self.folder.unfollowed(followed_bytes)

    def seal(self) -> None:
        """Seal the pack that this process appends to, when there is anything in it."""
        self.sync()
        with self._alone():
            if self._own is not None and self._own.usable and self._own.records:
                self._finish(self._own)
                self._own = None
        if self._full:
            self.settle()

    @property
    def waits_for_settling(self) -> bool:
        """Whether there are packs that can be sealed when heads are durable."""
        return bool(self._full)

    def seal_settled(self) -> None:
        """Seal the packs that waited for heads to be durable: now they are."""
        with self._alone():
            while self._full:
                self._full[-1].seal()
                self._full.pop()

    def open_ends_bytes(self) -> dict[int, int]:
        """Where the packs end that this process has open, by number. All before an end is durable: it moves after its sync, so nobody
        need wait for one that is under way.
        """
        with self._state:
            return {writer.number: writer.end for writer in self._writers()}

    def withdraw(self, names: Collection[Name]) -> None:
        """Forget what was put and is not durable, of objects that nobody else puts."""
        with self._alone():
            for name in names:
                if (data := self._pending.pop(name, None)) is not None:
                    self._pending_bytes -= RECORD.size + len(data)

    def open_highest_pack(self) -> None:
        """Have a pack to append to, also when there is nothing to append, with a number above those of all packs that are there."""
        with self._alone():
            own = self._own
            if own is not None and own.usable and own.number < max(self.folder.numbers()):
                self._finish(own)
                self._own = None
            self._open_own()
        if self._full:
            self.settle()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else uses the pack that we append to."""
        with self._state:
            while self._syncing:
                self._state.wait()
            self._syncing = True
        try:
            yield
        finally:
            with self._state:
                self._syncing = False
                self._state.notify_all()

    def close(self) -> None:
        """Close every descriptor, when a sync under way has ended. What was not synced is lost, as after a crash."""
        with self._state:
            while self._syncing:
                self._state.wait()
            self._own = None
            self._retired.clear()
            self._full.clear()
            self.taken_over.clear()
            self.folder = PackFolder(self.folder.path, self._files, self.folder.marker)

    # -- parts ----------------------------------------------------------------------------------------------------------

    def _write(self, batch: dict[Name, bytes]) -> None:
        """Append the batch to our pack and sync; only one thread is here at a time."""
        self._open_own().append((name, 0, data) for name, data in batch.items())

    def _open_own(self) -> PackWriter:
        """The pack to append to: the one we have, unless it is full or a sync of it failed."""
        own = self._own
        if own is not None and not own.usable:
            # What it made durable before is still read from it, and counts.
            self._retired.append(own)
            own = self._own = None
        if own is not None and own.end >= self.seal_bytes:
            self._finish(own)
            own = self._own = None
        if own is None:
            own = self._own = PackWriter.create(self.folder, self._files)
        return own

    def _finish(self, writer: PackWriter) -> None:
        """Append no more to a pack: seal it, or have it wait until that may be done."""
        if writer.holds_moves:
            self._full.append(writer)
        else:
            writer.seal()

    def _writers(self) -> list[PackWriter]:
        own = self._own
        return [*([own] if own is not None else []), *self._retired, *self._full]

    def _holds(self, name: Name) -> bool:
        return any(name in writer.records for writer in self._writers())

    def _places(self, name: Name) -> list[Place]:
        ours = [
            Place(writer.file, record.offset, record.length)
            for writer in self._writers()
            if (record := writer.records.get(name)) is not None
        ]
        return ours + list(self.folder.places(name))

    def _read_somewhere(self, name: Name) -> bytes | None:
        """The object from whichever of its places has it whole; None when none has."""
        for place in self._places(name):
            data = read_record(name, place)
            if data is not None:
                return data
        return None

    def _take_over_abandoned(self) -> None:
        damaged: list[PackWriter] = []
        for path in self.folder.open_paths():
            writer = PackWriter.take_over(path, self.folder, self._files)
            if writer is None:
                continue
            if writer.damages:
                damaged.append(writer)
            if not writer.compacted:
                self.taken_over.append(writer)
            if self._own is None and writer.end < self.seal_bytes and not writer.compacted and not writer.damages:
                self._own = writer
            elif writer.compacted:
                writer.seal()  # its moves are those of packs that were sealed before
            else:
                self._finish(writer)
        self.folder.refresh()
        for writer in damaged:
            self._damaged.update(name for name in writer.records if self._read_somewhere(name) is None)


def read_record(name: Name, place: Place) -> bytes | None:
    """The object that a record holds; None when it is not a whole record of this object."""
    record = read_exactly(place.file.descriptor, RECORD.size + place.length, place.offset - RECORD.size)
    if len(record) < RECORD.size:
        return None
    marker, kind, flags, reserved, length, identity = RECORD.unpack_from(record)
    if (
        marker != place.file.marker
        or (kind, identity) != name
        or length != place.length
        or reserved
        or flags & ~COMPRESSED
    ):
        return None
    stored = record[RECORD.size :]
    return restore(name, flags, stored) if len(stored) == length else None
