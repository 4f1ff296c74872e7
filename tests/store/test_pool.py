"""The pool: whose a workspace is, what is kept, what goes when, and what is left after a crash."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from store.capture import put_tree
from store.errors import ObjectDamaged, ObjectMissing
from store.faulty import FaultyFiles
from store.files import Files
from store.ids import Kind, TreeId
from store.large import LARGE_BYTES
from store.memory import MemoryObjects
from store.packs import PackObjects
from store.pool import Workspaces
from store.testing import in_threads
from store.tree import EMPTY_TREE, Entry, EntryKind
from store.workspace import IdleLimits, Workspace, WorkspaceSettings
from tests.store.workbench import shown, wanted

COPY = WorkspaceSettings("copy", privileged=False, owner=None)
OVERLAY = WorkspaceSettings("overlay", privileged=False, owner=None)


def tree_of(objects: MemoryObjects, text: bytes) -> TreeId:
    blob = objects.put(Kind.BLOB, text)
    inner = put_tree(objects, [Entry(b"file", EntryKind.FILE, blob, len(text), 1)])
    return put_tree(objects, [Entry(b"d", EntryKind.DIRECTORY, inner, 0, 1)])


def bases(pool_root: Path) -> set[str]:
    return {path.name for path in (instance(pool_root) / "bases").iterdir()}


def instance(pool_root: Path) -> Path:
    (found,) = (path for path in pool_root.iterdir() if path.name != ".lock")
    return found


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
    for number in range(IdleLimits().bases + 5):
        pool.discard(pool.acquire(tree_of(objects, b"%d" % number)))
    assert len(bases(tmp_path / "w")) == IdleLimits().bases + 1
    assert kept.hex() in bases(tmp_path / "w")
    pool.close()


def test_a_tree_that_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    objects = MemoryObjects()
    missing = put_tree(objects, [Entry(b"file", EntryKind.FILE, b"\x07" * 32, 1, 1)])
    for settings in (OVERLAY, COPY):
        pool = Workspaces(tmp_path / "w", objects, Files(), settings)
        with pytest.raises(ObjectMissing):
            pool.acquire(missing)
        pool.wait_for_removal()
        assert {path.name for path in instance(tmp_path / "w").iterdir()} - {"bases"} == {"lock", "removed"}
        assert list((instance(tmp_path / "w") / "removed").iterdir()) == []
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


def test_what_is_kept_is_bounded_by_bytes_and_by_inodes_the_least_recently_used_going_first(tmp_path: Path) -> None:
    objects = MemoryObjects()
    for limits, kept in ((IdleLimits(disk_bytes=60 << 10), 1), (IdleLimits(inodes=7), 2), (IdleLimits(), 4)):
        settings = WorkspaceSettings("overlay", privileged=False, owner=None, idle=limits)
        pool = Workspaces(tmp_path / "w", objects, Files(), settings)
        for number in range(4):
            pool.discard(pool.acquire(tree_of(objects, b"%d" % number * 40_000)))
        expected = {tree_of(objects, b"%d" % number * 40_000).hex() for number in range(4 - kept, 4)}
        assert bases(tmp_path / "w") == expected
        pool.close()


def test_idle_workspaces_go_before_a_base_that_was_used_later(tmp_path: Path) -> None:
    objects = MemoryObjects()
    settings = WorkspaceSettings("overlay", privileged=False, owner=None, idle=IdleLimits(inodes=8))
    pool = Workspaces(tmp_path / "w", objects, Files(), settings)
    first, second = tree_of(objects, b"first"), tree_of(objects, b"second")
    pool.release(pool.acquire(first), first, None)
    held = pool.acquire(second)
    pool.acquire(tree_of(objects, b"third"))
    pool.discard(held)
    assert bases(tmp_path / "w") == {second.hex(), tree_of(objects, b"third").hex()}
    pool.close()


def test_giving_up_a_large_workspace_waits_for_no_removal(tmp_path: Path) -> None:
    """A remover that stands still does not keep the step that gave it work."""
    gate = threading.Event()

    class Slow(Files):
        def remove_tree(self, path: bytes, *, directory: int | None = None) -> None:
            if b"/removed/" in path:
                gate.wait()
            super().remove_tree(path, directory=directory)

    objects = MemoryObjects()
    pool = Workspaces(tmp_path / "w", objects, Slow(), OVERLAY)
    tree = tree_of(objects, b"x")
    for _ in range(3):
        pool.discard(pool.acquire(tree))
    workspace = pool.acquire(tree)
    for number in range(101):
        (workspace.writable / str(number)).touch()
    captured = workspace.capture(2)
    pool.release(workspace, captured.tree, captured)
    assert len(list((instance(tmp_path / "w") / "removed").iterdir())) == 4
    gate.set()
    pool.wait_for_removal()
    assert list((instance(tmp_path / "w") / "removed").iterdir()) == []
    pool.close()


def test_what_cannot_be_removed_is_said_and_holds_up_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    objects, files = MemoryObjects(), FaultyFiles()
    pool = Workspaces(tmp_path / "w", objects, files, COPY)
    workspace, other = pool.acquire(tree_of(objects, b"x")), pool.acquire(EMPTY_TREE)
    files.fail_at = files.operations + 2  # the first moves it aside
    pool.discard(workspace)
    pool.wait_for_removal()
    pool.discard(other)
    pool.wait_for_removal()
    assert "cannot be removed" in caplog.text
    assert len(list((instance(tmp_path / "w") / "removed").iterdir())) == 1
    pool.close()
    assert [path.name for path in (tmp_path / "w").iterdir()] == [".lock"]


def test_any_failure_while_a_base_is_built_leaves_nothing_half_made(tmp_path: Path) -> None:
    """The n-th disk operation fails: the step does, and the next one gets its tree."""
    files = FaultyFiles()
    objects = PackObjects(tmp_path / "store", files)
    blob = objects.put(Kind.BLOB, b"x" * LARGE_BYTES)
    tree = put_tree(objects, [Entry(b"large", EntryKind.FILE, blob, LARGE_BYTES, 1)])
    for number in range(1, 100):
        pool = Workspaces(tmp_path / "w", objects, files, OVERLAY)
        files.failed.clear()
        files.fail_at = files.operations + number
        try:
            pool.acquire(tree)
        except OSError:
            pool.wait_for_removal()
            assert bases(tmp_path / "w") <= {tree.hex()}
        files.heal()
        workspace = pool.acquire(tree)
        assert shown(workspace) == wanted(objects, tree)
        pool.close()
        if not files.failed:
            break
    assert 8 < number < 99
    objects.close()


def test_a_damaged_blob_stops_the_building_of_its_tree(tmp_path: Path) -> None:
    objects = PackObjects(tmp_path / "store", Files())
    blob = objects.put(Kind.BLOB, b"x" * LARGE_BYTES)
    tree = put_tree(objects, [Entry(b"large", EntryKind.FILE, blob, LARGE_BYTES, 1)])
    (file,) = (tmp_path / "store" / "large").glob("*/*")
    file.chmod(0o600)
    file.write_bytes(b"y" * LARGE_BYTES)
    pool = Workspaces(tmp_path / "w", objects, Files(), OVERLAY)
    with pytest.raises(ObjectDamaged):
        pool.acquire(tree)
    pool.wait_for_removal()
    assert bases(tmp_path / "w") == set()
    pool.close()
    objects.close()


_WORKER = """
import os, sys
from pathlib import Path
from store.capture import put_tree
from store.files import Files
from store.ids import Kind
from store.memory import MemoryObjects
from store.pool import Workspaces
from store.tree import EMPTY_TREE, Entry, EntryKind
from store.workspace import IdleLimits, WorkspaceSettings
limits = IdleLimits(bases=0)
objects = MemoryObjects()
def opened():
    return Workspaces(Path(sys.argv[1]), objects, Files(), WorkspaceSettings("overlay", False, None, idle=limits))
