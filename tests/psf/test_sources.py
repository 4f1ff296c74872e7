"""What commands read: once or twice, from files and from what comes only once."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from psf.sources import FREE_BYTES_MIN, CannotRead, Resumed, can_go_back, copied, readable


def test_what_was_looked_at_is_read_again() -> None:
    stream = Resumed(io.BytesIO(b"beginning and end"), 9)
    assert stream.beginning == b"beginning"
    assert b"".join(iter(lambda: stream.read(4), b"")) == b"beginning and end"


def test_what_comes_once_is_copied_and_can_be_read_twice(tmp_path: Path) -> None:
    with copied(io.BytesIO(b"x" * (3 << 20)), "-", tmp_path) as file:
        assert can_go_back(file)
        assert len(file.read()) == 3 << 20
        assert list(tmp_path.iterdir()) == []


def test_a_copy_ends_where_its_beginning_is_wrong(tmp_path: Path) -> None:
    with copied(io.BytesIO(b"x" * (3 << 20)), "-", tmp_path, beginning=b"y") as file:
        assert len(file.read()) == 1 << 20


def test_a_copy_leaves_room_for_others(tmp_path: Path) -> None:
    free_bytes = iter([FREE_BYTES_MIN + (1 << 20), FREE_BYTES_MIN])
    stream = io.BytesIO(b"x" * (3 << 20))
    with (
        pytest.raises(CannotRead, match="no room"),
        copied(stream, "-", tmp_path, free_bytes=lambda _: next(free_bytes)),
    ):
        raise AssertionError("it must not be used")


def test_a_file_that_is_open_in_its_middle_cannot_go_back(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    with readable(str(tmp_path / "file")) as file:
        assert can_go_back(file)
        file.read(1)
        assert not can_go_back(file)
    assert not can_go_back(io.BytesIO())
