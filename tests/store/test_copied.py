"""The copy fallback: what did not change is told by its stat, and what did change is never missed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.faulty import FaultyFiles
from store.ids import BlobId
from store.known import KnownTrees
from store.memory import MemoryObjects
from store.pool import Workspaces
from store.workspace import CopiedWorkspace, WorkspaceSettings
from tests.store.test_near import site
from tests.store.workbench import contents, shown, wanted


class Counting(MemoryObjects):
    """Counts the files that are read."""

    files_read = 0

    def put_file(self, descriptor: int, size_bytes: int) -> BlobId:
        self.files_read += 1
        return super().put_file(descriptor, size_bytes)


@pytest.fixture
def objects() -> Counting:
    return Counting()


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()


@pytest.fixture
def pool(tmp_path: Path, objects: Counting, files: FaultyFiles) -> Iterator[Workspaces]:
    pool = Workspaces(tmp_path / "w", objects, files, WorkspaceSettings("copy", privileged=False, owner=None))
    yield pool
    pool.close()


def test_a_step_that_changes_nothing_reads_no_file_and_writes_none(
    pool: Workspaces, objects: Counting, files: FaultyFiles
) -> None:
    tree = site(objects)
    pool.release(pool.acquire(tree), tree, pool.acquire(tree).capture(2))
    pool.wait_for_removal()
    files.performed.clear()
    workspace = pool.acquire(tree)
    captured = workspace.capture(2)
    pool.release(workspace, captured.tree, captured)
    assert captured.tree == tree
    assert objects.files_read == 0
    assert set(files.performed) <= {"set_mode", "set_time"}  # of the root
    assert pool.acquire(tree) is workspace


def test_a_changed_file_is_the_only_one_that_is_read_and_it_stays_where_it_is(
    pool: Workspaces, objects: Counting, files: FaultyFiles
) -> None:
    tree = site(objects)
    workspace = pool.acquire(tree)
    (workspace.writable / "3" / "0061").write_bytes(b"changed")
    (workspace.writable / "new").write_bytes(b"new")
    captured = workspace.capture(2)
    assert objects.files_read == 2
    files.performed.clear()
    pool.release(workspace, captured.tree, captured)
    assert "open" not in files.performed
    assert shown(workspace) == wanted(objects, captured.tree)
    assert pool.acquire(captured.tree) is workspace


def test_a_stat_counts_only_once_a_change_would_show_in_it(pool: Workspaces, objects: Counting) -> None:
    """The file system's clock stands still for milliseconds: what is written in the tick of the stat would look the same."""
    workspace = pool.acquire(site(objects, files=20))
    assert isinstance(workspace, CopiedWorkspace)
    for _ in range(5):
        (workspace.folder / "now").touch()
        soon_ns = (workspace.folder / "now").stat().st_ctime_ns + 10_000_000
        assert workspace._is_past(soon_ns)
        (workspace.folder / "now").touch()
        assert (workspace.folder / "now").stat().st_ctime_ns > soon_ns


def test_where_the_clock_stands_still_every_file_is_read_again(
    tmp_path: Path, objects: Counting, files: FaultyFiles
) -> None:
    class Still(CopiedWorkspace):
        def _is_past(self, time_ns: int) -> bool:
            return False

    (tmp_path / "still").mkdir()
    settings = WorkspaceSettings("copy", privileged=False, owner=None)
    tree = site(objects, files=20)
    workspace = Still(tmp_path / "still", tree, KnownTrees(objects), files, settings)
    assert workspace.capture(2).tree == tree
    assert objects.files_read == 20


def test_a_file_rewritten_at_once_with_its_size_and_time_kept_is_noticed(pool: Workspaces, objects: Counting) -> None:
    tree = site(objects, files=20)
    for number in range(2, 30):
        workspace = pool.acquire(tree)
        place = workspace.writable / "0" / "0007"
        before = place.stat()
        with place.open("r+b") as file:
            file.write(b"%03d" % number)
        os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
        captured = workspace.capture(number)
        assert contents(objects, captured.tree)[b"0/0007"] == b"%03d" % number
        pool.release(workspace, captured.tree, captured)
        tree = captured.tree
        assert pool.acquire(tree) is workspace
        pool.release(workspace, tree, workspace.capture(number))
