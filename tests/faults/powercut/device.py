"""A block device in user space that records every write and flush, and its states after a power cut.

To be used in mount and process namespaces of its own: when those end, whatever the reason, mounts and loop devices go too.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

SECTOR_BYTES = 512
SIZE_BYTES = {"ext4": 64 << 20, "xfs": 320 << 20}
FORMAT = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}
MOODS = ("all", "nothing", "any", "torn")
PATIENCE_S = 10.0
_PLUGIN = Path(__file__).with_name("nbdkit_plugin.py")
_ENTRY = 13


class Entry(NamedTuple):
    """One entry of a record: a flush has no bytes. `end` is where it ends in the record, in bytes."""

    is_flush: bool
    offset: int
    data: bytes
    end: int


def run(*command: str) -> str:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise OSError(f"{' '.join(command)}: {result.stdout.strip()}")
    return result.stdout


def make_image(path: Path, file_system: str) -> None:
    path.touch()
    os.truncate(path, SIZE_BYTES[file_system])
    run(*FORMAT[file_system], str(path))


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[None]:
    """The file system of an image, by a loop device that is gone when this ends."""
    run("mount", "-o", "loop,noatime", str(image), str(folder))
    try:
        yield
    finally:
        run("umount", str(folder))
        # The kernel detaches such a device itself. One that lingers would show the next state old bytes.
        _await(lambda: not run("losetup", "--associated", str(image)), f"{image} to be let go")


@contextmanager
def recorded(image: Path, record: Path, folder: Path) -> Iterator[Path]:
    """A device that is `image`, and writes what happens to it into `record`: the path of its file in `folder`."""
    plugin = ("nbdkit", "-s", "python", str(_PLUGIN), f"image={image}", f"record={record}")
    with subprocess.Popen(["nbdfuse", str(folder), "--command", *plugin]) as process:
        try:
            _await((folder / "nbd").exists, "nbdfuse")
            yield folder / "nbd"
        finally:
            run("umount", str(folder))
            process.wait(PATIENCE_S)


def _await(holds, what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline_s:
            raise OSError(f"waited {PATIENCE_S} s for {what}")
        time.sleep(0.01)


def read_record(path: Path) -> list[Entry]:
    data, entries, position = path.read_bytes(), [], 0
    while position < len(data):
        offset = int.from_bytes(data[position + 1 : position + 9], "little")
        length = int.from_bytes(data[position + 9 : position + _ENTRY], "little")
        is_flush, start = data[position : position + 1] == b"F", position + _ENTRY
        position = start + length
        entries.append(Entry(is_flush, offset, data[start:position], position))
    return entries


class Cuts:
    """Images as power cuts after given entries leave them. To be asked in the order of the record."""

    def __init__(self, entries: Sequence[Entry], blank: Path, durable: Path) -> None:
        self._entries, self._durable, self._applied = entries, durable, 0
        copy_image(blank, durable)

    def make(self, number: int, mood: str, generator: random.Random, image: Path) -> int:
        """The device when power goes after entry `number`; returns how many writes were not yet durable.

        All up to the last flush is there; of later writes all, none, any, or any sectors of any.
        """
        flushes = [position for position in range(self._applied, number + 1) if self._entries[position].is_flush]
        flushed = flushes[-1] + 1 if flushes else self._applied
        _apply(self._durable, self._entries[self._applied : flushed])
        self._applied = flushed
        pending = [entry for entry in self._entries[flushed : number + 1] if entry.data]
        copy_image(self._durable, image)
        _apply(image, [piece for entry in pending for piece in _kept(entry, mood, generator)])
        return len(pending)


def copy_image(source: Path, target: Path) -> None:
    run("cp", "--sparse=always", str(source), str(target))


def _apply(image: Path, entries: Sequence[Entry]) -> None:
    descriptor = os.open(image, os.O_WRONLY)
    try:
        for entry in entries:
            os.pwrite(descriptor, entry.data, entry.offset)
    finally:
        os.close(descriptor)


def _kept(entry: Entry, mood: str, generator: random.Random) -> list[Entry]:
    if mood == "all":
        return [entry]
    if mood == "nothing" or generator.random() < 0.5:
        return []
    if mood == "any":
        return [entry]
    cuts = [*range(0, len(entry.data), SECTOR_BYTES), len(entry.data)]
    return [
        entry._replace(offset=entry.offset + start, data=entry.data[start:stop])
        for start, stop in pairwise(cuts)
        if generator.random() < 0.5
    ]
