"""A real server: `psf serve` as a process of its own, with a store in a temporary folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

READY_PATIENCE_S = 30.0


class Server:
    """`psf serve` on a free port. `call` speaks plain HTTP with the standard library, as any client could."""

    def __init__(self, store: Path, *flags: str, environment: dict[str, str] | None = None) -> None:
        self.store = store
        self._log = (store.parent / f"{store.name}.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "psf.cli", "serve", "--port", "0", "--store", str(store), *flags],
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **(environment or {})},
        )
        self.url = self._ready()

    def _ready(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        if " is ready on " not in line:
            pytest.fail(f"the server did not start: {line!r}; its log: {self.log_text()}")
        return line.split(" is ready on ")[1].split()[0]

    def log_text(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and decoded JSON. A connection that breaks raises OSError."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json", **headers}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def session(self, language: str = "python", **fields: Any) -> str:
        status, answer = self.call("POST", "/create_session", {"language": language, **fields})
        assert status == 200, answer
        return answer["session_id"]

    def execute(self, session_id: str, code: str, **fields: Any) -> dict[str, Any]:
        status, answer = self.call("POST", "/execute_session", {"session_id": session_id, "code": code, **fields})
        assert status == 200, answer
        return answer

    def log(self, session_id: str) -> list[dict[str, Any]]:
        """The whole log, newest first, by its pages."""
        moves: list[dict[str, Any]] = []
        cursor = ""
        while True:
            status, answer = self.call("GET", f"/v1/sessions/{session_id}/log?limit=7{cursor}")
            assert status == 200, answer
            moves += answer["moves"]
            if answer["next"] is None:
                return moves
            cursor = f"&cursor={answer['next']}"

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        try:
            return self.process.wait(60)
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._log.close()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers; those still running at the end are stopped."""
    started: list[Server] = []

    def start(*flags: str, store: Path | None = None, environment: dict[str, str] | None = None) -> Server:
        server = Server(store or tmp_path / "store", *flags, environment=environment)
        started.append(server)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    return start_server()


def descendants(pid: int) -> set[tuple[int, str]]:
    """Processes below `pid`, each with its start time, so that a reused pid is not taken for it."""
    children: dict[int, list[int]] = {}
    starts: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
                starts[int(entry.name)] = fields[19]
    found: set[tuple[int, str]] = set()
    ahead = [pid]
    while ahead:
        for child in children.get(ahead.pop(), []):
            found.add((child, starts[child]))
            ahead.append(child)
    return found


def is_alive(process: tuple[int, str]) -> bool:
    """Whether a process still runs; a zombie that waits for its reaper does not."""
    try:
        fields = Path(f"/proc/{process[0]}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[19] == process[1] and fields[0] != "Z"


def eventually(holds: Callable[[], bool], patience_s: float = 10.0) -> bool:
    deadline_s = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True