blob = objects.put(Kind.BLOB, b"content")
def tree(files, number):
    return put_tree(objects, [Entry(b"%d-%d" % (number, n), EntryKind.FILE, blob, 7, 1) for n in range(files)])
if sys.argv[2] == "work":
    for number in range(60):
        pool = opened()
        workspace = pool.acquire(tree(5, number % 3))
        (workspace.writable / "file").write_bytes(b"x")
        captured = workspace.capture(2)
        pool.release(workspace, captured.tree, captured)
        pool.close()
    sys.exit()
pool = opened()
workspace = pool.acquire(EMPTY_TREE if sys.argv[2] == "idle" else tree(5000, 0))
if sys.argv[2] == "remove":
    pool.discard(workspace)
print("ready", flush=True)
sys.stdin.read()
"""


def start(root: Path, act: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(root), act], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_what_a_dead_process_left_is_swept_and_a_live_ones_is_not(tmp_path: Path) -> None:
    root = tmp_path / "w"
    with start(root, "idle") as other:
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


@pytest.mark.parametrize(("act", "traces"), [("build", "*/bases/.building-*/*"), ("remove", "*/removed/*/*")])
def test_a_process_killed_while_it_builds_or_removes_leaves_only_what_is_swept(
    tmp_path: Path, act: str, traces: str
) -> None:
    for attempt in range(20):
        root = tmp_path / str(attempt)
        with start(root, act) as other:
            while other.poll() is None and not any(root.glob(traces)):
                pass
            other.kill()
            other.wait()
        if any(root.glob(traces)):
            break
    else:
        pytest.fail("it was never killed in the middle of it")
    pool = Workspaces(root, MemoryObjects(), Files(), OVERLAY)
    pool.acquire(EMPTY_TREE)
    pool.wait_for_removal()
    assert list((instance(root) / "removed").iterdir()) == []
    pool.close()
    assert [path.name for path in root.iterdir()] == [".lock"]


def test_processes_that_start_work_and_end_at_the_same_time_do_each_other_no_harm(tmp_path: Path) -> None:
    root = tmp_path / "w"
    workers = [start(root, "work") for _ in range(4)]
    for worker in workers:
        worker.communicate()
    assert [worker.returncode for worker in workers] == [0, 0, 0, 0]
    assert [path.name for path in root.iterdir()] == [".lock"]
