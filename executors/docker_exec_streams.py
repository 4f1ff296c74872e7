"""What goes in and out of a program that the daemon runs: one connection for its input and both outputs.

The daemon sends frames: a byte that names the stream, three of nothing, four for the length, then the bytes (Docker Engine API,
"Attach to a container"). The first byte on stdout is ours: the program begins after it. What comes in its place is what
the daemon has to say of a program that it could not start.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Iterator

from executors.interfaces import Output
from executors.output import READ_BYTES, Collector, Following

MARK = b"\n"
_HEADER = struct.Struct(">BxxxI")
_STDERR = 2
_COMPLAINT_BYTES_MAX = 4096


class Frames:
    """Parts the daemon's bytes into streams. Pure: it is fed, however they are cut."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._stream = self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Number of a stream and some of its bytes, as they come."""
        rest = memoryview(data)
        while rest:
            if not self._left:
                missing = _HEADER.size - len(self._header)
                self._header += rest[:missing]
                rest = rest[missing:]
                if len(self._header) < _HEADER.size:
                    return
                self._stream, self._left = _HEADER.unpack(self._header)
                self._header.clear()
                continue
            part = bytes(rest[: self._left])
            self._left -= len(part)
            rest = rest[len(part) :]
            yield self._stream, part


class Streams:
    """Serves one connection on the event loop, without ever waiting for the program to read or write.

    `began` is done when the program begins, `ended` when nothing can come any more, `flooded` when one output is beyond
    `flood_bytes`. `complaint` is what came of a program that never began. `following` gets all that comes.
    """

    def __init__(
        self, connection: socket.socket, stdin: bytes, kept_bytes: int, flood_bytes: int, following: Following
    ) -> None:
        self._following = following
        self._connection, self._rest, self._flood_bytes = connection, memoryview(stdin), flood_bytes
        self._frames = Frames()
        self._stdout, self._stderr = Collector(kept_bytes), Collector(kept_bytes)
        self._loop = asyncio.get_running_loop()
        self.began, self.ended, self.flooded = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.began_s = self.ended_s = 0.0
        self.complaint = b""
        self._open = self._writing = True
        connection.setblocking(False)
        self._loop.add_reader(connection, self._read)
        self._loop.add_writer(connection, self._write)

    def outputs(self) -> tuple[Output, Output]:
        return self._stdout.output(), self._stderr.output()

    def close(self) -> None:
        """Let go of the connection. Idempotent."""
        if self._open:
            self._open = False
            self._stop_writing()
            self._loop.remove_reader(self._connection)
            self._connection.close()
            self.ended_s = time.monotonic()
            self.ended.set()

    def _read(self) -> None:
        try:
            data = self._connection.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        for stream, part in self._frames.feed(data):
            self._take(stream, part)
        if not data:
            self.close()

    def _take(self, stream: int, part: bytes) -> None:
        if stream != _STDERR and not self.began.is_set():
            if self.complaint or not part.startswith(MARK):
                self.complaint += part[: _COMPLAINT_BYTES_MAX - len(self.complaint)]
                return
            self.began_s = time.monotonic()
            self.began.set()
            self._following.begin()
            part = part[len(MARK) :]
        # Of stderr all is the program's, also what overtakes the mark.
        collector = self._stderr if stream == _STDERR else self._stdout
        collector.feed(part)
        if collector.total_bytes > self._flood_bytes:
            self.flooded.set()
        self._following.feed("stderr" if stream == _STDERR else "stdout", part)

    def _write(self) -> None:
        try:
            while self._rest:
                self._rest = self._rest[self._connection.send(self._rest) :]
            # The program reads the end of its input; its outputs go on.
            self._connection.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            # The program closed its input, or is gone; that is its right.
            pass
        self._stop_writing()

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._connection)
