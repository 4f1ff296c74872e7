"""Damage to stored bytes: always an error that names the object, never wrong bytes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from store.errors import ObjectDamaged, ObjectMissing
from store.faulty import FaultyFiles
from store.files import Files
from store.ids import BlobId, Kind, blob_id, object_id
from store.large import LARGE_BYTES
from store.packs import PackObjects
from store.records import MARKER_BYTES, PACK_HEADER, RECORD, encode_record_header
from tests.store.workbench import filled


def test_a_flipped_bit_in_a_pack_never_gives_wrong_bytes(tmp_path: Path) -> None:
    """While the store is open it is an error that names the object."""
    content = os.urandom(64)
    (name,) = filled(tmp_path, content)
    pack = tmp_path / "packs" / "00000001.open"
    store = PackObjects(tmp_path, Files())
    whole = pack.read_bytes()
    for bit in range(8 * PACK_HEADER.size, 8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        pack.write_bytes(damaged)
        with pytest.raises(ObjectDamaged) as caught:
            store.get(Kind.BLOB, name)
        assert caught.value.object_id == name.hex()
    store.close()


@pytest.mark.parametrize("suffix", [".open", ".pack"])
def test_a_flipped_bit_found_at_opening_never_gives_wrong_bytes(tmp_path: Path, suffix: str) -> None:
    """And harms no other object, wherever it is: not even the store that goes on with the pack."""
    contents = [os.urandom(40) for _ in range(3)]
    names = filled(tmp_path, *contents, seal_bytes=1 << 20 if suffix == ".open" else 250)
    if suffix == ".pack":
        PackObjects(tmp_path, Files(), seal_bytes=250).close()
    pack = tmp_path / "packs" / f"00000001{suffix}"
    whole = pack.read_bytes()
    chance = random.Random(7)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[chance.randrange(PACK_HEADER.size, len(whole))] ^= 1 << chance.randrange(8)
        pack.write_bytes(damaged)
        store = PackObjects(tmp_path, Files())
        read = 0
        for name, content in zip(names, contents, strict=True):
            try:
                assert store.get(Kind.BLOB, name) == content
                read += 1
            except (ObjectDamaged, ObjectMissing) as error:
                assert error.object_id == name.hex()  # noqa: PT017 - some can still be read
        assert read == len(names) - 1
        store.close()
        for path in (tmp_path / "packs").iterdir():
            path.unlink()


@pytest.mark.parametrize("seal_bytes", [1 << 20, 2500], ids=["open", "sealed"])
def test_damage_early_in_a_pack_loses_nothing_that_lies_beyond_it(tmp_path: Path, seal_bytes: int) -> None:
    contents = [b"%d" % number + os.urandom(40) for number in range(50)]
    names = filled(tmp_path, *contents, seal_bytes=seal_bytes)
    (pack,) = (path for path in (tmp_path / "packs").iterdir() if path.stem == "00000001" and path.suffix != ".idx")
    size_bytes = pack.stat().st_size
    data = bytearray(pack.read_bytes())
    data[PACK_HEADER.size + RECORD.size + 5] ^= 1
    pack.write_bytes(data)
    for _ in range(2):
        store = PackObjects(tmp_path, Files())
        with pytest.raises(ObjectDamaged) as caught:
            store.get(Kind.BLOB, names[0])
        assert caught.value.object_id == names[0].hex()
        assert [store.get(Kind.BLOB, name) for name in names[1:]] == contents[1:]
        assert set(store) == {(Kind.BLOB, name) for name in names}
        new = store.put(Kind.BLOB, os.urandom(30))
        store.sync()
        store.close()
        names.append(new)
        contents.append(b"")
        store = PackObjects(tmp_path, Files())
        contents[-1] = store.get(Kind.BLOB, new)
        store.close()
    assert (tmp_path / "packs" / "00000001.pack").stat().st_size == size_bytes, "a damaged pack is not written to"


def test_a_torn_tail_that_holds_a_whole_record_in_its_data_harms_nothing(tmp_path: Path) -> None:
    """A program may write a file that looks like a pack, and the machine may lose power while it is stored."""
    names = filled(tmp_path / "inner", b"inside")
    inner = (tmp_path / "inner" / "packs" / "00000001.open").read_bytes()
    root = tmp_path / "outer"
    (first, last) = filled(root, b"first", inner + bytes(500))
    pack = root / "packs" / "00000001.open"
    os.truncate(pack, pack.stat().st_size - 100)
    for _ in range(2):
        store = PackObjects(root, Files())
        assert store.get(Kind.BLOB, first) == b"first"
        with pytest.raises((ObjectMissing, ObjectDamaged)):
            store.get(Kind.BLOB, last)
        assert set(store) - {(Kind.BLOB, last)} <= {(Kind.BLOB, first), (Kind.BLOB, names[0]), (Kind.BLOB, new_name())}
        assert store.put(Kind.BLOB, b"new") == new_name()
        store.sync()
        store.close()
    reader = PackObjects(root, Files())
    assert reader.get(Kind.BLOB, new_name()) == b"new"
    reader.close()


def new_name() -> bytes:
    return blob_id(b"new")


def test_damage_to_a_large_blob_is_an_error_that_names_it(tmp_path: Path) -> None:
    store = PackObjects(tmp_path, Files())
    name = store.put(Kind.BLOB, os.urandom(LARGE_BYTES))
    path = tmp_path / "large" / name.hex()[:2] / name.hex()[2:]
    whole = path.read_bytes()
    path.chmod(0o644)
    for damaged in (whole[:-1], whole + b"\0", b"", bytes([whole[0] ^ 1]) + whole[1:]):
        path.write_bytes(damaged)
        with pytest.raises(ObjectDamaged) as caught:
            store.get(Kind.BLOB, name)
        assert caught.value.object_id == name.hex()
        with TemporaryFile() as file, pytest.raises(ObjectDamaged) as caught:
            store.write_file(BlobId(name), file.fileno())
        assert caught.value.object_id == name.hex()
    path.unlink()
    with pytest.raises(ObjectMissing):
        store.get(Kind.BLOB, name)
    store.close()


@pytest.mark.parametrize("suffix", [".open", ".pack"])
@pytest.mark.parametrize("knows_marker", [False, True])
def test_a_program_cannot_plant_records(tmp_path: Path, suffix: str, knows_marker: bool) -> None:
    """A file may hold whole records of any kind: behind damage in that file they are not found, as the store's marker is not theirs."""
    PackObjects(tmp_path, Files()).close()
    marker = (tmp_path / "marker").read_bytes()[:MARKER_BYTES] if knows_marker else b"psfpack1"
    planted = (Kind.MOVE, object_id(Kind.MOVE, b"forged"))
    bait = b"a" * 500 + encode_record_header(marker, planted, 0, 6) + b"forged" + b"z" * 500
    names = filled(tmp_path, b"first", bait, b"last")
    pack = tmp_path / "packs" / "00000001.open"
    data = bytearray(pack.read_bytes())
    data[data.index(bait) - 36] ^= 1  # the length in its record: where the record ends is not known
    pack.write_bytes(data)
    pack.rename(pack.with_suffix(suffix))
    store = PackObjects(tmp_path, Files())
    assert [store.get(Kind.BLOB, names[0]), store.get(Kind.BLOB, names[2])] == [b"first", b"last"]
    assert (planted in set(store)) == knows_marker
    store.close()


