"""Reading what a program left behind. Trusts nothing it sees.

Called when every process of the run is dead. Everything is reached by directory descriptors, never by a path that the program
shaped: directories are opened with O_NOFOLLOW, files are opened non-blocking and must be regular after opening, symlinks
are text. What cannot be kept is left out and named. Entries, depth and bytes are bounded.

Two layouts are read. An overlay's upper directory holds changes only: a character device 0/0 is a deleted name, an
attribute makes a directory opaque (hides what is below) or says where a renamed directory came from (kernel document
filesystems/overlayfs). A copied directory holds everything; files whose stat is what it was are not read again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import msgspec

from store import tree as trees
from store.files import open_directory
from store.ids import Kind, TreeId
from store.interfaces import Objects
from store.known import KnownTrees
from store.snapshot import LeftOut
from store.tree import Entry, EntryKind, Tree, directory_tree

RESERVED_PREFIX = b"_psf_"
DEPTH_MAX = 256
LEFT_OUT_MAX = 100

Path = tuple[bytes, ...]
Entries = Mapping[bytes, Entry]
StatKey = tuple[int, int, int, int, int]
CTIME_NS = 3
"""Where in a stat key the time of the last change stands: the one that no program can set."""


class CaptureLimits(msgspec.Struct, frozen=True):
    """What one capture may take in. Beyond it, paths are left out with the reason."""

    entries: int = 200_000
    total_bytes: int = 8 << 30
    directory_entries: int = trees.ENTRIES_MAX
    directory_bytes: int = trees.TREE_BYTES_MAX
    """What names and links of one directory may take, as `tree.bytes_max` counts."""


class Captured(msgspec.Struct):
    """A tree read from a directory, what could not be kept, and the entries that were read (not reused), by path."""

    tree: TreeId
    left_out: tuple[LeftOut, ...]
    read: dict[Path, Entry]
    hit: tuple[str, ...]


def stat_key(status: os.stat_result) -> StatKey:
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)


def load_tree(objects: Objects, tree: TreeId) -> Tree:
    if tree == trees.EMPTY_TREE:
        return ()
    return trees.decode(objects.get(Kind.TREE, tree))


def put_tree(objects: Objects, entries: Iterable[Entry]) -> TreeId:
    return TreeId(objects.put(Kind.TREE, trees.encode(entries)))


def entries_by_name(objects: Objects, tree: TreeId) -> dict[bytes, Entry]:
    return {entry.name: entry for entry in load_tree(objects, tree)}


def lower_tree(
    known: KnownTrees, root: TreeId, descriptor: int, name: bytes, below: Entries, attribute_prefix: str
) -> tuple[TreeId | None, bool]:
    """The tree that the upper directory `name` is laid over, and whether it was renamed from elsewhere.

    None for an opaque directory or a new one. `below` is what the lower layers hold beside it, `root` their whole tree.
    """
    if _attribute(descriptor, attribute_prefix + "opaque") == b"y":
        return None, False
    origin = _attribute(descriptor, attribute_prefix + "redirect")
    if origin is None:
        return directory_tree(below.get(name)), False
    if origin.startswith(b"/"):
        place = tuple(origin.strip(b"/").split(b"/"))
        return directory_tree(known.find(root, place)), True
    return directory_tree(below.get(origin)), True


class Capture:
    """One reading of one directory. `number` is the step's; changed entries get it as their `changed`."""

    def __init__(self, known: KnownTrees, previous: TreeId, number: int, limits: CaptureLimits) -> None:
        self._known, self._previous, self._number, self._limits = known, previous, number, limits
        self._left_out: list[LeftOut] = []
        self._left_out_count = self._entries = self._bytes = 0
        self._read: dict[Path, Entry] = {}
        self._hit: set[str] = set()
        self._attribute: str | None = None
        self._stats: dict[Path, StatKey] = {}

    def read_overlay(self, upper: int, attribute_prefix: str) -> Captured:
        """Capture an overlay's upper directory. `attribute_prefix` is `trusted.overlay.` or `user.overlay.`."""
        self._attribute = attribute_prefix
        return self._result(self._directory(upper, (), self._previous, self._previous))

    def read_copy(self, directory: int, stats: dict[Path, StatKey]) -> Captured:
        """Capture a whole directory. Files whose stat key is the one in `stats` are taken from the previous tree."""
        self._stats = stats
        return self._result(self._directory(directory, (), None, self._previous))

    def _result(self, tree: TreeId) -> Captured:
        surplus = self._left_out_count - len(self._left_out)
        if surplus:
            self._left_out.append(LeftOut(b"", f"and {surplus} more"))
        return Captured(tree, tuple(self._left_out), self._read, tuple(sorted(self._hit)))

    def _directory(self, descriptor: int, path: Path, lower: TreeId | None, before: TreeId | None) -> TreeId:
        """The tree of one directory: what `lower` holds, changed by what lies in `descriptor`.

        `before` is the tree that stood at this path, from which unchanged entries keep their `changed`. Where nothing was
        written no tree is read, and where nothing changed none is put.
        """
        with os.scandir(descriptor) as items:
            present = self._present(items, path)
            first = next(present, None)
            if first is None and lower is not None:
                return lower
            below = self._known.entries(lower) if lower else {}
            previous = self._known.entries(before) if before else {}
            names = self._bounded(chain([first] if first else (), present), below, previous)
        entries = dict(below)
        elsewhere = {name: previous[name] for name in names if name in previous and name not in below}
        room = _Room(self._limits, entries | elsewhere)
        for name in names:
            entry = self._entry(descriptor, (*path, name), below, previous.get(name))
            if not room.exchange(name, entry):
                entry = self._leave_out((*path, name), "its directory has no room for another name or link", "inodes")
            if entry is None:
                entries.pop(name, None)
                continue
            entries[name] = self._read[*path, name] = _settled(entry, previous.get(name))
        if before is not None and entries == previous:
            return before
        return self._known.put(entries.values())

    @staticmethod
    def _present(items: Iterable[os.DirEntry[str]], path: Path) -> Iterator[bytes]:
        names = (os.fsencode(item.name) for item in items)
        return names if path else (name for name in names if not name.startswith(RESERVED_PREFIX))

    def _bounded(self, names: Iterable[bytes], below: Entries, previous: Entries) -> list[bytes]:
        """The names to look at, in order: all that were there before, and of the new ones the first that there is room for.

        However many there are, few more are held. Some that there is no room for are among them, to be named as left out.
        """
        bound = max(0, self._limits.entries - self._entries) + LEFT_OUT_MAX
        old, new, total = [], list[bytes](), 0
        for name in names:
            if name in below or name in previous:
                old.append(name)
                continue
            new.append(name)
            total += 1
            if len(new) > 2 * bound:
                new.sort()
                del new[bound:]
        new.sort()
        del new[bound:]
        self._left_out_count += total - len(new)
        return sorted(old + new)

    def _entry(self, parent: int, path: Path, below: Entries, before: Entry | None) -> Entry | None:
        status = os.stat(path[-1], dir_fd=parent, follow_symlinks=False)
        mode = status.st_mode
        if self._attribute and stat.S_ISCHR(mode) and status.st_rdev == 0:
            return None
        if before is not None and self._stats.get(path) == stat_key(status):
            return before
        if stat.S_ISDIR(mode) and directory_tree(before) is not None:
            return self._subdirectory(parent, path, below, before)
        target = _target(parent, path[-1]) if stat.S_ISLNK(mode) else None
        if before is not None and before.kind is EntryKind.SYMLINK and before.content == target:
            return before
        self._entries += 1
        if self._entries > self._limits.entries:
            return self._leave_out(path, f"more than {self._limits.entries} changed entries", "inodes")
        if target is not None:
            return self._symlink(target, path)
        if stat.S_ISREG(mode):
            return self._file(parent, path)
        if stat.S_ISDIR(mode):
            return self._subdirectory(parent, path, below, before)
        return self._leave_out(path, special_word(mode))

    def _symlink(self, target: bytes, path: Path) -> Entry | None:
        if not 0 < len(target) <= trees.TARGET_BYTES_MAX:
            return self._leave_out(path, "a symlink whose target is empty or too long")
        return Entry(path[-1], EntryKind.SYMLINK, target, len(target), self._number)

    def _file(self, parent: int, path: Path) -> Entry | None:
        descriptor = open_regular(path[-1], parent)
        if descriptor is None:
            return self._leave_out(path, "not readable as a regular file")
        try:
            status = os.fstat(descriptor)
            self._bytes += status.st_size
            if self._bytes > self._limits.total_bytes:
                return self._leave_out(path, f"more than {self._limits.total_bytes} changed bytes", "disk")
            blob = self._known.objects.put_file(descriptor, status.st_size)
        finally:
            os.close(descriptor)
        kind = EntryKind.EXECUTABLE if status.st_mode & stat.S_IXUSR else EntryKind.FILE
        return Entry(path[-1], kind, blob, status.st_size, self._number)

    def _subdirectory(self, parent: int, path: Path, below: Entries, before: Entry | None) -> Entry | None:
        if len(path) > DEPTH_MAX:
            return self._leave_out(path, f"deeper than {DEPTH_MAX} directories")
        descriptor = open_directory(path[-1], parent)
        try:
            previous = directory_tree(before)
            lower = self._lower_tree(descriptor, path, below, previous)
            tree = self._directory(descriptor, path, lower, previous)
        finally:
            os.close(descriptor)
        return Entry(path[-1], EntryKind.DIRECTORY, tree, 0, self._number)

    def _lower_tree(self, descriptor: int, path: Path, below: Entries, previous: TreeId | None) -> TreeId | None:
        """The tree that an upper directory is laid over: none when opaque, elsewhere when it was renamed."""
        if self._attribute is None:
            return None
        source, renamed = lower_tree(self._known, self._previous, descriptor, path[-1], below, self._attribute)
        return self._restamped(source, previous, path) if source and renamed else source

    def _restamped(self, tree: TreeId, before: TreeId | None, path: Path) -> TreeId:
        """A renamed directory's tree with every entry changed by this step, as if its files had been copied to `path`.

        `changed` belongs to a path, so that the same step gives the same tree where the kernel can rename directories
        and where it cannot.
        """
        previous = self._known.entries(before) if before else {}
        entries = []
        for entry in self._known.entries(tree).values():
            old = previous.get(entry.name)
            inner = (*path, entry.name)
            if entry.kind is EntryKind.DIRECTORY:
                if len(inner) > DEPTH_MAX:
                    # Moving a nest into a nest must not make what no capture would have taken.
                    self._leave_out(inner, f"deeper than {DEPTH_MAX} directories")
                    continue
                content: bytes = self._restamped(trees.entry_tree(entry), directory_tree(old), inner)
            else:
                content = entry.content
            stamped = Entry(entry.name, entry.kind, content, entry.size_bytes, self._number)
            entries.append(_settled(stamped, old))
        return self._known.put(entries)

    def _leave_out(self, path: Path, reason: str, hit: str | None = None) -> Entry | None:
        """Note a path that is not kept; returns no entry, so that a caller can end with it."""
        self._left_out_count += 1
        if hit:
            self._hit.add(hit)
        if len(self._left_out) < LEFT_OUT_MAX:
            self._left_out.append(LeftOut(b"/".join(path), reason))
        return None


