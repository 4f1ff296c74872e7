"""Links, FIFOs, sockets and directories in place of a store's files: nothing waits, nothing is followed, all are named and put aside."""

from __future__ import annotations

import os
import shutil
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from store.errors import ObjectDamaged, StoreUnusable
from store.ids import BlobId, Kind, SnapshotId, blob_id
from store.local import LocalStore
from store.testing import nobody
from tests.store.history import begin, files_of, never, step

pytestmark = pytest.mark.timeout(30)
FILES = {b"small": b"content", b"large": b"x" * 200_000}


def link_to_endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


def link_to_what_it_was(path: Path) -> None:
    """As whoever moves a file to another disk would leave it: it could be read, but the store is not all there."""
    path.symlink_to(path.parent / f".was {path.name}")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("somebody's")


def bound_socket(path: Path) -> None:
    there = os.open(path.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"/proc/self/fd/{there}/{path.name}")
    finally:
        os.close(there)


Put = Callable[[Path], None]
each_stranger = pytest.mark.parametrize(
    "put", [link_to_endless, link_to_nothing, link_to_what_it_was, fifo, directory, bound_socket]
)


@pytest.fixture
def head(tmp_path: Path) -> SnapshotId:
    """A closed store with a sealed pack, an open one and a large blob, of one session."""
    root = tmp_path / "store"
    store = LocalStore(root)
    begin(store, "a")
    head = step(store, "a", FILES)
    store.objects.seal()
    head = step(store, "a", FILES | {b"more": b"of it"})
    store.close()
    (root / "gc.lock").touch()
    return head


def replace(path: Path, put: Put) -> None:
    if os.path.lexists(path):
        path.rename(path.parent / f".was {path.name}")
    put(path)


def refused(root: Path) -> str:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StoreUnusable) as caught:
        LocalStore(root)
    assert os.listdir("/proc/self/fd") == before
    return str(caught.value)


def assert_mended(root: Path, head: SnapshotId, name: str) -> None:
    mended = LocalStore.mend(root)
    assert mended.report.clean, mended
    assert os.path.lexists(root / "damaged" / name)
    store = LocalStore(root)
    assert files_of(store, head)[b"small"] == b"content"
    assert store.heads.get("a", "alice").head == head
    assert store.check(full=True)[0].clean
    store.close()


@each_stranger
@pytest.mark.parametrize("name", ["FORMAT", "heads.sqlite", "heads.sqlite-wal", "leases.lock", "gc.lock"])
def test_a_stranger_for_a_file_is_named_and_put_aside(tmp_path: Path, head: SnapshotId, name: str, put: Put) -> None:
    root = tmp_path / "store"
    replace(root / name, put)
    said = refused(root)
    assert said.startswith(f"{name} in the store cannot be used: it is a")
    assert str(tmp_path) not in said
    assert_mended(root, head, name)


@each_stranger
@pytest.mark.parametrize("suffix", [".pack", ".open", ".condemned"])
def test_a_stranger_for_a_pack_is_named_and_put_aside(tmp_path: Path, head: SnapshotId, suffix: str, put: Put) -> None:
    root = tmp_path / "store"
    put(root / "packs" / f"00000009{suffix}")
    assert refused(root).startswith(f"packs/00000009{suffix} in the store cannot be used: it is a")
    assert_mended(root, head, f"00000009{suffix}")


@each_stranger
def test_a_stranger_for_a_pack_is_refused_while_the_store_is_open(tmp_path: Path, head: SnapshotId, put: Put) -> None:
    root = tmp_path / "store"
    store = LocalStore(root)
    put(root / "packs" / "00000009.pack")
    with pytest.raises(StoreUnusable, match=r"packs/00000009\.pack in the store cannot be used"):
        store.objects.folder.refresh()
    store.close()


@pytest.mark.parametrize("put", [link_to_endless, link_to_nothing, fifo, bound_socket])
def test_a_stranger_for_an_index_is_replaced_by_the_index(tmp_path: Path, head: SnapshotId, put: Put) -> None:
    (path,) = (tmp_path / "store" / "packs").glob("*.idx")
    whole = path.read_bytes()
    path.unlink()
    put(path)
    store = LocalStore(tmp_path / "store")
    assert files_of(store, head)[b"small"] == b"content"
    assert "it is a" in store.check(full=True)[0].derived[0]
    store.close()
    assert not path.is_symlink()
    assert path.read_bytes() == whole


def test_a_directory_for_an_index_is_named_and_put_aside(tmp_path: Path, head: SnapshotId) -> None:
    (path,) = (tmp_path / "store" / "packs").glob("*.idx")
    path.unlink()
    directory(path)
    assert refused(tmp_path / "store").startswith(f"packs/{path.name} in the store cannot be used: it is a directory")
    assert_mended(tmp_path / "store", head, path.name)


@pytest.mark.parametrize("name", ["condemned", "damaged", "workspaces"])
def test_a_link_for_a_folder_is_not_followed(tmp_path: Path, head: SnapshotId, name: str) -> None:
    root, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / name).symlink_to(elsewhere)
    assert f"{name} in the store cannot be used: it is a symbolic link, not a directory" in refused(root)
    mended = LocalStore.mend(root)
    assert mended.done == (f"{name} was put aside: it is a symbolic link, not a directory",)
    assert list(elsewhere.iterdir()) == []
    LocalStore(root).close()


