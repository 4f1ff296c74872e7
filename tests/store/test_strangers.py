"""Links, FIFOs, sockets and directories in place of a store's files: nothing waits, nothing is followed, all are named and put aside."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from store.errors import StoreUnusable
from store.ids import SnapshotId
from store.local import LocalStore
from tests.store.history import begin, files_of, step

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
