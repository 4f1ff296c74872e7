"""What psf writes is read by GNU tar, Python and Info-ZIP as what it is, is the same every time, and is never half a tree."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from store.archives.headers import Described, encode_headers, parse_header, parse_records
from store.archives.members import ArchiveLimits
from store.archives.write_tar import export_tar
from store.archives.write_zip import export_zip
from store.capture import put_tree
from store.errors import ArchiveRefused, ObjectDamaged, ObjectMissing
from store.ids import Kind
from store.memory import MemoryObjects
from store.tree import EMPTY_TREE, EPOCH_S, Entry, EntryKind
from tests.store.archives.made import Made, as_tar, as_zip, make_tree, take_tar, take_zip
from tests.store.workbench import contents

RUN, LINK = EntryKind.EXECUTABLE, EntryKind.SYMLINK
LONG = b"n" * 200
MADE: Made = {
    b"a": b"1",
    b"a.b": b"2",
    b"d": {b"empty": {}, b"run": (b"#!/bin/sh\n", RUN), LONG: {LONG: (LONG * 5, LINK), b"f": b""}},
    "ü".encode(): b"utf-8",
    b"caf\xe9": b"latin",
    b"-rf": b"option",
    b"line\nbreak \\ *": (b"/etc/passwd", LINK),
    b"large": bytes(range(256)) * 2000,
}

exports = pytest.mark.parametrize("export", [export_tar, export_zip])


@pytest.mark.parametrize(("pack", "take"), [(as_tar, take_tar), (as_zip, take_zip)])
def test_what_is_given_out_is_taken_in_as_the_same_tree(pack: Callable, take: Callable) -> None:
    objects = MemoryObjects()
    for made in (MADE, {}, {b"\x1f\x8b\x08": b""}):
        tree = make_tree(objects, made)
        taken = take(pack(objects, tree))
        assert (taken.imported.tree, taken.left_out) == (tree, {})


@pytest.mark.parametrize(("pack", "take"), [(as_tar, take_tar), (as_zip, take_zip)])
def test_what_is_taken_in_is_where_a_history_begins(pack: Callable, take: Callable) -> None:
    objects = MemoryObjects()
    assert take(pack(objects, make_tree(objects, MADE, changed=7))).imported.tree == make_tree(objects, MADE)


@pytest.mark.parametrize("pack", [as_tar, as_zip])
def test_equal_trees_give_equal_bytes(pack: Callable) -> None:
    one, other = MemoryObjects(), MemoryObjects()
    backwards = dict(reversed(MADE.items()))
    assert pack(one, make_tree(one, MADE)) == pack(other, make_tree(other, backwards))


def test_names_come_sorted_and_a_directory_before_what_it_holds() -> None:
    objects = MemoryObjects()
    tree = make_tree(objects, {b"b": {b"c": b"", b"a": b""}, b"b.x": b"", b"B": b"", b"a": b""})
    with tarfile.open(fileobj=io.BytesIO(as_tar(objects, tree))) as archive:
        assert archive.getnames() == ["B", "a", "b", "b/a", "b/c", "b.x"]
    with zipfile.ZipFile(io.BytesIO(as_zip(objects, tree))) as packed:
        assert packed.namelist() == ["B", "a", "b/", "b/a", "b/c", "b.x"]


def test_python_reads_our_tar_with_fixed_owners_modes_and_logical_times() -> None:
    objects = MemoryObjects()
    tree = make_tree(objects, MADE, changed=7)
    with tarfile.open(fileobj=io.BytesIO(as_tar(objects, tree)), errors="surrogateescape") as archive:
        members = {os.fsencode(member.name): member for member in archive}
    assert set(members) == set(contents(objects, tree))
    modes = {member.mode for member in members.values()}
    assert modes == {0o644, 0o755, 0o777}
    assert members[b"d/run"].mode == members[b"d"].mode == 0o755
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members.values()} == {(0, 0, "", "", EPOCH_S + 7)}
    assert os.fsencode(members[b"d/" + LONG + b"/" + LONG].linkname) == LONG * 5


def test_python_reads_our_zip_with_modes_and_logical_times() -> None:
    objects = MemoryObjects()
    with zipfile.ZipFile(io.BytesIO(as_zip(objects, make_tree(objects, MADE, changed=70)))) as archive:
        assert archive.testzip() is None
        assert {member.date_time for member in archive.infolist()} == {(2000, 1, 1, 0, 1, 10)}
        assert archive.getinfo("d/run").external_attr >> 16 == stat.S_IFREG | 0o755
        assert archive.getinfo("ü").external_attr >> 16 == stat.S_IFREG | 0o644
        # A directory has no contents and so no length behind them, which readers of streams could not pass.
        assert (archive.getinfo("d/empty/").flag_bits, archive.getinfo("d/empty/").compress_size) == (0, 0)
        assert archive.getinfo("d/empty/").external_attr == (stat.S_IFDIR | 0o755) << 16 | 0x10


def test_a_time_beyond_what_an_archive_can_say_is_the_last_or_an_extended_one() -> None:
    objects = MemoryObjects()
    tree = make_tree(objects, {b"a": b""}, changed=10**11)
    with zipfile.ZipFile(io.BytesIO(as_zip(objects, tree))) as archive:
        (member,) = archive.infolist()
        assert datetime(*member.date_time, tzinfo=UTC).year == 2107
    with tarfile.open(fileobj=io.BytesIO(as_tar(objects, tree))) as tar:
        assert tar.getmember("a").mtime == EPOCH_S + 10**11


def test_a_size_that_eleven_digits_cannot_say_stands_in_an_extended_header() -> None:
    blocks = encode_headers(Described(b"a", b"0", 0o644, 9 << 30, EPOCH_S))
    assert len(blocks) == 3 * 512
    assert parse_records(blocks[512:1024].rstrip(b"\0")) == {b"size": b"%d" % (9 << 30)}
    assert parse_header(blocks[1024:]).name == b"a"
    with tarfile.open(fileobj=io.BytesIO(blocks + bytes(1024))) as archive:
        info = archive.next()
    assert info is not None
    assert info.size == 9 << 30
    assert len(encode_headers(Described(b"a", b"0", 0o644, (8 << 30) - 1, EPOCH_S))) == 512


@pytest.mark.parametrize(
    ("name", "records"),
    [
        (b"n" * 100, {}),
        (b"n" * 101, {b"path": b"n" * 101}),
        ("ü".encode(), {b"path": "ü".encode()}),
        (b"\xe9", {b"hdrcharset": b"BINARY", b"path": b"\xe9"}),
    ],
)
def test_a_name_that_is_long_or_not_ascii_stands_in_an_extended_header(
    name: bytes, records: dict[bytes, bytes]
) -> None:
    blocks = encode_headers(Described(name, b"0", 0o644, 0, EPOCH_S))
    header = parse_header(blocks[:512])
    assert (parse_records(blocks[512 : 512 + header.size_bytes]) if header.kind == b"x" else {}) == records


def test_unzip_makes_our_zip_into_the_same_files(tmp_path: Path) -> None:
    if shutil.which("unzip") is None:
        pytest.skip("unzip is not installed")
    made = {name: node for name, node in MADE.items() if name.isascii() or name.decode(errors="replace") == "ü"}
    made.pop(b"line\nbreak \\ *")  # unzip takes the line break out
    objects = MemoryObjects()
    (tmp_path / "a.zip").write_bytes(as_zip(objects, make_tree(objects, made)))
    command = ["unzip", "-q", "a.zip", "-d", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env={"LC_ALL": "C.UTF-8"})
    seen = {}
    for folder, folders, names in os.walk(os.fsencode(tmp_path / "out")):
        for name in folders + names:
            path = os.path.join(folder, name)
            shown = os.path.relpath(path, os.fsencode(tmp_path / "out"))
            if os.path.islink(path):
                seen[shown] = b"-> " + os.readlink(path)
            else:
                seen[shown] = None if os.path.isdir(path) else Path(os.fsdecode(path)).read_bytes()
    assert seen == contents(objects, make_tree(objects, made))
    assert (tmp_path / "out" / "d" / "run").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("export", [export_tar, export_zip])
@pytest.mark.parametrize("buffering", [0, 65536])
def test_a_pipe_will_do(export: Callable, buffering: int) -> None:
    objects = MemoryObjects()
    tree = make_tree(objects, MADE)
    reader, writer = os.pipe()
    received: list[bytes] = []

    def receive() -> None:
        with open(reader, "rb") as stream:
            received.append(stream.read())

    thread = threading.Thread(target=receive)
    thread.start()
    with open(writer, "wb", buffering) as stream:
        export(objects, tree, stream)
    thread.join()
    direct = io.BytesIO()
    export(objects, tree, direct)
    assert received == [direct.getvalue()]


@exports
def test_a_stream_that_takes_little_at_once_gets_everything(export: Callable) -> None:
    class Sipping(io.BytesIO):
        def write(self, data: bytes, /) -> int:  # type: ignore[override]
            return super().write(data[:1000])

    objects = MemoryObjects()
    tree = make_tree(objects, MADE)
    direct, sipping = io.BytesIO(), Sipping()
    export(objects, tree, direct)
    export(objects, tree, sipping)
    assert sipping.getvalue() == direct.getvalue()


@exports
@pytest.mark.parametrize("taken", [0, None])
def test_a_stream_that_takes_nothing_is_an_oserror(export: Callable, taken: int | None) -> None:
    class Full:
        def write(self, data: bytes) -> int | None:
            return taken

    with pytest.raises(OSError, match="takes nothing"):
        export(MemoryObjects(), EMPTY_TREE, Full())


@exports
def test_progress_is_told_in_bytes_of_contents(export: Callable) -> None:
    objects = MemoryObjects()
    done: list[int] = []
    export(
        objects, make_tree(objects, {b"a": b"12", b"b": {b"c": b"3"}, b"e": b""}), io.BytesIO(), progress=done.append
    )
    assert (sorted(set(done)), done[-1]) == ([2, 3], 3)


# -- failing --------------------------------------------------------------------------------------------------------------


class Filling(io.BytesIO):
    """A disk that is full after some bytes, and has room again afterwards."""

    room = 100_000

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        if self.room is not None and self.tell() + len(data) > self.room:
            self.room = 1 << 40
            raise OSError("full")
        return super().write(data)


def take(export: Callable, data: bytes) -> None:
    (take_tar if export is export_tar else take_zip)(data)


@exports
def test_half_an_export_cannot_be_taken_for_a_whole_one(export: Callable) -> None:
    """Neither one that a full disk ended, nor one whose tree had a blob missing or wrong."""
    objects = MemoryObjects()
    blob = objects.put(Kind.BLOB, b"x")
    entries = [Entry(b"%04d" % number, EntryKind.FILE, blob, 1, 0) for number in range(1000)]
    full, missing, wrong = Filling(), io.BytesIO(), io.BytesIO()
    with pytest.raises(OSError, match="full"):
        export(objects, put_tree(objects, entries), full)
    with pytest.raises(ObjectMissing):
        export(objects, put_tree(objects, [*entries, Entry(b"z", EntryKind.FILE, bytes(32), 1, 0)]), missing)
    with pytest.raises(ObjectDamaged, match="its entry says 2"):
        export(objects, put_tree(objects, [*entries, Entry(b"z", EntryKind.FILE, blob, 2, 0)]), wrong)
    for stream in (full, missing, wrong):
        assert stream.getvalue()
        with pytest.raises(ArchiveRefused):
            take(export, stream.getvalue())


@exports
def test_a_tree_beyond_the_limits_is_refused(export: Callable) -> None:
    """Equal trees are stored once: a few objects can be a tree without end."""
    objects = MemoryObjects()
    doubled = EMPTY_TREE
    for _ in range(64):
        doubled = put_tree(objects, [Entry(name, EntryKind.DIRECTORY, doubled, 0, 0) for name in (b"a", b"b")])
    with pytest.raises(ArchiveRefused, match="more than 1000 entries"):
        export(objects, doubled, io.BytesIO(), ArchiveLimits(entries=1000))
    with pytest.raises(ArchiveRefused, match="deeper than 3"):
        export(objects, doubled, io.BytesIO(), ArchiveLimits(depth=3))
    tree = make_tree(objects, {b"a": b"12", b"b": b"3"})
    with pytest.raises(ArchiveRefused, match="more than 2 bytes"):
        export(objects, tree, io.BytesIO(), ArchiveLimits(total_bytes=2))
    export(objects, tree, io.BytesIO(), ArchiveLimits(2, 3, 0, 0))
