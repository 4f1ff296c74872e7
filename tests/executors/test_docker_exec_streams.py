"""Streams of a program that the daemon runs: parted however they are cut, its beginning told from what is said in its place."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from executors.docker_exec_streams import Frames, Streams
from executors.interfaces import Watch
from executors.output import Following
from executors.testing.streaming import Witness

KEPT, FLOOD = 1000, 10_000


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


def joined(parts: list[tuple[int, bytes]]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for stream, data in parts:
        found[stream] = found.get(stream, b"") + data
    return found


@pytest.mark.parametrize("cut", [1, 2, 7, 8, 9, 1000])
def test_frames_are_parted_however_they_are_cut(cut: int) -> None:
    sent = frame(1, b"out") + frame(2, b"x" * 300) + frame(1, b"") + frame(1, b"\x01\x00\x00\x00more")
    frames = Frames()
    parts = [part for at in range(0, len(sent), cut) for part in frames.feed(sent[at : at + cut])]
    assert joined(parts) == {1: b"out\x01\x00\x00\x00more", 2: b"x" * 300}


@pytest.fixture
async def daemon() -> AsyncIterator[socket.socket]:
    """The daemon's end of a connection; ours is `peer` of it."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    PEERS[theirs] = ours
    yield theirs
    del PEERS[theirs]
    theirs.close()
    ours.close()


PEERS: dict[socket.socket, socket.socket] = {}


def streams(daemon: socket.socket, stdin: bytes = b"", watch: Watch | None = None) -> Streams:
    return Streams(PEERS[daemon], stdin, KEPT, FLOOD, Following(watch, KEPT))


async def said(found: Streams, daemon: socket.socket, sent: bytes) -> tuple[bytes, bytes]:
    daemon.sendall(sent)
    daemon.shutdown(socket.SHUT_WR)
    await asyncio.wait_for(found.ended.wait(), 5)
    stdout, stderr = found.outputs()
    return stdout.data, stderr.data


async def test_the_mark_is_no_output_and_all_after_it_is(daemon: socket.socket) -> None:
    found = streams(daemon)
    assert await said(found, daemon, frame(1, b"\n\nout") + frame(2, b"error")) == (b"\nout", b"error")
    assert found.began.is_set()


async def test_what_overtakes_the_mark_on_stderr_is_the_programs(daemon: socket.socket) -> None:
    found = streams(daemon)
    assert await said(found, daemon, frame(2, b"error") + frame(1, b"\n") + frame(1, b"out")) == (b"out", b"error")
    assert found.began.is_set()


async def test_words_in_place_of_the_mark_are_a_complaint_and_no_beginning(daemon: socket.socket) -> None:
    found = streams(daemon)
    assert await said(found, daemon, frame(1, b"OCI runtime exec failed") + frame(1, b"\n more")) == (b"", b"")
    assert not found.began.is_set()
    assert found.complaint == b"OCI runtime exec failed\n more"


async def test_a_watcher_sees_what_is_the_programs_once_it_begins(daemon: socket.socket) -> None:
    witness = Witness()
    found = streams(daemon, watch=witness)
    daemon.sendall(frame(2, b"early"))
    await asyncio.sleep(0.05)
    assert witness.pieces == []
    await said(found, daemon, frame(1, b"\n") + frame(1, b"out") + frame(2, b"error"))
    assert witness.pieces == [("stderr", b"early"), ("stdout", b"out"), ("stderr", b"error")]


async def test_a_watcher_sees_no_complaint(daemon: socket.socket) -> None:
    witness = Witness()
    await said(streams(daemon, watch=witness), daemon, frame(2, b"runc: /var/lib") + frame(1, b"OCI runtime failed"))
    assert witness.pieces == []


async def test_input_goes_out_whole_and_ends_while_outputs_go_on(daemon: socket.socket) -> None:
    found = streams(daemon, b"x" * 3_000_000)
    received = await asyncio.to_thread(lambda: sum(len(part) for part in iter(lambda: daemon.recv(1 << 16), b"")))
    assert received == 3_000_000
    assert await said(found, daemon, frame(1, b"\nout")) == (b"out", b"")


async def test_a_flood_is_told_once_it_is_one(daemon: socket.socket) -> None:
    found = streams(daemon)
    daemon.sendall(frame(1, b"\n" + b"x" * FLOOD))
    await asyncio.wait_for(found.began.wait(), 5)
    assert not found.flooded.is_set()
    daemon.sendall(frame(1, b"x"))
    await asyncio.wait_for(found.flooded.wait(), 5)
    found.close()
    assert found.outputs()[0].total_bytes == FLOOD + 1


async def test_a_daemon_that_goes_away_ends_them(daemon: socket.socket) -> None:
    found = streams(daemon, b"x" * 3_000_000)
    daemon.close()
    await asyncio.wait_for(found.ended.wait(), 5)
    found.close()
    assert not found.began.is_set()
