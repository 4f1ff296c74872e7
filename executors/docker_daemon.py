"""The seam to Docker's daemon: the few things asked of it, in threads, and what its refusals mean in our words."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

import docker  # type: ignore[import-untyped]
import docker.errors  # type: ignore[import-untyped]
import msgspec
import requests.exceptions

from executors import instance
from executors.completion import completed
from executors.docker_container import OWN_IMAGE, RUNC, SERVER_LABEL, DockerSettings
from executors.errors import OptionRefused, SandboxBroken, SandboxUnavailable

_log = logging.getLogger(__name__)
_THREADS = 4
_INIT_PATIENCE_S = 2.0
_CONFLICT = 409
_NO_SHELL = re.compile(r'exec: "/bin/sh": .*no such file')
_NO_NAME = "invalid reference format"
DEFAULT_URL = "unix:///var/run/docker.sock"
_OWN_RECIPE = Path(__file__).parent / "images" / "pybash.Dockerfile"
_Value = TypeVar("_Value")

_FAILURES = (docker.errors.DockerException, requests.exceptions.RequestException, OSError)


class Started(msgspec.Struct, frozen=True):
    """A container that runs: its id, its init's pid on the host, and the descriptor that keeps its input open."""

    identity: str
    pid: int
    stdin: int

    @property
    def alive(self) -> bool:
        return os.path.exists(f"/proc/{self.pid}")


class Daemon:
    """Made by `connect`. Every failure is SandboxBroken, but while connecting, when it is SandboxUnavailable."""

    def __init__(self, settings: DockerSettings) -> None:
        self._settings = settings
        self.url = settings.base_url or os.environ.get("DOCKER_HOST") or DEFAULT_URL
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="psf-docker")
        self._client: Any = None
        self._closed = False
        self.image_identity = ""
        self.facts: dict[str, Any] = {}
        """What the daemon says of itself (GET /info)."""
        self.image_variables: tuple[tuple[str, str], ...] = ()

    @classmethod
    async def connect(cls, settings: DockerSettings) -> Self:
        """Find the daemon and the image, and remove what dead servers left there.

        Raises SandboxUnavailable, saying what to type.
        """
        daemon = cls(settings)
        try:
            await daemon._do(daemon._connect, telling=False)  # who asked for it is told
        except SandboxBroken as error:
            await daemon.close()
            raise SandboxUnavailable(error.detail or str(error)) from None
        except BaseException:
            await daemon.close()
            raise
        return daemon

    async def start(self, configuration: dict[str, Any]) -> Started:
        """Make and start a container. Nothing is left of one that could not be started."""
        return await self._do(lambda: self._start(configuration))

    async def remove(self, identity: str) -> None:
        """Kill and remove a container. That it is gone already is no failure."""
        await self._do(lambda: self._remove(identity))

    async def close(self) -> None:
        """Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._client is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._client.close)
        self._threads.shutdown(wait=False)

    async def _do(self, act: Callable[[], _Value], *, telling: bool = True) -> _Value:
        """Do something in a thread, to its end. `telling`: whether the log says what failed."""
        if self._closed:
            raise SandboxBroken("the sandbox is closed")

        def renamed() -> _Value:
            try:
                _knock(self.url)
                return act()
            except _FAILURES as error:
                raise SandboxBroken(
                    "the Docker daemon failed; the server's log says why", detail=said(error, self.url)
                ) from error

        try:
            return await completed(asyncio.get_running_loop().run_in_executor(self._threads, renamed))
        except SandboxBroken as error:
            if telling:
                _log.error("Docker: %s", error.detail)
            raise

    # -- in a thread --------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if "://" not in self.url:
            name, refusal = (
                ("docker.base_url", OptionRefused) if self._settings.base_url else ("DOCKER_HOST", SandboxUnavailable)
            )
            raise refusal(f"`{name}`: {self.url!r} is no address of a daemon; it must be one such as {DEFAULT_URL}")
        self._client = docker.APIClient(base_url=self.url, version="auto", timeout=self._settings.patience_s)
        image = self._image()
        self.image_identity = image["Id"]
        variables = (image.get("Config") or {}).get("Env") or []
        self.image_variables = tuple((name, value) for name, _, value in (line.partition("=") for line in variables))
        self.facts = self._client.info()
        runtime, known = self._settings.runtime or RUNC, self.facts.get("Runtimes") or {}
        if runtime not in known:
            # Whoever chose one chose its walls: no other sandbox may be taken instead.
            refusal = OptionRefused if self._settings.runtime else SandboxUnavailable
            raise refusal(
                f"the Docker daemon has no runtime {runtime!r} (it has {', '.join(sorted(known))}); {how_to_register(runtime)}"
            )
        self._sweep()

    def _image(self) -> Any:
        name = self._settings.image
        try:
            return self._client.inspect_image(name)
        except docker.errors.NotFound:
            pass
        except docker.errors.APIError as error:
            if _NO_NAME not in str(error.explanation):
                raise
            raise OptionRefused(
                f"`docker.image`: {name!r} is no name of an image ({error.explanation}); it must be one such as {OWN_IMAGE}"
            ) from None
        if self._settings.pull == "never":
            raise SandboxUnavailable(f"the image {name} is not here; {how_to_get(name, self._settings.base_url)}")
        try:
            self._client.pull(name)
            return self._client.inspect_image(name)
        except docker.errors.APIError as error:
            raise SandboxUnavailable(
                f"the image {name} could not be pulled: {error.explanation}; {how_to_get(name, self._settings.base_url)}"
            ) from None

    def _sweep(self) -> None:
        for container in self._client.containers(all=True, filters={"label": SERVER_LABEL}):
            owner = container["Labels"].get(SERVER_LABEL, "")
            if instance.is_dead(owner):
                _log.warning("removing container %s, which a server that is gone left", container["Id"][:12])
                self._remove(container["Id"])

    def _start(self, configuration: dict[str, Any]) -> Started:
        identity: str = self._client.create_container_from_config(configuration)["Id"]
        stdin = -1
        try:
            stdin = self._attach(identity)
            self._client.start(identity)
            pid: int = self._client.inspect_container(identity)["State"]["Pid"]
            if not pid:
                raise docker.errors.DockerException("it ended at once: /bin/sh of its image does not run")
            self._wait_for_init(pid, configuration["Entrypoint"])
        except BaseException:
            if stdin >= 0:
                os.close(stdin)
            with contextlib.suppress(*_FAILURES):
                self._remove(identity)
            raise
        return Started(identity, pid, stdin)

    def _wait_for_init(self, pid: int, command: list[str]) -> None:
        """The daemon says that a container is started a moment before its init is what was asked for."""
        deadline_s = time.monotonic() + _INIT_PATIENCE_S
        with contextlib.suppress(OSError):
            while (
                Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1] != command and time.monotonic() < deadline_s
            ):
                time.sleep(0.001)

    def _attach(self, identity: str) -> int:
        """A descriptor of our own on the container's input; what the library holds of it is closed."""
        stream = self._client.attach_socket(identity, params={"stdin": 1, "stream": 1})
        try:
            return os.dup(stream.fileno())
        finally:
            underlying = getattr(stream, "_sock", None)
            stream.close()
            if isinstance(underlying, socket.socket):
                underlying.close()

    def _remove(self, identity: str) -> None:
        with contextlib.suppress(docker.errors.NotFound):
            try:
                self._client.remove_container(identity, force=True, v=True)
            except docker.errors.APIError as error:
                if error.status_code != _CONFLICT:
                    raise
                # The daemon is at it already, since the container ended.
                self._client.wait(identity, condition="removed")


