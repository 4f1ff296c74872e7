"""Zip archives of other programs are taken in as they are meant, and what is not meant well is refused by name."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from store.archives.members import ArchiveLimits
from store.archives.read_zip import Watched, import_zip
from store.errors import ArchiveRefused
from store.files import Files
from store.memory import MemoryObjects
from store.tree import EMPTY_TREE
from tests.store.archives.made import take_zip, zip_of

FILE, RUN, LINK, FOLDER = stat.S_IFREG | 0o644, stat.S_IFREG | 0o755, stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755


def test_files_directories_and_symlinks_are_taken_in_and_counted() -> None:
    taken = take_zip(
        zip_of(("d/", b"", FOLDER), ("./d/run", b"#!", RUN), ("to", b"../x", LINK), ("e", b"", FOLDER), ("w/", b"", 0), ("w/f", b"123", 0))
    )  # fmt: skip
    assert taken.contents == {
        b"d": None, b"d/run": b"#!", b"e": None, b"to": b"-> ../x", b"w": None, b"w/f": b"123"
    }  # fmt: skip
    assert (taken.imported.files, taken.imported.total_bytes, taken.left_out) == (2, 5, {})


@pytest.mark.parametrize("name", ["/a", "../a", "a/../b", "a//b", "n" * 256, "a/" * 300 + "b", "."])
def test_a_name_that_may_lead_elsewhere_is_refused_by_name(name: str) -> None:
    with pytest.raises(ArchiveRefused) as refused:
        take_zip(zip_of(("good", b"1", FILE), (name, b"2", FILE)))
    assert refused.value.member == name.encode()


def test_a_nul_in_a_name_is_refused() -> None:
    with pytest.raises(ArchiveRefused, match="NUL"):
        take_zip(zip_of(("a!b", b"1", FILE)).replace(b"a!b", b"a\0b"))


def test_a_name_below_a_symlink_is_refused() -> None:
    with pytest.raises(ArchiveRefused, match="below b'a', which is a symlink"):
        take_zip(zip_of(("a", b"/etc", LINK), ("a/b", b"1", FILE)))


def test_a_later_member_replaces_what_stood_under_its_name() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive = zip_of(("a", b"1", FILE), ("a", b"2", FILE))
    assert take_zip(archive).contents == {b"a": b"2"}


def test_what_no_tree_holds_is_left_out_and_named() -> None:
    taken = take_zip(
        zip_of(
            ("fifo", b"", stat.S_IFIFO | 0o644), ("device", b"", stat.S_IFCHR | 0o644), ("socket", b"", stat.S_IFSOCK | 0o644),
            ("long", b"x" * 5000, LINK), ("empty", b"", LINK), ("_psf_main.py", b"1", FILE),
        )
    )  # fmt: skip
    too_long = "a symlink whose target is empty or too long"
    assert taken.left_out == {
        b"fifo": "a FIFO", b"device": "a device", b"socket": "a socket", b"long": too_long, b"empty": too_long,
        b"_psf_main.py": "a name that psf uses itself",
    }  # fmt: skip
    assert taken.imported.tree == EMPTY_TREE


def test_names_are_the_bytes_that_the_archive_has() -> None:
    taken = take_zip(zip_of(("caf!", b"1", FILE), ("ü", b"2", FILE)).replace(b"caf!", b"caf\xe9"))
    assert taken.contents == {b"caf\xe9": b"1", "ü".encode(): b"2"}
    every = bytes(byte for byte in range(1, 256) if byte not in b"/.")
    archive = zip_of(("!" * len(every), b"1", FILE)).replace(b"!" * len(every), every)
    assert list(take_zip(archive).contents) == [every]


def test_modes_are_those_of_unix_only_where_the_archive_was_made_on_unix() -> None:
    archive = bytearray(zip_of(("a", b"/etc", LINK)))
    archive[archive.index(b"PK\x01\x02") + 5] = 0
    assert take_zip(bytes(archive)).contents == {b"a": b"/etc"}


def test_a_directory_with_contents_is_refused() -> None:
    with pytest.raises(ArchiveRefused, match="has contents"):
        take_zip(zip_of(("d/", b"1", FOLDER)))


def test_an_encrypted_member_is_refused() -> None:
    archive = bytearray(zip_of(("a", b"1", FILE)))
    archive[archive.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ArchiveRefused, match="'a': it is encrypted"):
        take_zip(bytes(archive))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_without_a_bound_on_its_memory_is_refused(method: int) -> None:
    with pytest.raises(ArchiveRefused, match=f"'a': it is compressed by method {method}"):
        take_zip(zip_of(("a", b"1", FILE), compression=method))


@pytest.mark.parametrize("claim", [0, 5, 1 << 31])
def test_a_size_that_is_not_the_real_one_is_refused(claim: int) -> None:
    archive = bytearray(zip_of(("a", b"1234567", FILE)))
    place = archive.index(b"PK\x01\x02") + 24
    archive[place : place + 4] = struct.pack("<I", claim)
    with pytest.raises(ArchiveRefused):
        take_zip(bytes(archive))


def test_members_that_share_bytes_are_refused() -> None:
    archive = zip_of(("a", b"1" * 100, FILE), ("b", b"2" * 100, FILE))
    second = archive.index(b"PK\x01\x02", archive.index(b"PK\x01\x02") + 1)
    overlapping = bytearray(archive.replace(b"b", b"a"))
    overlapping[second + 42 : second + 46] = bytes(4)
    with pytest.raises(ArchiveRefused, match="shares bytes"):
        take_zip(bytes(overlapping))


def test_a_bomb_is_put_out_after_as_many_bytes_as_are_allowed(tmp_path: Path) -> None:
    done: list[int] = []
    bomb = io.BytesIO(zip_of(("a", bytes(32 << 20), FILE)))
    limits = ArchiveLimits(total_bytes=4 << 20)
    with pytest.raises(ArchiveRefused, match="more than 4194304 bytes"):
        import_zip(bomb, MemoryObjects(), Files(), tmp_path, limits, done.append)
    assert done[-1] <= 4 << 20
    assert os.listdir(tmp_path) == []


def test_entries_are_bounded_before_their_list_is_made() -> None:
    archive = zip_of(*((str(number), b"", FILE) for number in range(6)))
    assert take_zip(archive, ArchiveLimits(entries=6)).imported.files == 6
    with pytest.raises(ArchiveRefused, match="more than 5 entries"):
        take_zip(archive, ArchiveLimits(entries=5))
    with pytest.raises(ArchiveRefused, match="more than 5 entries"):
        zipfile.ZipFile(Watched(io.BytesIO(archive), 5))


def test_the_list_of_members_is_bounded_in_bytes() -> None:
    archive = io.BytesIO(zip_of(("a" * 200, b"", FILE)))
    zipfile.ZipFile(Watched(archive, 1, list_bytes_max=246)).close()
    with pytest.raises(ArchiveRefused, match="list of members has more than 245 bytes"):
        zipfile.ZipFile(Watched(archive, 1, list_bytes_max=245))


@pytest.mark.parametrize("data", [b"", b"hello", bytes(5000), b"PK\x05\x06" + b"\xff" * 18, b"PK\x03\x04" * 100])
def test_what_is_no_archive_is_refused_in_plain_words(data: bytes) -> None:
    with pytest.raises(ArchiveRefused, match="zip archive is damaged"):
        take_zip(data)


def test_a_zip_of_nothing_is_the_empty_tree() -> None:
    assert take_zip(zip_of()).imported.tree == EMPTY_TREE


def test_a_file_that_fails_is_its_own_oserror() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if (size or 0) == 30:  # the header before a member's contents
                raise TimeoutError("gone")
            return super().read(size)

    with pytest.raises(TimeoutError):
        import_zip(Failing(zip_of(("a", b"1", FILE))), MemoryObjects(), Files(), "/nowhere")


def test_what_info_zip_makes_is_taken_in(tmp_path: Path) -> None:
    if shutil.which("zip") is None:
        pytest.skip("zip is not installed")
    folder = os.fsencode(tmp_path / "folder")
    os.makedirs(folder + b"/d/empty")
    (tmp_path / "folder" / "d" / "run").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "folder" / "d" / "run").chmod(0o755)
    (tmp_path / "folder" / "large").write_bytes(bytes(range(256)) * 2000)
    (tmp_path / "folder" / "link").symlink_to("d/run")
    for name in (b"caf\xe9", "ü".encode()):
        descriptor = os.open(folder + b"/" + name, os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, name)
        os.close(descriptor)
    subprocess.run(
        ["zip", "-q", "-r", "--symlinks", "../a.zip", "."], cwd=folder, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    taken = take_zip((tmp_path / "a.zip").read_bytes())
    assert taken.contents == {
        b"d": None, b"d/empty": None, b"d/run": b"#!/bin/sh\n", b"large": bytes(range(256)) * 2000, b"link": b"-> d/run",
        b"caf\xe9": b"caf\xe9", "ü".encode(): "ü".encode(),
    }  # fmt: skip
