"""What is kept of a stream, and that neither reading nor writing ever waits."""

from __future__ import annotations

import asyncio
import os

from hypothesis import given
from hypothesis import strategies as st

from executors.interfaces import PIECE_BYTES_MAX
from executors.output import HEAD_SHARE, Collector, Following, Reader, Writer
from executors.testing.streaming import Witness

CHUNKS = st.lists(st.binary(max_size=40), max_size=20)


def mark(left_out: int) -> bytes:
    return b"\n[... %d bytes left out ...]\n" % left_out


@given(chunks=CHUNKS, kept_bytes=st.integers(1, 200))
def test_a_collector_keeps_head_and_tail_of_what_it_was_fed(chunks: list[bytes], kept_bytes: int) -> None:
    """However the stream was cut into chunks: the model knows the whole of it."""
    collector, whole = Collector(kept_bytes), b"".join(chunks)
    for chunk in chunks:
        collector.feed(chunk)
    output = collector.output()
    assert (output.total_bytes, output.truncated) == (len(whole), len(whole) > kept_bytes)
    if len(whole) <= kept_bytes:
        assert output.data == whole
    else:
        head = int(kept_bytes * HEAD_SHARE)
        left_out = len(whole) - kept_bytes
        assert output.data == whole[:head] + mark(left_out) + whole[head + left_out :]


@given(chunks=CHUNKS)
def test_a_collector_that_may_keep_nothing_counts_all(chunks: list[bytes]) -> None:
    collector = Collector(0)
    for chunk in chunks:
        collector.feed(chunk)
    total = sum(len(chunk) for chunk in chunks)
    assert collector.output().total_bytes == total
    assert collector.output().data == (mark(total) if total else b"")


def test_a_collector_holds_no_more_than_it_keeps() -> None:
    collector = Collector(1000)
    for _ in range(1000):
        collector.feed(b"x" * 1000)
    assert len(collector._head) + len(collector._tail) == 1000
    assert collector.output().total_bytes == 1_000_000


@given(chunks=CHUNKS, kept_bytes=st.integers(0, 200))
def test_a_watcher_is_told_the_beginning_and_what_is_left_out(chunks: list[bytes], kept_bytes: int) -> None:
    """However the streams were cut into chunks, and each for itself."""
    witness, collectors = Witness(), {name: Collector(kept_bytes) for name in ("stdout", "stderr")}
    following = Following(witness, kept_bytes)
    following.begin()
    for number, chunk in enumerate(chunks):
        for name in collectors if number % 2 else ["stdout"]:
            collectors[name].feed(chunk)
            following.feed(name, chunk)
    outputs = [collector.output() for collector in collectors.values()]
    following.end(*outputs)
    for name, output, whole in zip(collectors, outputs, (b"".join(chunks), b"".join(chunks[1::2])), strict=True):
        left_out = max(0, len(whole) - kept_bytes)
        assert witness.saw(name) == (whole[:kept_bytes] + mark(left_out) if left_out else output.data)


def test_a_long_chunk_is_told_in_pieces() -> None:
    witness = Witness()
    following = Following(witness, 1 << 20)
    following.begin()
    following.feed("stdout", bytes(2 * PIECE_BYTES_MAX + 1))
    assert [len(piece) for _, piece in witness.pieces] == [PIECE_BYTES_MAX, PIECE_BYTES_MAX, 1]


def test_what_comes_before_the_beginning_is_told_then_and_in_order() -> None:
    witness = Witness()
    following = Following(witness, 100)
    following.feed("stdout", b"1")
    following.feed("stderr", b"2")
    following.feed("stdout", b"3")
    assert witness.pieces == []
    following.begin()
    following.feed("stdout", b"4")
    following.begin()
    assert witness.pieces == [("stdout", b"1"), ("stderr", b"2"), ("stdout", b"3"), ("stdout", b"4")]


def test_what_never_began_and_what_was_closed_tells_nothing() -> None:
    witness = Witness()
    following = Following(witness, 100)
    following.feed("stderr", b"bwrap: /home/somebody: no such folder")
    following.close()
    following.begin()
    following.feed("stderr", b"more")
    assert witness.pieces == []


async def test_a_reader_reads_to_the_end() -> None:
    reader = Reader(1 << 20, 1 << 20, lambda: None)
    os.write(reader.inner, b"first ")
    await asyncio.sleep(0)
    os.write(reader.inner, b"second")
    reader.handed_over()
    assert reader.output().data == b"first second"
    reader.close()
    reader.close()


async def test_a_flood_is_told_once_and_read_on() -> None:
    """Whoever is told kills the writer; until then nothing must fill up."""
    told: list[bool] = []
    reader = Reader(100, 1000, lambda: told.append(True))
    for _ in range(50):
        os.write(reader.inner, b"x" * 1000)
        await asyncio.sleep(0.001)
    reader.handed_over()
    output = reader.output()
    assert (told, reader.flooded, output.total_bytes) == ([True], True, 50_000)
    reader.close()


async def test_a_stream_of_exactly_the_flood_cap_is_no_flood() -> None:
    reader = Reader(100, 1000, lambda: None)
    os.write(reader.inner, b"x" * 1000)
    reader.handed_over()
    assert reader.output().total_bytes == 1000
    assert not reader.flooded
    reader.close()


async def test_closing_a_reader_ends_its_output() -> None:
    reader = Reader(100, 1000, lambda: None)
    os.write(reader.inner, b"never read")
    reader.close()
    assert reader.output().data == b""


async def read_all(descriptor: int) -> bytes:
    parts = []
    while part := await asyncio.to_thread(os.read, descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts)


async def test_a_writer_feeds_all_and_closes() -> None:
    for data in (b"", b"short", bytes(range(256)) * 8192):
        writer = Writer(data)
        outside = os.dup(writer.inner)
        writer.handed_over()
        assert await read_all(outside) == data
        os.close(outside)
        writer.close()


async def test_a_reader_of_stdin_that_goes_away_is_no_error() -> None:
    writer = Writer(b"x" * (1 << 20))
    writer.handed_over()
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert writer._descriptor == -1
    writer.close()


async def test_a_writer_may_be_closed_in_the_middle() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for data in (b"", b"short", b"x" * (1 << 20)):
        writer = Writer(data)
        await asyncio.sleep(0)
        writer.close()
        writer.close()
    assert len(os.listdir("/proc/self/fd")) == before
