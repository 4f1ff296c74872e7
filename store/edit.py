"""Changing a tree, or an unmounted directory, by naming files: no program runs."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

import msgspec

from store import tree as trees
from store.capture import Path, entries_by_name, put_tree
from store.delta import DIRECTORY_MODE, FILE_MODES
from store.files import Files, Owner, mode_of, open_directory
from store.ids import Kind, TreeId
from store.interfaces import Objects
from store.tree import Entry, EntryKind


class FileEdit(msgspec.Struct, frozen=True):
    data: bytes
    executable: bool = False


def put_files(objects: Objects, tree: TreeId, files: Mapping[Path, FileEdit], number: int) -> TreeId:
    """The tree with `files` in it, by path. Directories are made; what stands in a file's way gives way. O(files * depth)."""
    if not files:
        return tree
    entries = entries_by_name(objects, tree)
    below: dict[bytes, dict[Path, FileEdit]] = {}
    for path, file in files.items():
        if len(path) > 1:
            below.setdefault(path[0], {})[path[1:]] = file
            continue
        kind = EntryKind.EXECUTABLE if file.executable else EntryKind.FILE
        blob = objects.put(Kind.BLOB, file.data)
        _set(entries, Entry(path[0], kind, blob, len(file.data), number))
    for name, inner in below.items():
        old = entries.get(name)
        is_directory = old is not None and old.kind is EntryKind.DIRECTORY
        start = trees.entry_tree(old) if old is not None and is_directory else trees.EMPTY_TREE
        _set(entries, Entry(name, EntryKind.DIRECTORY, put_files(objects, start, inner, number), 0, number))
    return put_tree(objects, entries.values())


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


def _set(entries: dict[bytes, Entry], entry: Entry) -> None:
    old = entries.get(entry.name)
    if old is None or not old.same_content(entry):
        entries[entry.name] = entry
