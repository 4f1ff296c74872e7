"""The index of a sealed pack: it says what the pack says, any damage to it is noticed, and the pack gives it again."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import index as indexes
from store.errors import ObjectDamaged, ObjectMissing
from store.files import Files
from store.gc import GcRefused
from store.ids import Kind, blob_id, object_id
from store.index import IndexDamaged, PackIndex
from store.local import LocalStore
from store.packs import PackObjects
from store.records import PACK_HEADER, RECORD, Record
from tests.store.history import begin, files_of, never, step
from tests.store.workbench import filled

IDS = st.binary(min_size=32, max_size=32) | st.sampled_from([bytes([7, 7]) + bytes([n]) * 30 for n in range(20)])
RECORDS = st.lists(
    st.builds(
        Record,
        st.tuples(st.sampled_from(Kind), IDS),
        st.just(0),
        st.integers(RECORD.size, 1 << 40),
        st.integers(0, 1 << 30),
    ),
    max_size=60,
    unique_by=lambda record: record.name[1],
)
PACK_BYTES = 1 << 41


@given(RECORDS, IDS)
def test_an_index_finds_exactly_what_it_was_built_from(records: list[Record], other: bytes) -> None:
    index = PackIndex(indexes.build(records, PACK_BYTES), PACK_BYTES)
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
    data = indexes.build(
        [Record((Kind.TREE, object_id(Kind.TREE, b"%d" % n)), 0, 100 + n * 60, n) for n in range(5)], 999
    )
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


HEADER, ENTRY = struct.Struct("<8sQII"), struct.Struct("<32sB3xIQ")


def forge(path: Path, change: Callable[[list[int], list[bytes]], None]) -> None:
    """Change the fan-out and the entries of an index file, and give it the hash that it then must have."""
    data = path.read_bytes()
    magic, pack_bytes, count, bits = HEADER.unpack_from(data)
    begin = HEADER.size + 4 * ((1 << bits) + 1)
    fan = list(struct.unpack_from(f"<{(1 << bits) + 1}I", data, HEADER.size))
    entries = [data[begin + n * ENTRY.size : begin + (n + 1) * ENTRY.size] for n in range(count)]
    change(fan, entries)
    body = HEADER.pack(magic, pack_bytes, len(entries), bits) + struct.pack(f"<{len(fan)}I", *fan) + b"".join(entries)
    path.chmod(0o600)
    path.write_bytes(body + blake3.blake3(body).digest())


def with_place(entry: bytes, offset: int, length: int) -> bytes:
    identity, kind, _, _ = ENTRY.unpack(entry)
    return ENTRY.pack(identity, kind, length, offset)


def lead_too_far(fan: list[int], entries: list[bytes]) -> None:
    fan[1:] = [0xFFFFFFFF] * (len(fan) - 1)


def lead_back(fan: list[int], entries: list[bytes]) -> None:
    fan[len(fan) // 2] = 0xFFFFFFFF


def begin_late(fan: list[int], entries: list[bytes]) -> None:
    fan[0] = 1


def end_early(fan: list[int], entries: list[bytes]) -> None:
    fan[-1] -= 1


def kind_that_is_none(fan: list[int], entries: list[bytes]) -> None:
    entries[0] = entries[0][:32] + b"\x09" + entries[0][33:]


def one_place_for_all(fan: list[int], entries: list[bytes]) -> None:
    fan[:-1] = [0] * (len(fan) - 1)


def out_of_order(fan: list[int], entries: list[bytes]) -> None:
    entries.reverse()


def before_the_first_record(fan: list[int], entries: list[bytes]) -> None:
    entries[:] = [with_place(entry, 3, 10) for entry in entries]


def beyond_the_end(fan: list[int], entries: list[bytes]) -> None:
    entries[:] = [with_place(entry, (1 << 63) + 5, 10) for entry in entries]


def longer_than_the_pack(fan: list[int], entries: list[bytes]) -> None:
    entries[:] = [with_place(entry, PACK_HEADER.size + RECORD.size, 0xFFFFFFFF) for entry in entries]


def somewhere_else(fan: list[int], entries: list[bytes]) -> None:
    entries[:] = [with_place(entry, PACK_HEADER.size + RECORD.size + 1, 5) for entry in entries]


def left_out(fan: list[int], entries: list[bytes]) -> None:
    entries.clear()
    fan[:] = [0] * len(fan)


IMPOSSIBLE = [lead_too_far, lead_back, begin_late, end_early, kind_that_is_none]
MISLEADING = [
    one_place_for_all,
    out_of_order,
    before_the_first_record,
    beyond_the_end,
    longer_than_the_pack,
    somewhere_else,
    left_out,
]
FILES = {b"%d" % number: b"content %d" % number for number in range(9)}


def with_history(root: Path) -> Path:
    """A store with one session and one sealed pack; the pack's index."""
    store = LocalStore(root)
    begin(store, "a")
    step(store, "a", FILES)
    store.objects.seal()
    store.close()
    (path,) = index_files(root)
    return path


@pytest.mark.parametrize("change", IMPOSSIBLE)
def test_an_index_that_was_made_up_is_made_again(
    tmp_path: Path, change: Callable[[list[int], list[bytes]], None]
) -> None:
    """With its right hash. No look for an object may walk out of it, or never end."""
    path = with_history(tmp_path)
    whole = path.read_bytes()
    forge(path, change)
    store = LocalStore(tmp_path)
    assert path.read_bytes() == whole
    assert files_of(store, store.heads.get("a", "alice").head) == FILES
    report, _ = store.check(full=True)
    assert report.derived[0].startswith("the index of pack 1 was damaged: ")
    store.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("change", MISLEADING)
def test_an_index_that_misleads_gives_no_wrong_bytes_and_is_mended(
    tmp_path: Path, change: Callable[[list[int], list[bytes]], None]
) -> None:
    path = with_history(tmp_path)
    forge(path, change)
    store = LocalStore(tmp_path)
    head = store.heads.get("a", "alice").head
    with contextlib.suppress(ObjectMissing, ObjectDamaged):
        assert files_of(store, head) == FILES
    with contextlib.suppress(GcRefused):
        store.sweep(dry=True, pause=never)
    assert store.objects.find_missing([(Kind.BLOB, os.urandom(32))])
    assert any("the index of pack 1" in text for text in store.check(full=True)[0].derived)
    store.close()
    assert LocalStore.mend(tmp_path).report.clean
    store = LocalStore(tmp_path)
    assert files_of(store, head) == FILES
    store.close()


@pytest.mark.timeout(20)
def test_an_index_that_is_too_long_for_its_pack_is_not_read(tmp_path: Path) -> None:
    """A sparse file takes no room, and may say that it has 200 GiB of entries."""
    path = with_history(tmp_path)
    whole = path.read_bytes()
    magic, pack_bytes, _, _ = HEADER.unpack_from(whole)
    path.chmod(0o600)
    path.write_bytes(HEADER.pack(magic, pack_bytes, 0xFFFFFFFF, 0))
    os.truncate(path, HEADER.size + 8 + 0xFFFFFFFF * ENTRY.size + 32)
    store = LocalStore(tmp_path)
    assert path.read_bytes() == whole
    store.close()
