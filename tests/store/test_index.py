"""The index of a sealed pack: it says what the pack says, any damage to it is noticed, and the pack gives it again."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import index as indexes
from store.errors import ObjectMissing
from store.files import Files
from store.ids import Kind, blob_id, object_id
from store.index import IndexDamaged, PackIndex
from store.packs import PackObjects
from store.records import Record
from tests.store.workbench import filled

IDS = st.binary(min_size=32, max_size=32) | st.sampled_from([bytes([7, 7]) + bytes([n]) * 30 for n in range(20)])
RECORDS = st.lists(
    st.builds(
        Record, st.tuples(st.sampled_from(Kind), IDS), st.just(0), st.integers(0, 1 << 40), st.integers(0, 1 << 30)
    ),
    max_size=60,
    unique_by=lambda record: record.name[1],
)


@given(RECORDS, IDS)
def test_an_index_finds_exactly_what_it_was_built_from(records: list[Record], other: bytes) -> None:
    index = PackIndex(indexes.build(records, 1234), 1234)
    assert len(index) == len(records)
    for record in records:
        assert index.find(record.name) == (record.offset, record.length)
        assert index.find((Kind(1 + record.name[0] % 4), record.name[1])) is None
    assert {name: (offset, length) for name, offset, length in index} == {
        record.name: (record.offset, record.length) for record in records
    }
    if other not in {record.name[1] for record in records}:
        assert index.find((Kind.BLOB, other)) is None


def test_of_records_with_one_name_the_last_counts() -> None:
    name = (Kind.BLOB, blob_id(b"twice"))
    index = PackIndex(indexes.build([Record(name, 0, 52, 5), Record(name, 0, 152, 5)], 200), 200)
    assert (len(index), index.find(name)) == (1, (152, 5))


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    data = indexes.build([Record((Kind.TREE, object_id(Kind.TREE, b"%d" % n)), 0, n * 50, n) for n in range(5)], 999)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IndexDamaged):
            PackIndex(bytes(damaged), 999)
    for size in range(len(data)):
        with pytest.raises(IndexDamaged):
            PackIndex(data[:size], 999)


def test_the_index_of_another_pack_is_refused() -> None:
    with pytest.raises(IndexDamaged, match="999"):
        PackIndex(indexes.build([], 999), 1000)


CONTENTS = [b"%d" % number * 20 for number in range(30)]


def sealed(root: Path) -> list[bytes]:
    """A store with sealed packs; the names of CONTENTS."""
    return filled(root, *CONTENTS, seal_bytes=500)


def index_files(root: Path) -> list[Path]:
    return sorted((root / "packs").glob("*.idx"))


@pytest.mark.parametrize("harm", ["deleted", "emptied", "flipped", "swapped", "cut"])
def test_an_index_that_is_lost_or_damaged_is_made_again_from_its_pack(tmp_path: Path, harm: str) -> None:
    names = sealed(tmp_path)
    whole = {path: path.read_bytes() for path in index_files(tmp_path)}
    assert len(whole) > 3
    first, second = list(whole)[:2]
    for path in (first, second):
        path.chmod(0o600)
    if harm == "deleted":
        first.unlink()
    elif harm == "swapped":
        first.write_bytes(whole[second])
        second.write_bytes(whole[first])
    else:
        damaged = bytearray(whole[first])
        damaged[random.Random(3).randrange(len(damaged))] ^= 4
        first.write_bytes({"emptied": b"", "flipped": bytes(damaged), "cut": whole[first][:-1]}[harm])
    store = PackObjects(tmp_path, Files())
    assert [store.get(Kind.BLOB, name) for name in names] == CONTENTS
    assert {path: path.read_bytes() for path in index_files(tmp_path)} == whole
    noticed = {"deleted": 0, "swapped": 2}.get(harm, 1)
    assert len(store.folder.rebuilt) == noticed
    store.close()


def test_a_store_without_room_for_indexes_still_reads(tmp_path: Path) -> None:
    names = sealed(tmp_path)
    for path in index_files(tmp_path):
        path.unlink()

    class NoRoom(Files):
        def unnamed(self, directory: str, mode: int = 0o444) -> int:
            raise OSError(28, "No space left on device")

    store = PackObjects(tmp_path, NoRoom())
    assert [store.get(Kind.BLOB, name) for name in names] == CONTENTS
    with pytest.raises(ObjectMissing):
        store.get(Kind.BLOB, os.urandom(32))
    store.close()
    assert index_files(tmp_path) == []


def test_opening_a_store_reads_no_sealed_pack(tmp_path: Path) -> None:
    """Else starting would take longer with every step that was ever made."""
    sealed(tmp_path)
    PackObjects(tmp_path, Files(), seal_bytes=500).close()

    class Counting(Files):
        opened: list[str]

        def __init__(self) -> None:
            self.opened = []

        def open(self, path: str | bytes, flags: int, mode: int = 0o644, *, directory: int | None = None) -> int:
            self.opened.append(os.fsdecode(path))
            return super().open(path, flags, mode, directory=directory)

    files = Counting()
    store = PackObjects(tmp_path, files, seal_bytes=500)
    for path in (tmp_path / "packs").glob("*.pack"):
        # Holes where the records were: whoever read them would find none.
        size = path.stat().st_size
        os.truncate(path, 8)
        os.truncate(path, size)
    again = PackObjects(tmp_path, files, seal_bytes=500)
    assert set(again) >= {(Kind.BLOB, blob_id(content)) for content in CONTENTS[:20]}
    assert again.folder.rebuilt == []
    store.close()
    again.close()
