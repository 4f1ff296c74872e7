"""The packs of a store folder as one process sees them: which are there, and where in them an object lies.

    packs/00000007.open       being appended to by the one process that holds its flock
    packs/00000003.pack       sealed: complete, synced, never written again
    packs/00000003.idx        its index (store.index)
    packs/00000002.condemned  sealed, and being emptied by gc: what it holds is read, but nobody may rely on its staying

A pack keeps its number, and a number is never used twice; names change in the order above. What is not known here yet is found by
`refresh`, which reads the folder again, and of other processes' open packs what was appended since.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from store import files as files_module
from store import index as indexes
from store.errors import StoreUnusable
from store.files import Files, read_exactly
from store.ids import Kind
from store.index import IndexDamaged, PackIndex
from store.layout import Stranger, is_directory, open_file
from store.records import (
    COMPACTED_MAGIC,
    PACK_HEADER,
    PACK_MAGIC,
    RECORD,
    WINDOW_BYTES,
    Name,
    PackHeader,
    Reading,
    Record,
    decode_pack_header,
    read_records,
    scan,
)

OPEN, SEALED, CONDEMNED, INDEX = ".open", ".pack", ".condemned", ".idx"
_HEADER_WINDOW_BYTES = 64 << 10


class PackFile:
    """An open pack that closes when nobody uses it any more: a reader may still be in it when its pack is dropped.

    `marker` is what its records begin with.
    """

    __slots__ = ("descriptor", "marker")

    def __init__(self, descriptor: int, marker: bytes) -> None:
        self.descriptor, self.marker = descriptor, marker

    @property
    def header(self) -> PackHeader | None:
        """None when it is damaged."""
        return decode_pack_header(read_exactly(self.descriptor, PACK_HEADER.size, 0))

    @property
    def compacted(self) -> bool:
        """Whether gc wrote it, compressed."""
        header = self.header
        return header is not None and header.compacted

    def reading(self, window_bytes: int = WINDOW_BYTES) -> Reading:
        return Reading(self.descriptor, self.marker, window_bytes)

    def __del__(self) -> None:
        os.close(self.descriptor)


class Place(NamedTuple):
    """Where an object lies: offset and length, in bytes, of what a record stores of it."""

    file: PackFile
    offset: int
    length: int


class SealedPack:
    """A pack that nobody writes to any more."""

    def __init__(self, path: Path, file: PackFile, index: PackIndex) -> None:
        self.path, self.file, self.index = path, file, index
        self.size_bytes = os.fstat(file.descriptor).st_size

    @property
    def number(self) -> int:
        return number_of(self.path)

    @property
    def condemned(self) -> bool:
        return self.path.suffix == CONDEMNED

    def find(self, name: Name) -> Place | None:
        found = self.index.find(name)
        return Place(self.file, *found) if found is not None else None


class _ForeignPack:
    """What has been read so far of a pack that another process appends to."""

    def __init__(self, file: PackFile) -> None:
        self.file, self.end = file, PACK_HEADER.size
        self.places: dict[Name, Place] = {}

    def read_on(self) -> None:
        reading = self.file.reading()
        for record in read_records(reading, self.end, verify=True):
            self.places[record.name] = Place(self.file, record.offset, record.length)
            self.end = record.end


class PackFolder:
    """See the module. Any number of threads; lookups take no lock. Raises StoreUnusable for what is no pack of this format."""

    def __init__(self, path: Path, files: Files, marker: bytes) -> None:
        self.path, self._files, self.marker = path, files, marker
        self.rebuilt: list[str] = []
        """Indexes that were damaged, or not of their pack, and have been made again."""
        self._lock = threading.RLock()
        self._own: set[int] = set()
        self._sealed: dict[int, SealedPack] = {}
        self._durable: tuple[SealedPack, ...] = ()
        self._foreign: dict[int, _ForeignPack] = {}

    # -- looking ------------------------------------------------------------------------------------------------------

    def durable(self, name: Name) -> bool:
        """Whether a sealed pack that stays holds the object: then it need not be written again."""
        return any(pack.index.find(name) is not None for pack in self._durable)

    def places(self, name: Name) -> Iterator[Place]:
        """Every known place of an object, sealed packs first."""
        with self._lock:
            sealed, foreign = list(self._sealed.values()), list(self._foreign.values())
        for pack in sealed:
            if (place := pack.find(name)) is not None:
                yield place
        for other in foreign:
            if name in other.places:
                yield other.places[name]

    def names(self) -> set[Name]:
        """Every object that sealed packs and other processes' open ones hold."""
        with self._lock:
            found = {name for pack in self._sealed.values() for name, _, _ in pack.index}
            return found.union(*(other.places for other in self._foreign.values()))

    def unfollowed(self, followed_bytes: Mapping[int, int]) -> set[Name]:
        """Moves in other processes' open packs at or behind so many bytes."""
        with self._lock:
            return {
                name
                for number, other in self._foreign.items()
                for name, place in other.places.items()
                if name[0] is Kind.MOVE and place.offset - RECORD.size >= followed_bytes.get(number, 0)
            }

    def sealed(self) -> list[SealedPack]:
        with self._lock:
            return [self._sealed[number] for number in sorted(self._sealed)]

    def refresh(self) -> None:
        """Learn what other processes have done since the last look."""
        with self._lock:
            paths = self._paths()
            # A listing may show neither the old name nor the new one of a pack that is renamed meanwhile.
            for number in (self._sealed.keys() | self._foreign.keys()) - paths.keys():
                if (path := self._path_of(number)) is not None:
                    paths[number] = path
            for number in self._sealed.keys() - paths.keys():
                del self._sealed[number]
            for number, path in paths.items():
                if path.suffix == OPEN:
                    self._look_into(number, path)
                elif number not in self._sealed or self._sealed[number].path != path:
                    self._adopt(number, path)
            for number in self._foreign.keys() - {number for number, path in paths.items() if path.suffix == OPEN}:
                del self._foreign[number]
            self._rearrange()

    def forget_foreign(self) -> None:
        """Read other processes' open packs anew: one that was taken over may have been cut where we had read on."""
        with self._lock:
            self._foreign.clear()

    # -- own packs ------------------------------------------------------------------------------------------------------

    def claim(self, number: int) -> None:
        """Say that a pack is ours before others can see it, so that no thread of ours takes it for another's."""
        with self._lock:
            self._own.add(number)

    def disclaim(self, number: int) -> None:
        with self._lock:
            self._own.discard(number)

    def add_sealed(self, path: Path, file: PackFile, records: list[Record]) -> None:
        """Take in a pack of ours that has just been sealed, and write its index."""
        with self._lock:
            size_bytes = os.fstat(file.descriptor).st_size
            index = self._write_index(path, indexes.build(records, size_bytes), size_bytes)
            self._sealed[number_of(path)] = SealedPack(path, file, index)
            self._own.discard(number_of(path))
            self._rearrange()

    def open_paths(self) -> list[Path]:
        """Packs being appended to, or left behind by a process that is gone."""
        return [path for _, path in sorted(self._paths().items()) if path.suffix == OPEN]

    def numbers(self) -> set[int]:
        return set(self._paths())

    # -- parts ----------------------------------------------------------------------------------------------------------

    def _paths(self) -> dict[int, Path]:
        """The packs that are there. Of a pack that is renamed meanwhile, the later name: they change in one direction only."""
        found: dict[int, Path] = {}
        for path in packs_in(self.path):
            number = number_of(path)
            if number not in found or _STAGES.index(path.suffix) > _STAGES.index(found[number].suffix):
                found[number] = path
        return found

    def _path_of(self, number: int) -> Path | None:
        """The pack's name now, None when it is gone. Asked for in the order in which names change, none is missed."""
        paths = (self.path / f"{number:08d}{stage}" for stage in _STAGES)
        return next((path for path in paths if os.path.lexists(path)), None)

    def _look_into(self, number: int, path: Path) -> None:
        if number in self._own:
            return
        if number not in self._foreign:
            file = self._open(path)
            if file is None:  # sealed just now
                if (later := self._path_of(number)) is not None and later != path:
                    self._adopt(number, later)
                return
            self._foreign[number] = _ForeignPack(file)
        self._foreign[number].read_on()

    def _adopt(self, number: int, path: Path) -> None:
        """Take in a sealed pack, or the new name of one that is known."""
        known = self._sealed.get(number)
        if known is not None:
            self._sealed[number] = SealedPack(path, known.file, known.index)
            return
        file = self._open(path)
        if file is None and (later := self._path_of(number)) is not None:  # condemned just now
            path, file = later, self._open(later)
        if file is not None:
            self._sealed[number] = SealedPack(path, file, self._index_of(path, file))

    def _open(self, path: Path) -> PackFile | None:
        try:
            return open_pack(open_file(path, os.O_RDONLY, f"packs/{path.name}", self._files), path, self.marker)
        except FileNotFoundError:
            return None

    def _index_of(self, path: Path, file: PackFile) -> PackIndex:
        """The pack's index: its file, or, when that is not there or not right, made from the pack."""
        pack_bytes = os.fstat(file.descriptor).st_size
        damaged = False
        try:
            return self._read_index(path, pack_bytes)
        except FileNotFoundError:
            pass
        except IndexDamaged as error:
            damaged = True
            self.rebuilt.append(f"the index of pack {number_of(path)} was damaged: {error}")
        found = scan(file.reading(_HEADER_WINDOW_BYTES), verify=False)
        data = indexes.build([*found.lost, *found.records], pack_bytes)
        if damaged:
            self._files.unlink(str(path.with_suffix(INDEX)))
        index = self._write_index(path, data, pack_bytes)
        if damaged:
            self._files.sync_directory(str(self.path))  # or it would be found damaged again after a crash
        return index

    def _read_index(self, path: Path, pack_bytes: int) -> PackIndex:
        path = path.with_suffix(INDEX)
        try:
            descriptor = open_file(path, os.O_RDONLY, f"packs/{path.name}", self._files)
        except Stranger as error:
            if is_directory(path):  # which may hold anything: not for us to remove
                raise
            raise IndexDamaged(error.reason) from None
        try:
            return PackIndex.open(descriptor, pack_bytes)
        finally:
            os.close(descriptor)

    def _write_index(self, path: Path, data: bytes, pack_bytes: int) -> PackIndex:
        """Write an index and map it. Where there is no room for it, memory must do: the next process tries again."""
        try:
            descriptor = self._files.unnamed(str(self.path))
            try:
                self._files.write(descriptor, data)
                self._files.sync(descriptor)
                self._files.link(descriptor, str(path.with_suffix(INDEX)))
            finally:
                os.close(descriptor)
            return self._read_index(path, pack_bytes)
        except (OSError, IndexDamaged, Stranger):
            return PackIndex(data, pack_bytes)

    def _rearrange(self) -> None:
        packs = [pack for _, pack in sorted(self._sealed.items(), reverse=True) if not pack.condemned]
        self._durable = tuple(packs)


