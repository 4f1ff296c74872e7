"""Tar archives of other programs are taken in as they are meant, and what is not meant well is refused by name."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import os
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from store.archives.headers import BLOCK_BYTES, Described, encode_headers, padded
from store.archives.members import ArchiveLimits
from store.archives.read_tar import import_tar
from store.errors import ArchiveRefused
from store.faulty import FaultyFiles
from store.files import Files
from store.ids import BlobId, Kind
from store.known import KnownTrees
from store.local import LocalStore
from store.memory import MemoryObjects
from store.tree import EMPTY_TREE, EntryKind
from tests.store.archives.made import Member, Taken, take_tar, tar_of, zip_of
from tests.store.workbench import contents

END = bytes(2 * BLOCK_BYTES)


def raw(name: bytes, data: bytes = b"", kind: bytes = b"0", link: bytes = b"") -> bytes:
    """One member without the end mark, with names as they are given."""
    return encode_headers(Described(name, kind, 0o644, len(data), 0, link)) + padded(data)


def kind_of(taken: Taken, path: bytes) -> EntryKind:
    entry = KnownTrees(taken.objects).find(taken.imported.tree, tuple(path.split(b"/")))
    assert entry is not None
    assert entry.changed == 0
    return entry.kind


def test_files_directories_and_symlinks_are_taken_in_and_counted() -> None:
    taken = take_tar(
        tar_of(
            Member("d", tarfile.DIRTYPE),
            Member("d/run", data=b"#!", mode=0o755),
            Member("d/empty"),
            Member("to", tarfile.SYMTYPE, link="../../etc/passwd"),
            Member("made/by/name", data=b"123"),
        )
    )
    assert taken.contents == {
        b"d": None, b"d/empty": b"", b"d/run": b"#!", b"made": None, b"made/by": None, b"made/by/name": b"123",
        b"to": b"-> ../../etc/passwd",
    }  # fmt: skip
    assert kind_of(taken, b"d/run") is EntryKind.EXECUTABLE
    assert kind_of(taken, b"d/empty") is EntryKind.FILE
    assert kind_of(taken, b"made/by") is EntryKind.DIRECTORY
    assert (taken.imported.files, taken.imported.total_bytes, taken.left_out) == (3, 5, {})


@pytest.mark.parametrize(
    ("name", "path"),
    [("./a", b"a"), ("././a", b"a"), ("a/./b", b"a/b"), ("a/.", b"a"), ("a/", b"a"), (".a", b".a"), ("...", b"...")],
)
def test_dots_and_a_slash_at_the_end_say_nothing(name: str, path: bytes) -> None:
    kind = tarfile.DIRTYPE if name.endswith(("/", "/.")) else tarfile.REGTYPE
    assert path in take_tar(tar_of(Member("./", tarfile.DIRTYPE), Member(name, kind))).contents


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"/etc/passwd", "absolute"),
        (b"../a", '".."'),
        (b"a/../../b", '".."'),
        (b"a/..", '".."'),
        (b"a//b", "empty component"),
        (b"a//", "empty component"),
        (b"/", "absolute"),
        (b".//a", "empty component"),
        (b"a\0b", "NUL"),
        (b"n" * 256, "more than 255 bytes"),
        (b"a/" * 100_000 + b"a", "deeper than 256"),
        (b".", "the root"),
    ],
)
def test_a_name_that_may_lead_elsewhere_is_refused_by_name(name: bytes, reason: str) -> None:
    with pytest.raises(ArchiveRefused, match=reason) as refused:
        take_tar(raw(b"good", b"1") + raw(name, b"2") + END)
    assert refused.value.member == name


def test_a_member_without_a_name_is_refused() -> None:
    with pytest.raises(ArchiveRefused, match="no name"):
        take_tar(raw(b"") + END)


@pytest.mark.parametrize(("kind", "word"), [(b"2", "a symlink"), (b"0", "a file")])
@pytest.mark.parametrize("below", [b"a/b", b"a/b/c"])
def test_a_name_below_a_symlink_or_file_is_refused(kind: bytes, word: str, below: bytes) -> None:
    with pytest.raises(ArchiveRefused, match=f"below b'a', which is {word}") as refused:
        take_tar(raw(b"a", kind=kind, link=b"/etc") + raw(below, b"x") + END)
    assert refused.value.member == below


def test_the_depth_that_capture_keeps_is_taken_in_and_one_more_is_not() -> None:
    assert len(take_tar(raw(b"d/" * 256 + b"f") + END).contents) == 257
    assert len(take_tar(raw(b"d/" * 256, kind=b"5") + END).contents) == 256
    for name, kind in ((b"d/" * 257 + b"f", b"0"), (b"d/" * 257, b"5")):
        with pytest.raises(ArchiveRefused, match="deeper"):
            take_tar(raw(name, kind=kind) + END)


def test_a_later_member_replaces_what_stood_under_its_name() -> None:
    taken = take_tar(
        raw(b"a", b"1") + raw(b"a", b"2") + raw(b"b/c", b"3") + raw(b"b", kind=b"2", link=b"x")
        + raw(b"c", b"4") + raw(b"c", kind=b"5") + raw(b"d/e", b"5") + raw(b"d", kind=b"5") + END
    )  # fmt: skip
    assert taken.contents == {b"a": b"2", b"b": b"-> x", b"c": None, b"d": None, b"d/e": b"5"}
    assert (taken.imported.files, taken.imported.total_bytes) == (2, 2)


def test_hard_links_become_entries_of_their_own() -> None:
    taken = take_tar(
        tar_of(
            Member("a", data=b"same", mode=0o755),
            Member("d/b", tarfile.LNKTYPE, link="./a"),
            Member("s", tarfile.SYMTYPE, link="t"),
            Member("l", tarfile.LNKTYPE, link="s"),
            Member("a", data=b"other"),
        )
    )
    assert taken.contents == {b"a": b"other", b"d": None, b"d/b": b"same", b"l": b"-> t", b"s": b"-> t"}
    assert kind_of(taken, b"d/b") is EntryKind.EXECUTABLE


@pytest.mark.parametrize("target", ["later", "self", "d", "nowhere/x", "/etc/passwd", "../x", "s/x"])
def test_a_hard_link_to_no_earlier_file_is_refused(target: str) -> None:
    archive = tar_of(
        Member("d", tarfile.DIRTYPE),
        Member("s", tarfile.SYMTYPE, link="/etc"),
        Member("self", tarfile.LNKTYPE, link=target),
        Member("later"),
    )
    with pytest.raises(ArchiveRefused):
        take_tar(archive)


def test_what_no_tree_holds_is_left_out_and_named() -> None:
    taken = take_tar(
        tar_of(
            Member("fifo", tarfile.FIFOTYPE),
            Member("char", tarfile.CHRTYPE),
            Member("block", tarfile.BLKTYPE),
            Member("again", data=b"1"),
            Member("again", tarfile.FIFOTYPE),
            Member("linked", tarfile.LNKTYPE, link="fifo"),
            Member("what", b"Z", b"contents"),
            Member("/label", b"V"),
            Member("empty", tarfile.SYMTYPE),
            Member("long", tarfile.SYMTYPE, link="x" * 4097),
            Member("sparse", data=b"map", pax={"GNU.sparse.major": "1", "GNU.sparse.name": "holes"}),
            Member("_psf_main.py", data=b"1"),
            Member("_psf_d/a", data=b"1"),
            Member("_psf_l", tarfile.LNKTYPE, link="_psf_main.py"),
            Member("plain", tarfile.LNKTYPE, link="_psf_main.py"),
            Member("d/_psf_kept", data=b"1"),
        )
    )
    assert taken.left_out == {
        b"fifo": "a FIFO", b"char": "a device", b"block": "a device", b"again": "a FIFO",
        b"linked": "a hard link to what was left out", b"what": "a member of the unknown type b'Z'",
        b"/label": "a volume label", b"empty": "a symlink whose target is empty or too long",
        b"long": "a symlink whose target is empty or too long", b"holes": "a sparse file",
        b"_psf_main.py": "a name that psf uses itself", b"_psf_d/a": "a name that psf uses itself",
        b"_psf_l": "a name that psf uses itself", b"plain": "a hard link to what was left out",
    }  # fmt: skip
    assert taken.contents == {b"d": None, b"d/_psf_kept": b"1"}


def test_the_list_of_what_was_left_out_is_bounded() -> None:
    taken = take_tar(b"".join(raw(b"%d" % number, kind=b"6") for number in range(150)) + END)
    assert len(taken.imported.left_out) == 101
    assert taken.imported.left_out[-1].reason == "and 50 more"


def test_a_nul_in_a_target_is_refused() -> None:
    with pytest.raises(ArchiveRefused, match="NUL"):
        take_tar(raw(b"a", kind=b"2", link=b"x\0y") + END)


# -- forms ----------------------------------------------------------------------------------------------------------------

LONG = "d" * 90 + "/" + "e" * 90 + "/" + "f" * 90
FOREIGN = os.fsdecode(b"caf\xe9/\xff" + b"x" * 120)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("name", [LONG, FOREIGN, "ü/€"])
def test_long_and_foreign_names_and_links_are_taken_in(form: int, name: str) -> None:
    members = (
        Member(name, data=b"1"),
        Member("l", tarfile.SYMTYPE, link=name),
        Member("h", tarfile.LNKTYPE, link=name),
    )
    taken = take_tar(tar_of(*members, form=form))
    assert taken.contents[os.fsencode(name)] == taken.contents[b"h"] == b"1"
    assert taken.contents[b"l"] == b"-> " + os.fsencode(name)


def test_the_prefix_of_a_posix_header_is_part_of_the_name() -> None:
    name = "p" * 100 + "/" + "n" * 100
    assert os.fsencode(name) in take_tar(tar_of(Member(name), form=tarfile.USTAR_FORMAT)).contents


def test_a_global_header_holds_until_it_is_taken_back() -> None:
    archive = (
        raw(b"pax", b"13 path=name\n", b"g")
        + raw(b"ignored", b"1")
        + raw(b"pax", b"8 path=\n", b"x") + raw(b"own", b"2")
        + raw(b"pax", b"14 path=other\n", b"x") + raw(b"ignored", b"3")
        + raw(b"pax", b"12 comment=\n", b"g")
        + END
    )  # fmt: skip
    assert take_tar(archive).contents == {b"name": b"1", b"own": b"2", b"other": b"3"}


def test_a_size_in_an_extended_header_is_the_one_that_counts() -> None:
    header = raw(b"pax", b"10 size=3\n", b"x") + encode_headers(Described(b"a", b"0", 0o644, 0, 0))
    assert take_tar(header + padded(b"abc") + raw(b"b", b"1") + END).contents == {b"a": b"abc", b"b": b"1"}


@pytest.mark.parametrize("size", [b"x", b"-1", b"1" * 30, b" 1", b"0x1"])
def test_a_size_that_is_no_number_is_refused(size: bytes) -> None:
    record = b" size=" + size + b"\n"
    with pytest.raises(ArchiveRefused, match="no number"):
        take_tar(raw(b"pax", b"%d" % (len(record) + 2) + record, b"x") + raw(b"a") + END)


@pytest.mark.parametrize(
    "records", [b"x", b"5 a=b\n", b"99 a=b\n", b"6 a=b\n\n", b"0 a=b\n", b"4 a\n", b"5 =b\n", b" a=b\n", b"6 a=bc"]
)
def test_an_extended_header_that_is_not_made_of_records_is_refused(records: bytes) -> None:
    with pytest.raises(ArchiveRefused, match="not made of records"):
        take_tar(raw(b"pax", records, b"x") + raw(b"a") + END)


def test_an_extended_header_without_a_member_is_refused() -> None:
    with pytest.raises(ArchiveRefused, match="extended header only"):
        take_tar(raw(b"pax", b"13 path=name\n", b"x") + END)


def test_sizes_in_binary_are_read_and_negative_ones_refused() -> None:
    def with_size(field: bytes) -> bytes:
        block = bytearray(raw(b"a"))
        block[124:136] = field
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block)

    assert take_tar(with_size(b"\x80" + bytes(10) + b"\x03") + padded(b"abc") + END).contents == {b"a": b"abc"}
    for field, word in (
        (b"\xff" * 12, "no number"),
        (b"\x80" + b"\xff" * 11, "unpacked, more than"),
        (b"12345678\0   ", "no number"),
        (b"-0000000001\0", "no number"),
    ):
        with pytest.raises(ArchiveRefused, match=word):
            take_tar(with_size(field) + END)


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"5", b"6"])
def test_members_that_have_no_contents_have_none_whatever_size_they_claim(kind: bytes) -> None:
    """As old programs wrote directories and hard links, and as GNU tar and Python read them."""
    claimed = encode_headers(Described(b"b", kind, 0o644, 700, 0, b"a"))
    assert take_tar(raw(b"a") + claimed + raw(b"c", b"1") + END).contents[b"c"] == b"1"


def test_a_file_with_the_name_of_a_directory_is_one_unless_it_has_contents() -> None:
    for kind in (b"0", b"\0"):
        assert take_tar(raw(b"d/", kind=kind) + END).contents == {b"d": None}
        with pytest.raises(ArchiveRefused, match="has contents"):
            take_tar(raw(b"d/", b"1", kind=kind) + END)


def test_a_name_comes_from_the_nearest_header() -> None:
    everywhere = raw(b"pax", b"15 path=global\n", b"g")
    long_name = raw(b"././@LongLink", b"long\0", b"L")
    own = raw(b"pax", b"12 path=own\n", b"x")
    for before, name in (
        (everywhere, b"global"), (everywhere + long_name, b"long"), (long_name + everywhere, b"long"),
        (everywhere + long_name + own, b"own"), (everywhere + own + long_name, b"own"),
    ):  # fmt: skip
        assert list(take_tar(before + raw(b"header") + END).contents) == [name]


def test_a_checksum_of_signed_characters_is_good_too() -> None:
    block = bytearray(raw(b"a"))
    block[:2] = b"\xe9\xff"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(memoryview(bytes(block)).cast("b"))
    assert list(take_tar(bytes(block) + END).contents) == [b"\xe9\xff"]


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_gnu_tar_makes_is_taken_in(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "folder"
    (folder / "d" / "empty").mkdir(parents=True)
    (folder / "d" / "run").write_bytes(b"#!/bin/sh\n")
    (folder / "d" / "run").chmod(0o755)
    (folder / "large").write_bytes(bytes(range(256)) * 2000)
    (folder / "link").symlink_to("d/run")
    os.link(folder / "d" / "run", folder / "hard")
    if form != "v7":  # which has no FIFOs
        os.mkfifo(folder / "fifo")
    with (folder / "sparse").open("wb") as sparse:
        for _ in range(30):
            sparse.seek(1 << 20, os.SEEK_CUR)
            sparse.write(b"x")
    command = ["tar", "-C", str(folder), f"--format={form}", "--sort=name", "-cf", "-", "."]
    if form not in ("v7", "ustar"):
        command.insert(1, "--sparse")
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    taken = take_tar(archive)
    expected = {
        b"d": None, b"d/empty": None, b"d/run": b"#!/bin/sh\n", b"hard": b"#!/bin/sh\n", b"link": b"-> d/run",
        b"large": bytes(range(256)) * 2000,
    }  # fmt: skip
    if "--sparse" in command:
        assert taken.left_out.pop(b"sparse") == "a sparse file"
    else:
        expected[b"sparse"] = (folder / "sparse").read_bytes()
    assert taken.contents == expected
    assert taken.left_out == ({b"fifo": "a FIFO"} if form != "v7" else {})
    assert kind_of(taken, b"d/run") is EntryKind.EXECUTABLE


def test_an_incremental_archive_of_gnu_tar_is_taken_in(tmp_path: Path) -> None:
    (tmp_path / "folder" / "d").mkdir(parents=True)
    (tmp_path / "folder" / "d" / "f").write_bytes(b"1")
    command = ["tar", "-C", str(tmp_path), "--format=gnu", "-g", str(tmp_path / "list"), "-V", "volume", "-c", "folder"]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    taken = take_tar(archive)
    assert taken.contents == {b"folder": None, b"folder/d": None, b"folder/d/f": b"1"}
    assert taken.left_out == {b"volume": "a volume label"}


# -- streams --------------------------------------------------------------------------------------------------------------


def in_parts(data: bytes) -> bytes:
    """Gzipped as several parts, ends of which come within, at and across what is read at once."""
    cuts = (0, 100, 512, 512, 1300, len(data))
    return b"".join(gzip.compress(data[start:end]) for start, end in itertools.pairwise(cuts))


class Dribble:
    """A stream that cannot seek and gives what it likes: one byte, or a few."""

    def __init__(self, data: bytes, at_once: int) -> None:
        self._data, self._at_once = data, at_once

    def read(self, size: int) -> bytes:
        size = min(size, self._at_once)
        part, self._data = self._data[:size], self._data[size:]
        return part


@pytest.mark.parametrize("pack", [bytes, gzip.compress, in_parts])
@pytest.mark.parametrize("at_once", [1, 7, 513])
def test_any_stream_will_do_plain_or_gzipped(pack: Callable[[bytes], bytes], at_once: int) -> None:
    archive = pack(tar_of(Member("a", data=b"x" * 3000), Member("b", data=b"y")))
    objects = MemoryObjects()
    imported = import_tar(Dribble(archive, at_once), objects, Files(), "/nowhere")
    assert imported.tree == take_tar(archive).imported.tree
    assert (imported.files, imported.total_bytes) == (2, 3001)


def test_a_plain_archive_whose_first_name_looks_like_gzip_is_plain() -> None:
    assert list(take_tar(raw(b"\x1f\x8b\x08") + END).contents) == [b"\x1f\x8b\x08"]
    block = bytearray(raw(b"xxx"))
    block[:3] = b"\x1f\x8b\x08"
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 256)
    assert list(take_tar(bytes(block) + END).contents) == [b"\x1f\x8b\x08"]


def test_an_archive_of_nothing_is_the_empty_tree() -> None:
    for archive in (END, gzip.compress(END), bytes(512), bytes(10240)):
        assert take_tar(archive).imported.tree == EMPTY_TREE


@pytest.mark.parametrize(
    ("archive", "word"),
    [
        (b"", "empty"),
        (b"hello", "truncated"),
        (b"x" * 2000, "not a tar archive"),
        (zip_of(("a" * 600, b"1", 0)), "a zip archive"),
        (bz2.compress(END), "bzip2"),
        (b"\xfd7zXZ\0" + bytes(600), "xz"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "zstd"),
        (raw(b"a") + bytes(512) + raw(b"b") + END, "follows the archive's end"),
        (END + bytes(17 << 20), "zeros follow"),
    ],
)
def test_what_is_no_archive_is_refused_in_plain_words(archive: bytes, word: str) -> None:
    with pytest.raises(ArchiveRefused, match=word):
        take_tar(archive)


def test_an_archive_is_read_to_its_end_so_that_its_writer_is_not_cut_off() -> None:
    stream = io.BytesIO(tar_of(Member("a")))
    import_tar(stream, MemoryObjects(), Files(), "/nowhere")
    assert stream.read() == b""


def test_a_wrong_checksum_at_the_end_of_a_gzip_stream_is_seen() -> None:
    packed = bytearray(gzip.compress(tar_of(Member("a"))))
    packed[-6] ^= 1
    with pytest.raises(ArchiveRefused, match="gzip compression is broken"):
        take_tar(bytes(packed))


# -- limits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "members",
    [
        b"".join(raw(b"%d" % number) for number in range(6)),
        raw(b"a/b/c/d/e/f"),
        b"".join(raw(b"./", kind=b"5") for _ in range(6)),
        b"".join(raw(b"same") for _ in range(6)),
        b"".join(raw(b"%d" % number, kind=b"6") for number in range(6)),
        b"".join(raw(b"%d" % number, kind=b"V") for number in range(6)),
    ],
)
def test_entries_are_bounded_whatever_they_are(members: bytes) -> None:
    take_tar(members + END, ArchiveLimits(entries=6))
    with pytest.raises(ArchiveRefused, match="more than 5 entries"):
        take_tar(members + END, ArchiveLimits(entries=5))


def test_hard_links_count_as_the_bytes_that_they_become() -> None:
    links = b"".join(raw(b"%d" % number, kind=b"1", link=b"a") for number in range(20))
    archive = raw(b"a", bytes(1000)) + links + END
    take_tar(archive, ArchiveLimits(total_bytes=21_000))
    with pytest.raises(ArchiveRefused, match="more than 20999 bytes"):
        take_tar(archive, ArchiveLimits(total_bytes=20_999))


def test_a_claimed_size_beyond_the_bound_is_refused_before_it_is_read() -> None:
    header = encode_headers(Described(b"a", b"0", 0o644, 1 << 40, 0))
    with pytest.raises(ArchiveRefused, match="unpacked, more than"):
        take_tar(header)


def test_an_archive_of_many_small_members_is_bounded_as_a_whole() -> None:
    archive = b"".join(raw(b"%d" % number) for number in range(10)) + END
    take_tar(archive, ArchiveLimits(total_bytes=len(archive)))
    with pytest.raises(ArchiveRefused, match="unpacked, more than 5120 bytes"):
        take_tar(archive, ArchiveLimits(total_bytes=5120))


def test_headers_before_one_member_are_bounded() -> None:
    record = b" comment=" + b"x" * 2000 + b"\n"
    header = raw(b"pax", b"%d" % (len(record) + 4) + record, b"x")
    for archive in (header * 3, raw(b"long", b"x" * 5000, b"L"), raw(b"pax", b"", b"g") * 12):
        with pytest.raises(ArchiveRefused, match="more than 5000 bytes of headers"):
            take_tar(archive + raw(b"a") + END, ArchiveLimits(header_bytes=5000))
    take_tar((header + raw(b"a")) * 3 + END, ArchiveLimits(header_bytes=5000))


class Endless:
    """A gzip stream that unpacks to zeros for ever, and notes how much was asked for."""

    def __init__(self, beginning: bytes) -> None:
        self._packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        self._ahead = self._packer.compress(beginning)
        self.given = 0

    def read(self, size: int) -> bytes:
        while not self._ahead:
            self._ahead = self._packer.compress(bytes(1 << 20))
        part, self._ahead = self._ahead[:size], self._ahead[size:]
        self.given += len(part)
        return part


@pytest.mark.parametrize("beginning", [encode_headers(Described(b"a", b"0", 0o644, 6 << 30, 0)), END])
def test_a_bomb_is_put_out_after_as_many_bytes_as_are_allowed(tmp_path: Path, beginning: bytes) -> None:
    bomb = Endless(beginning)
    with pytest.raises(ArchiveRefused):
        import_tar(bomb, MemoryObjects(), Files(), tmp_path, ArchiveLimits(total_bytes=32 << 20))
    assert bomb.given < 1 << 20
    assert os.listdir(tmp_path) == []


# -- contents -------------------------------------------------------------------------------------------------------------


class CarefulObjects(MemoryObjects):
    """Notes how contents come, and that nobody syncs."""

    def __init__(self) -> None:
        super().__init__()
        self.from_memory: list[int] = []
        self.from_files: list[int] = []

    def put(self, kind: Kind, data: bytes) -> bytes:
        if kind is Kind.BLOB:
            self.from_memory.append(len(data))
        return super().put(kind, data)

    def put_file(self, descriptor: int, size_bytes: int) -> BlobId:
        self.from_files.append(size_bytes)
        # Reads and forgets: not through `put`, which would note it again.
        return BlobId(super().put(Kind.BLOB, os.pread(descriptor, size_bytes, 0)))

    def sync(self) -> None:
        raise AssertionError("only the caller syncs")


def test_large_contents_go_through_a_file_without_a_name(tmp_path: Path) -> None:
    objects = CarefulObjects()
    done: list[int] = []
    sizes = (0, 1, (128 << 10) - 1, 128 << 10, 300_000)
    archive = tar_of(*(Member(str(size), data=os.urandom(size)) for size in sizes))
    imported = import_tar(io.BytesIO(archive), objects, Files(), tmp_path, progress=done.append)
    assert sorted(objects.from_memory) == [0, 1, (128 << 10) - 1]
    assert objects.from_files == [128 << 10, 300_000]
    assert done == sorted(done)
    assert done[-1] == imported.total_bytes == sum(sizes)
    assert os.listdir(tmp_path) == []


def test_what_the_caller_syncs_is_there_when_the_store_is_opened_again(tmp_path: Path) -> None:
    archive = tar_of(Member("d/large", data=os.urandom(300_000)), Member("small", data=b"1"))
    store = LocalStore(tmp_path / "store")
    tree = import_tar(io.BytesIO(archive), store.objects, Files(), store.root).tree
    store.objects.sync()
    store.close()
    again = LocalStore(tmp_path / "store")
    assert contents(again.objects, tree) == take_tar(archive).contents
    again.close()


@pytest.mark.parametrize("fail_at", [1, 2, 3])
def test_a_disk_that_fails_is_an_oserror_and_leaves_nothing(tmp_path: Path, fail_at: int) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="injected"):
        import_tar(
            io.BytesIO(tar_of(Member("a", data=bytes(300_000)))), MemoryObjects(), FaultyFiles(fail_at), tmp_path
        )
    assert os.listdir(tmp_path) == []
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_stream_that_fails_is_its_own_oserror() -> None:
    class Failing:
        def read(self, size: int) -> bytes:
            raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        import_tar(Failing(), MemoryObjects(), Files(), "/nowhere")
