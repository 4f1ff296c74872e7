"""Appending to a pack. A pack has one writer, the process that holds its flock; nobody else cuts or continues it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from store.files import Files
from store.ids import Kind
from store.layout import open_file
from store.pack_folder import INDEX, OPEN, SEALED, PackFile, PackFolder, is_named, lock, number_of, open_pack
from store.records import (
    PACK_HEADER,
    Name,
    PackHeader,
    Record,
    RecordsByName,
    encode_pack_header,
    encode_record_header,
    scan,
)

PACK_MODE = 0o600
"""Writable, also for users without the rights of root: the next start goes on with it."""

Stored = tuple[Name, int, bytes]
"""An object on its way into a pack: its name, its record's flags, what the record stores."""


class PackWriter:
    """One open pack of ours. Used by one thread at a time."""

    def __init__(self, path: Path, file: PackFile, folder: PackFolder, files: Files) -> None:
        self.path, self.file, self.end = path, file, PACK_HEADER.size
        self.records = RecordsByName()
        self.usable = True
        """False after a failed sync: the kernel may have dropped its pages, so nobody may rely on the file any more."""
        self.damages: list[int] = []
        """Where it was found damaged: then its end is not sure, so nothing may be appended."""
        self.holds_moves = False
        """Then it may be sealed only when the heads that it tells of are durable themselves (store.journal)."""
        self._folder, self._files = folder, files
        self._unsynced = False

    @property
    def number(self) -> int:
        return number_of(self.path)

    @property
    def compacted(self) -> bool:
        """Whether it is a pack of gc's, which nobody else goes on with."""
        return self.file.compacted

    @classmethod
    def create(cls, folder: PackFolder, files: Files, *, compacted: bool = False) -> PackWriter:
        """A new, empty pack with a durable name."""
        header = PackHeader(compacted, folder.marker)
        number = 1 + max(folder.numbers(), default=0)
        while (writer := cls._try_create(folder, files, number, header)) is None:
            number += 1
        return writer

    @classmethod
    def _try_create(cls, folder: PackFolder, files: Files, number: int, header: PackHeader) -> PackWriter | None:
        path = folder.path / f"{number:08d}{OPEN}"
        # Locked before it has a name, so that no other process can take it for an abandoned one.
        file = PackFile(files.unnamed(str(folder.path), PACK_MODE), header.marker)
        lock(file.descriptor)
        files.append(file.descriptor, [encode_pack_header(header)])
        files.sync(file.descriptor)
        folder.claim(number)
        try:
            if not _give_name(file.descriptor, path, files, folder):
                folder.disclaim(number)
                return None
            files.sync_directory(str(folder.path))
        except BaseException:
            folder.disclaim(number)  # whoever takes it over may append to it
            raise
        return cls(path, file, folder, files)

    @classmethod
    def take_over(cls, path: Path, folder: PackFolder, files: Files) -> PackWriter | None:
        """Adopt a pack whose writer is gone: cut its torn tail, unless it is damaged, and make the rest durable.

        None when another process holds it.
        """
        try:
            descriptor = open_file(path, os.O_RDWR | os.O_APPEND, f"packs/{path.name}", files)
            file = open_pack(descriptor, path, folder.marker)
        except FileNotFoundError:
            return None  # another process has taken it over and sealed it meanwhile
        if not lock(file.descriptor) or not is_named(file.descriptor, path):
            return None
        folder.claim(number_of(path))
        writer = cls(path, file, folder, files)
        try:
            # Its sealing may have been undone by a power cut: what is appended now would not be in the index.
            if path.with_suffix(INDEX).exists():
                files.unlink(str(path.with_suffix(INDEX)))
            found = scan(file.reading(), verify=True)
            if not found.damaged:
                files.truncate(file.descriptor, max(found.end, PACK_HEADER.size))
            files.sync(file.descriptor)
            writer._add({record.name: record for record in (*found.lost, *found.records)})
            writer.end, writer.damages = found.end, found.damages
        except BaseException:
            folder.disclaim(number_of(path))
            raise
        return writer

    def append(self, items: Iterable[Stored], *, sync: bool = True) -> None:
        """Append records in one write and make them durable in one sync, or leave the pack as it was. Raises OSError."""
        buffers: list[bytes] = []
        records: dict[Name, Record] = {}
        offset = self.end
        for name, flags, stored in items:
            buffers += (encode_record_header(self.file.marker, name, flags, len(stored)), stored)
            record = Record(name, flags, offset + len(buffers[-2]), len(stored))
            records[name], offset = record, record.end
        self.usable = False
        try:
            self._files.append(self.file.descriptor, buffers)
        except OSError:
            # Nothing of it was promised, and a full disk must not be filled with it.
            self._files.truncate(self.file.descriptor, self.end)
            os.lseek(self.file.descriptor, self.end, os.SEEK_SET)
            self.usable = True
            raise
        if sync:
            self._sync()
        self._unsynced = not sync
        self._add(records)
        self.end, self.usable = offset, True

    def cut(self, end: int) -> None:
        """Forget what lies behind `end`, which nobody was told of. Durable."""
        self._files.truncate(self.file.descriptor, end)
        self._files.sync(self.file.descriptor)
        self.records = RecordsByName({name: record for name, record in self.records.items() if record.end <= end})
        self.end = end

    def seal(self) -> None:
        """Give the pack its final name and an index. Raises OSError; then it can be tried again.

        The name is not synced: where the old one comes back after a crash, the pack is taken over and sealed again.
        """
        if self._unsynced:
            self._sync()
            self._unsynced = False
        sealed = self.path.with_suffix(SEALED)
        if self.path.exists():
            self._files.rename(str(self.path), str(sealed), source_directory=None, target_directory=None)
        self._folder.add_sealed(sealed, self.file, list(self.records.values()))

    def _add(self, records: dict[Name, Record]) -> None:
        self.records.add(records)
        self.holds_moves = self.holds_moves or any(kind is Kind.MOVE for kind, _ in records)

    def _sync(self) -> None:
        try:
            self._files.sync(self.file.descriptor)
        except OSError:
            self.usable = False
            # Who takes the pack over reads what the kernel may have dropped: it must not find what was never promised.
            with contextlib.suppress(OSError):
                self._files.truncate(self.file.descriptor, self.end)
            raise


class PackCopy:
    """Compressed packs, filled one after the other with what others hold."""

    def __init__(self, folder: PackFolder, files: Files, seal_bytes: int) -> None:
        self._folder, self._files, self._seal_bytes = folder, files, seal_bytes
        self._writer: PackWriter | None = None

    def append(self, batch: list[Stored]) -> None:
        """Durable, and seen by others as sealed, after `seal`."""
        if self._writer is None:
            self._writer = PackWriter.create(self._folder, self._files, compacted=True)
        self._writer.append(batch, sync=False)
        if self._writer.end >= self._seal_bytes:
            self.seal()

    def holds(self, name: Name) -> bool:
        """Whether the pack that is being filled has the object."""
        return self._writer is not None and name in self._writer.records

    def seal(self) -> None:
        if self._writer is not None:
            self._writer.seal()
            self._writer = None


def _give_name(descriptor: int, path: Path, files: Files, folder: PackFolder) -> bool:
    """Call our pack so, unless another process has a pack of that number, also one that it renames meanwhile."""
    number = number_of(path)
    if number in folder.numbers():
        return False
    files.link(descriptor, str(path))
    ours = is_named(descriptor, path)
    if ours and not any(path.with_suffix(suffix).exists() for suffix in (SEALED, ".condemned")):
        return True
    if ours:
        files.unlink(str(path))
    return False
