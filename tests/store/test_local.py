"""A store folder: made, reopened, shared, refused."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from store.errors import StoreUnusable
from store.faulty import FaultyFiles
from store.files import Files
from store.ids import Kind
from store.local import FORMAT, LocalStore
from store.snapshot import EMPTY_SNAPSHOT_BYTES, EMPTY_SNAPSHOT_ID
from store.testing import in_threads, move, session, snapshot_name
from store.workspace import WorkspaceSettings


def test_a_new_store_is_private_and_holds_the_empty_snapshot(tmp_path: Path) -> None:
    root = tmp_path / "some" / "where"
    store = LocalStore(root)
    assert (root / "FORMAT").read_bytes() == FORMAT == b"psf store 2\n"
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert store.objects.get(Kind.SNAPSHOT, EMPTY_SNAPSHOT_ID) == EMPTY_SNAPSHOT_BYTES
    store.close()


def test_the_folders_above_a_new_store_are_made_to_last(tmp_path: Path) -> None:
    synced: list[str] = []

    class NotedFiles(Files):
        def sync_directory(self, path: str | bytes) -> None:
            synced.append(os.fsdecode(path))

    LocalStore(tmp_path / "some" / "where" / "store", NotedFiles()).close()
    assert synced[:3] == [str(tmp_path), str(tmp_path / "some"), str(tmp_path / "some" / "where")]


def test_an_empty_folder_may_become_a_store(tmp_path: Path) -> None:
    LocalStore(tmp_path).close()
    LocalStore(tmp_path).close()


@pytest.mark.parametrize("content", [b"psf store 1\n", b"psf store 3\n", b"", b"something else"])
def test_another_format_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "FORMAT").write_bytes(content)
    with pytest.raises(StoreUnusable, match="another format"):
        LocalStore(tmp_path)
    assert os.listdir(tmp_path) == ["FORMAT"]


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    tmp_path.chmod(0o755)
    with pytest.raises(StoreUnusable, match="neither a psf store nor empty"):
        LocalStore(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable):
        LocalStore(tmp_path / "file")


def test_two_stores_may_be_open_at_once(tmp_path: Path) -> None:
    one, other = LocalStore(tmp_path), LocalStore(tmp_path)
    name = one.objects.put(Kind.BLOB, b"shared")
    one.objects.sync()
    one.heads.create([session("a")], "create")
    assert other.objects.get(Kind.BLOB, name) == b"shared"
    other.heads.advance("a", snapshot_name(0), move(1))
    assert one.heads.get("a", "alice").head == snapshot_name(1)
    lease = one.leases.try_acquire("a")
    assert lease is not None
    assert other.leases.try_acquire("a") is None
    lease.release()
    one.close()
    other.close()


@pytest.mark.parametrize("turn", range(5))
def test_many_may_make_one_store_at_the_same_moment(tmp_path: Path, turn: int) -> None:
    stores = in_threads(lambda _: LocalStore(tmp_path / "store"))
    assert all(isinstance(store, LocalStore) for store in stores), stores
    for store in stores:
        assert isinstance(store, LocalStore)
        assert store.objects.get(Kind.SNAPSHOT, EMPTY_SNAPSHOT_ID) == EMPTY_SNAPSHOT_BYTES
        store.close()


_OPENER = "import sys; from pathlib import Path; from store.local import LocalStore; LocalStore(Path(sys.argv[1]))"


def test_many_processes_may_open_a_store_after_a_crash_at_the_same_moment(tmp_path: Path) -> None:
    """Each abandoned pack is taken over by one of them; the others read it, under whichever name it has by then."""
    stores = [LocalStore(tmp_path) for _ in range(6)]
    names = []
    for number, store in enumerate(stores):
        names.append(store.objects.put(Kind.BLOB, b"%d" % number))
        store.objects.sync()
    for store in stores:
        store.close()
    openers = [
        subprocess.Popen([sys.executable, "-c", _OPENER, str(tmp_path)], stderr=subprocess.PIPE) for _ in range(6)
    ]
    failures = [opener.communicate()[1] for opener in openers]
    assert failures == [b""] * 6
    heir = LocalStore(tmp_path)
    assert [heir.objects.get(Kind.BLOB, name) for name in names] == [b"%d" % number for number in range(6)]
    heir.close()


def test_a_store_whose_making_failed_anywhere_can_be_made_again(tmp_path: Path) -> None:
    for number in range(1, 100):
        root = tmp_path / str(number)
        files = FaultyFiles(number)
        with contextlib.suppress(StoreUnusable, OSError):
            LocalStore(root, files).close()
        LocalStore(root).close()
        if not files.failed:
            break
    assert 5 < number < 99


def test_workspaces_lie_in_the_store_and_may_be_lost(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    pool = store.workspaces(WorkspaceSettings("copy", privileged=False, owner=None))
    assert (tmp_path / "workspaces").is_dir()
    pool.close()
    store.close()


@pytest.mark.parametrize("spoilt", ["packs/00000001.open", "heads.sqlite"])
def test_a_store_that_cannot_be_opened_leaves_no_descriptor_behind(tmp_path: Path, spoilt: str) -> None:
    LocalStore(tmp_path).close()
    (tmp_path / spoilt).write_bytes(b"psfpack\x09, not what it was")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StoreUnusable):
        LocalStore(tmp_path)
    assert os.listdir("/proc/self/fd") == before
