"""Capture takes nothing on trust: bounds, odd files, denied rights; and it reads only what changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store.capture import Capture, CaptureLimits, StatKey, load_tree, put_tree, stat_key
from store.faulty import FaultyFiles
from store.files import Files, open_directory
from store.ids import Kind, TreeId
from store.interfaces import Objects
from store.known import KnownTrees
from store.large import LARGE_BYTES
from store.memory import MemoryObjects
from store.packs import PackObjects
from store.remover import Remover
from store.tree import EMPTY_TREE, Entry, EntryKind
from store.workspace import OverlayWorkspace, WorkspaceSettings
from tests.store.live import as_user
from tests.store.workbench import contents

PREFIX = "trusted.overlay."


def capture(objects: Objects, folder: Path, *, previous: TreeId = EMPTY_TREE, **limits: int) -> Capture:
    return Capture(KnownTrees(objects), previous, 1, CaptureLimits(**limits))


@pytest.fixture
def upper(tmp_path: Path) -> Iterator[int]:
    descriptor = open_directory(str(tmp_path))
    os.fchmod(descriptor, 0o777)
    yield descriptor
    os.close(descriptor)


def test_entries_beyond_the_bound_are_left_out_and_named(tmp_path: Path, upper: int) -> None:
    for number in range(8):
        (tmp_path / str(number)).touch()
    objects = MemoryObjects()
    captured = capture(objects, tmp_path, entries=5).read_overlay(upper, PREFIX)
    assert sorted(contents(objects, captured.tree)) == [b"0", b"1", b"2", b"3", b"4"]
    assert [item.path for item in captured.left_out] == [b"5", b"6", b"7"]
    assert captured.hit == ("inodes",)


@pytest.mark.parametrize("layout", ["overlay", "copy"])
def test_however_many_names_a_directory_holds_the_first_are_kept_and_the_rest_counted(
    tmp_path: Path, upper: int, layout: str
) -> None:
    """And what stood there before is looked at, wherever its name sorts."""
    objects = MemoryObjects()
    (tmp_path / "zz").touch()
    before = capture(objects, tmp_path).read_copy(upper, {}).tree
    for number in range(1000):
        (tmp_path / f"{number:04d}").touch()
    (tmp_path / "zz").write_bytes(b"x")
    reading = Capture(KnownTrees(objects), before, 2, CaptureLimits(entries=5))
    captured = reading.read_overlay(upper, PREFIX) if layout == "overlay" else reading.read_copy(upper, {})
    assert sorted(contents(objects, captured.tree)) == [b"0000", b"0001", b"0002", b"0003", b"0004"]
    assert [item.path for item in captured.left_out[:100]] == [b"%04d" % number for number in range(5, 105)]
    assert captured.left_out[100].reason == "and 896 more"
    assert captured.hit == ("inodes",)


def test_names_that_are_gone_are_told_from_names_that_there_is_no_room_for(tmp_path: Path, upper: int) -> None:
    objects = MemoryObjects()
    (tmp_path / "zz").touch()
    before = capture(objects, tmp_path).read_copy(upper, {}).tree
    (tmp_path / "zz").unlink()
    Files().make_whiteout(b"zz", directory=upper)
    for number in range(300):
        (tmp_path / f"{number:04d}").touch()
    captured = Capture(KnownTrees(objects), before, 2, CaptureLimits(entries=1)).read_overlay(upper, PREFIX)
    assert sorted(contents(objects, captured.tree)) == [b"0000"]


def test_bytes_beyond_the_bound_are_left_out_and_named(tmp_path: Path, upper: int) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 40)
    objects = MemoryObjects()
    captured = capture(objects, tmp_path, total_bytes=100).read_overlay(upper, PREFIX)
    assert sorted(contents(objects, captured.tree)) == [b"a", b"b"]
    assert [item.path for item in captured.left_out] == [b"c"]
    assert captured.hit == ("disk",)


def test_the_list_of_what_was_left_out_is_bounded(tmp_path: Path, upper: int) -> None:
    for number in range(150):
        os.mkfifo(tmp_path / f"{number:03d}")
    captured = capture(MemoryObjects(), tmp_path).read_overlay(upper, PREFIX)
    assert len(captured.left_out) == 101
    assert captured.left_out[-1].reason == "and 50 more"


def test_directories_deeper_than_the_bound_are_left_out(tmp_path: Path, upper: int) -> None:
    os.makedirs(b"/proc/self/fd/%d/" % upper + b"/".join([b"d"] * 300))
    objects = MemoryObjects()
    captured = capture(objects, tmp_path).read_overlay(upper, PREFIX)
    assert len(contents(objects, captured.tree)) == 256
    assert [item.path for item in captured.left_out] == [b"/".join([b"d"] * 257)]


def test_a_symlink_is_text_and_never_followed(tmp_path: Path, upper: int) -> None:
    (tmp_path / "passwd").symlink_to("/etc/passwd")
    (tmp_path / "etc").symlink_to("/etc")
    objects = MemoryObjects()
    captured = capture(objects, tmp_path).read_overlay(upper, PREFIX)
    assert contents(objects, captured.tree) == {b"etc": b"-> /etc", b"passwd": b"-> /etc/passwd"}


@pytest.mark.parametrize("layout", ["overlay", "copy"])
@pytest.mark.parametrize("mode", [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600])
def test_denied_rights_hide_nothing(tmp_path: Path, upper: int, layout: str, mode: int) -> None:
    """Also when psf has no rights of its own: what a program's owner may chmod, psf reads."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")

    def work() -> None:
        os.mkdir("d", dir_fd=upper)
        for name in ("d/file", "file"):
            descriptor = os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=upper)
            os.write(descriptor, b"data")
            os.fchmod(descriptor, mode)
            os.close(descriptor)
        os.chmod("d", mode, dir_fd=upper)
        objects = MemoryObjects()
        reading = capture(objects, tmp_path)
        captured = reading.read_overlay(upper, PREFIX) if layout == "overlay" else reading.read_copy(upper, {})
        assert contents(objects, captured.tree) == {b"d": None, b"d/file": b"data", b"file": b"data"}
        entry = KnownTrees(objects).find(captured.tree, (b"d", b"file"))
        assert entry is not None
        assert entry.kind is (EntryKind.EXECUTABLE if mode & 0o100 else EntryKind.FILE)

    as_user(12345, work)


