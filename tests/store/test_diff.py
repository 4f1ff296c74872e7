"""The difference of two trees: what it says for all trees, and that it reads no more than it must."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from store.capture import put_tree
from store.diff import Change, diff
from store.ids import Kind, TreeId
from store.memory import MemoryObjects
from store.tree import EMPTY_TREE, Entry, EntryKind

Flat = dict[tuple[bytes, ...], tuple[EntryKind, bytes]]
"""A tree as a flat dictionary: path to kind and content; the content of a directory is not said."""


class CountingObjects(MemoryObjects):
    """Knows which trees were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[bytes] = []

    def get(self, kind: Kind, object_id: bytes) -> bytes:
        self.read.append(object_id)
        return super().get(kind, object_id)


def directory(name: bytes, tree: TreeId, changed: int = 0) -> Entry:
    return Entry(name, EntryKind.DIRECTORY, tree, 0, changed)


def file(name: bytes, content: bytes, changed: int = 0, kind: EntryKind = EntryKind.FILE) -> Entry:
    return Entry(name, kind, content.ljust(32, b"."), len(content), changed)


def put(objects: MemoryObjects, nested: dict[bytes, Any], changed: int = 0) -> TreeId:
    """Dictionaries are directories, entries are themselves."""
    return put_tree(
        objects,
        [
            value if isinstance(value, Entry) else directory(name, put(objects, value, changed), changed)
            for name, value in nested.items()
        ],
    )


def flat(nested: dict[bytes, Any], path: tuple[bytes, ...] = ()) -> Flat:
    found: Flat = {}
    for name, value in nested.items():
        if isinstance(value, Entry):
            found[(*path, name)] = (value.kind, value.content)
        else:
            found[(*path, name)] = (EntryKind.DIRECTORY, b"")
            found |= flat(value, (*path, name))
    return found


def modelled(before: Flat, after: Flat) -> list[tuple[tuple[bytes, ...], object, object]]:
    """The same, found by comparing every path of both."""
    changes: list[tuple[tuple[bytes, ...], object, object]] = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        if old and new and EntryKind.DIRECTORY in (old[0], new[0]):
            changes += [(path, old, None), (path, None, new)]
        else:
            changes.append((path, old, new))
    return changes


def said(changes: list[Change]) -> list[tuple[tuple[bytes, ...], object, object]]:
    def short(entry: Entry | None) -> object:
        if entry is None:
            return None
        return entry.kind, b"" if entry.kind is EntryKind.DIRECTORY else entry.content

    return [(change.path, short(change.before), short(change.after)) for change in changes]


NAMES = st.sampled_from([b"a", b"a.b", b"a-", b"b", b"\xff", b"long" * 60])


def leaves(name: bytes) -> st.SearchStrategy[Entry]:
    kinds = st.sampled_from([EntryKind.FILE, EntryKind.EXECUTABLE])
    return st.builds(file, st.just(name), st.sampled_from([b"1", b"2"]), st.integers(0, 3), kinds) | st.builds(
        Entry, st.just(name), st.just(EntryKind.SYMLINK), st.sampled_from([b"x", b"y"]), st.just(1), st.integers(0, 3)
    )


@st.composite
def nests(draw: st.DrawFn, depth: int = 3) -> dict[bytes, Any]:
    names = draw(st.lists(NAMES, unique=True, max_size=4))
    return {name: draw(nests(depth - 1)) if depth and draw(st.booleans()) else draw(leaves(name)) for name in names}


@given(nests(), nests(), st.integers(0, 2))
def test_it_is_what_comparing_every_path_finds(before: dict[bytes, Any], after: dict[bytes, Any], changed: int) -> None:
    objects = MemoryObjects()
    found = list(diff(objects, put(objects, before), put(objects, after, changed)))
    assert said(found) == modelled(flat(before), flat(after))


@given(nests(), nests())
def test_the_way_back_is_the_same_way(before: dict[bytes, Any], after: dict[bytes, Any]) -> None:
    objects = MemoryObjects()
    there = list(diff(objects, put(objects, before), put(objects, after)))
    back = list(diff(objects, put(objects, after), put(objects, before)))
    assert {(change.path, change.before, change.after) for change in there} == {
        (change.path, change.after, change.before) for change in back
    }


def test_equal_trees_are_not_read() -> None:
    objects = CountingObjects()
    tree = put(objects, {b"a": file(b"a", b"1"), b"d": {b"b": file(b"b", b"2")}})
    assert list(diff(objects, tree, tree)) == []
    assert objects.read == []


def test_only_the_trees_on_the_way_to_a_change_are_read() -> None:
    """A hundred directories of a hundred; one file in one of them changed: two roots, and two trees of two levels below."""
    objects = CountingObjects()
    nested: dict[bytes, Any] = {
        b"%02d" % one: {b"%02d" % two: {b"f": file(b"f", b"%d %d" % (one, two))} for two in range(10)}
        for one in range(100)
    }
    before = put(objects, nested)
    nested[b"42"][b"07"] = {b"f": file(b"f", b"other")}
    after = put(objects, nested)
    (change,) = diff(objects, before, after)
    assert change.path == (b"42", b"07", b"f")
    assert len(objects.read) == 6


def test_when_an_entry_changed_is_no_difference() -> None:
    objects = MemoryObjects()
    nested: dict[bytes, Any] = {b"d": {b"f": file(b"f", b"1", 1)}}
    other: dict[bytes, Any] = {b"d": {b"f": file(b"f", b"1", 9)}}
    before, after = put(objects, nested, 1), put(objects, other, 9)
    assert before != after
    assert list(diff(objects, before, after)) == []


def test_a_file_that_becomes_a_directory_is_removed_and_then_added() -> None:
    objects = MemoryObjects()
    inner = put(objects, {b"x": file(b"x", b"1")})
    old, new = file(b"a", b"1"), directory(b"a", inner)
    before, after = put_tree(objects, [old]), put_tree(objects, [new])
    assert list(diff(objects, before, after)) == [
        Change((b"a",), old, None),
        Change((b"a",), None, new),
        Change((b"a", b"x"), None, file(b"x", b"1")),
    ]
    assert list(diff(objects, after, before)) == [
        Change((b"a",), new, None),
        Change((b"a",), None, old),
        Change((b"a", b"x"), file(b"x", b"1"), None),
    ]


def test_an_empty_directory_that_appears_is_a_change() -> None:
    objects = MemoryObjects()
    after = put_tree(objects, [directory(b"empty", EMPTY_TREE)])
    assert list(diff(objects, EMPTY_TREE, after)) == [Change((b"empty",), None, directory(b"empty", EMPTY_TREE))]


def test_a_deep_tree_needs_no_more_stack() -> None:
    objects = MemoryObjects()
    tree = EMPTY_TREE
    for _ in range(2000):
        tree = put_tree(objects, [directory(b"d", tree)])
    changes = list(diff(objects, EMPTY_TREE, tree))
    assert len(changes) == 2000
    assert len(changes[-1].path) == 2000


def test_the_first_change_is_there_before_the_rest_is_read() -> None:
    """It is a stream: whoever looks at the beginning pays for the beginning."""
    objects = CountingObjects()
    after = put(objects, {b"%04d" % number: {b"f": file(b"f", b"%d" % number)} for number in range(1000)})
    next(diff(objects, EMPTY_TREE, after))
    assert len(objects.read) == 1
