"""A Redis server of the tests' own: on a unix socket, in a folder of its own, with an append-only file that is synced always."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

PROGRAM = "redis-server"
_PATIENCE_S = 20.0
_DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class TestRedis:
    """`url` is where it listens. `stop`, `kill`, `pause` and `start` it as often as wanted. `options` come after ours, and count."""

    __test__ = False

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self._options = folder, options
        self._socket = folder / "redis.sock"
        self.url = f"unix://{self._socket}"
        self._process: subprocess.Popen[bytes] | None = None
        self._client = redis.Redis(unix_socket_path=str(self._socket), protocol=2)

    def start(self) -> None:
        command = [
            PROGRAM, "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700", "--dir", str(self.folder), "--save", "",
            *_DURABLE, *self._options,
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline_s = time.monotonic() + _PATIENCE_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError((self.folder / "log").read_text()[-4000:])
            time.sleep(0.01)

    def answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(self._client.ping())
        return False

    def command(self, *words: str | bytes | int) -> object:
        return self._client.execute_command(*words)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def forget(self) -> None:
        self._client.close()

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(_PATIENCE_S)
            self._process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextmanager
def running(*options: str) -> Iterator[TestRedis]:
    """A server that is empty. Skips where there is none to be had."""
    if shutil.which(PROGRAM) is None:
        pytest.skip("redis-server is not installed")
    # A short name: names of sockets below it have 108 bytes.
    folder = Path(tempfile.mkdtemp(prefix="psf-redis-"))
    server = TestRedis(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.kill()  # one that writes its first append-only file would not end at a word
        server.forget()
        shutil.rmtree(folder)
