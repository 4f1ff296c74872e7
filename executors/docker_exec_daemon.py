"""The seam to Docker's daemon, where psf does nothing but ask it: programs started by it, and what it knows of them."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import docker.errors  # type: ignore[import-untyped]

from executors.docker_daemon import Daemon
from executors.profile import User

_HEAD_BYTES_MAX = 64 << 10
_ACCEPTED = (101, 200)
_TOLD_PATIENCE_S = 5.0
"""A busy daemon sees a program's end later than its streams' end."""
_EVENT_PATIENCE_S = 0.3
_TOLD_PAUSE_S = 0.02
_END_PATIENCE_S = 0.1


class ExecDaemon(Daemon):
    """`Daemon` that starts programs, too. Needs a socket: the daemon must be on this machine, since it shows folders of ours."""

    async def begin(
        self, identity: str, command: list[str], user: User, environment: dict[str, str], work_dir: str
    ) -> tuple[str, socket.socket]:
        """Start a program in a container: its id, and the connection that carries its streams."""

        def act() -> tuple[str, socket.socket]:
            made = self._client.exec_create(
                identity, command, stdin=True, user=f"{user.uid}:{user.gid}", environment=environment, workdir=work_dir
            )
            return made["Id"], self._hijacked(f"/exec/{made['Id']}/start", {"Detach": False, "Tty": False})

        return await self._do(act)

    async def exit_code(self, program: str) -> int | None:
        """How a program ended whose streams have; None when its container is gone, and all the daemon knew with it."""

        def act() -> int | None:
            deadline_s = time.monotonic() + _TOLD_PATIENCE_S
            while True:
                try:
                    known = self._client.exec_inspect(program)
                except docker.errors.APIError:
                    return None
                if not known["Running"] or time.monotonic() > deadline_s:
                    code: int | None = known["ExitCode"]
                    return code
                time.sleep(_TOLD_PAUSE_S)

        return await self._do(act)

    async def lives(self, identity: str) -> bool:
        """Whether a container goes on, some of whose processes were killed: those end a moment before it does."""

        def act() -> bool:
            deadline_s = time.monotonic() + _END_PATIENCE_S
            while time.monotonic() < deadline_s:
                try:
                    if not self._client.inspect_container(identity)["State"]["Running"]:
                        return False
                except docker.errors.NotFound:
                    return False
                time.sleep(_TOLD_PAUSE_S)
            return True

        return await self._do(act)

    async def ran_out_of_memory(self, identity: str, since_s: float) -> bool:
        """Whether the kernel killed something in a container for memory: an event, which may come a moment late."""

        def act() -> bool:
            deadline_s = time.monotonic() + _EVENT_PATIENCE_S
            wanted = {"container": identity, "event": "oom"}
            while time.monotonic() < deadline_s:
                if list(self._client.events(since_s, time.time(), wanted)):
                    return True
                time.sleep(_TOLD_PAUSE_S)
            return False

        return await self._do(act)

    def _wait_for_init(self, pid: int, command: list[str]) -> None:
        """Whoever asks for a program in it is made to wait by the daemon."""

    def _hijacked(self, path: str, body: dict[str, Any]) -> socket.socket:
        """Post a request whose connection then belongs to what it started.

        The library reads ahead, and what it has read of such a connection by then is lost.
        """
        text = json.dumps(body).encode()
        head = (
            f"POST /v{self._client.api_version}{path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
            f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(text)}\r\n\r\n"
        )
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self._settings.patience_s)
            connection.connect(self.url.removeprefix("unix://"))
            connection.sendall(head.encode() + text)
            status = _answered(connection).split(b" ", 2)[1]
            if int(status) not in _ACCEPTED:
                said = connection.recv(_HEAD_BYTES_MAX).decode(errors="replace")
                raise docker.errors.DockerException(f"it does not start a program: {said}")
        except BaseException:
            connection.close()
            raise
        return connection


def _answered(connection: socket.socket) -> bytes:
    """The head of the answer, and not a byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        seen = connection.recv(_HEAD_BYTES_MAX, socket.MSG_PEEK)
        if not seen or len(head) > _HEAD_BYTES_MAX:
            raise docker.errors.DockerException("it broke off an answer")
        # Its end may lie across what was taken before and what is seen now.
        end = (head + seen).find(b"\r\n\r\n")
        taken = len(seen) if end < 0 else end + 4 - len(head)
        head += connection.recv(taken)
    return head
