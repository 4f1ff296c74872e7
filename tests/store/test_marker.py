"""The store's marker: made once, kept, made again from the packs, and in nothing that leaves the store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from store.errors import StoreUnusable
from store.files import Files
from store.ids import Kind
from store.local import LocalStore
from store.packs import PackObjects
from store.records import MARKER_BYTES, PACK_HEADER
from tests.store.workbench import filled


def marker_of(root: Path) -> bytes:
    return (root / "marker").read_bytes()[:MARKER_BYTES]


def test_every_store_has_its_own_and_keeps_it(tmp_path: Path) -> None:
    for name in ("one", "other"):
        LocalStore(tmp_path / name).close()
    before = marker_of(tmp_path / "one")
    LocalStore(tmp_path / "one").close()
    assert marker_of(tmp_path / "one") == before != marker_of(tmp_path / "other")
    assert len(before) == MARKER_BYTES


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [Path.unlink, _flip, _link, _pipe])
def test_a_lost_marker_is_made_again_from_the_packs_and_said(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    store = LocalStore(tmp_path)
    name = store.objects.put(Kind.BLOB, b"content")
    store.objects.sync()
    store.close()
    before = marker_of(tmp_path)
    spoil(tmp_path / "marker")
    store = LocalStore(tmp_path)
    assert store.objects.get(Kind.BLOB, name) == b"content"
    report, _ = store.check(full=True)
    assert any("marker" in text for text in report.derived)
    store.close()
    assert marker_of(tmp_path) == before
    store = LocalStore(tmp_path)
    report, _ = store.check(full=True)
    assert report.clean
    store.close()


def test_a_marker_that_nothing_has_any_more_is_not_made_up(tmp_path: Path) -> None:
    """With another one nothing would be found, and what is there would be written over."""
    filled(tmp_path, b"content")
    (tmp_path / "marker").unlink()
    _flip(tmp_path / "packs" / "00000001.open")
    before = (tmp_path / "packs" / "00000001.open").read_bytes()
    with pytest.raises(StoreUnusable, match="marker is lost"):
        PackObjects(tmp_path, Files())
    assert (tmp_path / "packs" / "00000001.open").read_bytes() == before
    assert not (tmp_path / "marker").exists()


def test_a_pack_of_another_store_is_read_by_its_own_marker(tmp_path: Path) -> None:
    """A folder that was put together from two copies: each pack says itself what its records begin with."""
    (name,) = filled(tmp_path / "one", b"here")
    (other,) = filled(tmp_path / "other", b"there")
    (tmp_path / "other" / "packs" / "00000001.open").rename(tmp_path / "one" / "packs" / "00000002.pack")
    store = PackObjects(tmp_path / "one", Files())
    assert [store.get(Kind.BLOB, name), store.get(Kind.BLOB, other)] == [b"here", b"there"]
    store.close()


def test_a_damaged_header_costs_nothing(tmp_path: Path) -> None:
    """Not even when the first sector is lost: the marker is elsewhere too."""
    contents = [os.urandom(600), b"behind"]
    names = filled(tmp_path, *contents)
    pack = tmp_path / "packs" / "00000001.open"
    data = pack.read_bytes()
    pack.write_bytes(bytes(512) + data[512:])
    store = PackObjects(tmp_path, Files())
    assert store.get(Kind.BLOB, names[1]) == b"behind"
    store.close()
    assert PACK_HEADER.size < 512