@pytest.mark.parametrize("layout", ["overlay", "copy"])
def test_what_did_not_change_is_not_counted(tmp_path: Path, upper: int, layout: str) -> None:
    """Else a step that does nothing would lose entries of a tree that is larger than what a step may change."""
    objects = MemoryObjects()
    for number in range(3):
        os.makedirs(tmp_path / f"d{number}")
        os.symlink("target", tmp_path / f"d{number}" / "link")
    before = capture(objects, tmp_path).read_copy(upper, {}).tree
    reading = Capture(KnownTrees(objects), before, 2, CaptureLimits(entries=1))
    captured = reading.read_overlay(upper, PREFIX) if layout == "overlay" else reading.read_copy(upper, {})
    assert (captured.tree, captured.left_out, captured.hit) == (before, (), ())


@pytest.mark.parametrize("layout", ["overlay", "copy"])
@pytest.mark.parametrize("limit", ["bytes", "entries"])
def test_what_a_directory_has_no_room_for_is_left_out_and_what_stood_there_stays(
    tmp_path: Path, upper: int, layout: str, limit: str
) -> None:
    """Also step by step, which no limit on what one step changes holds back."""
    objects = MemoryObjects()
    os.mkdir(tmp_path / "d")
    for name in ("m", "n"):
        os.symlink("t" * 100, tmp_path / "d" / name)
    before = capture(objects, tmp_path).read_copy(upper, {}).tree
    for name in ("a", "b", "z"):
        os.symlink("t" * 100, tmp_path / "d" / name)
    if limit == "bytes":
        os.unlink(tmp_path / "d" / "n")
        os.symlink("t" * 227, tmp_path / "d" / "n")
    entry_bytes = 25 + 1 + 100
    limits = {"directory_bytes": 7 + 3 * entry_bytes} if limit == "bytes" else {"directory_entries": 3}
    reading = Capture(KnownTrees(objects), before, 2, CaptureLimits(**limits))
    captured = reading.read_overlay(upper, PREFIX) if layout == "overlay" else reading.read_copy(upper, {})
    kept, left_out = ([b"a", b"m", b"z"], [b"b", b"n"]) if limit == "bytes" else ([b"a", b"m", b"n"], [b"b", b"z"])
    assert sorted(contents(objects, captured.tree)) == [b"d", *(b"d/" + name for name in kept)]
    assert [item.path for item in captured.left_out] == [b"d/" + name for name in left_out]
    assert captured.hit == ("inodes",)