class _Room:
    """What one directory may still hold. What was there before has its place; what is new, or longer, must find one."""

    def __init__(self, limits: CaptureLimits, before: Entries) -> None:
        self._before = before
        self._entries = limits.directory_entries - len(before)
        self._bytes = limits.directory_bytes - trees.bytes_max(before.values())

    def exchange(self, name: bytes, entry: Entry | None) -> bool:
        """Have `entry` in the place of what was called so before; False when it does not fit. Once for each name."""
        before = self._before.get(name)
        if before is not None:
            self._entries += 1
            self._bytes += trees.entry_bytes_max(before)
        if entry is None:
            return True
        entry_bytes = trees.entry_bytes_max(entry)
        if self._entries < 1 or self._bytes < entry_bytes:
            return False
        self._entries -= 1
        self._bytes -= entry_bytes
        return True


def open_regular(name: bytes, directory: int) -> int | None:
    """Open a file for reading that is regular after opening; None otherwise. Never blocks, follows no symlink."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    except PermissionError:
        # Its owner took the right to read away; every process of the run is dead, so nothing can change the name now.
        os.chmod(name, 0o600 | os.stat(name, dir_fd=directory).st_mode & 0o111, dir_fd=directory)
        descriptor = os.open(name, flags, dir_fd=directory)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor


def _settled(entry: Entry, before: Entry | None) -> Entry:
    """Writing what was already there changes nothing, not even its time."""
    return before if before is not None and before.same_content(entry) else entry


def _target(directory: int, name: bytes) -> bytes:
    return os.fsencode(os.readlink(name, dir_fd=directory))


def _attribute(descriptor: int, name: str) -> bytes | None:
    try:
        return os.getxattr(descriptor, name)
    except OSError:
        return None


def special_word(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"
