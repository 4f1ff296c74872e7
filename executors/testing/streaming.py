"""Seeing what a program prints while it runs."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from executors.interfaces import PIECE_BYTES_MAX, RunResult
from executors.testing.trial import LIMITS, Trial, python
from store.snapshot import Ending

ROOMY = msgspec.structs.replace(LIMITS, output_kept_bytes=2 << 20)
WAITS = """
import os, sys, time
for stream, name in ((sys.stdout, 'out'), (sys.stderr, 'err')):
    print(name, file=stream, flush=True)
    end_s = time.monotonic() + 15
    while not os.path.exists('saw ' + name):
        if time.monotonic() > end_s: sys.exit('nobody saw it')
        time.sleep(0.01)
    print('and on', file=stream, flush=True)
"""
"""Says a word on each stream and goes on only when somebody has seen it."""
MUCH = """
import os
for number in range(500):
    for descriptor, size in ((1, 2999), (2, 701)):
        data = b'%d ' % number + b'x' * size
        while data: data = data[os.write(descriptor, data):]
os.write(1, b'z' * 300_000)
"""


class Witness:
    """A watcher that remembers what it was told, in order."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, bytes]] = []

    def __call__(self, stream: str, piece: bytes) -> None:
        self.pieces.append((stream, piece))

    def saw(self, stream: str) -> bytes:
        return b"".join(piece for told, piece in self.pieces if told == stream)


class StreamingContract:
    async def test_what_is_printed_is_seen_before_the_program_ends(self, trial: Trial) -> None:
        witness = Witness()

        def watch(stream: str, piece: bytes) -> None:
            witness(stream, piece)
            word = witness.saw(stream).decode().partition("\n")[0]
            (trial.work / f"saw {word}").touch()

        result = await trial.run(*python(WAITS), watch=watch)
        assert (result.ending, result.exit_code) == (Ending.EXITED, 0), result
        assert (witness.saw("stdout"), witness.saw("stderr")) == (b"out\nand on\n", b"err\nand on\n")

    async def test_the_pieces_are_what_is_kept(self, trial: Trial) -> None:
        witness = Witness()
        result = await trial.run(*python(MUCH), limits=ROOMY, watch=witness)
        assert (result.stdout.total_bytes, result.stderr.total_bytes) > (1 << 20, 1 << 18)
        assert (witness.saw("stdout"), witness.saw("stderr")) == (result.stdout.data, result.stderr.data)
        assert {0 < len(piece) <= PIECE_BYTES_MAX for _, piece in witness.pieces} == {True}

    async def test_a_program_that_says_nothing_has_nothing_to_tell(self, trial: Trial) -> None:
        witness = Witness()
        await trial.run("true", watch=witness)
        assert witness.pieces == []

    async def test_beyond_what_is_kept_only_the_mark_is_seen(self, trial: Trial) -> None:
        limits = msgspec.structs.replace(LIMITS, output_kept_bytes=1000)
        witness = Witness()
        source = "import sys; print('first' + 'x' * 9000 + 'last', end=''); print('whole', file=sys.stderr)"
        result = await trial.run(*python(source), limits=limits, watch=witness)
        assert_marked(witness.saw("stdout"), result, b"first" + b"x" * 995)
        assert witness.saw("stderr") == b"whole\n"

    async def test_a_flood_is_stopped_though_somebody_watches(self, trial: Trial) -> None:
        limits = msgspec.structs.replace(LIMITS, output_kept_bytes=1000, output_flood_bytes=1 << 20)
        witness = Witness()
        result = await trial.run("yes", limits=limits, watch=witness)
        assert (result.ending, result.hit) == (Ending.OUTPUT_LIMIT, ("output",))
        assert_marked(witness.saw("stdout"), result, b"y\n" * 500)

    @pytest.mark.parametrize("error", [ValueError("no more"), asyncio.CancelledError()], ids=["error", "cancelled"])
    async def test_a_watcher_that_raises_is_logged_once_and_left_out(
        self, trial: Trial, error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        told = []

        def watch(stream: str, piece: bytes) -> None:
            told.append(stream)
            raise error

        result = await trial.run(*python(MUCH), limits=ROOMY, watch=watch)
        assert (result.ending, result.exit_code, result.stdout.truncated) == (Ending.EXITED, 0, False)
        assert result.stdout.total_bytes > 1 << 20
        assert len(told) == 1
        assert sum("watched" in message for message in caplog.messages) == 1

    async def test_a_cancelled_run_tells_nothing_afterwards(self, trial: Trial) -> None:
        witness, seen = Witness(), asyncio.Event()

        def watch(stream: str, piece: bytes) -> None:
            witness(stream, piece)
            seen.set()

        running = asyncio.ensure_future(trial.run("yes", watch=watch, limits=ROOMY))
        await asyncio.wait_for(seen.wait(), 20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        before = len(witness.pieces)
        await asyncio.sleep(0.1)
        assert len(witness.pieces) == before


def assert_marked(seen: bytes, result: RunResult, beginning: bytes) -> None:
    """Seen was the beginning, and then the mark that is in what is kept."""
    mark = b"\n[... %d bytes left out ...]\n" % (result.stdout.total_bytes - len(beginning))
    assert seen == beginning + mark
    assert mark in result.stdout.data
