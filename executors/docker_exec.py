"""The Docker sandbox by the daemon alone: nothing of ours enters a container, and nothing needs root.

Each run has a container of its own, made for its limits and thrown away after it: what is shown in a container cannot be
changed later, and no process outlives its container. Programs are started by the daemon (`docker exec`) beside an init
that lives as long as the server holds its input. So it works for members of the group `docker`, and for runtimes whose containers
have a kernel of their own; each run costs what a container costs (docs/adr/0012).
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import blake3
import msgspec

from executors import determinism, docker_container, docker_exec_container, egress, instance
from executors.completion import completed
from executors.docker_container import DockerSettings
from executors.docker_daemon import Started
from executors.docker_exec_daemon import ExecDaemon
from executors.docker_exec_folders import HostFolders
from executors.docker_exec_run import Run, folder_watches
from executors.errors import SandboxBroken, SandboxUnavailable
from executors.interfaces import Capabilities, Cell, Job, RunResult, Watch
from executors.launched import probe_folder
from executors.launcher import held_before
from executors.profile import VERSION, Profile
from store.snapshot import Limits
from store.workspace import BindMount, OverlayMount

_Value = TypeVar("_Value")
_UNIX = "unix://"
_NO_EGRESS = "its rules are made in the network namespace of a run, which only the launcher of root's server enters, with the default runtime"
_PROBE = """
read -r word < given; echo "$word" > made || exit 1
while read -r name value _; do case $name in Seccomp:) echo "$word $value";; esac; done < /proc/self/status
"""


class DockerExecSandbox:
    """`Sandbox` in containers of one image, each used once. Made by `start`."""

    def __init__(self, profile: Profile, settings: DockerSettings, daemon: ExecDaemon, folders: HostFolders) -> None:
        self._profile, self._settings, self._daemon, self._folders = profile, settings, daemon, folders
        self._environment = docker_container.environment(profile, settings, daemon.image_variables)
        self._egress = msgspec.structs.replace(settings.egress, lack=_NO_EGRESS)
        self._machine = _machine()
        self._running: dict[str, Started] = {}
        self._closed = False
        self.capabilities = Capabilities("docker", "copy", {}, ())

    @classmethod
    async def start(cls, profile: Profile, settings: DockerSettings) -> DockerExecSandbox:
        """Find the daemon, the runtime and the image, remove what dead servers left, and run a program.

        Raises SandboxUnavailable, saying what is missing and what to type; OptionRefused for a runtime that is not there.
        """
        wrong = docker_container.fault(settings)
        if wrong is not None:
            raise SandboxUnavailable(wrong)
        daemon = await ExecDaemon.connect(settings)
        try:
            _check(daemon)
            texts = docker_exec_container.texts(profile)
            folders = await asyncio.to_thread(HostFolders, settings.probe_parent, texts, profile.user)
        except BaseException:
            await daemon.close()
            raise
        sandbox = cls(profile, settings, daemon, folders)
        try:
            await sandbox._try()
        except SandboxBroken as error:
            await sandbox.close()
            raise SandboxUnavailable(f"Docker cannot start a program here: {error.detail or error}") from None
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    def identity(self) -> bytes:
        """Digest of all that a result may depend on of the system that programs see."""
        facts = [
            VERSION, "docker exec", os.uname().machine, self._daemon.image_identity, self._environment, self._settings.work_dir,
            self._settings.runtime, self._profile.filter_program, self._profile.hostname, self._profile.shared_memory_bytes,
            self._profile.user,
        ]  # fmt: skip
        return blake3.blake3(msgspec.msgpack.encode(facts)).digest()

    async def _try(self) -> None:
        """Run a program in a container, on an overlay if the daemon can mount one where workspaces will lie."""
        with probe_folder(self._settings.probe_parent) as folder:
            facts = await self._try_program(BindMount(str(folder)), folder)
            overlay: str | None = "not asked for"
            if not self._profile.privileged:
                overlay = "what the daemon mounts is root's to read"
            elif self._settings.workspace != "copy":
                overlay = await self._try_overlay(folder)
        capabilities = _capabilities(self._profile, self._settings, {**self._daemon.facts, **facts}, overlay)
        self.capabilities = egress.told(capabilities, self._egress)

    async def _try_overlay(self, folder: Path) -> str | None:
        """None when a program runs on an overlay, else why not."""
        names = ("lower", "upper", "work")
        for name in names:
            (folder / name).mkdir()
        try:
            await self._try_program(OverlayMount(str(folder), names[:1], *names[1:]), folder / "upper")
        except SandboxBroken as error:
            if self._settings.workspace == "overlay":
                raise
            return error.detail or str(error)
        return None

    async def _try_program(self, mount: OverlayMount | BindMount, writable: Path) -> dict[str, bool]:
        """What is there for a program, which has read a file of ours and written one."""
        word = secrets.token_hex(8)
        (writable / "given").write_text(word)
        if self._profile.privileged:
            os.chown(writable, self._profile.user.uid, self._profile.user.gid)
        async with self.open(mount, Limits()) as cell:
            result = await cell.run(Job(("/bin/sh", "-c", _PROBE), (), b"", Limits()))
        seen, _, filtered = result.stdout.data.decode(errors="replace").strip().partition(" ")
        if seen == word and (writable / "made").exists():
            return {"filtered": filtered == "2", "measured": result.usage.cpu_time_s is not None}
        words = result.stderr.data.decode(errors="replace").strip() or result.ending.value
        raise SandboxUnavailable(
            f"programs in the image {self._settings.image} cannot use folders of this machine: {words}; psf and the Docker "
            "daemon must be on one machine, not in containers, and the daemon may not map users"
        )

    @asynccontextmanager
    async def open(self, mount: OverlayMount | BindMount, limits: Limits) -> AsyncIterator[Cell]:
        self._egress.order(limits)  # before anything is done for a run that cannot be
        scratch = await self._in_thread(self._folders.make_scratch, undo=self._remove)
        try:
            descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield _ExecCell(self, mount, scratch, descriptor, limits)
            finally:
                os.close(descriptor)
        finally:
            await self._remove(scratch)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            ends = (self.end(container) for container in list(self._running.values()))
            # A daemon that cannot be asked ends them by itself, and the log says so.
            await asyncio.gather(*ends, return_exceptions=True)
            await self._daemon.close()
            await self._in_thread(self._folders.remove)

    async def run(
        self, job: Job, mount: OverlayMount | BindMount, scratch: Path, limits: Limits, watch: Watch | None
    ) -> RunResult:
        """Run a job in a new container, which is gone when this returns. For cells."""
        if job.deterministic:
            determinism.refuse(self.capabilities)
        environment = {**self._environment, **dict(job.env)}
        if any("\0" in text for text in (*job.argv, *environment, *environment.values())):
            raise SandboxBroken("an argument or a variable contains a NUL character, which no program can be given")
        mounts = docker_exec_container.mounts(self._settings, mount, str(scratch), self._folders.texts)
        body = docker_exec_container.configuration(
            self._profile, self._settings, instance.own_name(), job.limits, mounts, self._machine
        )
        container = await completed(self._begin(body), undo=self.end)
        try:
            before = await held_before(mount)
            where = self._settings.work_dir, container.pid
            watches = await self._in_thread(lambda: folder_watches(mount, before, *where, scratch, job.limits, limits))
            run = Run(self._daemon, container, job, watches, self.end, watch)
            return await run.result(environment, self._profile.user, self._settings.work_dir)
        finally:
            await completed(self.end(container))

    async def _begin(self, body: dict[str, Any]) -> Started:
        container = await self._daemon.start(body)
        self._running[container.identity] = container
        if self._closed:
            await self.end(container)
            raise SandboxBroken("the sandbox is closed")
        return container

    async def end(self, container: Started) -> None:
        """Kill a container and all in it, and see it gone. Idempotent."""
        if self._running.pop(container.identity, None) is not None:
            # The end of its input ends its init, also when the daemon is not there to be asked.
            os.close(container.stdin)
            await self._daemon.remove(container.identity)

    async def _remove(self, scratch: Path) -> None:
        await self._in_thread(lambda: self._folders.remove(scratch))

    async def _in_thread(
        self, act: Callable[[], _Value], undo: Callable[[_Value], Awaitable[object]] | None = None
    ) -> _Value:
        return await completed(asyncio.get_running_loop().run_in_executor(None, act), undo)


class _ExecCell:
    def __init__(
        self,
        sandbox: DockerExecSandbox,
        mount: OverlayMount | BindMount,
        folder: Path,
        scratch: int,
        limits: Limits,
    ) -> None:
        self._sandbox, self._mount, self._folder, self._limits = sandbox, mount, folder, limits
        self.scratch = scratch

    async def run(self, job: Job, watch: Watch | None = None) -> RunResult:
        return await self._sandbox.run(job, self._mount, self._folder, self._limits, watch)


def _machine() -> docker_exec_container.Machine:
    # The daemon's own limit is not to be had; it is ours where both are as the system starts them.
    return docker_exec_container.Machine(os.cpu_count() or 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _check(daemon: ExecDaemon) -> None:
    """Raises SandboxUnavailable for a daemon that cannot show our folders to programs as they are."""
    if not daemon.url.startswith(_UNIX):
        raise SandboxUnavailable(
            f"the Docker daemon at {daemon.url} may be elsewhere, and psf shows it folders of this machine; "
            "set `docker.base_url` to a socket such as unix:///var/run/docker.sock"
        )
    for option in daemon.facts.get("SecurityOptions") or []:
        if option in ("name=rootless", "name=userns"):
            raise SandboxUnavailable(
                f"the Docker daemon at {daemon.url} maps users ({option.removeprefix('name=')}), so programs could not write "
                "where psf reads; use a daemon that does not, or bubblewrap, which needs none"
            )


def _capabilities(
    profile: Profile, settings: DockerSettings, facts: dict[str, Any], overlay: str | None
) -> Capabilities:
    """What is enforced, from `facts`: what the daemon says that it can limit, and what was tried. Pure."""
    group = f"cgroup v{facts.get('CgroupVersion') or '1'}, by Docker"
    missing = [
        "paths: where workspaces and scratch lie on the host shows in a program's table of mounts",
        f"user_id: programs have the user id that they have on the host ({profile.user.uid}), not 1000",
        "exit_status: Docker tells death by signal n as exit code 128+n",
        "scratch: on the host's disk and watched, so what is written between two looks goes beyond its size",
        *determinism.told("the Docker daemon starts programs at random addresses")[1],
    ]
    if overlay is not None:
        missing.append(f"workspace: no overlays ({overlay}); trees are copied, which is slower")
    enforced = {
        "files": "the image, read-only; private work directory and scratch (binds)",
        "network": "none but a loopback, or no sockets even for that (network namespace of its own)",
        "identity": "own pid, ipc, uts, cgroup and mount namespaces; no capabilities; no new privileges",
        "wall_time": "its container is thrown away",
        "cpu_time": "RLIMIT_CPU, each process",
        "disk": "watched",
        "inodes": "watched",
        "output": "kept and flood caps",
        "file_size": "RLIMIT_FSIZE",
        "open_files": "RLIMIT_NOFILE",
        "scratch": "watched",
        "memory": group,
        "processes": f"{group}; {docker_exec_container.PROCESSES_MIN} at least",
    }
    for fact, name in (("MemoryLimit", "memory"), ("PidsLimit", "processes"), ("CpuCfsQuota", "cpus")):
        if not facts.get(fact):
            enforced[name] = "nothing"
            missing.append(f"{name.replace('_', ' ')}: the Docker daemon cannot limit it here")
        elif name == "cpus":
            enforced[name] = f"a quota, {group}"
    if facts.get("MemoryLimit") and not facts["measured"]:
        missing.append("memory: Docker limits it; what a run took cannot be seen from here")
    if facts["filtered"]:
        enforced["system_calls"] = "seccomp"
    else:
        missing.append(f"system_calls: no filter of ours is on programs of the runtime {settings.runtime or 'runc'}")
    return Capabilities("docker", "copy" if overlay is not None else "overlay", enforced, tuple(missing))
