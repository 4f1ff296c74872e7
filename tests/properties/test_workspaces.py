"""A live workspace cannot be told from one made from the store, nor one kind of workspace from another.

Random steps of random file operations run on three benches: a workspace kept between steps, one restored from the store before
each step, and a copy. After each step the trees and every operation's result are equal, and what is visible is the tree.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from store.memory import MemoryObjects
from store.tree import EMPTY_TREE
from tests.store.live import Live, Operation, why_no_overlay
from tests.store.workbench import Bench, Flavour, expected

# Few names, so that operations meet each other.
NAMES = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
DATA = st.sampled_from([b"", b"1", b"2", b"three"])
MODES = st.sampled_from([0o644, 0o755, 0o600, 0o000, 0o4711])
OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(st.just("write"), PATHS, DATA),
    st.tuples(st.just("append"), PATHS, DATA),
    st.tuples(st.just("makedirs"), PATHS),
    st.tuples(st.just("unlink"), PATHS),
    st.tuples(st.just("rmdir"), PATHS),
    st.tuples(st.just("remove_tree"), PATHS),
    st.tuples(st.just("move"), PATHS, PATHS),
    st.tuples(st.just("move"), PATHS, PATHS),
    st.tuples(st.just("chmod"), PATHS, MODES),
    st.tuples(st.just("symlink"), PATHS, PATHS),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("time"), PATHS, st.just(7)),
    st.tuples(st.just("fifo"), PATHS),
)
STEPS = st.lists(st.lists(OPERATIONS, max_size=8), min_size=1, max_size=5)
# Something to begin with: without it most operations meet nothing.
START: list[Operation] = [
    ("makedirs", b"a/b/c"),
    ("makedirs", b"b/a"),
    ("write", b"a/a", b"1"),
    ("write", b"a/b/a", b"2"),
    ("write", b"a/b/c/a", b"three"),
    ("write", b"b/a/c", b"1"),
    ("symlink", b"c", b"a/b"),
]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    reason = why_no_overlay(tmp_path_factory.mktemp("probe"))
    if reason is not None:
        pytest.skip(reason)
    helper = Live()
    yield helper
    helper.close()


def _check(live: Live, flavour: Flavour, steps: list[list[Operation]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        objects = MemoryObjects()
        kept = Bench(Path(folder) / "kept", objects, live, flavour)
        restored = Bench(Path(folder) / "restored", objects, live, flavour)
        copied = Bench(Path(folder) / "copied", objects, live, "copy")
        tree = EMPTY_TREE
        for number, operations in enumerate([START, *steps], 1):
            restored.forget(tree)
            outcomes = [bench.step(tree, number, operations) for bench in (kept, restored, copied)]
            assert outcomes[1][1] == outcomes[0][1], "the operations' results differ on a restored workspace"
            assert outcomes[2][1] == outcomes[0][1], "the operations' results differ on a copied workspace"
            captures = [captured for captured, _ in outcomes]
            assert captures[1].tree == captures[0].tree, "the restored workspace gives another tree"
            assert captures[2].tree == captures[0].tree, "the copied workspace gives another tree"
            assert captures[0].left_out == captures[1].left_out == captures[2].left_out
            tree = captures[0].tree
            wanted = expected(objects, tree)
            for bench in (kept, restored, copied):
                assert bench.visible(tree) == wanted
        for bench in (kept, restored, copied):
            bench.pool.close()


@given(steps=STEPS)
@example(steps=[[("link", b"c", b"a/c")]])
def test_live_restored_and_copied_workspaces_are_one(live: Live, steps: list[list[Operation]]) -> None:
    _check(live, "overlay", steps)


@given(steps=STEPS)
def test_the_same_holds_for_overlays_without_redirects(live: Live, steps: list[list[Operation]]) -> None:
    """As unprivileged users have them: there mv copies and deletes where the other renames."""
    _check(live, "overlay-user", steps)
