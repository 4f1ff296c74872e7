"""Going back, or off, to a tree near one that is there costs what differs; what is far is made anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.capture import load_tree, put_tree
from store.distance import UNIT_BYTES, Distances
from store.faulty import FaultyFiles
from store.ids import Kind, TreeId
from store.interfaces import Objects
from store.known import KnownTrees
from store.memory import MemoryObjects
from store.pool import Workspaces
from store.tree import EMPTY_TREE, Entry, EntryKind
from store.workspace import OverlayWorkspace, Workspace, WorkspaceSettings
from tests.store.workbench import shown, wanted

FILES = 400


def site(objects: Objects, changed: int = 0, files: int = FILES) -> TreeId:
    """Folders of twenty files each, the first `changed` files of which are others."""

    def file(number: int) -> Entry:
        data = b"%d %d" % (number, number < changed)
        return Entry(b"%04d" % number, EntryKind.FILE, objects.put(Kind.BLOB, data), len(data), 1)

    folders = [put_tree(objects, map(file, range(start, start + 20))) for start in range(0, files, 20)]
    return put_tree(objects, [Entry(b"%d" % n, EntryKind.DIRECTORY, tree, 0, 1) for n, tree in enumerate(folders)])


class Site:
    def __init__(self, root: Path, kind: str) -> None:
        self.objects, self.files = MemoryObjects(), FaultyFiles()
        settings = WorkspaceSettings("copy" if kind == "copy" else "overlay", privileged=False, owner=None)
        self.pool = Workspaces(root / "w", self.objects, self.files, settings)

    def acquire(self, tree: TreeId) -> tuple[Workspace, int]:
        """A workspace that shows `tree`, and how many files were written for it."""
        self.files.performed.clear()
        workspace = self.pool.acquire(tree)
        written = self.files.performed.count("open")
        assert shown(workspace) == wanted(self.objects, tree)
        return workspace, written

    def step(self, tree: TreeId, path: str, data: bytes, number: int) -> TreeId:
        workspace = self.pool.acquire(tree)
        place = workspace.writable / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        captured = workspace.capture(number)
        self.pool.release(workspace, captured.tree, captured)
        return captured.tree


@pytest.fixture(params=["overlay", "copy"])
def live(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, request.param)
    yield site
    site.pool.close()


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, "overlay")
    yield site
    site.pool.close()


def grown(live: Site) -> TreeId:
    """A tree that a session has made in one step, from nothing."""
    workspace = live.pool.acquire(EMPTY_TREE)
    tree = site(live.objects)
    for folder in load_tree(live.objects, tree):
        (workspace.writable / folder.name.decode()).mkdir()
        for file in load_tree(live.objects, TreeId(folder.content)):
            data = live.objects.get(Kind.BLOB, file.content)
            (workspace.writable / folder.name.decode() / file.name.decode()).write_bytes(data)
    captured = workspace.capture(1)
    assert captured.tree == tree
    live.pool.release(workspace, tree, captured)
    return tree


def test_the_step_after_a_rollback_writes_what_differs(live: Site) -> None:
    old = grown(live)
    new = live.step(old, "3/0061", b"changed", 2)
    newer = live.step(new, "4/added", b"added", 3)
    again, written = live.acquire(old)
    assert written == 1
    assert again.warm
    live.pool.release(again, old, again.capture(4))
    assert live.acquire(newer)[1] == 2


def test_a_new_workspace_stands_on_a_near_base(overlay: Site) -> None:
    tree, near = site(overlay.objects), site(overlay.objects, changed=3)
    first, written = overlay.acquire(tree)
    assert written == FILES
    second, written = overlay.acquire(near)
    assert written == 3
    assert second.mount.lowers[1] == first.mount.lowers[1]  # type: ignore[union-attr]
    assert not second.warm


def test_what_is_far_is_made_anew_so_that_it_can_be_shared(overlay: Site) -> None:
    far = site(overlay.objects, changed=FILES // 2)
    overlay.acquire(site(overlay.objects))
    assert overlay.acquire(far)[1] == FILES
    assert overlay.acquire(far)[1] == 0


def test_a_shared_base_is_preferred_to_taking_a_workspace(overlay: Site) -> None:
    """Two sessions that have parted must not take one workspace from each other for ever."""
    base = site(overlay.objects)
    fork = overlay.step(base, "0/0000", b"one", 2)
    overlay.step(fork, "0/0001", b"two", 3)
    workspace, _ = overlay.acquire(fork)
    assert not workspace.warm


def test_a_workspace_that_cannot_be_moved_is_given_up_and_the_tree_made_anew(
    overlay: Site, caplog: pytest.LogCaptureFixture
) -> None:
    old = grown(overlay)
    overlay.step(old, "3/0061", b"changed", 2)
    overlay.pool.wait_for_removal()
    overlay.files.fail_at = overlay.files.operations + 1
    workspace = overlay.pool.acquire(old)
    assert overlay.files.failed
    assert shown(workspace) == wanted(overlay.objects, old)
    assert "made anew" in caplog.text


def test_a_near_tree_whose_objects_are_gone_is_no_start(tmp_path: Path) -> None:
    objects = MemoryObjects()
    tree = site(objects)
    lost = TreeId(b"\x07" * 32)
    assert Distances(KnownTrees(objects), tree).measure(lost, 100) is None


def test_distance_counts_names_and_content() -> None:
    objects = MemoryObjects()
    tree, known = site(objects), KnownTrees(objects)
    assert Distances(known, tree).measure(tree, 0) == 0
    assert Distances(known, tree).measure(site(objects, changed=3), 100) == 1 + 3  # their folder, too
    assert Distances(known, tree).measure(site(objects, changed=3), 3) is None
    assert Distances(known, tree).measure(site(objects, files=FILES - 20), 100) == 1 + 20
    blob = objects.put(Kind.BLOB, b"whatever")
    large = put_tree(objects, [Entry(b"large", EntryKind.FILE, blob, 10 * UNIT_BYTES, 1)])
    assert Distances(known, large).measure(EMPTY_TREE, 100) == 1 + 10


def test_few_trees_are_read_to_find_out_that_another_is_far() -> None:
    class Counting(MemoryObjects):
        trees_read = 0

        def get(self, kind: Kind, object_id: bytes) -> bytes:
            self.trees_read += kind is Kind.TREE
            return super().get(kind, object_id)

    objects = Counting()
    tree, other = site(objects), site(objects, changed=FILES)
    distances = Distances(KnownTrees(objects), tree, trees_read_max=10)
    assert distances.measure(other, 10_000) is None
    assert distances.measure(other, 10_000) is None
    assert objects.trees_read <= 10


def test_a_workspace_remembers_where_it_may_go_back_to_and_no_more(overlay: Site) -> None:
    workspace = overlay.pool.acquire(EMPTY_TREE)
    assert isinstance(workspace, OverlayWorkspace)
    trees = [site(overlay.objects, changed=number, files=20) for number in range(20)] * 4
    for tree in trees:
        workspace.move(tree)
    assert len(workspace.held) <= 64
    assert list(workspace.held)[-1] == trees[-1]