@pytest.mark.parametrize("name", ["packs", "large"])
def test_a_link_for_what_holds_objects_is_left_to_its_owner(tmp_path: Path, head: SnapshotId, name: str) -> None:
    """Without it all would seem lost, and the packs of the next steps would begin anew."""
    root = tmp_path / "store"
    replace(root / name, link_to_what_it_was)
    for _ in range(2):
        assert f"{name} in the store cannot be used: it is a symbolic link" in refused(root)
        with pytest.raises(StoreUnusable, match="put the store's own directory there"):
            LocalStore.mend(root)
    (root / name).unlink()
    (root / f".was {name}").rename(root / name)
    store = LocalStore(root)
    assert files_of(store, head) == FILES | {b"more": b"of it"}
    store.close()


@each_stranger
def test_a_marker_that_is_none_is_made_again(tmp_path: Path, head: SnapshotId, put: Put) -> None:
    root = tmp_path / "store"
    replace(root / "marker", put)
    if put is directory:
        assert refused(root).startswith("marker in the store cannot be used: it is a directory")
    mended = LocalStore.mend(root)
    assert mended.report.clean
    store = LocalStore(root)
    assert files_of(store, head)[b"small"] == b"content"
    store.close()


def test_mending_leaves_a_folder_alone_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "large").symlink_to("/")
    (tmp_path / "leases.lock").mkdir()
    with pytest.raises(StoreUnusable, match="neither a psf store nor empty"):
        LocalStore.mend(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["large", "leases.lock"]


def test_what_is_put_aside_replaces_nothing(tmp_path: Path, head: SnapshotId) -> None:
    root = tmp_path / "store"
    for number in range(3):
        replace(root / "leases.lock", directory)
        LocalStore.mend(root)
        shutil.rmtree(root / ".was leases.lock", ignore_errors=True)
        (root / ".was leases.lock").unlink(missing_ok=True)
        assert len(list((root / "damaged").iterdir())) == number + 1


LARGE = blob_id(FILES[b"large"])


def large_path(root: Path, folder: str = "large") -> Path:
    return root / folder / LARGE.hex()[:2] / LARGE.hex()[2:]


def assert_damage_is_named(root: Path, reason: str) -> None:
    store = LocalStore(root)
    with pytest.raises(ObjectDamaged, match=f"{LARGE.hex()} is damaged: {reason}"):
        store.objects.get(Kind.BLOB, LARGE)
    with (root.parent / "out").open("w+b") as file, pytest.raises(ObjectDamaged, match=reason):
        store.objects.write_file(BlobId(LARGE), file.fileno())
    for full in (True, False):
        report, _ = store.check(full=full)
        assert [LARGE.hex() in text for text in report.damaged] == [True]
    store.close()


@each_stranger
@pytest.mark.parametrize("folder", ["large", "condemned"])
def test_a_stranger_for_a_large_blob_is_damage_to_it(tmp_path: Path, head: SnapshotId, folder: str, put: Put) -> None:
    root = tmp_path / "store"
    path = large_path(root, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    large_path(root).rename(path.parent / f".was {path.name}")
    put(path)
    assert_damage_is_named(root, "it is a")
    mended = LocalStore.mend(root)
    assert mended.done == (f"a damaged large file was put aside: {LARGE.hex()}",)
    assert mended.report.broken.keys() == {"a"}
    assert os.path.lexists(root / "damaged" / path.name)
    store = LocalStore(root)
    assert store.objects.put(Kind.BLOB, FILES[b"large"]) == LARGE
    assert store.check(full=True)[0].clean
    store.close()


@each_stranger
def test_nothing_is_called_stored_where_a_stranger_is(tmp_path: Path, head: SnapshotId, put: Put) -> None:
    """A step would be answered, and its file would be lost."""
    root = tmp_path / "store"
    replace(large_path(root), put)
    store = LocalStore(root)
    assert store.objects.find_missing([(Kind.BLOB, LARGE)])
    with pytest.raises(StoreUnusable, match=rf"large/{LARGE.hex()[:2]}/{LARGE.hex()[2:]} in the store cannot be used"):
        store.objects.put(Kind.BLOB, FILES[b"large"])
    store.close()


@pytest.mark.parametrize("put", [link_to_endless, link_to_nothing, link_to_what_it_was, fifo, bound_socket])
@pytest.mark.parametrize("folder", ["large", "condemned"])
def test_a_stranger_for_a_folder_of_large_blobs_is_named_and_put_aside(
    tmp_path: Path, head: SnapshotId, folder: str, put: Put
) -> None:
    root = tmp_path / "store"
    (root / folder).mkdir(exist_ok=True)
    put(root / folder / "00")
    assert refused(root).startswith(f"{folder}/00 in the store cannot be used: it is a")
    assert_mended(root, head, "00")


@each_stranger
def test_a_sweep_removes_no_more_than_the_stranger(tmp_path: Path, head: SnapshotId, put: Put) -> None:
    root = tmp_path / "store"
    replace(large_path(root), put)
    outside = large_path(root).parent / f".was {large_path(root).name}"
    store = LocalStore(root)
    store.heads.drop_unused_since(1e12, is_running=nobody)
    assert store.sweep(dry=False, pause=never).large_dropped == 1
    assert outside.read_bytes() == FILES[b"large"]
    if put is directory:
        assert (large_path(root, "condemned") / "inside").read_text() == "somebody's"
    store.close()


def test_memory_is_taken_for_no_more_than_the_blob(tmp_path: Path, head: SnapshotId) -> None:
    """A sparse file takes no room, and may say that it is as long as it likes."""
    root = tmp_path / "store"
    large_path(root).chmod(0o600)
    os.truncate(large_path(root), 256 << 20)
    tracemalloc.start()
    try:
        assert_damage_is_named(root, "its bytes do not match its name")
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
