"""Looking up one path in what a run left behind, following symlinks inside it and nowhere else.

Three places can be looked into: a plain directory, an overlay's upper directory over a tree, and a tree alone.
"""

from __future__ import annotations

import os
import stat
from typing import Protocol

import msgspec

from store import tree as trees
from store.capture import Path, lower_tree, open_regular
from store.files import mode_of, open_directory, read_exactly
from store.ids import Kind, TreeId
from store.known import KnownTrees
from store.tree import EntryKind

SYMLINKS_MAX = 40
LOOKUPS_MAX = 100_000


class Regular(msgspec.Struct, frozen=True):
    data: bytes
    executable: bool


class Link(msgspec.Struct, frozen=True):
    target: bytes


class Folder(msgspec.Struct, frozen=True):
    """A directory; what it holds is asked for by a longer path."""


class TooLarge(msgspec.Struct, frozen=True):
    size_bytes: int


class TooFar(msgspec.Struct, frozen=True):
    """Symlinks lead on further than anybody looks."""


Found = Regular | Link | Folder | TooLarge | TooFar | None


class Patience:
    """How many names may still be looked up for one caller: symlinks multiply them, and a program chooses them."""

    def __init__(self, lookups: int = LOOKUPS_MAX) -> None:
        self._lookups = lookups

    def lasts_for(self, lookups: int) -> bool:
        self._lookups -= lookups
        return self._lookups >= 0


class View(Protocol):
    def look(self, path: Path, size_bytes_max: int) -> Found:
        """What `path` names, without following a symlink in its last place; None when nothing or nothing that is kept."""
        ...


class DirectoryView:
    """A plain directory. Owns no descriptor: `directory` stays the caller's."""

    def __init__(self, directory: int) -> None:
        self._directory = directory

    def look(self, path: Path, size_bytes_max: int) -> Found:
        return look_in_directory(self._directory, path, size_bytes_max)


class OverlayView:
    """An overlay's upper directory over a tree. `upper` stays the caller's."""

    def __init__(self, known: KnownTrees, tree: TreeId, upper: int, attribute_prefix: str) -> None:
        self._known, self._tree, self._upper, self._prefix = known, tree, upper, attribute_prefix

    def look(self, path: Path, size_bytes_max: int) -> Found:
        descriptor, tree = os.dup(self._upper), self._tree
        try:
            for position, name in enumerate(path):
                mode = mode_of(name, descriptor)
                if mode is None:
                    return look_in_tree(self._known, tree, path[position:], size_bytes_max)
                if position == len(path) - 1 or not stat.S_ISDIR(mode):
                    return _look_at(name, descriptor, mode, size_bytes_max) if position == len(path) - 1 else None
                child = open_directory(name, descriptor)
                os.close(descriptor)
                descriptor = child
                below = self._known.entries(tree)
                lower, _ = lower_tree(self._known, self._tree, descriptor, name, below, self._prefix)
                tree = lower or trees.EMPTY_TREE
            return Folder()
        finally:
            os.close(descriptor)


class TreeView:
    """A tree alone: what is stored."""

    def __init__(self, known: KnownTrees, tree: TreeId) -> None:
        self._known, self._tree = known, tree

    def look(self, path: Path, size_bytes_max: int) -> Found:
        return look_in_tree(self._known, self._tree, path, size_bytes_max)


def look_in_tree(known: KnownTrees, tree: TreeId, path: Path, size_bytes_max: int) -> Found:
    entry = known.find(tree, path)
    if entry is None or entry.kind is EntryKind.DIRECTORY:
        return Folder() if entry is not None or not path else None
    if entry.kind is EntryKind.SYMLINK:
        return Link(entry.content)
    if entry.size_bytes > size_bytes_max:
        return TooLarge(entry.size_bytes)
    return Regular(known.objects.get(Kind.BLOB, entry.content), entry.kind is EntryKind.EXECUTABLE)


def look_in_directory(directory: int, path: Path, size_bytes_max: int) -> Found:
    descriptor = os.dup(directory)
    try:
        for position, name in enumerate(path):
            mode = mode_of(name, descriptor)
            if position == len(path) - 1:
                return _look_at(name, descriptor, mode, size_bytes_max) if mode is not None else None
            if mode is None or not stat.S_ISDIR(mode):
                return None
            child = open_directory(name, descriptor)
            os.close(descriptor)
            descriptor = child
        return Folder()
    finally:
        os.close(descriptor)


def follow(view: View, path: Path, size_bytes_max: int, mount: Path = (), patience: Patience | None = None) -> Found:
    """What `path` names in a view that programs see at `mount`, following symlinks that stay inside it.

    Each place is looked at from the view's root, so nothing outside it can be reached, whatever a symlink says.
    """
    patience = patience or Patience()
    if not patience.lasts_for(len(path)):
        return TooFar()
    if path and all(map(trees.is_name, path)) and isinstance(found := view.look(path, size_bytes_max), Regular):
        return found  # as nearly always: no symlink on the way
    return _followed(view, path, size_bytes_max, mount, patience)[1]


def destination(view: View, path: Path, mount: Path, patience: Patience) -> Path:
    """Where writing to `path` writes in a view: through symlinks to what they lead to, to `path` itself where they lead nowhere."""
    if not path:
        return path
    place, found = _followed(view, path, -1, mount, patience)
    if isinstance(found, TooLarge):  # than nothing: a file, of which only the place is wanted
        return place
    place, found = _followed(view, path[:-1], -1, mount, patience)
    return (*place, path[-1]) if isinstance(found, Folder) else path


def _followed(view: View, path: Path, size_bytes_max: int, mount: Path, patience: Patience) -> tuple[Path, Found]:
    """What `path` names, and where that stands."""
    ahead, followed = list(path), 0
    behind: Path = ()
    while ahead:
        name = ahead.pop(0)
        if name in (b"", b"."):
            continue
        if name == b"..":
            if not behind:
                return behind, None
            behind = behind[:-1]
            continue
        if not patience.lasts_for(len(behind) + 1):
            return behind, TooFar()
        found = view.look((*behind, name), -1 if ahead else size_bytes_max) if trees.is_name(name) else None
        if isinstance(found, Link):
            followed += 1
            start, target = _redirected(found.target, behind, mount)
            if start is None or followed > SYMLINKS_MAX:
                return behind, None
            behind, ahead = start, target + ahead
        elif not ahead:
            return (*behind, name), found
        elif isinstance(found, Folder):
            behind = (*behind, name)
        else:
            return behind, None
    return behind, Folder()


def _redirected(target: bytes, behind: Path, mount: Path) -> tuple[Path | None, list[bytes]]:
    """Where a symlink leads on from, and by which names; from None when it leaves the view."""
    parts = target.split(b"/")
    if not target.startswith(b"/"):
        return behind, parts
    inside = tuple(parts[1 : 1 + len(mount)]) == mount
    return (() if inside else None), parts[1 + len(mount) :]


def _look_at(name: bytes, directory: int, mode: int, size_bytes_max: int) -> Found:
    if stat.S_ISDIR(mode):
        return Folder()
    if stat.S_ISLNK(mode):
        return Link(os.fsencode(os.readlink(name, dir_fd=directory)))
    if not stat.S_ISREG(mode) or (descriptor := open_regular(name, directory)) is None:
        return None
    try:
        status = os.fstat(descriptor)
        if status.st_size > size_bytes_max:
            return TooLarge(status.st_size)
        return Regular(read_exactly(descriptor, status.st_size, 0), bool(status.st_mode & stat.S_IXUSR))
    finally:
        os.close(descriptor)
