"""What an archive or a folder holds, gathered into a tree: the rules that all ways in share.

A member's name is relative to the tree's root; "." in it, and one "/" at its end, say nothing and are dropped. Absolute names,
"..", empty components, NUL, and names below what is not a directory are refused: a name must mean one place only, whatever
stands there. A later member replaces what stood under its name. What no tree can hold is left out and named.

`changed` is 0 for every entry: what is taken in is where a history begins, and the clock of another machine means nothing in
it. Nothing is synced, and on an error no tree names what was put: it is garbage.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

import msgspec

from store import tree as trees
from store.capture import DEPTH_MAX, LEFT_OUT_MAX, RESERVED_PREFIX, Path, put_tree
from store.errors import ArchiveRefused
from store.files import Files
from store.ids import BlobId, Kind, TreeId
from store.interfaces import Objects
from store.large import LARGE_BYTES
from store.snapshot import LeftOut
from store.tree import Entry, EntryKind

Progress = Callable[[int], None]
"""Is told, now and then, how many bytes of file contents are done."""

CHUNK_BYTES = 64 << 10


def no_progress(done_bytes: int) -> None:
    """Tells nobody."""


class ArchiveLimits(msgspec.Struct, frozen=True):
    """What one archive or folder may hold. More is an error: half of an archive is not what was asked for."""

    entries: int = trees.ENTRIES_MAX
    """Members, and directories that only members' names speak of."""
    total_bytes: int = 64 << 30
    """Contents as they are read, and a tar stream as it is when unpacked."""
    header_bytes: int = 1 << 20
    """Long names and extended headers before one member."""
    depth: int = DEPTH_MAX


DEFAULT_LIMITS = ArchiveLimits()


class Imported(msgspec.Struct, frozen=True):
    """A tree whose objects were put and not synced, what could not be kept, and what the tree holds."""

    tree: TreeId
    left_out: tuple[LeftOut, ...]
    files: int
    total_bytes: int


class _Directory:
    __slots__ = ("entries", "tree")

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry | _Directory] = {}
        self.tree = trees.EMPTY_TREE


def member_path(name: bytes) -> Path:
    """The path that a member's name gives; () for the root. Raises ArchiveRefused for a name that may lead elsewhere."""
    if name.startswith(b"/"):
        raise ArchiveRefused("its name is absolute; names must be relative", name)
    path = tuple(part for part in name.removesuffix(b"/").split(b"/") if part != b".")
    for part in path:
        if not trees.is_name(part):
            raise ArchiveRefused(f"its name {_fault(part)}", name)
    return path


