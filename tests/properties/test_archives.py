"""For all trees: what is given out comes back, here and through GNU tar. For all damage: an error or a tree, and nothing else."""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from store import tree as trees
from store.archives.headers import BLOCK_BYTES, is_header, parse_records
from store.archives.members import ArchiveLimits
from store.archives.read_folder import import_folder
from store.archives.read_tar import import_tar
from store.delta import Delta
from store.errors import ArchiveRefused
from store.files import Files, open_directory
from store.ids import TreeId
from store.known import KnownTrees
from store.memory import MemoryObjects
from store.tree import EntryKind
from tests.store import live
from tests.store.archives.made import Made, Member, Taken, as_tar, as_zip, make_tree, take_tar, take_zip, tar_of, zip_of
from tests.store.workbench import expected

NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"a.b", b"-f", b"\x1f\x8b", b"n" * 255]),
    st.binary(min_size=1, max_size=255),
    st.text(min_size=1, max_size=60).map(lambda text: text.encode(errors="replace")),
).filter(lambda name: trees.is_name(name) and not name.startswith(b"_psf_"))
DATA = st.one_of(st.binary(max_size=2000), st.integers(0, 400_000).map(bytes))
TARGETS = st.binary(min_size=1, max_size=400).filter(lambda target: b"\0" not in target)
LEAVES = st.one_of(
    st.tuples(DATA, st.sampled_from([EntryKind.FILE, EntryKind.EXECUTABLE])),
    st.tuples(TARGETS, st.just(EntryKind.SYMLINK)),
)
TREES = st.dictionaries(
    NAMES,
    st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=12),
    max_size=5,
)
DEEP: Made = {b"d" * 200: {b"d" * 200: {b"d" * 200: {b"f": b"1", b"l": (b"t" * 400, EntryKind.SYMLINK)}}}}


def materialize(objects: MemoryObjects, tree: TreeId, folder: Path) -> None:
    folder.mkdir()
    directory = open_directory(str(folder))
    try:
        Delta(KnownTrees(objects), Files(), None, "trusted.overlay.").materialize(tree, directory)
    finally:
        os.close(directory)


def visible(folder: Path) -> dict[bytes, live.Visible]:
    """All below a folder, as tests of workspaces see it; the folder itself apart, which no archive names."""
    root = os.fsencode(folder)
    seen = live._walk(root)
    del seen[root]
    return {path[len(root) + 1 :]: node._replace(owner=0, attributes=()) for path, node in seen.items()}


@given(TREES)
@example(DEEP)
def test_what_is_given_out_comes_back(made: Made) -> None:
    objects = MemoryObjects()
    tree = make_tree(objects, made)
    for taken in (
        take_tar(as_tar(objects, tree)),
        take_tar(gzip.compress(as_tar(objects, tree))),
        take_zip(as_zip(objects, tree)),
    ):
        assert (taken.imported.tree, taken.left_out) == (tree, {})
        assert taken.imported.total_bytes == sum(
            len(node.content) for node in expected(objects, tree).values() if node.kind == stat.S_IFREG and node.content
        )


