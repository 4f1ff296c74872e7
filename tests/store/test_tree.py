"""Trees: one canonical form, and nothing else is read."""

from __future__ import annotations

import re
import tracemalloc
from typing import Any

import msgspec
import pytest

from store import tree as trees
from store.errors import DecodeError
from store.ids import blob_id
from store.tree import EMPTY_TREE, EMPTY_TREE_BYTES, Entry, EntryKind

BLOB = blob_id(b"content")


def file(name: bytes, changed: int = 1) -> Entry:
    return Entry(name, EntryKind.FILE, BLOB, 7, changed)


def encoded(*entries: list[Any], version: int = 1) -> bytes:
    """Bytes of a tree as anybody could write them."""
    return msgspec.msgpack.encode([version, list(entries)])


def raw(name: bytes, kind: int = 0, content: bytes = BLOB, size: int = 7, changed: int = 1) -> list[Any]:
    return [name, kind, content, size, changed]


def test_order_of_entries_does_not_matter() -> None:
    entries = [file(name) for name in (b"b", b"a", b"\xff", b"Z", b"a.b", b"a-b")]
    assert trees.encode(entries) == trees.encode(entries[::-1]) == trees.encode(sorted(entries, key=lambda e: e.name))


def test_what_was_encoded_is_decoded_sorted() -> None:
    entries = (
        Entry(b"dir", EntryKind.DIRECTORY, EMPTY_TREE, 0, 3),
        file(b"file"),
        Entry(b"link", EntryKind.SYMLINK, b"../x", 4, 2),
        Entry(b"tool", EntryKind.EXECUTABLE, BLOB, 7, 0),
    )
    assert trees.decode(trees.encode(reversed(entries))) == entries


@pytest.mark.parametrize("name", [b"\xff\xfe", b"caf\xe9", b"a\nb", b" ", b"-rf", b"...", b"x" * 255])
def test_names_that_are_not_text_round_trip(name: bytes) -> None:
    assert trees.decode(trees.encode([file(name)]))[0].name == name


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0b", b"x" * 256])
def test_what_is_no_name_is_refused_both_ways(name: bytes) -> None:
    assert not trees.is_name(name)
    with pytest.raises(DecodeError):
        trees.encode([file(name)])
    with pytest.raises(DecodeError):
        trees.decode(encoded(raw(name)))


@pytest.mark.parametrize("name", [b".", b"..", b"b/c", b"/", b"b\0c", b"b" * 256])
def test_what_is_no_name_is_named_among_those_that_are(name: bytes) -> None:
    names = sorted([b"!", name, b"zz"])
    with pytest.raises(DecodeError, match=re.escape(repr(name))):
        trees.decode(encoded(*map(raw, names)))


def test_repeated_names_are_refused_both_ways() -> None:
    with pytest.raises(DecodeError):
        trees.encode([file(b"a", 1), file(b"a", 2)])
    with pytest.raises(DecodeError):
        trees.decode(encoded(raw(b"a"), raw(b"a")))


def test_the_wrong_order_is_refused() -> None:
    with pytest.raises(DecodeError):
        trees.decode(encoded(raw(b"b"), raw(b"a")))


@pytest.mark.parametrize(
    "entry",
    [
        raw(b"a", kind=4),
        raw(b"a", kind=-1),
        raw(b"a", content=b"short"),
        raw(b"a", size=-1),
        raw(b"a", changed=-1),
        raw(b"a", kind=3, size=1),
        raw(b"a", kind=2, content=b"", size=0),
        raw(b"a", kind=2, content=b"target", size=5),
        raw(b"a", kind=2, content=b"t" * 4097, size=4097),
        raw(b"a")[:4],
        [*raw(b"a"), 1],
        ["a", 0, BLOB, 7, 1],
    ],
)
def test_entries_that_make_no_sense_are_refused(entry: list[Any]) -> None:
    with pytest.raises(DecodeError):
        trees.decode(encoded(entry))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x92\x01",
        EMPTY_TREE_BYTES + b"\x00",
        b"\x92\xcc\x01\x90",  # the version in two bytes
        b"\x92\x01\xdc\x00\x00",  # the empty list with a long header
        b"\x93\x01\x90\x00",
        b"\x92\x01\xdd\xff\xff\xff\xff",  # four thousand million entries, none there
        b"\x92\x01" + b"\x91" * 10_000,
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        trees.decode(data)


def test_an_unknown_version_is_named() -> None:
    with pytest.raises(DecodeError, match="format 2"):
        trees.decode(encoded(version=2))


def test_a_long_encoding_of_a_number_is_refused() -> None:
    canonical = trees.encode([file(b"a")])
    assert canonical.endswith(b"\x07\x01")
    with pytest.raises(DecodeError, match="canonical"):
        trees.decode(canonical[:-1] + b"\xcc\x01")


def test_too_many_entries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "ENTRIES_MAX", 3)
    assert trees.encode([file(b"%d" % number) for number in range(3)])
    with pytest.raises(DecodeError, match="at most 3"):
        trees.encode([file(b"%d" % number) for number in range(4)])


def test_a_tree_of_long_links_is_refused_before_it_is_too_long_to_be_read() -> None:
    target = b"t" * trees.TARGET_BYTES_MAX
    links = [Entry(b"%06d" % number, EntryKind.SYMLINK, target, len(target), 2**64 - 1) for number in range(16_500)]
    fitting = (trees.TREE_BYTES_MAX - trees.bytes_max(())) // trees.entry_bytes_max(links[0])
    assert fitting < len(links)
    data = trees.encode(links[:fitting])
    assert 0.99 * trees.TREE_BYTES_MAX < len(data) <= trees.TREE_BYTES_MAX
    assert len(trees.decode(data)) == fitting
    with pytest.raises(DecodeError, match="links take more than"):
        trees.encode(links[: fitting + 1])
    with pytest.raises(DecodeError, match="longer than"):
        trees.decode(bytes(trees.TREE_BYTES_MAX + 1))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 66_000])
@pytest.mark.parametrize("target_bytes", [1, 31, 32, 256])
@pytest.mark.parametrize("changed", [0, 2**64 - 1])
def test_no_tree_takes_more_than_is_said(count: int, target_bytes: int, changed: int) -> None:
    target = b"t" * target_bytes
    tree = [Entry(b"%d" % number, EntryKind.SYMLINK, target, target_bytes, changed) for number in range(count)]
    assert len(trees.encode(tree)) <= trees.bytes_max(tree)


def test_the_step_is_part_of_the_name_but_not_of_the_content() -> None:
    early, late = file(b"a", 1), file(b"a", 2)
    assert trees.encode([early]) != trees.encode([late])
    assert early.same_content(late)
    assert not early.same_content(Entry(b"a", EntryKind.EXECUTABLE, BLOB, 7, 1))


def test_a_root_has_the_time_of_its_latest_change() -> None:
    assert trees.tree_time_s(()) == trees.EPOCH_S == 946_684_800
    assert trees.tree_time_s((file(b"a", 3), file(b"b", 9), file(b"c", 4))) == 946_684_809


def test_entries_are_counted_before_any_is_built() -> None:
    data = msgspec.msgpack.encode([1, [[]] * (trees.ENTRIES_MAX + 1)])
    tracemalloc.start()
    with pytest.raises(DecodeError, match="`array` of length <= 1000000"):
        trees.decode(data)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
