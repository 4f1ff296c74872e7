"""Trees and snapshots for all inputs: one form, read back exactly; other bytes are refused with DecodeError and nothing else."""

from __future__ import annotations

import contextlib
import random

from hypothesis import given
from hypothesis import strategies as st

from store import snapshot as snapshots
from store import tree as trees
from store.errors import DecodeError
from store.snapshot import EMPTY_SNAPSHOT_BYTES
from store.tree import Entry, EntryKind

NAMES = st.binary(min_size=1, max_size=255).filter(trees.is_name)
NUMBERS = st.integers(0, 2**63)
IDS = st.binary(min_size=32, max_size=32)


@st.composite
def entries(draw: st.DrawFn, name: bytes) -> Entry:
    kind = draw(st.sampled_from(EntryKind))
    changed = draw(NUMBERS)
    if kind is EntryKind.SYMLINK:
        target = draw(st.binary(min_size=1, max_size=200))
        return Entry(name, kind, target, len(target), changed)
    return Entry(name, kind, draw(IDS), 0 if kind is EntryKind.DIRECTORY else draw(NUMBERS), changed)


@st.composite
def directories(draw: st.DrawFn) -> list[Entry]:
    return [draw(entries(name)) for name in draw(st.lists(NAMES, unique=True, max_size=20))]


@given(directories(), st.randoms())
def test_any_order_gives_equal_bytes_and_the_sorted_tree_back(tree: list[Entry], chance: random.Random) -> None:
    data = trees.encode(tree)
    shuffled = tree[:]
    chance.shuffle(shuffled)
    assert trees.encode(shuffled) == data
    assert list(trees.decode(data)) == sorted(tree, key=lambda entry: entry.name)


@given(directories(), directories())
def test_two_trees_have_one_name_only_when_they_are_equal(one: list[Entry], other: list[Entry]) -> None:
    same = sorted(one, key=lambda entry: entry.name) == sorted(other, key=lambda entry: entry.name)
    assert (trees.tree_id(trees.encode(one)) == trees.tree_id(trees.encode(other))) == same


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_or_canonical(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        assert trees.encode(trees.decode(data)) == data
    with contextlib.suppress(DecodeError):
        assert snapshots.encode(snapshots.decode(data)) == data


@given(directories(), st.data())
def test_damaged_trees_are_refused_or_canonical(tree: list[Entry], data: st.DataObject) -> None:
    damaged = bytearray(trees.encode(tree))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        assert trees.encode(trees.decode(bytes(damaged))) == damaged


@given(st.data())
def test_damaged_snapshots_are_refused_or_canonical(data: st.DataObject) -> None:
    damaged = bytearray(EMPTY_SNAPSHOT_BYTES)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        assert snapshots.encode(snapshots.decode(bytes(damaged))) == damaged
