"""A disk that remembers what was done to it: for tests of what a crash leaves. (Its sister that fails is in store.faulty.)

`DiskLog` holds each change to what lies below one folder, in order, with all that is needed to make it again from nothing.
It numbers files and directories itself: a file system gives the number of a file that is gone to another. What is done
elsewhere, and to directories that were made past it, as those of workspaces, is not recorded: they may be lost.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from store.files import Files, read_exactly

ROOT = 0
"""The number of the folder that is recorded. It is taken to be durable."""


class Write(NamedTuple):
    file: int
    offset: int
    data: bytes


class Truncate(NamedTuple):
    file: int
    size_bytes: int


class Sync(NamedTuple):
    """Of a file: its bytes and its length. Of a directory: the names in it."""

    node: int


class SyncFailed(NamedTuple):
    """The kernel may have dropped what was not durable yet and believe it clean: no later sync makes it last."""

    file: int


class Link(NamedTuple):
    directory: int
    name: bytes
    node: int


class MakeDirectory(NamedTuple):
    directory: int
    name: bytes
    node: int


class Unlink(NamedTuple):
    directory: int
    name: bytes


class Rename(NamedTuple):
    directory: int
    name: bytes
    target_directory: int
    target_name: bytes
    node: int


class Note(NamedTuple):
    """What a test wrote down at this moment: an answer that was given, a promise that was made."""

    fact: object


Event = Write | Truncate | Sync | SyncFailed | Link | MakeDirectory | Unlink | Rename | Note


class DiskLog:
    """The changes below `folder`. What lies there at the beginning is recorded as made and synced."""

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self.turn = threading.RLock()
        """Held while something is done and recorded, so that the order of events is the one in which they happened."""
        self._nodes: dict[tuple[int, int], int] = {}
        self._count = 0
        self._number(os.stat(folder))
        self._take_in(folder)
        self.began = len(self.events)
        """How many events say what was there at the beginning."""

    def note(self, fact: object) -> None:
        self.events.append(Note(fact))

    def record(self, event: Event) -> None:
        self.events.append(event)

    def new_file(self, descriptor: int) -> int:
        """The number of a file that was just made."""
        return self._number(os.fstat(descriptor))

    def file(self, descriptor: int) -> int | None:
        """The number of an open file; None when it is not recorded."""
        return self._known(os.fstat(descriptor))

    def node(self, path: str | bytes, directory: int | None = None) -> int | None:
        """The number of what stands at a path; None when nothing does, or nothing that is recorded."""
        try:
            return self._known(os.stat(path, dir_fd=directory, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def place(self, path: str | bytes, directory: int | None = None) -> tuple[int, bytes] | None:
        """The directory and the name that a path stands for; None when the directory is not recorded."""
        parent, name = os.path.split(os.fsencode(path))
        found = self.node(parent or b".", directory)
        return None if found is None else (found, name)

    def named(self, path: str | bytes, node: int, directory: int | None = None) -> None:
        """A file has got a name."""
        if (place := self.place(path, directory)) is not None:
            self.record(Link(*place, node))

    def made_directory(self, path: str | bytes, directory: int | None = None) -> None:
        if (place := self.place(path, directory)) is not None:
            node = self._number(os.stat(path, dir_fd=directory, follow_symlinks=False))
            self.record(MakeDirectory(*place, node))

    def unlinked(self, path: str | bytes, directory: int | None = None) -> None:
        if (place := self.place(path, directory)) is not None:
            self.record(Unlink(*place))

    def _number(self, status: os.stat_result) -> int:
        number = self._nodes[status.st_dev, status.st_ino] = self._count
        self._count += 1
        return number

    def _known(self, status: os.stat_result) -> int | None:
        return self._nodes.get((status.st_dev, status.st_ino))

    def _take_in(self, folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                self.made_directory(str(path))
                self._take_in(path)
                continue
            number = self._number(path.stat())
            self.named(str(path), number)
            self.events += [Write(number, 0, path.read_bytes()), Sync(number)]
        if (number_of_folder := self.node(str(folder))) is not None:
            self.record(Sync(number_of_folder))


class RecordingFiles(Files):
    """Does what `Files` does, and records it. What concerns workspaces alone is done and not recorded."""

    def __init__(self, log: DiskLog) -> None:
        self.log = log

    def open(self, path: str | bytes, flags: int, mode: int = 0o644, *, directory: int | None = None) -> int:
        with self.log.turn:
            there = not flags & os.O_CREAT or self.log.node(path, directory) is not None
            descriptor = super().open(path, flags, mode, directory=directory)
            if not there:
                self.log.named(path, self.log.new_file(descriptor), directory)
            if flags & os.O_TRUNC:
                self._truncated(descriptor, 0)
            return descriptor

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        with self.log.turn:
            offset = os.lseek(descriptor, 0, os.SEEK_CUR)
            super().write(descriptor, data)
            self._wrote(descriptor, offset, bytes(data))

    def append(self, descriptor: int, buffers: Sequence[bytes]) -> int:
        with self.log.turn:
            total = super().append(descriptor, buffers)
            # Where it began is known only afterwards: O_APPEND moves to the end first.
            self._wrote(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR) - total, b"".join(buffers))
            return total

    def sync(self, descriptor: int) -> None:
        with self.log.turn:
            super().sync(descriptor)
            if (file := self.log.file(descriptor)) is not None:
                self.log.record(Sync(file))

    def sync_directory(self, path: str | bytes) -> None:
        with self.log.turn:
            super().sync_directory(path)
            if (directory := self.log.node(path)) is not None:
                self.log.record(Sync(directory))

    def truncate(self, descriptor: int, length: int) -> None:
        with self.log.turn:
            super().truncate(descriptor, length)
            self._truncated(descriptor, length)

    def unnamed(self, directory: str, mode: int = 0o444) -> int:
        with self.log.turn:
            descriptor = super().unnamed(directory, mode)
            if self.log.node(directory) is not None:
                self.log.new_file(descriptor)
            return descriptor

    def link(self, descriptor: int, path: str) -> None:
        with self.log.turn:
            there = os.path.lexists(path)
            super().link(descriptor, path)
            file = self.log.file(descriptor)
            if not there and file is not None:
                self.log.named(path, file)

    def copy(self, source: int, target: int, length: int) -> None:
        with self.log.turn:
            super().copy(source, target, length)
            self._wrote(target, 0, read_exactly(target, length, 0))

    def make_directory(self, path: str | bytes, mode: int = 0o755, *, directory: int | None = None) -> None:
        with self.log.turn:
            super().make_directory(path, mode, directory=directory)
            self.log.made_directory(path, directory)

    def rename(
        self, source: str | bytes, target: str | bytes, *, source_directory: int | None, target_directory: int | None
    ) -> None:
        with self.log.turn:
            node = self.log.node(source, source_directory)
            here, there = self.log.place(source, source_directory), self.log.place(target, target_directory)
            super().rename(source, target, source_directory=source_directory, target_directory=target_directory)
            if node is not None and here is not None and there is not None:
                self.log.record(Rename(*here, *there, node))

    def unlink(self, path: str | bytes, *, directory: int | None = None) -> None:
        with self.log.turn:
            super().unlink(path, directory=directory)
            self.log.unlinked(path, directory)

    def remove_directory(self, path: str | bytes, *, directory: int | None = None) -> None:
        with self.log.turn:
            super().remove_directory(path, directory=directory)
            self.log.unlinked(path, directory)

    def _wrote(self, descriptor: int, offset: int, data: bytes) -> None:
        if (file := self.log.file(descriptor)) is not None:
            self.log.record(Write(file, offset, data))

    def _truncated(self, descriptor: int, length: int) -> None:
        if (file := self.log.file(descriptor)) is not None:
            self.log.record(Truncate(file, length))
