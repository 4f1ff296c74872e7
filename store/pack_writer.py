"""Appending to a pack. A pack has one writer, the process that holds its flock; nobody else cuts or continues it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from store.files import Files
from store.ids import Kind
from store.layout import open_file
from store.pack_folder import CONDEMNED, INDEX, OPEN, SEALED, PackFile, PackFolder, is_named, lock, number_of, open_pack
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
    """One open pack of ours. Used by one thread at a time.

    What is appended is durable when that returns; before the pack has a name, when it gets one.
    """

    def __init__(self, file: PackFile, folder: PackFolder, files: Files, path: Path | None = None) -> None:
        self.file, self.end = file, PACK_HEADER.size
        self.records = RecordsByName()
        self.usable = True
        """False after a failed sync: the kernel may have dropped its pages, so nobody may rely on the file any more."""
        self.damages: list[int] = []
        """Where it was found damaged: then its end is not sure, so nothing may be appended."""
        self.holds_moves = False
        """Then it may be sealed only when the heads that it tells of are durable themselves (store.journal)."""
        self._path, self._folder, self._files = path, folder, files

    @property
    def path(self) -> Path:
        assert self._path is not None, "it has a name"
        return self._path

    @property
    def number(self) -> int:
        return number_of(self.path)

    @property
    def compacted(self) -> bool:
        """Whether it is a pack of gc's, which nobody else goes on with."""
        return self.file.compacted

    @classmethod
    def create(cls, folder: PackFolder, files: Files) -> PackWriter:
        """A new, empty pack with a durable name."""
        writer = cls.unnamed(folder, files, compacted=False)
        writer.give_name()
        return writer

    @classmethod
    def unnamed(cls, folder: PackFolder, files: Files, *, compacted: bool) -> PackWriter:
        """A new, empty pack that goes away with us as long as it has no name."""
        header = PackHeader(compacted, folder.marker)
        file = PackFile(files.unnamed(str(folder.path), PACK_MODE), header.marker)
        # Locked before it has a name, so that no other process can take it for an abandoned one.
        lock(file.descriptor)
        files.append(file.descriptor, [encode_pack_header(header)])
        return cls(file, folder, files)

    def give_name(self) -> None:
        """Make what is in the pack durable, and then its name, with a number that no pack has. Raises OSError; then it is lost."""
        self._sync()
        refused: list[Path] = []
        number = 1 + max(self._folder.numbers(), default=0)
        try:
            while not self._try_name(self._folder.path / f"{number:08d}{OPEN}", refused):
                number += 1
        finally:
            for (
                path
            ) in refused:  # not before there is another: a file that had a name and has none never gets one again
                self._files.unlink(str(path))

    def _try_name(self, path: Path, refused: list[Path]) -> bool:
        """Call the pack so, unless another process has a pack of that number, also one that it renames meanwhile."""
        number = number_of(path)
        self._folder.claim(number)
        try:
            if number in self._folder.numbers() or not self._link(path, refused):
                return False
            self._files.sync_directory(str(self._folder.path))
            self._path = path
            return True
        finally:
            if self._path is None:
                self._folder.disclaim(number)  # whoever takes it over may append to it

    def _link(self, path: Path, refused: list[Path]) -> bool:
        self._files.link(self.file.descriptor, str(path))
        if not is_named(self.file.descriptor, path):
            return False
        if any(path.with_suffix(suffix).exists() for suffix in (SEALED, CONDEMNED)):
            refused.append(path)
            return False
        return True

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
        writer = cls(file, folder, files, path)
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

    def append(self, items: Iterable[Stored]) -> None:
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
        if self._path is not None:
            self._sync()
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
        if self._path is None:
            self.give_name()
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
    """Compressed packs, filled one after the other with what others hold.

    One that is being filled has no name: nobody takes over what may not be durable, and of a copy that fails nothing is left.
    """

    def __init__(self, folder: PackFolder, files: Files, seal_bytes: int) -> None:
        self._folder, self._files, self._seal_bytes = folder, files, seal_bytes
        self._writer: PackWriter | None = None

    def append(self, batch: list[Stored]) -> None:
        """Durable, and seen by others as sealed, after `seal`."""
        if self._writer is None:
            self._writer = PackWriter.unnamed(self._folder, self._files, compacted=True)
        self._writer.append(batch)
        if self._writer.end >= self._seal_bytes:
            self.seal()

    def holds(self, name: Name) -> bool:
        """Whether the pack that is being filled has the object."""
        return self._writer is not None and name in self._writer.records

    def seal(self) -> None:
        """Raises OSError; then what was not sealed is to be copied again."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.seal()
