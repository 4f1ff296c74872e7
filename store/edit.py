"""Changing a tree, or an unmounted directory, by naming files: no program runs."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from itertools import takewhile

import msgspec

from store import tree as trees
from store.capture import Path, entries_by_name, put_tree
from store.delta import DIRECTORY_MODE, FILE_MODES
from store.files import Files, Owner, mode_of, open_directory
from store.ids import Kind, TreeId
from store.interfaces import Objects
from store.snapshot import Write
from store.tree import Entry, EntryKind


class FileEdit(msgspec.Struct, frozen=True):
    data: bytes
    executable: bool = False


def put_files(objects: Objects, tree: TreeId, files: Mapping[Path, FileEdit], number: int) -> TreeId:
    """The tree with `files` in it, by path. Directories are made; what stands in a file's way gives way. O(files * depth)."""
    entries: dict[Path, Entry | None] = {}
    for path, file in files.items():
        kind = EntryKind.EXECUTABLE if file.executable else EntryKind.FILE
        entries[path] = Entry(path[-1], kind, objects.put(Kind.BLOB, file.data), len(file.data), number)
    return put_entries(objects, tree, entries, number)


def write_edits(write: Write, number: int) -> dict[Path, Entry | None]:
    """What a Write step does, for `put_entries`. A path that is deleted and put is put."""
    edits: dict[Path, Entry | None] = {tuple(path.split(b"/")): None for path in write.deleted}
    for file in write.files:
        path = tuple(file.path.split(b"/"))
        kind = EntryKind.EXECUTABLE if file.executable else EntryKind.FILE
        edits[path] = Entry(path[-1], kind, file.blob, file.size_bytes, number)
    return edits


def put_entries(objects: Objects, tree: TreeId, edits: Mapping[Path, Entry | None], number: int) -> TreeId:
    """The tree with these entries in it, and without the paths that have none; a path comes before what is below it.

    What is equal to what stands there stays, with its own number. Needs no more stack for deeper paths.
    """
    opened = [_Directory(b"", objects, tree)]
    current: Path = ()
    for path in sorted(edits):
        *above, name = path
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(above, current, strict=False)))
        while len(opened) > shared + 1:
            opened[-2].close(opened.pop(), objects, number)
        entry = edits[path]
        for inner in above[shared:]:
            found = trees.directory_tree(opened[-1].entries.get(inner))
            if found is None and entry is None:
                break  # nothing stands there that could be taken away
            opened.append(_Directory(inner, objects, found or trees.EMPTY_TREE))
        else:
            opened[-1].set(name, entry)
        current = tuple(above[: len(opened) - 1])
    while len(opened) > 1:
        opened[-2].close(opened.pop(), objects, number)
    return opened[0].put(objects)


class _Directory:
    """One directory on the way to a path that is edited."""

    def __init__(self, name: bytes, objects: Objects, tree: TreeId) -> None:
        self.name, self._tree = name, tree
        self.entries = entries_by_name(objects, tree)
        self._changed = False

    def set(self, name: bytes, entry: Entry | None) -> None:
        old = self.entries.get(name)
        if entry is None:
            self._changed |= self.entries.pop(name, None) is not None
        elif old is None or not old.same_content(entry):
            self.entries[name], self._changed = entry, True

    def put(self, objects: Objects) -> TreeId:
        return put_tree(objects, self.entries.values()) if self._changed else self._tree

    def close(self, inner: _Directory, objects: Objects, number: int) -> None:
        """Take in a directory that was opened in this one."""
        self.set(inner.name, Entry(inner.name, EntryKind.DIRECTORY, inner.put(objects), 0, number))


def place_file(
    files: Files, directory: int, path: Path, data: bytes, *, owner: Owner | None, time_s: int, executable: bool = False
) -> None:
    """Write a file below `directory`, on which nothing is mounted and no process works. Follows no symlink.

    Directories are made; what else stands in the way is removed first: a program may have shaped what is there.
    """
    current = os.dup(directory)
    try:
        for name in path[:-1]:
            mode = mode_of(name, current)
            if mode is not None and not stat.S_ISDIR(mode):
                files.unlink(name, directory=current)
                mode = None
            if mode is None:
                files.make_directory(name, DIRECTORY_MODE, directory=current)
                _dress(files, name, current, DIRECTORY_MODE, owner, time_s)
            child = open_directory(name, current)
            os.close(current)
            current = child
        _write_file(files, current, path[-1], data)
        kind = EntryKind.EXECUTABLE if executable else EntryKind.FILE
        _dress(files, path[-1], current, FILE_MODES[kind], owner, time_s)
    finally:
        os.close(current)


def _write_file(files: Files, directory: int, name: bytes, data: bytes) -> None:
    if mode_of(name, directory) is not None:
        files.remove_tree(name, directory=directory)
    descriptor = files.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, directory=directory)
    try:
        files.write(descriptor, data)
    finally:
        os.close(descriptor)


def _dress(files: Files, name: bytes, directory: int, mode: int, owner: Owner | None, time_s: int) -> None:
    os.chmod(name, mode, dir_fd=directory)
    if owner is not None:
        files.set_owner(name, owner, directory=directory)
    files.set_time(name, time_s, directory=directory)