def test_known_trees_are_bounded_by_bytes_too() -> None:
    class Counting(MemoryObjects):
        read = 0

        def get(self, kind: Kind, object_id: bytes) -> bytes:
            self.read += 1
            return super().get(kind, object_id)

    objects = Counting()
    names = [put_tree(objects, [Entry(b"%d" % n, EntryKind.SYMLINK, b"t" * 4000, 4000, 1)]) for n in range(3)]
    known = KnownTrees(objects, bytes_max=10_000)
    for tree in (names[0], names[1], names[0], names[1]):
        known.entries(tree)
    assert objects.read == 2
    known.entries(names[2])
    known.entries(names[0])
    assert objects.read == 4


def test_a_character_device_in_a_copy_is_no_whiteout(tmp_path: Path, upper: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("devices need root")
    Files().make_whiteout(b"gone", directory=upper)
    captured = capture(MemoryObjects(), tmp_path).read_copy(upper, {})
    assert [item.reason for item in captured.left_out] == ["a device"]


def test_paths_are_found_in_trees() -> None:
    objects = MemoryObjects()
    inner = put_tree(objects, [Entry(b"f", EntryKind.SYMLINK, b"x", 1, 1)])
    outer = put_tree(objects, [Entry(b"d", EntryKind.DIRECTORY, inner, 0, 1)])
    found = KnownTrees(objects).find(outer, (b"d", b"f"))
    assert found is not None
    assert found.content == b"x"
    for path in ((), (b"f",), (b"d", b"g"), (b"d", b"f", b"g")):
        assert KnownTrees(objects).find(outer, path) is None


# -- the cost of a step ---------------------------------------------------------------------------------------------------


class CountingObjects(MemoryObjects):
    """Counts the trees that are read, and what is put."""

    trees_read = puts = trees_put = 0

    def put(self, kind: Kind, data: bytes) -> bytes:
        self.puts += 1
        self.trees_put += kind is Kind.TREE
        return super().put(kind, data)

    def get(self, kind: Kind, object_id: bytes) -> bytes:
        self.trees_read += kind is Kind.TREE
        return super().get(kind, object_id)


class Listings:
    """Counts directories that are listed, by the interpreter's own audit events: nothing is replaced."""

    count = 0
    active = False

    def __call__(self, event: str, _: tuple[object, ...]) -> None:
        if self.active and event in ("os.scandir", "os.listdir"):
            self.count += 1


LISTINGS = Listings()
sys.addaudithook(LISTINGS)


def site(objects: Objects, folders: int, subfolders: int, files: int) -> TreeId:
    """A tree of folders/subfolders/files, without writing any of it to disk."""
    blob = objects.put(Kind.BLOB, b"content")
    leaves = [Entry(b"%04d" % number, EntryKind.FILE, blob, 7, 1) for number in range(files)]

    def directories(count: int, tree: TreeId) -> TreeId:
        return put_tree(objects, [Entry(b"%04d" % n, EntryKind.DIRECTORY, tree, 0, 1) for n in range(count)])

    return directories(folders, directories(subfolders, put_tree(objects, leaves)))


def cost_of_a_step(tmp_path: Path, shape: tuple[int, int, int], change: Callable[[Path], None]) -> tuple[int, int, int]:
    """(trees read, directories listed, entries read) by the capture and release of one changed file."""
    objects = CountingObjects()
    tree = site(objects, *shape)
    folder = tmp_path / f"{shape}"
    # Only the way to the changed file: capture and settle must not look at anything else of the base.
    (folder / "base" / "0000" / "0000").mkdir(parents=True)
    (folder / "w").mkdir()
    settings = WorkspaceSettings("overlay", privileged=os.geteuid() == 0, owner=None)
    remover = Remover(folder / "removed", Files())
    workspace = OverlayWorkspace(folder / "w", folder / "base", tree, KnownTrees(objects), Files(), settings, remover)
    workspace.prepare()
    change(workspace.writable)
    objects.trees_read = LISTINGS.count = 0
    LISTINGS.active = True
    try:
        captured = workspace.capture(2)
        assert workspace.settle(captured.tree, captured)
    finally:
        LISTINGS.active = False
        remover.close()
    assert captured.tree != tree
    assert (folder / "w" / "delta" / "0000" / "0000" / "0007").read_bytes() == b"changed"
    return objects.trees_read, LISTINGS.count, len(captured.read)


def test_a_step_costs_the_same_in_a_tree_of_a_thousand_and_of_a_hundred_thousand_files(tmp_path: Path) -> None:
    """With at most 200 entries in a directory: 5 x 1 x 200 against 25 x 20 x 200."""

    def change(upper: Path) -> None:
        (upper / "0000" / "0000").mkdir(parents=True)
        (upper / "0000" / "0000" / "0007").write_bytes(b"changed")

    small = cost_of_a_step(tmp_path, (5, 1, 200), change)
    large = cost_of_a_step(tmp_path, (25, 20, 200), change)
    assert small == large
    # Three levels, of which the workspace knows the root: each is read once for capture and settling together.
    assert large[0] == 2
    assert large[2] == 3


def test_reading_again_what_did_not_change_is_spared_in_a_copy(tmp_path: Path, upper: int) -> None:
    objects = MemoryObjects()
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    first = capture(objects, tmp_path).read_copy(upper, {})
    stats: dict[tuple[bytes, ...], StatKey] = {
        (name,): stat_key(os.lstat(os.path.join(os.fsencode(tmp_path), name))) for name in (b"a", b"b")
    }
    (tmp_path / "b").write_bytes(b"3")
    second = Capture(KnownTrees(objects), first.tree, 2, CaptureLimits()).read_copy(upper, stats)
    assert set(second.read) >= {(b"b",)}
    assert {entry.name: entry.changed for entry in load_tree(objects, second.tree)} == {b"a": 1, b"b": 2}


def test_a_step_that_changes_nothing_reads_and_puts_nothing(tmp_path: Path, upper: int) -> None:
    """However large its tree is: what lies in upper tells."""
    objects = CountingObjects()
    tree = site(objects, 3, 3, 3)
    (tmp_path / "_psf_main.py").touch()
    objects.puts = objects.trees_read = 0
    captured = Capture(KnownTrees(objects), tree, 2, CaptureLimits()).read_overlay(upper, PREFIX)
    assert (captured.tree, captured.read, captured.left_out) == (tree, {}, ())
    assert (objects.puts, objects.trees_read) == (0, 0)


@pytest.mark.parametrize("layout", ["overlay", "copy"])
def test_rewriting_equal_content_puts_no_tree(tmp_path: Path, upper: int, layout: str) -> None:
    objects = CountingObjects()
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"content")
    before = capture(objects, tmp_path).read_copy(upper, {}).tree
    objects.trees_put = 0
    reading = Capture(KnownTrees(objects), before, 2, CaptureLimits())
    captured = reading.read_overlay(upper, PREFIX) if layout == "overlay" else reading.read_copy(upper, {})
    assert (captured.tree, objects.trees_put) == (before, 0)


@pytest.mark.parametrize("layout", ["overlay", "copy"])
def test_rewriting_equal_content_writes_nothing(tmp_path: Path, layout: str) -> None:
    files = FaultyFiles()
    objects = PackObjects(tmp_path / "store", files)
    upper_path = tmp_path / "upper"
    for folder in ("a/b", "c"):
        (upper_path / folder).mkdir(parents=True)
        (upper_path / folder / "file").write_bytes(b"content")
        (upper_path / folder / "large").write_bytes(b"x" * LARGE_BYTES)
    upper = open_directory(str(upper_path))
    before = Capture(KnownTrees(objects), EMPTY_TREE, 1, CaptureLimits()).read_copy(upper, {}).tree
    objects.sync()
    files.performed.clear()
    reading = Capture(KnownTrees(objects), before, 2, CaptureLimits())
    captured = reading.read_overlay(upper, PREFIX) if layout == "overlay" else reading.read_copy(upper, {})
    objects.sync()
    assert captured.tree == before
    assert set(files.performed) <= {"unnamed", "clone"}  # where it can be cloned it is, to be hashed, and dropped
    os.close(upper)
    objects.close()
