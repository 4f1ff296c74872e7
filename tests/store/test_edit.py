"""Editing trees by path: the same as editing a dictionary of paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.capture import Path
from store.diff import diff
from store.edit import FileEdit, put_entries, put_files
from store.ids import Kind, TreeId
from store.memory import MemoryObjects
from store.tree import EMPTY_TREE, Entry, EntryKind

paths = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=4).map(tuple)
texts = st.sampled_from([b"1", b"2"])


def listed(objects: MemoryObjects, tree: TreeId) -> dict[Path, tuple[bytes | None, int]]:
    """Path -> content (None for a directory) and number."""
    found = {}
    for change in diff(objects, EMPTY_TREE, tree):
        assert change.after is not None
        content = objects.get(Kind.BLOB, change.after.content) if change.after.is_file else None
        found[change.path] = content, change.after.changed
    return found


def entry(objects: MemoryObjects, path: Path, text: bytes, number: int) -> Entry:
    return Entry(path[-1], EntryKind.FILE, objects.put(Kind.BLOB, text), len(text), number)


@given(st.lists(st.tuples(paths, st.none() | texts), max_size=12))
def test_one_edit_after_the_other_is_what_a_dictionary_of_paths_becomes(edits: list[tuple[Path, bytes | None]]) -> None:
    objects, tree = MemoryObjects(), EMPTY_TREE
    model: dict[Path, bytes | None] = {}
    for number, (path, text) in enumerate(edits, 1):
        tree = put_entries(objects, tree, {path: entry(objects, path, text, number) if text else None}, number)
        if text is None:
            model = {other: content for other, content in model.items() if other[: len(path)] != path}
            continue
        model = {other: content for other, content in model.items() if other[: len(path)] != path}
        for length in range(1, len(path)):
            if model.get(path[:length], b"") is not None:
                model[path[:length]] = None
        model[path] = text
    assert {path: content for path, (content, _) in listed(objects, tree).items()} == model


@given(st.dictionaries(paths, texts, max_size=6), st.dictionaries(paths, st.none() | texts, max_size=6))
def test_many_edits_at_once_are_as_good_as_one_by_one(
    before: dict[Path, bytes], edits: dict[Path, bytes | None]
) -> None:
    objects = MemoryObjects()
    start = put_files(objects, EMPTY_TREE, {path: FileEdit(text) for path, text in before.items()}, 1)
    whole = {path: entry(objects, path, text, 2) if text else None for path, text in edits.items()}
    tree = start
    for path in sorted(whole):
        tree = put_entries(objects, tree, {path: whole[path]}, 2)
    assert next(diff(objects, put_entries(objects, start, whole, 2), tree), None) is None


def test_what_is_equal_keeps_its_number_and_what_is_not_carries_the_new_one() -> None:
    objects = MemoryObjects()
    start = put_files(objects, EMPTY_TREE, {(b"d", b"a"): FileEdit(b"1"), (b"e", b"b"): FileEdit(b"1")}, 1)
    same = put_files(objects, start, {(b"d", b"a"): FileEdit(b"1")}, 2)
    assert same == start
    changed = listed(objects, put_files(objects, start, {(b"d", b"a"): FileEdit(b"2")}, 2))
    assert {path: number for path, (_, number) in changed.items()} == {
        (b"d",): 2,
        (b"d", b"a"): 2,
        (b"e",): 1,
        (b"e", b"b"): 1,
    }


@pytest.mark.parametrize("path", [(b"x",), (b"x", b"y"), (b"d", b"x"), (b"d", b"a", b"x")])
def test_deleting_what_is_not_there_changes_nothing(path: Path) -> None:
    objects = MemoryObjects()
    start = put_files(objects, EMPTY_TREE, {(b"d", b"a"): FileEdit(b"1")}, 1)
    assert put_entries(objects, start, {path: None}, 2) == start


def test_deep_paths_need_no_more_stack() -> None:
    objects, path = MemoryObjects(), (b"d",) * 3000
    tree = put_files(objects, EMPTY_TREE, {path: FileEdit(b"1")}, 1)
    assert len(listed(objects, tree)) == 3000
    assert len(listed(objects, put_entries(objects, tree, {path: None}, 2))) == 2999
