"""Bundles that are cut off, damaged or forged: each is refused with the one error, and nothing at all has changed."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from store import bundle, bundle_header
from store.bundle import RECORD, record_header
from store.bundle_header import Header, encode_header
from store.bundle_import import TTL_S_MAX, import_bundle
from store.errors import BundleRefused
from store.ids import Kind, SnapshotId, blob_id
from store.snapshot import EMPTY_SNAPSHOT_ID, Snapshot
from store.tree import EMPTY_TREE
from tests.store.bundles import Place, filled, put_together, refused, sealed, small, taken_apart


def with_header(packed: bytes) -> bytes:
    return sealed(bundle.MAGIC + len(packed).to_bytes(4, "little") + packed)


def test_a_bundle_cut_off_anywhere_changes_nothing() -> None:
    data = small()
    for length in range(len(data)):
        refused(data[:length])


def test_a_bundle_with_a_flipped_bit_anywhere_changes_nothing() -> None:
    data = small()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        refused(bytes(damaged))


def test_a_continuation_that_is_damaged_leaves_the_session_as_it_is() -> None:
    sender, receiver = filled(), Place.in_memory()
    receiver.take(sender.export(until=5))
    data = sender.export(since=5)
    for position in range(0, len(data), 7):
        refused(data[:position], None, receiver)
        refused(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :], None, receiver)
    assert receiver.take(data).change == "extended"


def test_a_bundle_that_goes_on_after_its_end_is_refused() -> None:
    refused(small() + b"\x00")
    header, records = taken_apart(small())
    refused(put_together(header, records, count=len(records) - 1), "bytes after the last object")


def test_the_message_says_which_object_is_wrong_and_how() -> None:
    header, records = taken_apart(small())
    first, (name, _), *rest = records
    message = refused(put_together(header, [first, (name, b"other"), *rest]))
    assert message == (
        f"the bundle was refused: object 2 of {len(records)} ({name[0].word} {name[1].hex()}) has bytes that do not match its "
        "name; nothing has changed"
    )


def move(header: Header, index: int, **fields: Any) -> Header:
    moves = list(header.moves)
    moves[index] = msgspec.structs.replace(moves[index], **fields)
    return msgspec.structs.replace(header, moves=tuple(moves))


def of_session(header: Header, **fields: Any) -> Header:
    return msgspec.structs.replace(header, session=msgspec.structs.replace(header.session, **fields))


def with_fields(**fields: Any) -> Callable[[Header], Header]:
    return lambda header: msgspec.structs.replace(header, **fields)


OTHER = SnapshotId(b"\x07" * 32)


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (lambda header: move(header, 1, sequence=3), "move 3 does not continue move 1"),
        (lambda header: move(header, 1, sequence=1), "move 1 does not continue move 1"),
        (lambda header: move(header, 1, from_snapshot=OTHER), "move 2 does not continue move 1"),
        (lambda header: move(header, 1, from_snapshot=None), "move 2 does not continue move 1"),
        (lambda header: move(header, 0, from_snapshot=OTHER), "only the first comes from nowhere"),
        (lambda header: move(header, 0, sequence=0), "a number below 1"),
        (lambda header: move(header, 1, to_snapshot=OTHER), "head is not where its last move, 2, leads"),
        (lambda header: move(header, 1, to_snapshot=b"short"), "no snapshot ids"),
        (lambda header: move(header, 1, from_snapshot=b"short"), "no snapshot ids"),
        (lambda header: move(header, 1, at_s=math.nan), "kind or at_s"),
        (lambda header: move(header, 1, kind=""), "kind or at_s"),
        (lambda header: move(header, 1, run_record=b"1}, {"), "run record is no JSON object"),
        (lambda header: move(header, 1, run_record=b"[1]"), "run record is no JSON object"),
        (lambda header: move(header, 1, run_record=b'{"a":' * 100_000), "run record is no JSON object"),
        (lambda header: move(header, 1, run_record=b'{"a":"%s"}' % (b"x" * (1 << 20))), "or too long"),
        (lambda header: of_session(header, head=EMPTY_SNAPSHOT_ID), "head is not where"),
        *((lambda header, text=text: of_session(header, session_id=text), "session_id '.*'; one has 1 to 200 of 0-9A-Za-z_-")
          for text in ("", "a\nb", "-rf", "a@b", "x[/b]", ":bomb:", "\u00e9", "a" * 201)),
        *((lambda header, field=field: of_session(header, **{field: "x" * 201}), f"{field} that is not 1 to 200 printable")
          for field in ("name", "tenant", "runtime", "sandbox")),
        (lambda header: of_session(header, name=""), "name that is not 1 to 200"),
        *((lambda header, field=field, text=text: of_session(header, **{field: text}), f"{field} that is not 1 to 200 printable")
          for field in ("image", "work_dir") for text in ("x" * 2000, "/a\nb")),
        *((lambda header, field=field, size=size: move(header, 1, **{field: b"x" * size}), "key or asked is no digest")
          for field in ("key", "asked") for size in (1, 17)),
        (lambda header: move(header, 1, kind="\u2603" * 100), "kind or at_s"),
        (lambda header: of_session(header, name="\x1b[31m"), "name that is not 1 to 200 printable"),
        (lambda header: move(header, 1, kind="\u202egpj"), "kind or at_s"),
        (lambda header: move(header, 1, kind="x" * 201), "kind or at_s"),
        (lambda header: move(header, 1, at_s=1e300), "kind or at_s"),
        (lambda header: move(header, 1, at_s=-1.0), "kind or at_s"),
        (lambda header: of_session(header, ttl_s=math.inf), "is no time"),
        (lambda header: of_session(header, ttl_s=-1.0), "is no time"),
        (lambda header: of_session(header, created_at_s=math.nan), "is no time"),
        (lambda header: of_session(header, created_at_s=-1.0), "is no time"),
        (lambda header: of_session(header, used_at_s=1e300), "is no time"),
        (lambda header: of_session(header, tenant="bob"), "is of tenant 'bob', not 'alice'"),
        (with_fields(moves=()), "has no moves"),
        (with_fields(prerequisites=(OTHER,)), "builds on snapshot 0707"),
        (with_fields(prerequisites=(EMPTY_SNAPSHOT_ID, EMPTY_SNAPSHOT_ID)), "not sorted"),
        (with_fields(prerequisites=(SnapshotId(b"short"),)), "no snapshot id"),
    ],
)  # fmt: skip
def test_a_forged_header_is_refused(forge: Callable[[Header], Header], said: str) -> None:
    header, records = taken_apart(small())
    refused(put_together(forge(header), records), said)


def test_a_ttl_is_no_longer_than_one_that_can_be_asked_for() -> None:
    header, records = taken_apart(small())
    place = Place.in_memory()
    place.take(put_together(of_session(header, ttl_s=1e300), records))
    assert place.heads.get("a", "alice").ttl_s == 10 * 365 * 86400.0 == TTL_S_MAX


@pytest.mark.parametrize("name", ["", "-rf", "a b", "a@b", "a" * 201])
def test_no_bundle_becomes_a_session_that_cannot_be_called_so(name: str) -> None:
    refused(small(), "cannot become session", as_session=name)


def test_too_many_moves_are_counted_before_any_is_built() -> None:
    """Two bytes each as they stand here; some hundred as values."""
    header, _ = taken_apart(small())
    fields = msgspec.msgpack.decode(encode_header(header))
    for position, many in ((2, 5_000_000), (3, 5_000_000)):
        forged = [*fields[:position], [b""] * many, *fields[position + 1 :]]
        packed = with_header(msgspec.msgpack.encode(forged))
        place = Place.in_memory()
        tracemalloc.start()
        with pytest.raises(BundleRefused, match="`array` of length <= 100000"):
            place.take(packed)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(packed)
        tracemalloc.stop()


def test_what_would_not_be_read_again_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    place = filled()
    monkeypatch.setattr(bundle_header, "MOVES_MAX", 5)
    with pytest.raises(BundleRefused, match="has 6 moves, more than the 5 of one bundle: use several"):
        place.export()
    assert place.exported(until=5)[1].last_move == 5
    place.begin("a b")
    with pytest.raises(BundleRefused, match="session_id 'a b'"):
        place.export("a b")


def test_a_forged_number_of_objects_is_not_believed() -> None:
    header, records = taken_apart(small())
    for count in (1 << 60, 1000):
        refused(put_together(header, records, count=count), f"claims {count} objects, more than the file has bytes for")
    refused(put_together(header, records, count=len(records) + 1), "is cut off|does not begin")
    refused(put_together(header, records, count=-1), "negative")


def test_a_header_that_is_not_canonical_is_refused() -> None:
    header, _ = taken_apart(small())
    fields = msgspec.msgpack.decode(encode_header(header))
    for forged in (
        msgspec.msgpack.encode([2, *fields[1:]]),
        msgspec.msgpack.encode(fields[:-1]),
        msgspec.msgpack.encode([*fields, 0]),
        msgspec.msgpack.encode(fields) + b"\x00",
        b"\x95\xcc\x01" + msgspec.msgpack.encode(fields)[2:],
        b"",
        b"\xdd\xff\xff\xff\xff",
    ):
        refused(with_header(forged), "the header (is not one|has format 2)")


def test_lengths_are_not_believed(tmp_path: Path) -> None:
    """Whoever claims much must send much: nothing of that size is asked for."""
    magic = bundle.MAGIC
    header, _ = taken_apart(small())
    packed = encode_header(msgspec.structs.replace(header, objects=1))
    begun = magic + len(packed).to_bytes(4, "little") + packed
    longest = record_header((Kind.BLOB, blob_id(b"")), 0, bundle.PART_BYTES)
    part = record_header((Kind.BLOB, blob_id(b"")), bundle.PART, bundle.PART_BYTES)
    place = Place.in_memory()
    tracemalloc.start()
    for body, said in (
        (magic + b"\xff\xff\xff\xff", "the header claims 4294967295 bytes"),
        (magic + (bundle.HEADER_BYTES_MAX).to_bytes(4, "little"), "the header is cut off"),
        (begun + longest, "is cut off"),
        (begun + part, "is cut off"),
        (begun + record_header((Kind.TREE, EMPTY_TREE), 0, 0xFFFFFFFF), "has a record of 4294967295 bytes"),
    ):
        path = tmp_path / "forged"
        path.write_bytes(sealed(body))
        with pytest.raises(BundleRefused, match=said):
            import_bundle(path, place.objects, place.heads, tenant="alice", now_s=1.0, epoch=None)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8 << 20


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (record_header((Kind.MOVE, b"\x00" * 32), 0, 0), "does not begin as one"),
        (RECORD.pack(b"psf1", 9, 0, 0, 0, b"\x00" * 32), "does not begin as one"),
        (RECORD.pack(b"psf2", 1, 0, 0, 0, blob_id(b"")), "does not begin as one"),
        (RECORD.pack(b"psf1", 1, 0, 1, 0, blob_id(b"")), "does not begin as one"),
        (record_header((Kind.BLOB, blob_id(b"")), 1, 0), "has flags 0x1"),
        (record_header((Kind.BLOB, blob_id(b"")), bundle.PART, 0), "not parts of"),
    ],
)
def test_a_record_of_another_form_is_refused(record: bytes, said: str) -> None:
    header, _ = taken_apart(small())
    packed = encode_header(msgspec.structs.replace(header, objects=1))
    refused(sealed(bundle.MAGIC + len(packed).to_bytes(4, "little") + packed + record), said)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "PART_BYTES", 4)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([(0x80, b"cont"), (0, b"")], "not followed by its other parts"),
        ([(0x80, b"con"), (0, b"tent")], "not parts of 4"),
        ([(0, b"content")], "has a record of 7 bytes"),
        ([(0x80, b"cont")], "not followed by its other parts"),
        ([(0x80, b"cont"), (0, b"enT")], "do not match its name"),
    ],
)
def test_an_object_in_other_parts_is_refused(small_parts: None, parts: list[tuple[int, bytes]], said: str) -> None:
    """There is one way to cut it."""
    header, records = taken_apart(small())
    assert records[1][1] == b"content"
    refused(put_together(header, records, parts={1: [(records[1][0], *part) for part in parts]}), said)


def test_parts_of_two_objects_are_not_mixed(small_parts: None) -> None:
    header, records = taken_apart(small())
    parts = [(records[1][0], bundle.PART, b"cont"), ((Kind.BLOB, bytes(blob_id(b"ent"))), 0, b"ent")]
    refused(put_together(header, records, parts={1: parts}), "not followed by its other parts")


def test_what_another_tenant_keeps_is_not_in_reach_of_a_bundle() -> None:
    """A bundle without any object, that names a snapshot of somebody else, would show all that is in it."""
    place = filled()
    head = place.head()
    header, _ = taken_apart(small())
    move = msgspec.structs.replace(header.moves[0], to_snapshot=head)
    stranger = msgspec.structs.replace(header.session, session_id="stranger", tenant="mallory", head=head)
    forged = put_together(msgspec.structs.replace(header, session=stranger, moves=(move,)), [])
    refused(forged, "no session of this tenant keeps it", place, tenant="mallory")


@pytest.mark.parametrize("depth", [0, 2, 10_000_000])
def test_a_snapshot_of_a_wrong_depth_is_refused(depth: int) -> None:
    """The next step would have a number that no snapshot may have, and the times of files would jump."""
    place = Place.in_memory()
    place.begin()
    place.move_to(place.put_snapshot(Snapshot(1, depth, (EMPTY_SNAPSHOT_ID,), EMPTY_TREE, None, None)))
    refused(place.export(), "depth")
