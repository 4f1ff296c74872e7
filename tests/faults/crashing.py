"""What a disk may hold after a crash: a folder made from a part of what `store.recording` has recorded.

What was synced is there. Of everything else each file and each directory keeps what it likes: nothing, all, the first so
many changes, any of them, pieces of a write (of sectors, or of any length), or the length of a write without its bytes.
A rename happened or did not. Names do not wait for bytes, nor bytes for names, nor one name for another; a name that was not
synced takes all that lies below it along. That is harsher than ext4, xfs and POSIX: what holds here holds there.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from store.recording import ROOT, Event, Link, MakeDirectory, Rename, Sync, SyncFailed, Truncate, Unlink, Write

SECTOR_BYTES = 512
MOODS_OF_FILES = ("nothing", "all", "first", "any", "torn", "lengths")
MOODS_OF_DIRECTORIES = ("nothing", "all", "first", "any")


class _Changes:
    """Changes of one file or directory, in order, and how many of them are certain."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self.certain: set[int] = set()
        self.doomed: set[int] = set()
        self._settled = 0

    def sync(self) -> None:
        self.certain.update(number for number in range(self._settled, len(self.all)) if number not in self.doomed)
        self._settled = len(self.all)

    def doom(self) -> None:
        self.doomed.update(range(self._settled, len(self.all)))

    def first(self, generator: random.Random) -> int:
        """A point among those changes that are not certain."""
        return generator.randint(min(self._settled, len(self.all)), len(self.all))


def crash(events: Sequence[Event], generator: random.Random, folder: Path) -> None:
    """Make in the empty `folder` what a crash right after `events` may leave of them."""
    files: dict[int, _Changes] = {}
    directories: dict[int, _Changes] = {ROOT: _Changes()}
    for event in events:
        _take(event, files, directories)
    names: dict[int, dict[bytes, int]] = {directory: {} for directory in directories}
    kept = {id(event) for changes in directories.values() for event in _kept_names(changes, generator)}
    for event in events:
        if id(event) in kept:
            _name(event, names)
    _make(ROOT, os.fsencode(folder), names, files, generator)


def _take(event: Event, files: dict[int, _Changes], directories: dict[int, _Changes]) -> None:
    match event:
        case Write() | Truncate():
            files.setdefault(event.file, _Changes()).all.append(event)
        case Sync(node):
            changes = directories.get(node) or files.get(node)
            if changes is not None:
                changes.sync()
        case SyncFailed(file):
            if file in files:
                files[file].doom()
        case Link() | Unlink():
            directories[event.directory].all.append(event)
        case MakeDirectory():
            directories[event.directory].all.append(event)
            directories[event.node] = _Changes()
        case Rename():
            directories[event.target_directory].all.append(event)


def _kept_names(changes: _Changes, generator: random.Random) -> list[Event]:
    mood, first = generator.choice(MOODS_OF_DIRECTORIES), changes.first(generator)
    return [
        event
        for number, event in enumerate(changes.all)
        if number in changes.certain or _survives(mood, number < first, generator)
    ]


def _name(event: Event, names: dict[int, dict[bytes, int]]) -> None:
    match event:
        case Link(directory, name, node) | MakeDirectory(directory, name, node):
            names[directory][name] = node
        case Unlink(directory, name):
            names[directory].pop(name, None)
        case Rename(directory, name, target_directory, target_name, node):
            names[target_directory][target_name] = node
            if names[directory].get(name) == node:
                del names[directory][name]


def _survives(mood: str, is_among_the_first: bool, generator: random.Random) -> bool:
    if mood == "first":
        return is_among_the_first
    return mood == "all" or (mood != "nothing" and generator.random() < 0.5)


def _make(
    directory: int,
    path: bytes,
    names: dict[int, dict[bytes, int]],
    files: dict[int, _Changes],
    generator: random.Random,
) -> None:
    for name, node in names[directory].items():
        inner = os.path.join(path, name)
        if node in names:
            os.mkdir(inner)
            _make(node, inner, names, files, generator)
            continue
        descriptor = os.open(inner, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, content(files.get(node, _Changes()), generator))
        finally:
            os.close(descriptor)


def content(changes: _Changes, generator: random.Random) -> bytes:
    """The bytes that a file may have."""
    mood, first = generator.choice(MOODS_OF_FILES), changes.first(generator)
    data = bytearray()
    for number, event in enumerate(changes.all):
        if number in changes.certain or mood == "all":
            _apply(event, data)
        elif mood == "torn" and isinstance(event, Write):
            for piece in _pieces(event, generator):
                _apply(piece, data)
            if generator.random() < 0.5:
                _lengthen(data, event.offset + len(event.data))
        elif mood == "lengths" and isinstance(event, Write):
            _lengthen(data, event.offset + len(event.data))
        elif _survives(mood, number < first, generator):
            _apply(event, data)
    return data


def _apply(event: Event, data: bytearray) -> None:
    if isinstance(event, Write):
        _lengthen(data, event.offset)
        data[event.offset : event.offset + len(event.data)] = event.data
    elif isinstance(event, Truncate):
        del data[event.size_bytes :]
        _lengthen(data, event.size_bytes)


def _lengthen(data: bytearray, size_bytes: int) -> None:
    data.extend(bytes(max(0, size_bytes - len(data))))


def _pieces(write: Write, generator: random.Random) -> list[Write]:
    """Some of a write: each sector or not, or what stands before and after a random piece that is lost."""
    end = write.offset + len(write.data)
    if generator.random() < 0.5:
        cuts = [write.offset, *range(_next_sector(write.offset), end, SECTOR_BYTES), end]
    else:
        cuts = sorted([write.offset, end, *(generator.randint(write.offset, end) for _ in range(2))])
    kept = [(start, stop) for start, stop in pairwise(cuts) if start < stop and generator.random() < 0.5]
    return [
        write._replace(offset=start, data=write.data[start - write.offset : stop - write.offset])
        for start, stop in kept
    ]


def _next_sector(offset: int) -> int:
    return (offset // SECTOR_BYTES + 1) * SECTOR_BYTES