@given(TREES, st.integers(0, 10_000))
@example(DEEP, 3)
def test_gnu_tar_makes_our_archive_into_the_materialized_tree(made: Made, changed: int) -> None:
    objects = MemoryObjects()
    tree = make_tree(objects, made, changed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        materialize(objects, tree, folder / "made")
        (folder / "extracted").mkdir()
        command = ["tar", "-C", str(folder / "extracted"), "-xpf", "-", "--no-same-owner"]
        subprocess.run(command, input=as_tar(objects, tree), check=True, capture_output=True)
        assert visible(folder / "extracted") == visible(folder / "made")


@given(TREES, st.sampled_from(["gnu", "posix", "oldgnu"]))
@example(DEEP, "gnu")
def test_gnu_tar_and_a_folder_give_the_tree_that_they_were_made_of(made: Made, form: str) -> None:
    objects = MemoryObjects()
    tree = make_tree(objects, made)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "made"
        materialize(objects, tree, folder)
        command = ["tar", "-C", str(folder), f"--format={form}", "-cf", "-", "."]
        archive = subprocess.run(command, check=True, capture_output=True).stdout
        assert take_tar(archive).imported.tree == tree
        imported = import_folder(folder, MemoryObjects())
        assert (imported.tree, imported.left_out) == (tree, ())


# -- damage ---------------------------------------------------------------------------------------------------------------

FILE, LINK = stat.S_IFREG | 0o755, stat.S_IFLNK | 0o777
SMALL_TAR = tar_of(
    Member("d/a", data=b"contents"),
    Member("é" * 80, b"2", link="d/a"),
    Member("hard", b"1", link="d/a"),
    Member("fifo", b"6"),
)
SMALL_TAR = SMALL_TAR[: SMALL_TAR.rindex(b"ustar") // BLOCK_BYTES * BLOCK_BYTES + 3 * BLOCK_BYTES]
SMALL_GNU = tar_of(Member("n" * 120, data=b"1"), Member("l", b"2", link="t" * 120), form=1)[: 9 * BLOCK_BYTES]
SMALL_ZIP = zip_of(
    ("d/", b"", stat.S_IFDIR | 0o755), ("d/a", b"contents" * 9, FILE), ("l", b"d/a", LINK), ("é", b"1", FILE)
)
LIMITS = ArchiveLimits(entries=100, total_bytes=1 << 20, header_bytes=1 << 14)

Take = Callable[[bytes, ArchiveLimits], Taken]
archives = pytest.mark.parametrize(
    ("archive", "take"),
    [
        pytest.param(SMALL_TAR, take_tar, id="pax"),
        pytest.param(SMALL_GNU, take_tar, id="gnu"),
        pytest.param(gzip.compress(SMALL_TAR, mtime=0), take_tar, id="gzip"),
        pytest.param(SMALL_ZIP, take_zip, id="zip"),
    ],
)


def outcome(take: Take, archive: bytes) -> Taken | None:
    """None for a refusal. A tree that was taken in is whole, and comes back when it is given out again."""
    try:
        taken = take(archive, LIMITS)
    except ArchiveRefused:
        return None
    tree = taken.imported.tree
    assert take_tar(as_tar(taken.objects, tree)).imported.tree == tree
    return taken


@archives
def test_an_undamaged_archive_is_taken_in(archive: bytes, take: Take) -> None:
    taken = outcome(take, archive)
    assert taken is not None
    assert taken.contents


@archives
def test_any_flipped_byte_gives_an_error_or_a_tree(archive: bytes, take: Take) -> None:
    refused = 0
    for position in range(len(archive)):
        for mask in (0x01, 0x20, 0x80, 0xFF):
            damaged = bytearray(archive)
            damaged[position] ^= mask
            refused += outcome(take, bytes(damaged)) is None
    assert refused > len(archive) // 4


@archives
def test_a_truncated_archive_is_refused_wherever_it_ends(archive: bytes, take: Take) -> None:
    whole = outcome(take, archive)
    assert whole is not None
    for length in range(len(archive)):
        taken = outcome(take, archive[:length])
        # The end mark of a tar is two blocks; after the first nothing is missing.
        missing = archive[length:]
        nothing_is_missing = len(missing) <= BLOCK_BYTES and not any(missing)
        assert taken is None or (nothing_is_missing and taken.contents == whole.contents), length


@archives
@given(data=st.data())
def test_pieces_put_together_anyhow_give_an_error_or_a_tree(archive: bytes, take: Take, data: st.DataObject) -> None:
    places = st.integers(0, len(archive))
    pieces = data.draw(st.lists(st.one_of(st.tuples(places, places), st.binary(max_size=40)), max_size=6))
    outcome(take, b"".join(piece if isinstance(piece, bytes) else archive[slice(*piece)] for piece in pieces))


FIELDS = st.sampled_from(
    [
        b"",
        b"a",
        b"d/a",
        b"../a",
        b"/",
        b"a/",
        b".",
        b"l",
        b"l/x",
        b"\xff" * 100,
        b"7" * 12,
        b"\x80\0\0\0\0\0\0\0\0\0\0\7",
    ]
)


def block(name: bytes, mode: bytes, size: bytes, kind: int, link: bytes, tail: bytes) -> bytes:
    header = b"".join(
        (name.ljust(100, b"\0")[:100], mode.ljust(8, b"\0")[:8], bytes(16), size.ljust(12, b"\0")[:12], bytes(12))
    )
    header += b" " * 8 + bytes([kind]) + link.ljust(100, b"\0")[:100] + tail
    header = header.ljust(BLOCK_BYTES, b"\0")[:BLOCK_BYTES]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


BLOCKS = st.one_of(
    st.builds(
        block,
        FIELDS,
        st.sampled_from([b"644", b"755", b"x"]),
        st.one_of(st.sampled_from([b"0", b"10", b"1000", b"7" * 11]), FIELDS),
        st.one_of(st.sampled_from(list(b"0123456LKxgSDV\0")), st.integers(0, 255)),
        FIELDS,
        st.one_of(st.sampled_from([b"ustar\x0000", b"ustar  \0"]), st.binary(max_size=255)),
    ),
    st.sampled_from([b"13 path=name\n", b"8 path=\n", b"10 size=3\n", b"22 GNU.sparse.major=1\n", b"longname"]).map(
        lambda data: data.ljust(BLOCK_BYTES, b"\0")
    ),
    st.just(bytes(BLOCK_BYTES)),
)


@given(st.lists(BLOCKS, max_size=12))
def test_headers_that_say_anything_give_an_error_or_a_tree(blocks: list[bytes]) -> None:
    outcome(take_tar, b"".join(blocks) + bytes(2 * BLOCK_BYTES))


@given(st.binary(max_size=1500))
def test_arbitrary_bytes_give_an_error_or_a_tree(data: bytes) -> None:
    for take in (take_tar, take_zip):
        outcome(take, data)
        outcome(take, gzip.compress(data))
    assert not is_header(data)
    try:
        parse_records(data)
    except ArchiveRefused:
        return
    assert data == b"" or data.endswith(b"\n")


@given(TREES, st.integers(1, 600))
def test_a_stream_may_give_its_bytes_in_any_pieces(made: Made, at_once: int) -> None:
    class Pieces(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, at_once))

    objects = MemoryObjects()
    tree = make_tree(objects, made)
    with tempfile.TemporaryDirectory() as folder:
        stream = Pieces(gzip.compress(as_tar(objects, tree)))
        assert import_tar(stream, MemoryObjects(), Files(), folder).tree == tree
        assert os.listdir(folder) == []
