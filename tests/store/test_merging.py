"""Merging by path: each side's changes, conflicts with both sides, and the numbers that entries carry."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.capture import put_tree
from store.diff import diff
from store.ids import Kind, TreeId
from store.known import KnownTrees
from store.memory import MemoryObjects
from store.merging import Merged, OnConflict, merge
from store.tree import EMPTY_TREE, Entry, EntryKind, directory_tree

Shape = dict[str, Any]
"""A directory: name -> text of a file, or another directory."""
NUMBER = 99


def put(objects: MemoryObjects, shape: Shape, changed: int = 1) -> TreeId:
    entries = []
    for name, value in shape.items():
        if isinstance(value, dict):
            entries.append(Entry(name.encode(), EntryKind.DIRECTORY, put(objects, value, changed), 0, changed))
        else:
            blob = objects.put(Kind.BLOB, value.encode())
            entries.append(Entry(name.encode(), EntryKind.FILE, blob, len(value), changed))
    return put_tree(objects, entries) if entries else EMPTY_TREE


def shape_of(known: KnownTrees, tree: TreeId) -> Shape:
    shape: Shape = {}
    for entry in known.entries(tree).values():
        inner = directory_tree(entry)
        text = known.objects.get(Kind.BLOB, entry.content).decode() if inner is None else ""
        shape[entry.name.decode()] = shape_of(known, inner) if inner is not None else text
    return shape


class Three:
    def __init__(self, base: Shape, ours: Shape, theirs: Shape) -> None:
        objects = MemoryObjects()
        self.known = KnownTrees(objects)
        # Sides that differ only in when they changed are equal.
        self.trees = [put(objects, shape, changed) for changed, shape in enumerate((base, ours, theirs), 1)]

    def merge(self, on_conflict: OnConflict = "report") -> Merged:
        return merge(self.known, *self.trees, number=NUMBER, on_conflict=on_conflict)

    def shape(self, on_conflict: OnConflict = "report") -> Shape:
        return shape_of(self.known, self.merge(on_conflict).tree)

    def conflicts(self) -> list[str]:
        return [b"/".join(conflict.path).decode() for conflict in self.merge().conflicts]


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [
        ({}, {}, {}, {}),
        ({"a": "1"}, {"a": "2"}, {"a": "1"}, {"a": "2"}),
        ({"a": "1"}, {"a": "1"}, {"a": "2"}, {"a": "2"}),
        ({"a": "1"}, {"a": "2"}, {"a": "2"}, {"a": "2"}),
        ({"a": "1", "b": "1"}, {"b": "1"}, {"a": "1"}, {}),
        ({}, {"a": "1"}, {"b": "1"}, {"a": "1", "b": "1"}),
        ({}, {"d": {"a": "1"}}, {"d": {"b": "1"}}, {"d": {"a": "1", "b": "1"}}),
        ({"d": {"a": "1"}}, {"d": {"a": "1"}}, {}, {}),
        ({"d": {"a": "1"}}, {}, {"d": {"a": "1"}}, {}),
        ({"d": {}}, {"d": {}}, {}, {}),
        ({}, {}, {"d": {}}, {"d": {}}),
        ({}, {}, {"d": {"e": {}}}, {"d": {"e": {}}}),
        ({}, {"d": {}}, {}, {"d": {}}),
        ({"d": {"a": "1", "b": "1"}}, {"d": {"a": "2", "b": "1"}}, {"d": {"a": "1"}}, {"d": {"a": "2"}}),
        ({"d": {"a": "1", "b": "1"}}, {"d": {"b": "1"}}, {"d": {"a": "1"}}, {"d": {}}),
        ({"a": "1"}, {"a": "1"}, {"a": {"b": "1"}}, {"a": {"b": "1"}}),
        ({"a": {"b": "1"}}, {"a": "1"}, {"a": {"b": "1"}}, {"a": "1"}),
        ({"a": {"b": "1"}}, {"a": {"b": "1"}}, {"a": "1"}, {"a": "1"}),
    ],
)  # fmt: skip
def test_what_one_side_changed_is_taken(base: Shape, ours: Shape, theirs: Shape, merged: Shape) -> None:
    three = Three(base, ours, theirs)
    assert (three.shape(), three.conflicts()) == (merged, [])


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "conflicts", "by_theirs"),
    [
        ({"a": "1"}, {"a": "2"}, {"a": "3"}, ["a"], {"a": "3"}),
        ({}, {"a": "2"}, {"a": "3"}, ["a"], {"a": "3"}),
        ({"a": "1"}, {}, {"a": "3"}, ["a"], {"a": "3"}),
        ({"a": "1"}, {"a": "2"}, {}, ["a"], {}),
        ({"d": {"a": "1", "b": "1"}}, {}, {"d": {"a": "2", "b": "1"}}, ["d/a"], {"d": {"a": "2"}}),
        ({"d": {"a": "1", "b": "1"}}, {"d": {"a": "2", "b": "1"}}, {}, ["d/a"], {}),
        ({"a": "1"}, {"a": {"b": "1"}}, {}, ["a"], {}),
        ({"a": "1"}, {}, {"a": {"b": "1"}}, ["a"], {"a": {"b": "1"}}),
        ({}, {"a": "1"}, {"a": {"b": "1"}}, ["a"], {"a": {"b": "1"}}),
        ({"a": {"b": "1"}}, {"a": {"b": "2"}}, {"a": "1"}, ["a"], {"a": "1"}),
        ({"x": {"y": {"z": "1"}}}, {"x": {"y": {"z": "2"}}}, {"x": {"y": {"z": "3"}}}, ["x/y/z"], {"x": {"y": {"z": "3"}}}),
        ({"a": "1", "b": "1"}, {"a": "2", "b": "2"}, {"a": "3", "b": "3"}, ["a", "b"], {"a": "3", "b": "3"}),
    ],
)  # fmt: skip
def test_what_both_changed_is_told_with_both_sides_and_taken_from_the_one_that_is_asked_for(
    base: Shape, ours: Shape, theirs: Shape, conflicts: list[str], by_theirs: Shape
) -> None:
    three = Three(base, ours, theirs)
    assert three.conflicts() == conflicts
    assert three.shape("theirs") == by_theirs
    assert three.shape("ours") == three.shape("report")


def test_a_conflict_has_what_stood_there_and_what_stands_there_now() -> None:
    (conflict,) = Three({"a": "1"}, {"a": "22"}, {}).merge().conflicts
    assert conflict.base is not None
    assert conflict.ours is not None
    assert (conflict.base.size_bytes, conflict.ours.size_bytes, conflict.theirs) == (1, 2, None)


@pytest.mark.parametrize("on_conflict", ["report", "theirs"])
def test_what_comes_from_theirs_carries_the_number_of_the_merging_step(on_conflict: OnConflict) -> None:
    """Else a program that compares times would take it for older than what was made before."""
    base = {"kept": "1", "d": {"f": "1", "g": "1"}, "t": "1", "b": "0"}
    theirs = {"kept": "1", "d": {"f": "2", "g": "1"}, "t": {"n": "1"}, "new": {"x": {"y": "1"}}, "b": {"c": "1"}}
    three = Three(base, {**base, "b": "2"}, theirs)
    merged = three.merge(on_conflict).tree
    changed = {
        b"/".join(change.path).decode(): change.after.changed
        for change in diff(three.known.objects, EMPTY_TREE, merged)
        if change.after is not None
    }
    of_ours = {"kept": 2, "d": NUMBER, "d/f": NUMBER, "d/g": 2, "t": NUMBER, "t/n": NUMBER}
    new = {"new": NUMBER, "new/x": NUMBER, "new/x/y": NUMBER}
    conflict = {"b": NUMBER, "b/c": NUMBER} if on_conflict == "theirs" else {"b": 2}
    assert changed == of_ours | new | conflict


def test_merging_what_changed_on_our_side_alone_gives_our_tree() -> None:
    three = Three({"a": "1", "d": {"b": "1"}}, {"a": "2", "d": {"b": "1"}}, {"a": "1", "d": {"b": "1"}})
    assert three.merge().tree == three.trees[1]


def test_deep_trees_are_merged() -> None:
    shapes: list[Shape] = [{"a": "1"}, {"a": "1"}, {"a": "2"}]
    objects = MemoryObjects()
    roots = []
    for shape in shapes:
        tree = put(objects, shape)
        for _ in range(3000):
            tree = put_tree(objects, [Entry(b"d", EntryKind.DIRECTORY, tree, 0, 1)])
        roots.append(tree)
    merged = merge(KnownTrees(objects), *roots, number=NUMBER)
    assert next(diff(objects, merged.tree, roots[2]), None) is None


shapes = st.recursive(
    st.sampled_from(["1", "2", "3"]),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
roots = st.dictionaries(st.sampled_from("abc"), shapes, max_size=3)


def files_of(shape: Shape, prefix: str = "") -> dict[str, str]:
    """Files by path, and directories (as "/"): what a merge may decide on."""
    found: dict[str, str] = {}
    for name, value in shape.items():
        if isinstance(value, dict):
            found |= {prefix + name: "/", **files_of(value, f"{prefix}{name}/")}
        else:
            found[prefix + name] = value
    return found


@given(roots, roots, roots)
def test_each_path_is_what_the_side_made_of_it_that_changed_it(base: Shape, ours: Shape, theirs: Shape) -> None:
    three = Three(base, ours, theirs)
    merged, conflicts = files_of(three.shape()), three.conflicts()
    old, left, right = files_of(base), files_of(ours), files_of(theirs)
    if conflicts:
        assert all(left.get(path) != right.get(path) or left.get(path) == "/" for path in conflicts)
        return
    for path in old.keys() | left.keys() | right.keys():
        sides = (old.get(path), left.get(path), right.get(path))
        if "/" not in sides:
            expected = sides[2] if sides[0] == sides[1] else sides[1]
            assert merged.get(path) == expected, path


@given(roots, roots, roots)
def test_both_ways_round_have_the_same_conflicts_and_without_any_the_same_tree(
    base: Shape, ours: Shape, theirs: Shape
) -> None:
    one, other = Three(base, ours, theirs), Three(base, theirs, ours)
    assert one.conflicts() == other.conflicts()
    if not one.conflicts():
        assert one.shape() == other.shape()
    assert one.shape("theirs") == other.shape("ours")


@given(roots, roots)
def test_merging_with_what_did_not_change_changes_nothing(base: Shape, changed: Shape) -> None:
    assert Three(base, changed, base).shape() == changed
    assert Three(base, base, changed).shape() == changed
    assert Three(base, changed, changed).shape() == changed
