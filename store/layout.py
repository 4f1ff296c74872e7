"""What must lie in a store folder as a file, and what as a directory.

A folder that was copied, unpacked or tampered with may hold a link, a FIFO or a device where a file of the store should be. Opening
such a thing could wait for ever, read without end, or write outside of the store. So what is opened must be a regular file before it
is opened and after, no link is followed, and the directories are looked at once, when a store is opened.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from store.errors import StoreUnusable
from store.files import Files

HEADS = "heads.sqlite"
HEADS_FILES = (HEADS, f"{HEADS}-wal", f"{HEADS}-shm", f"{HEADS}-journal")
REDIS = "heads.redis"
_FILES = ("FORMAT", *HEADS_FILES, REDIS, "leases.lock", "gc.lock")
_KEPT = ("packs", "large")
"""Directories that hold what cannot be made again: nobody but their owner may say what should be there instead."""
_FOLDERS = (*_KEPT, "condemned", "damaged", "workspaces")
_FAN = re.compile(r"[0-9a-f]{2}\Z")
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_WORDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


class Stranger(StoreUnusable):
    """Something that is not what must lie at `place`, a path relative to the store folder."""

    def __init__(self, place: str, mode: int, wanted: int = stat.S_IFREG) -> None:
        self.place, self.reason = place, f"it is {_word(mode)}, not {_word(wanted)}"
        self.movable = self.mendable = place not in _KEPT
        advice = "`psf store check --repair` puts it aside" if self.movable else "put the store's own directory there"
        super().__init__(f"{place} in the store cannot be used: {self.reason}; {advice}")


def open_file(path: Path, flags: int, place: str, files: Files | None = None) -> int:
    """A descriptor of the regular file at `path`, which messages call `place`. Raises Stranger, OSError."""
    _refuse_other(place, os.lstat(path).st_mode)
    descriptor = (files or Files()).open(str(path), flags | _FLAGS)
    try:
        _refuse_other(place, os.fstat(descriptor).st_mode)
    except Stranger:
        os.close(descriptor)
        raise
    return descriptor


def is_file(path: Path) -> bool:
    """Whether what lies there itself is a regular file."""
    return stat.S_ISREG(_mode(path))


def is_directory(path: Path) -> bool:
    """Whether what lies there itself is a directory."""
    return stat.S_ISDIR(_mode(path))


def refuse_other_than_file(path: Path, place: str) -> None:
    """Raise Stranger when something lies at `path` that is no regular file."""
    if mode := _mode(path):
        _refuse_other(place, mode)


def refuse_strangers(root: Path) -> None:
    """Raise Stranger when anything that a store cannot do without is not what it must be."""
    for path, stranger in strangers(root):
        if path.suffix != ".idx" or is_directory(path):  # what else is no index is made again from its pack
            raise stranger


def strangers(root: Path) -> Iterator[tuple[Path, Stranger]]:
    """All that lies at a name of the store's own and is not what it must be, but for large blobs."""
    wanted = [(root / name, stat.S_IFREG) for name in _FILES] + [(root / name, stat.S_IFDIR) for name in _FOLDERS]
    wanted += [(path, stat.S_IFREG) for path in _others(root / "packs", stat.S_IFREG)]
    for folder in (root / "large", root / "condemned"):
        wanted += [(path, stat.S_IFDIR) for path in _others(folder, stat.S_IFDIR) if _FAN.match(path.name)]
    if is_directory(root / "marker"):  # as anything else, it is made again when it is opened
        wanted.append((root / "marker", stat.S_IFREG))
    for path, kind in wanted:
        mode = _mode(path)
        if mode and stat.S_IFMT(mode) != kind:
            yield path, Stranger(str(path.relative_to(root)), mode, kind)


def _others(folder: Path, kind: int) -> list[Path]:
    """What lies in a folder and is not of this kind. One call for many, since there may be thousands."""
    if not is_directory(folder):
        return []
    with os.scandir(folder) as entries:
        return sorted(
            Path(entry.path)
            for entry in entries
            if not (entry.is_dir if kind == stat.S_IFDIR else entry.is_file)(follow_symlinks=False)
        )


def _refuse_other(place: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise Stranger(place, mode)


def _mode(path: Path) -> int:
    """Of what kind the thing at a path itself is; 0 when there is none."""
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def _word(mode: int) -> str:
    return _WORDS.get(stat.S_IFMT(mode), "a device")
