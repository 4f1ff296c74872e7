"""Common ancestors, who wrote a file, and which step broke something."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psf.lineage import blame, first_failing, merge_base
from store import snapshot as snapshots
from store.edit import FileEdit, put_files
from store.ids import Kind, SnapshotId
from store.known import KnownTrees
from store.memory import MemoryObjects
from store.merging import merge
from store.snapshot import EMPTY_SNAPSHOT_BYTES, EMPTY_SNAPSHOT_ID, Snapshot


class History:
    """Snapshots without runs."""

    def __init__(self) -> None:
        self.objects = MemoryObjects()
        self.objects.put(Kind.SNAPSHOT, EMPTY_SNAPSHOT_BYTES)
        self.known = KnownTrees(self.objects)

    def get(self, identity: SnapshotId) -> Snapshot:
        return snapshots.decode(self.objects.get(Kind.SNAPSHOT, identity))

    def step(self, before: SnapshotId, files: dict[str, str]) -> SnapshotId:
        parent = self.get(before)
        edits = {tuple(path.encode().split(b"/")): FileEdit(text.encode()) for path, text in files.items()}
        tree = put_files(self.objects, parent.tree, edits, parent.depth + 1)
        return self._put(Snapshot(1, parent.depth + 1, (before,), tree, None, None))

    def merge(self, ours: SnapshotId, theirs: SnapshotId) -> SnapshotId:
        base = merge_base(self.objects, ours, theirs)
        assert base is not None
        left, right = self.get(ours), self.get(theirs)
        number = max(left.depth, right.depth) + 1
        tree = merge(self.known, self.get(base).tree, left.tree, right.tree, number=number).tree
        return self._put(Snapshot(1, number, (ours, theirs), tree, None, None))

    def _put(self, snapshot: Snapshot) -> SnapshotId:
        return SnapshotId(self.objects.put(Kind.SNAPSHOT, snapshots.encode(snapshot)))

    def blamed(self, head: SnapshotId, path: str) -> SnapshotId | None:
        found = blame(self.known, head, tuple(path.encode().split(b"/")))
        return found.identity if found else None


def test_the_common_ancestor_is_where_two_histories_part() -> None:
    history = History()
    one = history.step(EMPTY_SNAPSHOT_ID, {"a": "1"})
    left, right = history.step(one, {"b": "1"}), history.step(history.step(one, {"c": "1"}), {"d": "1"})
    assert merge_base(history.objects, left, right) == one
    assert merge_base(history.objects, right, left) == one
    assert merge_base(history.objects, one, right) == one
    assert merge_base(history.objects, right, right) == right
    assert merge_base(history.objects, history.step(EMPTY_SNAPSHOT_ID, {"z": "1"}), left) == EMPTY_SNAPSHOT_ID


def test_after_a_merge_the_common_ancestor_is_what_was_merged() -> None:
    history = History()
    one = history.step(EMPTY_SNAPSHOT_ID, {"a": "1"})
    left, right = history.step(one, {"b": "1"}), history.step(one, {"c": "1"})
    merged = history.merge(left, right)
    assert merge_base(history.objects, history.step(merged, {"d": "1"}), history.step(right, {"c": "2"})) == right


def test_histories_without_a_common_step_have_no_ancestor() -> None:
    history = History()
    other = history._put(Snapshot(1, 0, (), history.get(history.step(EMPTY_SNAPSHOT_ID, {"a": "1"})).tree, None, None))
    assert merge_base(history.objects, other, history.step(EMPTY_SNAPSHOT_ID, {"b": "1"})) is None


def test_a_file_is_blamed_on_the_step_that_last_changed_it() -> None:
    history = History()
    first = history.step(EMPTY_SNAPSHOT_ID, {"a": "1", "d/b": "1"})
    second = history.step(first, {"d/b": "2"})
    third = history.step(second, {"d/b": "2", "c": "1"})
    assert history.blamed(third, "a") == first
    assert history.blamed(third, "d/b") == second
    assert history.blamed(third, "d") == second
    assert history.blamed(third, "c") == third
    assert history.blamed(third, "nothing") is None
    assert history.blamed(third, "a/below") is None


def test_what_a_merge_brought_is_blamed_on_the_side_it_came_from() -> None:
    history = History()
    first = history.step(EMPTY_SNAPSHOT_ID, {"a": "1"})
    left, right = history.step(first, {"b": "1"}), history.step(history.step(first, {"c": "1"}), {"d/e": "1"})
    head = history.step(history.merge(left, right), {"f": "1"})
    assert history.blamed(head, "d/e") == right
    assert history.blamed(head, "b") == left
    assert history.blamed(head, "a") == first


def test_what_was_there_before_the_first_step_is_blamed_on_the_base() -> None:
    history = History()
    tree = put_files(history.objects, history.get(EMPTY_SNAPSHOT_ID).tree, {(b"a",): FileEdit(b"1")}, 0)
    base = history._put(Snapshot(1, 0, (), tree, None, None))
    assert history.blamed(history.step(base, {"b": "1"}), "a") == base


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.booleans()), max_size=12))
def test_the_common_ancestor_is_the_furthest_of_all_there_are(edges: list[tuple[int, int, bool]]) -> None:
    history = History()
    made = [EMPTY_SNAPSHOT_ID]
    for number, (first, second, is_merge) in enumerate(edges):
        ours, theirs = made[first % len(made)], made[second % len(made)]
        made.append(history.merge(ours, theirs) if is_merge else history.step(ours, {f"{number}": "1"}))

    def all_of(identity: SnapshotId) -> set[SnapshotId]:
        return {identity}.union(*(all_of(parent) for parent in history.get(identity).parents))

    for ours, theirs in itertools.product(made[-4:], repeat=2):
        shared = all_of(ours) & all_of(theirs)
        found = merge_base(history.objects, ours, theirs)
        assert found in shared
        assert history.get(found).depth == max(history.get(identity).depth for identity in shared)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 8, 9, 100, 1000])
async def test_the_first_failing_step_is_found_within_the_bound(count: int) -> None:
    for culprit in {1, 2, count // 2, count - 1, count, count + 1} - {0, -1}:
        asked: list[int] = []

        async def fails(number: int, culprit: int = culprit, asked: list[int] = asked) -> bool:
            asked.append(number)
            return number >= culprit

        assert await first_failing(count, fails) == (culprit if culprit <= count else None)
        assert len(asked) <= (math.log2(count) + 1 if count else 0)
        assert set(asked) <= set(range(1, count + 1))
