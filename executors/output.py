"""Taking in what a program writes, without ever waiting for it and without keeping more than was asked."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import ParamSpec

from executors.interfaces import PIECE_BYTES_MAX, Output, Watch

_log = logging.getLogger(__name__)
_Told = ParamSpec("_Told")
STREAMS = ("stdout", "stderr")
READ_BYTES = 256 << 10
HEAD_SHARE = 0.75
"""Of the kept bytes, this much is from the beginning, the rest from the end: errors are said last."""


class Collector:
    """Keeps the head and the tail of a stream, and counts all of it. Pure: it is fed."""

    def __init__(self, kept_bytes: int) -> None:
        self._head_max = int(kept_bytes * HEAD_SHARE)
        self._tail_max = kept_bytes - self._head_max
        self._head = bytearray()
        self._tail = bytearray()
        self.total_bytes = 0

    def feed(self, data: bytes) -> None:
        self.total_bytes += len(data)
        room = self._head_max - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        surplus = len(self._tail) - self._tail_max
        if surplus > 0:
            # Moves the start of the array, not its bytes.
            del self._tail[:surplus]

    def output(self) -> Output:
        left_out = self.total_bytes - len(self._head) - len(self._tail)
        between = mark(left_out) if left_out else b""
        return Output(bytes(self._head) + between + bytes(self._tail), self.total_bytes, bool(left_out))


def mark(left_out: int) -> bytes:
    """What stands where so many bytes do not."""
    return f"\n[... {left_out} bytes left out ...]\n".encode()


def tolerated(watch: Callable[_Told, None] | None) -> Callable[_Told, None] | None:
    """A watcher that never raises: when `watch` does, that is logged, and it is told no more."""
    if watch is None:
        return None
    heeded: Callable[_Told, None] | None = watch

    def tell(*told: _Told.args, **more: _Told.kwargs) -> None:
        nonlocal heeded
        if heeded is None:
            return
        try:
            heeded(*told, **more)
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - whatever it was, the run goes on
            heeded = None
            _log.exception("what watched a program's output failed and is told no more")

    return tell


class Following:
    """What a watcher is told of one program's streams (`interfaces.Watch`). Fed with all of them, however they are cut.

    Until `begin` all is held back: it may be the words of what should start the program, which are for the log alone.
    """

    def __init__(self, watch: Watch | None, kept_bytes: int) -> None:
        self._watch, self._kept_bytes = tolerated(watch), kept_bytes
        self._room = dict.fromkeys(STREAMS, kept_bytes)
        self._held: list[tuple[str, bytes]] | None = []

    @property
    def wanted(self) -> bool:
        return self._watch is not None

    def feed(self, stream: str, data: bytes) -> None:
        if self._watch is None or not self._room[stream]:
            return
        data = data[: self._room[stream]]
        self._room[stream] -= len(data)
        if self._held is not None:
            self._held.append((stream, data))
        else:
            self._tell(stream, data)

    def begin(self) -> None:
        """The program has begun. Idempotent."""
        held, self._held = self._held or [], None
        for stream, data in held:
            self._tell(stream, data)

    def end(self, stdout: Output, stderr: Output) -> None:
        """The program has ended, and this is what is kept."""
        self.begin()
        for stream, output in zip(STREAMS, (stdout, stderr), strict=True):
            if output.truncated:
                self._tell(stream, mark(output.total_bytes - self._kept_bytes))
        self.close()

    def close(self) -> None:
        """Nothing is told any more. Idempotent."""
        self._watch = None

    def _tell(self, stream: str, data: bytes) -> None:
        for at in range(0, len(data), PIECE_BYTES_MAX):
            if self._watch is not None:
                self._watch(stream, data[at : at + PIECE_BYTES_MAX])


class Reader:
    """Reads a pipe on the event loop. `on_flood` is called once, when more than `flood_bytes` have come; `follow` gets all that comes."""

    def __init__(
        self,
        kept_bytes: int,
        flood_bytes: int,
        on_flood: Callable[[], None],
        follow: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self._collector, self._follow = Collector(kept_bytes), follow
        self._flood_bytes, self._on_flood = flood_bytes, on_flood
        self._loop = asyncio.get_running_loop()
        self._descriptor, self.inner = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._descriptor, False)
        self.flooded = False
        self._loop.add_reader(self._descriptor, self._read)

    def handed_over(self) -> None:
        """The program has its end of the pipe: close ours of it."""
        if self.inner >= 0:
            os.close(self.inner)
            self.inner = -1

    def output(self) -> Output:
        """All of it. Only after every process that could write is dead: what is in the pipe now is all there will be.

        Its end is not waited for: a program may have left a descriptor of it in a socket, in flight, where it outlives
        every process.
        """
        while self._read():
            pass
        self._end()
        return self._collector.output()

    def close(self) -> None:
        self.handed_over()
        self._end()

    def _read(self) -> bool:
        """Take in what is there; False when nothing is."""
        if self._descriptor < 0:
            return False
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._end()
            return False
        self._collector.feed(data)
        if self._collector.total_bytes > self._flood_bytes and not self.flooded:
            self.flooded = True
            self._on_flood()
        self._follow(data)
        return True

    def _end(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


class Writer:
    """Feeds a program's stdin and closes it. A program that does not read, or stops reading, delays nothing."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)
        self._loop = asyncio.get_running_loop()
        self.inner, self._descriptor = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._descriptor, False)
        self._waiting = False
        self._write()

    def handed_over(self) -> None:
        if self.inner >= 0:
            os.close(self.inner)
            self.inner = -1

    def close(self) -> None:
        self.handed_over()
        if self._descriptor >= 0:
            if self._waiting:
                self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self) -> None:
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._descriptor, self._rest) :]
        except BlockingIOError:
            if not self._waiting:
                self._waiting = True
                self._loop.add_writer(self._descriptor, self._write)
            return
        except OSError:
            # The program closed its stdin; that is its right.
            pass
        self._finish()

    def _finish(self) -> None:
        if self._waiting:
            self._loop.remove_writer(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
