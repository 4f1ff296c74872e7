"""Workspaces, really mounted: what a run did is what is captured, and what is captured is what is seen next."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from store.files import Owner
from store.ids import TreeId
from store.memory import MemoryObjects
from store.tree import EMPTY_TREE
from tests.store.live import Live, Operation
from tests.store.workbench import Bench, Flavour, contents, expected

START: list[Operation] = [
    ("write", b"a.txt", b"one"),
    ("write", b"run.sh", b"#!/bin/sh\n"),
    ("chmod", b"run.sh", 0o755),
    ("makedirs", b"d/e/f"),
    ("write", b"d/x", b"dx"),
    ("write", b"d/e/y", b"dey"),
    ("write", b"d/e/f/z", b"defz"),
    ("mkdir", b"empty"),
    ("symlink", b"l", b"a.txt"),
]
STARTED: dict[bytes, bytes | None] = {
    b"a.txt": b"one",
    b"run.sh": b"#!/bin/sh\n",
    b"d": None,
    b"d/e": None,
    b"d/e/f": None,
    b"d/x": b"dx",
    b"d/e/y": b"dey",
    b"d/e/f/z": b"defz",
    b"empty": None,
    b"l": b"-> a.txt",
}
# Each case: its name (a sentence), the steps (each a list of operations), and how the result differs from STARTED
# (None in `gone` position removes). Every step must succeed in every operation.
CASES: dict[str, tuple[list[list[Operation]], dict[bytes, bytes | None], set[bytes]]] = {
    "a new file": ([[("write", b"new", b"n")]], {b"new": b"n"}, set()),
    "a file in a lower directory": ([[("write", b"d/e/n", b"n")]], {b"d/e/n": b"n"}, set()),
    "an appended file": ([[("append", b"d/x", b"+")]], {b"d/x": b"dx+"}, set()),
    "a deleted file": ([[("unlink", b"a.txt")]], {}, {b"a.txt"}),
    "a deleted directory": ([[("remove_tree", b"d")]], {}, {b"d", b"d/x", b"d/e", b"d/e/y", b"d/e/f", b"d/e/f/z"}),
    "a deleted empty directory": ([[("rmdir", b"empty")]], {}, {b"empty"}),
    "deleted and made again empty": (
        [[("remove_tree", b"d"), ("mkdir", b"d")]],
        {},
        {b"d/x", b"d/e", b"d/e/y", b"d/e/f", b"d/e/f/z"},
    ),
    "made again with other content, over two steps": (
        [
            [("remove_tree", b"d"), ("mkdir", b"d"), ("write", b"d/n", b"1")],
            [("mkdir", b"d/e"), ("write", b"d/e/n", b"2")],
        ],
        {b"d/n": b"1", b"d/e/n": b"2"},
        {b"d/x", b"d/e/y", b"d/e/f", b"d/e/f/z"},
    ),
    "a renamed file": ([[("rename", b"a.txt", b"b.txt")]], {b"b.txt": b"one"}, {b"a.txt"}),
    "a renamed directory, same parent": (
        [[("rename", b"d/e", b"d/g")]],
        {b"d/g": None, b"d/g/y": b"dey", b"d/g/f": None, b"d/g/f/z": b"defz"},
        {b"d/e", b"d/e/y", b"d/e/f", b"d/e/f/z"},
    ),
    "a renamed directory, other parent": (
        [[("rename", b"d/e", b"empty/g")]],
        {b"empty/g": None, b"empty/g/y": b"dey", b"empty/g/f": None, b"empty/g/f/z": b"defz"},
        {b"d/e", b"d/e/y", b"d/e/f", b"d/e/f/z"},
    ),
    "renamed and changed inside": (
        [[("rename", b"d/e", b"g"), ("write", b"g/f/z", b"new"), ("unlink", b"g/y"), ("write", b"g/n", b"n")]],
        {b"g": None, b"g/f": None, b"g/f/z": b"new", b"g/n": b"n"},
        {b"d/e", b"d/e/y", b"d/e/f", b"d/e/f/z"},
    ),
    "renamed inside a renamed directory": (
        [[("rename", b"d", b"g"), ("rename", b"g/e", b"g/h"), ("rename", b"g/h/f", b"g/i")]],
        {b"g": None, b"g/x": b"dx", b"g/h": None, b"g/h/y": b"dey", b"g/i": None, b"g/i/z": b"defz"},
        {b"d", b"d/x", b"d/e", b"d/e/y", b"d/e/f", b"d/e/f/z"},
    ),
    "renamed away and back": ([[("rename", b"d", b"g"), ("rename", b"g", b"d")]], {}, set()),
    "renamed over two steps": (
        [[("rename", b"d/e", b"g")], [("rename", b"g", b"d/e")], [("write", b"d/e/n", b"n")]],
        {b"d/e/n": b"n"},
        set(),
    ),
    "renamed onto a deleted name": (
        [[("remove_tree", b"empty"), ("rename", b"d/e", b"empty")]],
        {b"empty/y": b"dey", b"empty/f": None, b"empty/f/z": b"defz"},
        {b"d/e", b"d/e/y", b"d/e/f", b"d/e/f/z"},
    ),
    "renamed onto an empty directory": (
        [[("rename", b"d/e/f", b"empty")]],
        {b"empty/z": b"defz"},
        {b"d/e/f", b"d/e/f/z"},
    ),
    "two directories swapped": (
        [[("rename", b"d/e", b"t"), ("rename", b"empty", b"d/e"), ("rename", b"t", b"empty")]],
        {b"empty/y": b"dey", b"empty/f": None, b"empty/f/z": b"defz"},
        {b"d/e/y", b"d/e/f", b"d/e/f/z"},
    ),
    "a directory in place of the one it was in": (
        [[("rename", b"d/e", b"t"), ("remove_tree", b"d"), ("rename", b"t", b"d")]],
        {b"d/y": b"dey", b"d/f": None, b"d/f/z": b"defz"},
        {b"d/x", b"d/e", b"d/e/y", b"d/e/f", b"d/e/f/z"},
    ),
    "a file becomes a directory and a file again": (
        [
            [("unlink", b"a.txt"), ("mkdir", b"a.txt"), ("write", b"a.txt/in", b"i")],
            [("remove_tree", b"a.txt"), ("write", b"a.txt", b"two")],
        ],
        {b"a.txt": b"two"},
        set(),
    ),
    "a directory becomes a file and a directory again": (
        [
            [("remove_tree", b"d"), ("write", b"d", b"file")],
            [("unlink", b"d"), ("mkdir", b"d"), ("write", b"d/x", b"2")],
        ],
        {b"d/x": b"2"},
        {b"d/e", b"d/e/y", b"d/e/f", b"d/e/f/z"},
    ),
    "a directory becomes a symlink": (
        [[("remove_tree", b"d"), ("symlink", b"d", b"empty")]],
        {b"d": b"-> empty"},
        {b"d/x", b"d/e", b"d/e/y", b"d/e/f", b"d/e/f/z"},
    ),
    "a changed symlink": ([[("unlink", b"l"), ("symlink", b"l", b"/etc/passwd")]], {b"l": b"-> /etc/passwd"}, set()),
    "an executable bit": ([[("chmod", b"a.txt", 0o755), ("chmod", b"run.sh", 0o644)]], {}, set()),
    "odd modes": ([[("chmod", b"a.txt", 0o4000), ("chmod", b"d", 0o1777), ("chmod", b"d/x", 0o600)]], {}, set()),
    "modes that deny everything": (
        [[("chmod", b"d/e", 0), ("chmod", b"d", 0), ("chmod", b"run.sh", 0o100)]],
        {},
        set(),
    ),
    "the mode and time of the root": ([[("chmod", b".", 0o700), ("time", b".", 5)]], {}, set()),
    "times alone": ([[("time", b"a.txt", 5), ("time", b"d", 5), ("time", b"d/e/y", 5)]], {}, set()),
    "rewritten with equal content": ([[("write", b"a.txt", b"one"), ("write", b"d/e/y", b"dey")]], {}, set()),
    "hard links": (
        [[("link", b"a.txt", b"d/hard"), ("append", b"d/hard", b"!")], [("append", b"d/hard", b"?")]],
        {b"a.txt": b"one!", b"d/hard": b"one!?"},
        set(),
    ),
    "extended attributes": (
        [
            [("write", b"n", b"n"), ("attribute", b"n", "user.note", b"v"), ("attribute", b"a.txt", "user.note", b"v")],
            [("attribute", b"d/e", "user.note", b"v"), ("attribute", b".", "user.note", b"v")],
        ],
        {b"n": b"n"},
        set(),
    ),
    "names that are not text": (
        [[("mkdir", b"\xff\xfe"), ("write", b"\xff\xfe/\x80 \n", b"n")]],
        {b"\xff\xfe": None, b"\xff\xfe/\x80 \n": b"n"},
        set(),
    ),
    "a reserved name at the root only": (
        [[("write", b"_psf_main.py", b"code"), ("write", b"d/_psf_x", b"kept")]],
        {b"d/_psf_x": b"kept"},
        set(),
    ),
    "an empty file": ([[("write", b"a.txt", b"")]], {b"a.txt": b""}, set()),
    "a large file": ([[("write", b"big", b"x" * (1 << 20))]], {b"big": b"x" * (1 << 20)}, set()),
    "whiteouts on whiteouts": (
        [[("remove_tree", b"d")], [("makedirs", b"d/e"), ("write", b"d/e/k", b"k")], [("remove_tree", b"d/e")]],
        {},
        {b"d/x", b"d/e", b"d/e/y", b"d/e/f", b"d/e/f/z"},
    ),
}

WRITTEN_TO: list[Operation] = [
    ("append", b"d/e/y", b"+"),
    ("unlink", b"a.txt"),
    ("remove_tree", b"d/e"),
    ("mkdir", b"d/e"),
    ("time", b".", 5),
    ("symlink", b"d/s", b"x"),
]
"""Operations after which upper is as it was made, once it is emptied."""


class Setting(NamedTuple):
    bench: Bench
    objects: MemoryObjects
    start: TreeId


class MakeBench(Protocol):
    def __call__(self, objects: MemoryObjects, flavour: Flavour, owner: Owner | None = None) -> Bench: ...


@pytest.fixture
def make_bench(tmp_path: Path, live: Live) -> Iterator[MakeBench]:
    """Benches to work on, each in a folder of its own; their pools are closed at the end."""
    benches: list[Bench] = []

    def make(objects: MemoryObjects, flavour: Flavour, owner: Owner | None = None) -> Bench:
        benches.append(Bench(tmp_path / str(len(benches)), objects, live, flavour, owner))
        return benches[-1]

    yield make
    for bench in benches:
        bench.pool.close()


@pytest.fixture(params=["overlay", "overlay-user", "copy"])
def setting(request: pytest.FixtureRequest, make_bench: MakeBench) -> Setting:
    flavour: Flavour = request.param
    objects = MemoryObjects()
    bench = make_bench(objects, flavour)
    captured, results = bench.step(EMPTY_TREE, 1, START)
    assert set(results) == {0}
    assert contents(objects, captured.tree) == STARTED
    return Setting(bench, objects, captured.tree)


def _as_movable(operations: list[Operation]) -> list[Operation]:
    """Renames as programs do them: copy and delete where the kernel refuses."""
    return [("move", *operation[1:]) if operation[0] == "rename" else operation for operation in operations]


@pytest.mark.parametrize("restored", [False, True], ids=["live", "restored"])
@pytest.mark.parametrize("case", CASES)
def test_what_a_run_did_is_captured_and_seen_by_the_next(setting: Setting, case: str, restored: bool) -> None:
    steps, changed, gone = CASES[case]
    tree = setting.start
    for number, operations in enumerate(steps, 2):
        if restored:
            setting.bench.forget(tree)
        captured, results = setting.bench.step(tree, number, _as_movable(operations))
        assert set(results) <= {0}
        assert captured.left_out == ()
        tree = captured.tree
        assert setting.bench.visible(tree) == expected(setting.objects, tree)
    wanted = {path: content for path, content in (STARTED | changed).items() if path not in gone}
    assert contents(setting.objects, tree) == wanted


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_workspace_gives_the_same_tree(make_bench: MakeBench, case: str) -> None:
    objects = MemoryObjects()
    found = set()
    flavours: tuple[Flavour, ...] = ("overlay", "overlay-user", "copy")
    for flavour in flavours:
        bench = make_bench(objects, flavour)
        tree = EMPTY_TREE
        for number, operations in enumerate([START, *CASES[case][0]], 1):
            tree = bench.step(tree, number, _as_movable(operations))[0].tree
        found.add(tree)
    assert len(found) == 1


def test_renamed_directories_need_no_copy_where_the_kernel_has_redirects(make_bench: MakeBench) -> None:
    bench = make_bench(MemoryObjects(), "overlay")
    tree = bench.step(EMPTY_TREE, 1, START)[0].tree
    assert bench.step(tree, 2, [("rename", b"d", b"empty/d")])[1] == [0]


def test_without_redirects_a_lower_directory_cannot_be_renamed(make_bench: MakeBench) -> None:
    """What unprivileged overlays are like; `psf doctor` says so."""
    bench = make_bench(MemoryObjects(), "overlay-user")
    tree = bench.step(EMPTY_TREE, 1, START)[0].tree
    bench.forget(tree)
    assert bench.step(tree, 2, [("rename", b"d", b"g")])[1] == [errno.EXDEV]


@pytest.mark.parametrize("flavour", ["overlay", "overlay-user"])
def test_small_steps_are_written_to_the_same_directories(make_bench: MakeBench, flavour: Flavour) -> None:
    objects = MemoryObjects()
    bench = make_bench(objects, flavour)
    tree = bench.step(EMPTY_TREE, 1, START)[0].tree
    inodes = set()
    for number, operation in enumerate(WRITTEN_TO, 2):
        workspace = bench.pool.acquire(tree)
        inodes.add((workspace.writable.stat().st_ino, (workspace.folder / "work").stat().st_ino))
        assert bench.run(workspace, [operation]) == [0]
        captured = workspace.capture(number)
        bench.pool.release(workspace, captured.tree, captured)
        tree = captured.tree
        assert bench.visible(tree) == expected(objects, tree)
    assert len(inodes) == 1


def test_what_is_no_file_is_left_out_and_named(setting: Setting) -> None:
    operations: list[Operation] = [
        ("fifo", b"d/pipe"),
        ("socket", b"sock"),
        ("device", b"null"),
        ("unlink", b"a.txt"),
        ("fifo", b"a.txt"),
        ("write", b"kept", b"k"),
    ]
    captured, results = setting.bench.step(setting.start, 2, operations)
    assert set(results) == {0}
    found = {(item.path, item.reason) for item in captured.left_out}
    named = {(b"a.txt", "a FIFO"), (b"d/pipe", "a FIFO"), (b"null", "a device"), (b"sock", "a socket")}
    assert found == named
    wanted = {path: content for path, content in STARTED.items() if path != b"a.txt"} | {b"kept": b"k"}
    assert contents(setting.objects, captured.tree) == wanted
    assert setting.bench.visible(captured.tree) == expected(setting.objects, captured.tree)


def test_a_step_without_capture_leaves_the_tree_as_it_was(setting: Setting) -> None:
    """A cancelled run: its workspace may be given back under the old tree."""
    workspace = setting.bench.pool.acquire(setting.start)
    setting.bench.run(workspace, [("write", b"a.txt", b"lost"), ("remove_tree", b"d")])
    setting.bench.pool.release(workspace, setting.start, None)
    assert setting.bench.visible(setting.start) == expected(setting.objects, setting.start)


def test_a_workspace_given_back_under_another_tree_shows_that_one(setting: Setting) -> None:
    """Keep "fetched": what is kept differs from what was captured."""
    objects = setting.objects
    other, _ = setting.bench.step(setting.start, 2, [("write", b"fetched", b"f")])
    workspace = setting.bench.pool.acquire(setting.start)
    setting.bench.run(workspace, [("write", b"fetched", b"f"), ("write", b"junk", b"j"), ("unlink", b"a.txt")])
    captured = workspace.capture(2)
    setting.bench.pool.release(workspace, other.tree, captured)
    assert setting.bench.visible(other.tree) == expected(objects, other.tree)


def test_everything_belongs_to_the_owner(make_bench: MakeBench) -> None:
    class User:
        uid = gid = 12345

    flavours: tuple[Flavour, ...] = ("overlay", "copy")
    for flavour in flavours:
        objects = MemoryObjects()
        bench = make_bench(objects, flavour, User())
        tree = bench.step(EMPTY_TREE, 1, START)[0].tree
        tree = bench.step(tree, 2, [("write", b"d/e/n", b"n"), ("symlink", b"m", b"x")])[0].tree
        assert bench.visible(tree) == expected(objects, tree, owner=12345)


def test_deep_nests_are_cut_at_the_same_depth_everywhere(make_bench: MakeBench) -> None:
    """A nest moved into a nest is deeper than any single run made it: it must not grow past the bound."""
    found = set()
    objects = MemoryObjects()
    deep = b"/".join([b"n"] * 200)
    flavours: tuple[Flavour, ...] = ("overlay", "copy")
    for flavour in flavours:
        bench = make_bench(objects, flavour)
        tree = bench.step(EMPTY_TREE, 1, [("makedirs", b"a/" + deep), ("makedirs", b"b/" + deep)])[0].tree
        captured, results = bench.step(tree, 2, [("rename", b"a", b"b/" + deep + b"/a")])
        assert results == [0]
        assert [item.reason for item in captured.left_out] == ["deeper than 256 directories"]
        assert max(path.count(b"/") for path in contents(objects, captured.tree)) == 255
        found.add(captured.tree)
        assert bench.visible(captured.tree) == expected(objects, captured.tree)
    assert len(found) == 1