def _knock(url: str) -> None:
    """Raise OSError when nobody listens. The library would leave a socket open, and wrap the error several times."""
    if url.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(url.removeprefix("unix://"))


def how_to_get(image: str, url: str | None) -> str:
    """What to type to have an image; `url`: that of a daemon which Docker's commands would not ask by themselves."""
    command = f"docker -H {url}" if url else "docker"
    if image.split(":", maxsplit=1)[0] == OWN_IMAGE:
        return (
            f"type `{command} build -t {image} - < {_OWN_RECIPE}`; docs/executors.md says what to do without a registry"
        )
    return f"type `{command} pull {image}`, or build it"


def how_to_register(runtime: str) -> str:
    """What to type to have a runtime: gVisor's has a command for it."""
    if runtime == "runsc":
        return "install gVisor, then type `sudo runsc install && sudo systemctl restart docker`"
    return (
        f'install it, put {{"runtimes": {{"{runtime}": {{"path": "/usr/bin/{runtime}"}}}}}} into /etc/docker/daemon.json '
        "and type `sudo systemctl restart docker`"
    )


def said(error: BaseException, url: str) -> str:
    """A failure in words that say what to do, from the library's exception. Pure."""
    if isinstance(error, docker.errors.APIError):
        if _NO_SHELL.search(str(error.explanation)):
            return "its image has no /bin/sh, which psf needs in every image; set `docker.image` to one that has it"
        return f"the Docker daemon refused: {error.explanation or error}"
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOENT, errno.ECONNREFUSED) or "Connection refused" in str(error):
        return (
            f"no Docker daemon answers at {url}; start one (`sudo systemctl start docker`), or say where it listens"
            " (DOCKER_HOST, or `--sandbox-options docker.base_url=unix:///...`)"
        )
    if number in (errno.EACCES, errno.EPERM):
        return f"no permission to use the Docker daemon at {url}; run psf as root, or type `sudo usermod -aG docker $USER` and log in again"
    return f"the Docker daemon at {url} does not answer: {error}"
