"""Bringing a directory from one tree to another, O(what differs).

The directory may be a plain one (no `base`: it holds all) or the delta of an overlay: what makes `base`, a directory with an
earlier tree, look like the new tree. In a delta a deleted name that the base has becomes a whiteout (character device 0/0),
and a directory that hides one of the base is marked opaque. Nothing may be mounted on it meanwhile.

Files that a program wrote and a capture has read are moved in rather than written again.
"""

from __future__ import annotations

import os
import stat

import msgspec

from store import tree as trees
from store.capture import Path, entries_by_name
from store.files import Files, Owner, mode_of, open_directory
from store.ids import Kind, TreeId
from store.interfaces import Objects
from store.tree import Entry, EntryKind

DIRECTORY_MODE = 0o755
FILE_MODES = {EntryKind.FILE: 0o644, EntryKind.EXECUTABLE: 0o755}


class Written(msgspec.Struct, frozen=True):
    """What a run wrote: its upper directory, and the entries that capture read from it, by path."""

    upper: int
    entries: dict[Path, Entry]


class Delta:
    """Writes trees into directories. `owner` owns what is written; None leaves it to the process's own user."""

    def __init__(self, objects: Objects, files: Files, owner: Owner | None, attribute_prefix: str) -> None:
        self._objects, self._files, self._owner = objects, files, owner
        self._opaque = attribute_prefix + "opaque"
        self._attribute_prefix = attribute_prefix

    def materialize(self, tree: TreeId, directory: int) -> None:
        """Write all of `tree` into an empty directory."""
        self.advance(trees.EMPTY_TREE, tree, directory, base=None, written=None)

    def advance(
        self, old: TreeId, new: TreeId, directory: int, *, base: int | None, written: Written | None, path: Path = ()
    ) -> None:
        """Make `directory` (over `base`), which shows `old`, show `new`."""
        if old == new:
            return
        before, after = entries_by_name(self._objects, old), entries_by_name(self._objects, new)
        for name in before.keys() - after.keys():
            self._remove(name, directory)
            if base is not None and mode_of(name, base) is not None:
                self._files.make_whiteout(name, directory=directory)
        for name, entry in after.items():
            standing = before.get(name)
            if standing == entry:
                continue
            if entry.kind is EntryKind.DIRECTORY:
                self._directory(standing, entry, directory, base, written, (*path, name))
            else:
                self._leaf(entry, directory, written, (*path, name))
            self.dress(entry, directory)

    def _directory(
        self, old: Entry | None, new: Entry, parent: int, base: int | None, written: Written | None, path: Path
    ) -> None:
        name = new.name
        before = trees.entry_tree(old) if old is not None and old.kind is EntryKind.DIRECTORY else trees.EMPTY_TREE
        fresh = old is None or old.kind is not EntryKind.DIRECTORY
        if fresh:
            self._remove(name, parent)
        if mode_of(name, parent) is None:
            self._files.make_directory(name, DIRECTORY_MODE, directory=parent)
        child = open_directory(name, parent)
        below = None
        try:
            if base is not None and stat.S_ISDIR(mode_of(name, base) or 0):
                if fresh:
                    self._files.set_attribute(child, self._opaque, b"y")
                elif not self._is_opaque(child):
                    below = open_directory(name, base)
            self.advance(before, trees.entry_tree(new), child, base=below, written=written, path=path)
        finally:
            os.close(child)
            if below is not None:
                os.close(below)

    def _leaf(self, entry: Entry, parent: int, written: Written | None, path: Path) -> None:
        self._remove(entry.name, parent)
        if entry.kind is EntryKind.SYMLINK:
            self._files.symlink(entry.content, entry.name, directory=parent)
        elif not self._move_in(entry, parent, written, path):
            self._write(entry, parent)

    def _move_in(self, entry: Entry, parent: int, written: Written | None, path: Path) -> bool:
        """Take over the file that the program wrote, unless it is more than its content: linked twice, or with attributes."""
        if written is None:
            return False
        read = written.entries.get(path)
        if read is None or not read.same_content(entry):
            return False
        source = _open_parent(written.upper, path)
        if source is None:
            return False
        try:
            status = os.stat(entry.name, dir_fd=source, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or not self._is_plain(entry.name, source):
                return False
            self._files.rename(entry.name, entry.name, source_directory=source, target_directory=parent)
        except FileNotFoundError:
            return False
        finally:
            os.close(source)
        return True

    def _is_plain(self, name: bytes, directory: int) -> bool:
        attributes = os.listxattr(b"/proc/self/fd/%d/%b" % (directory, name), follow_symlinks=False)
        return all(attribute == self._attribute_prefix + "origin" for attribute in attributes)

    def _write(self, entry: Entry, parent: int) -> None:
        descriptor = self._files.open(
            entry.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, directory=parent
        )
        try:
            self._files.write(descriptor, self._objects.get(Kind.BLOB, entry.content))
        finally:
            os.close(descriptor)

    def dress(self, entry: Entry, parent: int) -> None:
        """Give what was written the owner, mode and time that its entry has everywhere."""
        if self._owner is not None:
            self._files.set_owner(entry.name, self._owner, directory=parent)
        if entry.kind in FILE_MODES:
            os.chmod(entry.name, FILE_MODES[entry.kind], dir_fd=parent)
        elif entry.kind is EntryKind.DIRECTORY:
            os.chmod(entry.name, DIRECTORY_MODE, dir_fd=parent)
        self._files.set_time(entry.name, trees.logical_time_s(entry.changed), directory=parent)

    def _remove(self, name: bytes, directory: int) -> None:
        if mode_of(name, directory) is not None:
            self._files.remove_tree(name, directory=directory)

    def _is_opaque(self, descriptor: int) -> bool:
        try:
            return os.getxattr(descriptor, self._opaque) == b"y"
        except OSError:
            return False


def _open_parent(root: int, path: Path) -> int | None:
    descriptor = os.dup(root)
    for name in path[:-1]:
        try:
            child = open_directory(name, descriptor)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        descriptor = child
    return descriptor
