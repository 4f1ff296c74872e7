"""The server's end of the launcher (executors.launcher_process): asks, and waits for answers without blocking the loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from executors import watching
from executors.child import memory_file
from executors.completion import completed
from executors.errors import SandboxBroken, SandboxUnavailable
from executors.launcher_process import DESCRIPTORS_MAX, MESSAGE_BYTES_MAX
from store.workspace import BindMount, OverlayMount

REQUEST_BYTES_MAX = 192 << 10
"""One request, which is little more than a job's arguments and environment; the kernel takes no larger datagram from a plain user."""
_log = logging.getLogger(__name__)
_PROCESS = Path(__file__).with_name("launcher_process.py")
_STOP_PATIENCE_S = 10.0

Answer = tuple[dict[str, Any], list[int]]


class Launcher:
    """One launcher process. Made by `start`; its death fails every request in flight with SandboxBroken."""

    def __init__(self, process: subprocess.Popen[bytes], link: socket.socket) -> None:
        self._process, self._link = process, link
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, tuple[asyncio.Future[Answer], Callable[[], None]]] = {}
        self._numbers, self._turns = itertools.count(1), itertools.count()
        self._send_turn = asyncio.Lock()
        self._room: asyncio.Future[None] | None = None
        """Done when whoever has the turn to send may try again."""
        self._linked = True
        self._loop.add_reader(link.fileno(), self._receive)

    @classmethod
    async def start(
        cls, setup: dict[str, Any], filter_program: bytes | None, program: Path = _PROCESS
    ) -> tuple[Launcher, dict[str, Any]]:
        """Start and set up a launcher (`program`); returns it with what it found out about this machine.

        Raises SandboxUnavailable when it cannot enter its namespaces or mount here.
        """
        try:
            launcher = cls(*_begin(program))
        except OSError as error:
            raise SandboxUnavailable(f"the sandbox launcher could not be started: {error.strerror}") from None
        try:
            facts = await launcher._set_up(setup, filter_program)
        except (SandboxBroken, OSError) as error:
            await completed(launcher.close())
            reason = getattr(error, "detail", None) or error
            raise SandboxUnavailable(f"the sandbox launcher could not be set up: {reason}") from None
        except BaseException:
            await completed(launcher.close())
            raise
        return launcher, facts

    async def _set_up(self, setup: dict[str, Any], filter_program: bytes | None) -> dict[str, Any]:
        descriptor = memory_file(filter_program or b"")
        try:
            facts, _ = await self.ask("setup", [descriptor] if filter_program else [], **setup)
        finally:
            os.close(descriptor)
        return facts

    @property
    def alive(self) -> bool:
        return self._linked and self._process.poll() is None

    def number(self) -> int:
        return next(self._numbers)

    def turn(self) -> int:
        """Of a run that keeps to one processor: each gets the next one."""
        return next(self._turns)

    async def ask(
        self,
        operation: str,
        descriptors: list[int],
        number: int | None = None,
        on_begin: Callable[[], None] = lambda: None,
        **facts: Any,
    ) -> Answer:
        """Send one request and wait for its answer: facts, and descriptors that are the caller's to close.

        Before that the launcher may tell that what was asked for has begun (`on_begin`), of a run that is watched.

        Raises SandboxBroken when the launcher refuses, or is gone.
        """
        identity = number if number is not None else self.number()
        await self._send({"op": operation, "id": identity, **facts}, descriptors)
        # Since it was sent nobody else had a turn, so its answer has not been received.
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting[identity] = future, on_begin
        try:
            answer, received = await future
        finally:
            self._waiting.pop(identity, None)
        if "error" in answer:
            for descriptor in received:
                os.close(descriptor)
            _log.error("the sandbox launcher could not %s: %s", operation, answer["error"])
            raise SandboxBroken("the sandbox failed; the server's log says why", detail=answer["error"])
        return answer, received

    async def tell(self, operation: str, number: int) -> None:
        """Send a request that has no answer of its own. A launcher that is gone need not be told: what it ran went with it."""
        with contextlib.suppress(SandboxBroken):
            await self._send({"op": operation, "id": number}, [])

    async def close(self) -> None:
        """End the launcher, and with it all it started and mounted."""
        self._fail()
        self._link.close()
        try:
            await asyncio.to_thread(self._process.wait, _STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def _send(self, message: dict[str, Any], descriptors: list[int]) -> None:
        data = json.dumps(message, ensure_ascii=False).encode()
        if len(data) > REQUEST_BYTES_MAX:
            # The launcher would see its beginning only, and could not go on.
            raise SandboxBroken(f"arguments and environment take {len(data)} bytes; at most {REQUEST_BYTES_MAX} fit")
        async with self._send_turn:
            while True:
                if not self.alive:
                    raise SandboxBroken("the sandbox launcher is gone")
                try:
                    socket.send_fds(self._link, [data], descriptors)
                    return
                except BlockingIOError:
                    await self._writable()
                except OSError as error:
                    raise SandboxBroken(f"the sandbox launcher cannot be reached: {error.strerror}") from None

    async def _writable(self) -> None:
        room = self._room = self._loop.create_future()
        self._loop.add_writer(self._link.fileno(), lambda: _settle(room))
        try:
            await room
        finally:
            if self._linked:
                self._loop.remove_writer(self._link.fileno())

    def _receive(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._link, MESSAGE_BYTES_MAX, DESCRIPTORS_MAX)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._fail()
            return
        answer = json.loads(data)
        future, on_begin = self._waiting.get(answer["id"], (None, None))
        if future is None or on_begin is None or future.done():
            for descriptor in descriptors:
                os.close(descriptor)
        elif "began" in answer:
            on_begin()
        else:
            future.set_result((answer, descriptors))

    def _fail(self) -> None:
        if self._linked:
            self._linked = False
            self._loop.remove_reader(self._link.fileno())
            self._loop.remove_writer(self._link.fileno())
            if self._room is not None:
                _settle(self._room)
            for future, _ in self._waiting.values():
                if not future.done():
                    future.set_exception(SandboxBroken("the sandbox launcher is gone"))


def _begin(program: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a launcher: its process, and our end of the socket to it. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(program), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
    return process, ours


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def held_before(mount: OverlayMount | BindMount) -> tuple[int, int]:
    """Bytes and inodes in what programs will write to, before they do; an overlay's upper folder is new."""
    if isinstance(mount, OverlayMount):
        return 0, 0
    return await completed(asyncio.get_running_loop().run_in_executor(None, watching.held, mount.folder))
