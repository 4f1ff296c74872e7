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
from store.capture import Path
from store.files import Files, Owner, mode_of, open_directory
from store.ids import TreeId
from store.known import KnownTrees
from store.tree import Entry, EntryKind
from store.usage import DIRECTORY_BYTES, Usage, usage_below, usage_of

DIRECTORY_MODE = 0o755
FILE_MODES = {EntryKind.FILE: 0o644, EntryKind.EXECUTABLE: 0o755}
MODES = {**FILE_MODES, EntryKind.DIRECTORY: DIRECTORY_MODE}
WHITEOUT, DIRECTORY = Usage(0, 1), Usage(DIRECTORY_BYTES, 1)


class Written(msgspec.Struct, frozen=True):
    """What a run wrote: its upper directory, or one below it, and the entries that capture read from all of it, by path."""

    upper: int
    entries: dict[Path, Entry]


class Delta:
    """Writes trees into directories. `owner` owns what is written; None leaves it to the process's own user."""

    def __init__(self, known: KnownTrees, files: Files, owner: Owner | None, attribute_prefix: str) -> None:
        self._known, self._files, self._owner = known, files, owner
        self._opaque = attribute_prefix + "opaque"
        self._attribute_prefix = attribute_prefix
        self.usage = Usage()
        """What has been written and not been removed again."""

    def materialize(self, tree: TreeId, directory: int) -> None:
        """Write all of `tree` into an empty directory."""
        self.advance(trees.EMPTY_TREE, tree, directory, base=None, written=None)

    def advance(
        self, old: TreeId, new: TreeId, directory: int, *, base: int | None, written: Written | None, path: Path = ()
    ) -> None:
        """Make `directory` (over `base`), which shows `old`, show `new`. After a failure it shows neither."""
        if old == new:
            return
        before, after = self._known.entries(old), self._known.entries(new)
        for name in before.keys() - after.keys():
            self._remove(name, directory)
            if base is not None and mode_of(name, base) is not None:
                self._files.make_whiteout(name, directory=directory)
                self.usage += WHITEOUT
        for name, entry in after.items():
            standing = before.get(name)
            if standing == entry:
                continue
            if standing is None and base is not None:
                self._remove(name, directory)  # perhaps a whiteout
            if entry.kind is EntryKind.DIRECTORY:
                self._directory(standing, entry, directory, base, written, (*path, name))
            else:
                if standing is not None:
                    self._remove(name, directory)
                self._leaf(entry, directory, written, (*path, name))

    def _directory(
        self, old: Entry | None, new: Entry, parent: int, base: int | None, written: Written | None, path: Path
    ) -> None:
        name = new.name
        before = trees.entry_tree(old) if old is not None and old.kind is EntryKind.DIRECTORY else trees.EMPTY_TREE
        fresh = old is None or old.kind is not EntryKind.DIRECTORY
        if fresh and old is not None:
            self._remove(name, parent)
        if fresh or mode_of(name, parent) is None:
            self._files.make_directory(name, DIRECTORY_MODE, directory=parent)
            self.usage += DIRECTORY
        child = open_directory(name, parent)
        below, inner = None, _below(written, name)
        try:
            if base is not None and stat.S_ISDIR(mode_of(name, base) or 0):
                if fresh:
                    self._files.set_attribute(child, self._opaque, b"y")
                elif not self._is_opaque(child):
                    below = open_directory(name, base)
            self.advance(before, trees.entry_tree(new), child, base=below, written=inner, path=path)
        finally:
            os.close(child)
            if below is not None:
                os.close(below)
            if inner is not None:
                os.close(inner.upper)
        self.dress(new, parent)

    def _leaf(self, entry: Entry, parent: int, written: Written | None, path: Path) -> None:
        """Make a file or symlink where nothing is."""
        if entry.kind is EntryKind.SYMLINK:
            self._files.symlink(entry.content, entry.name, directory=parent)
        elif written is None or not self._move_in(entry, parent, written, path):
            self._write(entry, parent)
        self.usage += usage_of(self.dress(entry, parent))

    def _move_in(self, entry: Entry, parent: int, written: Written, path: Path) -> bool:
        """Take over the file that the program wrote, unless it is more than its content: linked twice, or with attributes."""
        read = written.entries.get(path)
        if read is None or not read.same_content(entry):
            return False
        try:
            status = os.stat(entry.name, dir_fd=written.upper, follow_symlinks=False)
            if (
                not stat.S_ISREG(status.st_mode)
                or status.st_nlink != 1
                or not self._is_plain(entry.name, written.upper)
            ):
                return False
            self._files.rename(entry.name, entry.name, source_directory=written.upper, target_directory=parent)
        except FileNotFoundError:
            return False
        return True

    def _is_plain(self, name: bytes, directory: int) -> bool:
        attributes = os.listxattr(b"/proc/self/fd/%d/%b" % (directory, name), follow_symlinks=False)
        return all(attribute == self._attribute_prefix + "origin" for attribute in attributes)

    def _write(self, entry: Entry, parent: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = self._files.open(entry.name, flags, FILE_MODES[entry.kind], directory=parent)
        try:
            self._known.objects.write_file(trees.entry_blob(entry), descriptor)
        finally:
            os.close(descriptor)

    def dress(self, entry: Entry, parent: int) -> os.stat_result:
        """Give what was written the owner, mode and time that its entry has everywhere, where it has others."""
        status = os.stat(entry.name, dir_fd=parent, follow_symlinks=False)
        owner, mode = self._owner, MODES.get(entry.kind)
        if owner is not None and (status.st_uid, status.st_gid) != (owner.uid, owner.gid):
            self._files.set_owner(entry.name, owner, directory=parent)
        if mode is not None and stat.S_IMODE(status.st_mode) != mode:
            os.chmod(entry.name, mode, dir_fd=parent)
        time_s = trees.logical_time_s(entry.changed)
        if status.st_mtime_ns != time_s * 10**9:
            self._files.set_time(entry.name, time_s, directory=parent)
        return status

    def _remove(self, name: bytes, directory: int) -> None:
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            self.usage -= usage_below(name, directory)
            self._files.remove_tree(name, directory=directory)
        else:
            self.usage -= usage_of(status)
            self._files.unlink(name, directory=directory)

    def _is_opaque(self, descriptor: int) -> bool:
        try:
            return os.getxattr(descriptor, self._opaque) == b"y"
        except OSError:
            return False


def _below(written: Written | None, name: bytes) -> Written | None:
    """What a run wrote into one directory, opened: None when it wrote no directory of this name."""
    if written is None or not stat.S_ISDIR(mode_of(name, written.upper) or 0):
        return None
    return Written(open_directory(name, written.upper), written.entries)
