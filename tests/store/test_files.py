"""Removing what a program left: whatever it made, also as a user without rights."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store.files import Files, open_directory, read_exactly
from tests.store.live import as_user

DEPTH = 3000
USER = 12345


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """A directory that any user may use by its descriptor, though not by its path."""
    descriptor = open_directory(str(tmp_path))
    os.fchmod(descriptor, 0o777)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=["root", "user"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], object]], None]:
    """Run something as this process, or as a user without rights in a child."""
    if request.param == "root":
        return lambda task: (task(), None)[1]
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    return lambda task: as_user(USER, task)


def nest(directory: int, depth: int, mode: int = 0o755) -> None:
    """nest/n/n/n... with a file at each level; modes are set from the inside out."""
    os.mkdir("nest", dir_fd=directory)
    descriptor = os.open("nest", os.O_RDONLY, dir_fd=directory)
    for _ in range(depth):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
        os.mkdir("n", dir_fd=descriptor)
        inner = os.open("n", os.O_RDONLY, dir_fd=descriptor)
        os.fchmod(descriptor, mode)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)


@pytest.mark.parametrize("mode", [0o755, 0o000])
def test_a_nest_of_three_thousand_directories_is_removed(
    directory: int, run: Callable[[Callable[[], object]], None], mode: int
) -> None:
    """In constant stack and with few descriptors."""

    def work() -> None:
        nest(directory, DEPTH, mode)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        open_now = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 10, hard))
        try:
            Files().remove_tree(b"nest", directory=directory)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run(work)
    assert os.listdir(directory) == []


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600])
def test_directories_without_rights_are_removed(
    directory: int, run: Callable[[Callable[[], object]], None], mode: int
) -> None:
    def work() -> None:
        nest(directory, 4, mode)
        Files().remove_tree(b"nest", directory=directory)

    run(work)
    assert os.listdir(directory) == []


def test_names_like_those_used_while_removing_are_removed_too(directory: int) -> None:
    """A program may know how it is done: every such name is taken, however long it can be made."""
    top = os.open(".", os.O_RDONLY, dir_fd=directory)
    os.mkdir("nest", dir_fd=top)
    inside = os.open("nest", os.O_RDONLY, dir_fd=top)
    os.mkdir("a", dir_fd=inside)
    os.mkdir("a/b", dir_fd=inside)
    for tail in range(255 - len(".lifted-1")):
        os.mkdir(f"a/.lifted-1{'_' * tail}", dir_fd=inside)
        os.close(os.open(f".lifted-1{'_' * (tail + 1)}", os.O_CREAT, dir_fd=inside))
    for number in range(1, 50):
        os.makedirs(f"/proc/self/fd/{inside}/.lifted-{number}/.lifted-{number + 1}/x")
    os.close(inside)
    os.close(top)
    Files().remove_tree(b"nest", directory=directory)
    assert os.listdir(directory) == []


def test_a_name_that_cannot_be_lengthened_does_not_stop_removal(directory: int) -> None:
    os.mkdir("nest", dir_fd=directory)
    inside = os.open("nest", os.O_RDONLY, dir_fd=directory)
    for tail in range(255 - len(".lifted-1") + 1):
        os.close(os.open(f".lifted-1{'_' * tail}", os.O_CREAT, dir_fd=inside))
    for number in range(30):
        os.makedirs(f"/proc/self/fd/{inside}/{number}/child/grandchild")
    os.close(inside)
    Files().remove_tree(b"nest", directory=directory)
    assert os.listdir(directory) == []


def test_symlinks_are_removed_and_never_followed(directory: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "precious").write_text("precious")
    os.mkdir("nest", dir_fd=directory)
    os.symlink(outside, "nest/folder", dir_fd=directory)
    os.symlink(outside / "precious", "nest/file", dir_fd=directory)
    Files().remove_tree(b"nest", directory=directory)
    os.symlink(outside, "link", dir_fd=directory)
    Files().remove_tree(b"link", directory=directory)
    assert os.listdir(directory) == []
    assert (outside / "precious").read_text() == "precious"


def test_every_kind_of_file_is_removed_without_opening_it(directory: int) -> None:
    os.mkdir("nest", dir_fd=directory)
    os.mkfifo("nest/pipe", dir_fd=directory)
    os.close(os.open("nest/denied", os.O_CREAT, 0, dir_fd=directory))
    os.close(os.open(b"nest/\xff\n", os.O_CREAT, dir_fd=directory))
    Files().remove_tree(b"nest", directory=directory)
    assert os.listdir(directory) == []


def test_emptying_keeps_the_directory(directory: int) -> None:
    nest(directory, 10)
    os.mkdir("other", dir_fd=directory)
    Files().empty_directory(directory)
    assert os.listdir(directory) == []


def test_removing_nothing_is_an_error(directory: int) -> None:
    with pytest.raises(FileNotFoundError):
        Files().remove_tree(b"nothing", directory=directory)


def test_a_directory_is_never_opened_through_a_symlink(directory: int) -> None:
    os.mkdir("real", dir_fd=directory)
    os.symlink("real", "link", dir_fd=directory)
    with pytest.raises(NotADirectoryError):
        open_directory(b"link", directory)


def test_an_append_of_more_buffers_than_one_call_takes_is_whole(tmp_path: Path) -> None:
    buffers = [b"%d," % number for number in range(3000)]
    descriptor = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    assert Files().append(descriptor, [b"", *buffers, b""]) == len(b"".join(buffers))
    assert read_exactly(descriptor, 1 << 20, 0) == b"".join(buffers)
    os.close(descriptor)


def test_a_name_that_is_taken_keeps_its_file(tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"old")
    descriptor = Files().unnamed(str(tmp_path))
    os.write(descriptor, b"new")
    Files().link(descriptor, str(tmp_path / "name"))
    os.close(descriptor)
    assert (tmp_path / "name").read_bytes() == b"old"


def test_a_copy_from_a_file_that_became_shorter_fails(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 1000)
    with (
        (tmp_path / "source").open("rb") as source,
        (tmp_path / "target").open("wb") as target,
        pytest.raises(OSError, match="shorter"),
    ):
        Files().copy(source.fileno(), target.fileno(), 1001)


@pytest.mark.parametrize("pieces", [(), (0,), (1 << 20,), (0, 3 << 20), (5 << 20,)])
def test_a_copy_of_a_sparse_file_is_equal_and_as_sparse(tmp_path: Path, pieces: tuple[int, ...]) -> None:
    length = (5 << 20) + 4096
    with (tmp_path / "source").open("w+b") as source, (tmp_path / "target").open("w+b") as target:
        os.truncate(source.fileno(), length)
        for offset in pieces:
            os.pwrite(source.fileno(), b"data" * 1024, offset)
        Files().copy(source.fileno(), target.fileno(), length)
        assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()
        assert os.fstat(target.fileno()).st_blocks <= os.fstat(source.fileno()).st_blocks + 8