def flipped(path: Path, content: bytes) -> None:
    """Flip a bit of `content` in a file."""
    data = bytearray(path.read_bytes())
    data[data.index(content[:32]) + 7] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", [".open", ".pack"])
def test_an_object_that_was_found_damaged_is_written_again_when_it_is_put_again(tmp_path: Path, suffix: str) -> None:
    content, other = os.urandom(64), os.urandom(64)
    seal_bytes = 1 << 20 if suffix == ".open" else 10
    store = PackObjects(tmp_path, Files(), seal_bytes=seal_bytes)
    name = store.put(Kind.BLOB, content)
    store.sync()
    store.put(Kind.BLOB, other)
    store.sync()
    flipped(tmp_path / "packs" / f"00000001{suffix}", content)
    with pytest.raises(ObjectDamaged):
        store.get(Kind.BLOB, name)
    assert store.put(Kind.BLOB, content) == name
    store.sync()
    assert store.get(Kind.BLOB, name) == content
    packs_bytes = sum(path.stat().st_size for path in (tmp_path / "packs").glob("*[!x]"))
    store.put(Kind.BLOB, content)
    store.sync()
    assert sum(path.stat().st_size for path in (tmp_path / "packs").glob("*[!x]")) == packs_bytes
    store.close()
    again = PackObjects(tmp_path, Files())
    assert again.get(Kind.BLOB, name) == content
    again.close()


def test_an_object_that_is_damaged_in_a_pack_taken_over_is_written_again_when_it_is_put(tmp_path: Path) -> None:
    content, other = os.urandom(64), os.urandom(64)
    names = filled(tmp_path, content, other)
    flipped(tmp_path / "packs" / "00000001.open", content)
    store = PackObjects(tmp_path, Files())
    store.put(Kind.BLOB, content)
    store.put(Kind.BLOB, other)
    store.sync()
    assert [store.get(Kind.BLOB, name) for name in names] == [content, other]
    assert (tmp_path / "packs" / "00000002.open").stat().st_size == PACK_HEADER.size + RECORD.size + len(content)
    store.close()


def written_out(store: PackObjects, name: bytes) -> None:
    with TemporaryFile() as file:
        store.write_file(BlobId(name), file.fileno())


@pytest.mark.parametrize(
    "read", [written_out, lambda store, name: store.get(Kind.BLOB, name), lambda store, name: store.large.verify(name)]
)
def test_a_large_blob_that_was_found_damaged_is_written_again_when_it_is_put_again(
    tmp_path: Path, read: Callable[[PackObjects, bytes], object]
) -> None:
    content = os.urandom(LARGE_BYTES)
    store = PackObjects(tmp_path, Files())
    name = store.put(Kind.BLOB, content)
    path = store.large.path(name)
    flipped(path, content)
    with pytest.raises(ObjectDamaged):
        read(store, name)
    with TemporaryFile() as file:
        file.write(content)
        file.flush()
        assert store.put_file(file.fileno(), len(content)) == name
    assert store.get(Kind.BLOB, name) == path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]
    inode = path.stat().st_ino
    store.put(Kind.BLOB, content)
    assert path.stat().st_ino == inode
    store.close()


def test_a_name_that_is_given_to_a_whole_file_again_is_made_durable_again(tmp_path: Path) -> None:
    content = os.urandom(LARGE_BYTES)
    files = FaultyFiles()
    store = PackObjects(tmp_path, files)
    name = store.put(Kind.BLOB, content)
    flipped(store.large.path(name), content)
    with pytest.raises(ObjectDamaged):
        store.get(Kind.BLOB, name)
    files.performed.clear()
    store.put(Kind.BLOB, content)
    changes = [operation for operation in files.performed if operation not in ("open", "make_directory")]
    assert changes == ["unnamed", "write", "sync", "link", "rename", "sync_directory"]
    store.close()
