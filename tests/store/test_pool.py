"""The pool: whose a workspace is, what is kept, what goes when, and what is left after a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from store.capture import put_tree
from store.errors import ObjectMissing
from store.faulty import FaultyFiles
from store.files import Files
from store.ids import Kind, TreeId
from store.memory import MemoryObjects
from store.pool import IDLE_BASES_MAX, Workspaces
from store.testing import in_threads
from store.tree import EMPTY_TREE, Entry, EntryKind
from store.workspace import Workspace, WorkspaceSettings

COPY = WorkspaceSettings("copy", privileged=False, owner=None)
OVERLAY = WorkspaceSettings("overlay", privileged=False, owner=None)


def tree_of(objects: MemoryObjects, text: bytes) -> TreeId:
    blob = objects.put(Kind.BLOB, text)
    inner = put_tree(objects, [Entry(b"file", EntryKind.FILE, blob, len(text), 1)])
    return put_tree(objects, [Entry(b"d", EntryKind.DIRECTORY, inner, 0, 1)])


def bases(pool_root: Path) -> set[str]:
    (instance,) = (path for path in pool_root.iterdir() if path.name != ".lock")
    return {path.name for path in (instance / "bases").iterdir()}


@pytest.mark.parametrize("settings", [COPY, OVERLAY], ids=["copy", "overlay"])
def test_a_workspace_is_one_holders_alone(tmp_path: Path, settings: WorkspaceSettings) -> None:
    objects = MemoryObjects()
    pool = Workspaces(tmp_path / "w", objects, Files(), settings)
    tree = tree_of(objects, b"x")
    held = in_threads(lambda _: pool.acquire(tree))
    assert all(isinstance(workspace, Workspace) for workspace in held), held
    assert len({workspace.folder for workspace in held if isinstance(workspace, Workspace)}) == len(held)
    pool.close()
    assert [path.name for path in (tmp_path / "w").iterdir()] == [".lock"]


def test_a_released_workspace_is_found_again_under_its_tree(tmp_path: Path) -> None:
    objects = MemoryObjects()
    pool = Workspaces(tmp_path / "w", objects, Files(), OVERLAY)
    tree, other = tree_of(objects, b"x"), tree_of(objects, b"y")
    workspace = pool.acquire(tree)
    pool.release(workspace, tree, workspace.capture(2))
    assert pool.acquire(other) is not workspace
    assert pool.acquire(tree) is workspace
    assert pool.acquire(tree) is not workspace
    pool.close()


def test_sessions_share_the_base_of_a_tree(tmp_path: Path) -> None:
    objects = MemoryObjects()
    pool = Workspaces(tmp_path / "w", objects, Files(), OVERLAY)
    tree = tree_of(objects, b"x")
    one, other = pool.acquire(tree), pool.acquire(tree)
    assert os.path.samefile(one.folder / one.mount.lowers[1], other.folder / other.mount.lowers[1])  # type: ignore[union-attr]
    assert bases(tmp_path / "w") == {tree.hex()}
    pool.close()


def test_unused_bases_are_bounded_and_used_ones_stay(tmp_path: Path) -> None:
    objects = MemoryObjects()
    pool = Workspaces(tmp_path / "w", objects, Files(), OVERLAY)
    kept = tree_of(objects, b"kept")
    pool.acquire(kept)
    for number in range(IDLE_BASES_MAX + 5):
        pool.discard(pool.acquire(tree_of(objects, b"%d" % number)))
    assert len(bases(tmp_path / "w")) == IDLE_BASES_MAX + 1
    assert kept.hex() in bases(tmp_path / "w")
    pool.close()


def test_a_tree_that_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    objects = MemoryObjects()
    missing = put_tree(objects, [Entry(b"file", EntryKind.FILE, b"\x07" * 32, 1, 1)])
    for settings in (OVERLAY, COPY):
        pool = Workspaces(tmp_path / "w", objects, Files(), settings)
        with pytest.raises(ObjectMissing):
            pool.acquire(missing)
        (instance,) = (path for path in (tmp_path / "w").iterdir() if path.name != ".lock")
        assert {path.name for path in instance.iterdir()} == {"bases", "lock"}
        assert bases(tmp_path / "w") == set()
        pool.close()


def test_any_failure_while_giving_back_costs_the_workspace_and_nothing_else(tmp_path: Path) -> None:
    """The n-th disk operation of a release fails: the tree is then made from the store again."""
    objects = MemoryObjects()
    files = FaultyFiles()
    pool = Workspaces(tmp_path / "w", objects, files, OVERLAY)
    tree, other = tree_of(objects, b"old"), tree_of(objects, b"new")
    for number in range(1, 100):
        workspace = pool.acquire(tree)
        (workspace.writable / "d").mkdir()
        (workspace.writable / "d" / "file").write_bytes(b"new")
        files.failed.clear()
        files.fail_at = files.operations + number
        pool.release(workspace, other, workspace.capture(1))
        files.heal()
        again = pool.acquire(other)
        (delta, base) = (again.folder / lower / "d" / "file" for lower in again.mount.lowers)  # type: ignore[union-attr]
        assert (delta if delta.exists() else base).read_bytes() == b"new"
        pool.discard(again)
        if not files.failed:
            break
    assert 3 < number < 99
    pool.close()


_CRASHER = """
import os, sys
from pathlib import Path
from store.files import Files
from store.memory import MemoryObjects
from store.pool import Workspaces
from store.tree import EMPTY_TREE
from store.workspace import WorkspaceSettings
pool = Workspaces(Path(sys.argv[1]), MemoryObjects(), Files(), WorkspaceSettings("overlay", False, None))
pool.acquire(EMPTY_TREE)
print("ready", flush=True)
sys.stdin.read()
os._exit(1)
"""


def test_what_a_dead_process_left_is_swept_and_a_live_ones_is_not(tmp_path: Path) -> None:
    root = tmp_path / "w"
    with subprocess.Popen(
        [sys.executable, "-c", _CRASHER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        (theirs,) = (path for path in root.iterdir() if path.name != ".lock")
        first = Workspaces(root, MemoryObjects(), Files(), OVERLAY)
        assert theirs.exists()
        other.kill()
        other.wait()
    second = Workspaces(root, MemoryObjects(), Files(), OVERLAY)
    assert not theirs.exists()
    first.acquire(EMPTY_TREE)
    first.close()
    second.close()