_STAGES = (OPEN, SEALED, CONDEMNED)


def packs_in(folder: Path) -> Iterator[Path]:
    """The packs of a folder, without their indexes."""
    return (path for path in folder.iterdir() if path.suffix != INDEX)


def number_of(path: Path) -> int:
    """A pack's number. Raises StoreUnusable for a file that has no place in the folder."""
    if path.suffix not in (*_STAGES, INDEX) or not path.stem.isdecimal():
        raise StoreUnusable(f"{path.name!r} in the packs folder is not a pack")
    return int(path.stem)


def open_pack(descriptor: int, path: Path, marker: bytes) -> PackFile:
    """The pack that `descriptor` is open on, and is closed with. Where its header is damaged it has the store's `marker`: objects
    are found behind it. Raises StoreUnusable for a pack of another version.
    """
    file = PackFile(descriptor, marker)
    header = file.header
    if header is not None:
        file.marker = header.marker
        return file
    beginning = read_exactly(descriptor, len(PACK_MAGIC) + len(marker), 0)
    magic, its_marker = beginning[: len(PACK_MAGIC)], beginning[len(PACK_MAGIC) :]
    is_other = magic[:-1] == PACK_MAGIC[:-1] and magic not in (PACK_MAGIC, COMPACTED_MAGIC)
    # With the store's own marker it is no other version, but a damaged number of one of these.
    if is_other and its_marker != marker:
        raise StoreUnusable(f"pack {number_of(path)} is of format {magic[-1]}; this psf reads 3 and 4")
    return file


def is_named(descriptor: int, path: Path) -> bool:
    """Whether `path` is the name of this open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def lock(descriptor: int) -> bool:
    """Hold a pack, so that nobody takes it over; False when another process holds it."""
    return files_module.lock(descriptor, wait=False)
