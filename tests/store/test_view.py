"""Looking up a path: symlinks are followed inside the view and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store.capture import Path as TreePath
from store.capture import put_tree
from store.files import open_directory
from store.ids import BlobId, Kind
from store.memory import MemoryObjects
from store.tree import EMPTY_TREE, Entry, EntryKind
from store.view import (
    DirectoryView,
    Folder,
    Found,
    KnownTrees,
    Link,
    OverlayView,
    Patience,
    Regular,
    TooFar,
    TooLarge,
    TreeView,
    View,
    destination,
    follow,
    look_in_tree,
)

LINKS: dict[bytes, bytes] = {
    b"to_file": b"file",
    b"to_dir": b"dir",
    b"chain": b"to_dir/back",
    b"dotted": b"./dir/../file",
    b"slashed": b"dir/",
    b"file_slashed": b"file/",
    b"loop": b"loop",
    b"ping": b"pong",
    b"pong": b"ping",
    b"passwd": b"/etc/passwd",
    b"absolute": b"/work/place/dir/inner",
    b"neighbour": b"/work/placebo/file",
    b"up": b"../file",
    b"far_up": b"../../../etc/passwd",
    b"dangling": b"nowhere",
    b"root": b"/work/place",
}
MOUNT = (b"work", b"place")


def _directory_view(tmp_path: Path) -> Iterator[View]:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_bytes(b"file's")
    (tmp_path / "dir" / "inner").write_bytes(b"inner's")
    (tmp_path / "dir" / "inner").chmod(0o755)
    os.symlink("../file", tmp_path / "dir" / "back")
    os.mkfifo(tmp_path / "pipe")
    for name, target in LINKS.items():
        os.symlink(target, os.fsencode(tmp_path) + b"/" + name)
    directory = open_directory(str(tmp_path))
    yield DirectoryView(directory)
    os.close(directory)


def _tree_objects() -> tuple[MemoryObjects, TreePath]:
    objects = MemoryObjects()

    def blob(data: bytes) -> bytes:
        return BlobId(objects.put(Kind.BLOB, data))

    inner = [
        Entry(b"inner", EntryKind.EXECUTABLE, blob(b"inner's"), 7, 1),
        Entry(b"back", EntryKind.SYMLINK, b"../file", 7, 1),
    ]
    entries = [
        Entry(b"file", EntryKind.FILE, blob(b"file's"), 6, 1),
        Entry(b"dir", EntryKind.DIRECTORY, put_tree(objects, inner), 0, 1),
        *(Entry(name, EntryKind.SYMLINK, target, len(target), 1) for name, target in LINKS.items()),
    ]
    return objects, (put_tree(objects, entries),)


def _tree_view(tmp_path: Path) -> Iterator[View]:
    """An overlay in which nothing was changed: everything comes from the tree."""
    objects, (tree,) = _tree_objects()
    upper = open_directory(str(tmp_path))
    yield OverlayView(KnownTrees(objects), tree, upper, "trusted.overlay.")  # type: ignore[arg-type]
    os.close(upper)


def _upper_view(tmp_path: Path) -> Iterator[View]:
    """An overlay on nothing: everything comes from the upper directory."""
    for view in _directory_view(tmp_path):
        assert isinstance(view, DirectoryView)
        upper = open_directory(str(tmp_path))
        yield OverlayView(KnownTrees(MemoryObjects()), EMPTY_TREE, upper, "trusted.overlay.")
        os.close(upper)


@pytest.fixture(params=[_directory_view, _tree_view, _upper_view])
def view(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[View]:
    make: Callable[[Path], Iterator[View]] = request.param
    yield from make(tmp_path)


def found(view: View, path: bytes, size_bytes_max: int = 1000) -> Found:
    return follow(view, tuple(path.split(b"/")), size_bytes_max, MOUNT)


FILE, INNER = Regular(b"file's", executable=False), Regular(b"inner's", executable=True)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"file", FILE),
        (b"dir/inner", INNER),
        (b"./dir//inner", INNER),
        (b"dir", Folder()),
        (b"dir/", Folder()),
        (b".", Folder()),
        (b"to_file", FILE),
        (b"to_dir/inner", INNER),
        (b"chain", FILE),
        (b"dotted", FILE),
        (b"slashed", Folder()),
        (b"slashed/inner", INNER),
        (b"dir/../file", FILE),
        (b"to_dir/../file", FILE),
        (b"absolute", INNER),
        (b"root", Folder()),
        (b"root/file", FILE),
    ],
)
def test_what_lies_inside_is_found(view: View, path: bytes, expected: Found) -> None:
    assert found(view, path) == expected


@pytest.mark.parametrize(
    "path",
    [
        b"nothing",
        b"dir/nothing",
        b"file/below",
        b"file/",
        b"file/.",
        b"file/..",
        b"file_slashed",
        b"nothing/../file",
        b"dangling",
        b"loop",
        b"ping",
        b"passwd",
        b"neighbour",
        b"up",
        b"far_up",
        b"..",
        b"../file",
        b"dir/../../file",
        b"pipe",
        b"x" * 300,
        b"file\0",
    ],
)
def test_what_lies_outside_or_is_no_file_is_not(view: View, path: bytes) -> None:
    assert found(view, path) is None


def test_the_size_is_bounded_before_reading(view: View) -> None:
    assert found(view, b"file", 5) == TooLarge(6)
    assert found(view, b"file", 6) == FILE


def test_a_look_does_not_follow_the_last_symlink(view: View) -> None:
    assert view.look((b"to_file",), 100) == Link(b"file")
    assert view.look((b"to_dir", b"inner"), 100) is None


def test_forty_symlinks_are_followed_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(b"end")
    for number in range(1, 60):
        os.symlink(str(number - 1), tmp_path / str(number))
    directory = open_directory(str(tmp_path))
    assert follow(DirectoryView(directory), (b"40",), 10) == Regular(b"end", executable=False)
    assert follow(DirectoryView(directory), (b"41",), 10) is None
    os.close(directory)


def test_a_tree_alone_can_be_looked_into() -> None:
    objects, (tree,) = _tree_objects()
    assert look_in_tree(KnownTrees(objects), tree, (b"dir", b"inner"), 100) == INNER  # type: ignore[arg-type]
    assert look_in_tree(KnownTrees(objects), tree, (), 100) == Folder()  # type: ignore[arg-type]
    assert look_in_tree(KnownTrees(objects), tree, (b"to_file", b"x"), 100) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("file", "file"), ("new", "new"), ("dir/new", "dir/new"), ("to_file", "file"), ("to_dir/new", "dir/new"),
        ("to_dir/inner", "dir/inner"), ("dotted", "file"), ("absolute", "dir/inner"), ("dangling", "dangling"),
        ("to_file/x", "to_file/x"), ("passwd", "passwd"), ("nowhere/new", "nowhere/new"), ("loop", "loop"), ("root/new", "new"),
    ],
)  # fmt: skip
def test_writing_to_a_path_writes_where_symlinks_lead(path: str, where: str) -> None:
    objects, (tree,) = _tree_objects()
    view = TreeView(KnownTrees(objects), tree)  # type: ignore[arg-type]
    found = destination(view, tuple(path.encode().split(b"/")), MOUNT, Patience())
    assert b"/".join(found).decode() == where


def test_symlinks_that_multiply_are_followed_so_far_and_no_further(tmp_path: Path) -> None:
    """Each link leads to and fro before it leads to the next: a short name asks for millions of look-ups."""
    (tmp_path / "d").mkdir()
    for number in range(39):
        os.symlink("d/../" * 800 + str(number + 1), tmp_path / str(number))
    (tmp_path / "39").write_bytes(b"end")
    directory = open_directory(str(tmp_path))
    view = DirectoryView(directory)
    patience = Patience(50_000)
    assert follow(view, (b"0",), 10, (), patience) == Regular(b"end", executable=False)
    assert follow(view, (b"0",), 10, (), patience) == TooFar()
    assert follow(view, (b"39",), 10, (), patience) == TooFar(), "patience is all of a caller's, not of one name"
    os.close(directory)


def test_a_tree_is_decoded_once_for_many_names() -> None:
    objects = Counting()
    blob = objects.put(Kind.BLOB, b"x")
    tree = put_tree(objects, [Entry(b"%d" % number, EntryKind.FILE, blob, 1, 1) for number in range(50)])
    known = KnownTrees(objects)
    for number in range(100):
        assert (known.find(tree, (b"%d" % number,)) is not None) == (number < 50)
    assert objects.gets == 1


class Counting(MemoryObjects):
    gets = 0

    def get(self, kind: Kind, object_id: bytes) -> bytes:
        self.gets += 1
        return super().get(kind, object_id)