class Members:
    """Takes members in, in the order of the archive, and makes their tree at the end.

    `folder` is where contents too large for memory lie meanwhile, in files without a name.
    """

    def __init__(
        self, objects: Objects, files: Files, folder: str | os.PathLike[str], limits: ArchiveLimits, progress: Progress
    ) -> None:
        self._objects, self._files, self._folder = objects, files, os.fspath(folder)
        self._limits, self._progress = limits, progress
        self._root = _Directory()
        self._entries = self._done_bytes = self._left_out_count = 0
        self._left_out: list[LeftOut] = []
        self._left_paths: set[Path] = set()

    def add_directory(self, path: Path) -> None:
        place = self._place(path, directory=True)
        if place is not None and path and not isinstance(place.entries.get(path[-1]), _Directory):
            place.entries[path[-1]] = _Directory()

    def add_symlink(self, path: Path, target: bytes) -> None:
        place = self._place(path)
        if place is None:
            return
        if b"\0" in target:
            raise ArchiveRefused("the target of this symlink holds a NUL byte", b"/".join(path))
        if not 0 < len(target) <= trees.TARGET_BYTES_MAX:
            self._leave_out_of(place, path, "a symlink whose target is empty or too long")
            return
        place.entries[path[-1]] = Entry(path[-1], EntryKind.SYMLINK, target, len(target), 0)

    def add_file(self, path: Path, chunks: Iterable[bytes], *, executable: bool) -> None:
        """A file of the contents that `chunks` gives: asked for once the name was found good, or not at all."""
        place = self._place(path)
        if place is not None:
            blob, size_bytes = self._put(self._counted(chunks))
            place.entries[path[-1]] = _file(path[-1], blob, size_bytes, executable)

    def add_open_file(self, path: Path, descriptor: int, size_bytes: int, *, executable: bool) -> None:
        """The first `size_bytes` of a regular file. Raises OSError when it is shorter."""
        place = self._place(path)
        if place is not None:
            self._count_bytes(size_bytes)
            blob = self._objects.put_file(descriptor, size_bytes)
            place.entries[path[-1]] = _file(path[-1], blob, size_bytes, executable)
            self._progress(self._done_bytes)

    def add_hard_link(self, path: Path, target: Path) -> None:
        """An entry of its own with what an earlier member holds."""
        place = self._place(path)
        if place is None:
            return
        node = self._find(target)
        if node is None and target in self._left_paths:
            self._leave_out_of(place, path, "a hard link to what was left out")
        elif isinstance(node, Entry):
            self._count_bytes(node.size_bytes)
            place.entries[path[-1]] = msgspec.structs.replace(node, name=path[-1])
        else:
            word = "which no earlier member is" if node is None else "which is a directory"
            raise ArchiveRefused(f"a hard link to {b'/'.join(target)!r}, {word}", b"/".join(path))

    def leave_out(self, path: Path, reason: str) -> None:
        """Something that no tree holds; it takes the place of what stood at `path`, as it would anywhere else."""
        place = self._place(path)
        if place is not None:
            self._leave_out_of(place, path, reason)

    def note(self, name: bytes, reason: str) -> None:
        """Name something that is not a path of the tree, or that cannot be looked at."""
        self._count_entry()
        self._name_left_out(name, reason)

    def finish(self) -> Imported:
        """Put the trees, the innermost first."""
        directories, files, total_bytes = [self._root], 0, 0
        for directory in directories:
            directories += [node for node in directory.entries.values() if isinstance(node, _Directory)]
        for directory in reversed(directories):
            entries = [_entry(name, node) for name, node in directory.entries.items()]
            directory.tree = put_tree(self._objects, entries)
            files += sum(entry.is_file for entry in entries)
            total_bytes += sum(entry.size_bytes for entry in entries if entry.is_file)
        surplus = self._left_out_count - len(self._left_out)
        if surplus:
            self._left_out.append(LeftOut(b"", f"and {surplus} more"))
        return Imported(self._root.tree, tuple(self._left_out), files, total_bytes)

    def _place(self, path: Path, *, directory: bool = False) -> _Directory | None:
        """The directory that holds `path`, made if need be; None when `path` is not taken in. Raises ArchiveRefused."""
        self._count_entry()
        if len(path) - (not directory) > self._limits.depth:
            raise ArchiveRefused(f"it lies deeper than {self._limits.depth} directories", b"/".join(path))
        if not path:
            if not directory:
                raise ArchiveRefused("it has the name of the root, and is not a directory", b".")
            return self._root
        if path[0].startswith(RESERVED_PREFIX):
            self._left_paths.add(path)
            self._name_left_out(b"/".join(path), "a name that psf uses itself")
            return None
        place = self._root
        for depth, name in enumerate(path[:-1], 1):
            node = place.entries.get(name)
            if node is None:
                self._count_entry()
                node = place.entries[name] = _Directory()
            if not isinstance(node, _Directory):
                word = "a symlink" if node.kind is EntryKind.SYMLINK else "a file"
                raise ArchiveRefused(f"it lies below {b'/'.join(path[:depth])!r}, which is {word}", b"/".join(path))
            place = node
        return place

    def _find(self, path: Path) -> Entry | _Directory | None:
        node: Entry | _Directory | None = self._root
        for name in path:
            node = node.entries.get(name) if isinstance(node, _Directory) else None
        return node

    def _leave_out_of(self, place: _Directory, path: Path, reason: str) -> None:
        place.entries.pop(path[-1], None)
        self._left_paths.add(path)
        self._name_left_out(b"/".join(path), reason)

    def _name_left_out(self, name: bytes, reason: str) -> None:
        self._left_out_count += 1
        if len(self._left_out) < LEFT_OUT_MAX:
            self._left_out.append(LeftOut(name, reason))

    def _count_entry(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise ArchiveRefused(f"more than {self._limits.entries} entries")

    def _count_bytes(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        if self._done_bytes > self._limits.total_bytes:
            raise ArchiveRefused(f"more than {self._limits.total_bytes} bytes of contents")

    def _counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._count_bytes(len(chunk))
            yield chunk
            self._progress(self._done_bytes)

    def _put(self, chunks: Iterator[bytes]) -> tuple[BlobId, int]:
        """Store contents whose length only their end tells: small ones from memory, large ones from a file without a name."""
        head = bytearray()
        for chunk in chunks:
            head += chunk
            if len(head) >= LARGE_BYTES:
                return self._put_large(head, chunks)
        return BlobId(self._objects.put(Kind.BLOB, bytes(head))), len(head)

    def _put_large(self, head: bytearray, rest: Iterator[bytes]) -> tuple[BlobId, int]:
        descriptor = self._files.unnamed(self._folder)
        try:
            self._files.write(descriptor, memoryview(head))
            size_bytes = len(head)
            for chunk in rest:
                self._files.write(descriptor, chunk)
                size_bytes += len(chunk)
            return self._objects.put_file(descriptor, size_bytes), size_bytes
        finally:
            os.close(descriptor)


def _file(name: bytes, blob: BlobId, size_bytes: int, executable: bool) -> Entry:
    return Entry(name, EntryKind.EXECUTABLE if executable else EntryKind.FILE, blob, size_bytes, 0)


def _entry(name: bytes, node: Entry | _Directory) -> Entry:
    return node if isinstance(node, Entry) else Entry(name, EntryKind.DIRECTORY, node.tree, 0, 0)


def _fault(part: bytes) -> str:
    if not part:
        return "is empty or has an empty component"
    if part == b"..":
        return 'holds ".."'
    if b"\0" in part:
        return "holds a NUL byte"
    return f"has a component of more than {trees.NAME_BYTES_MAX} bytes"
