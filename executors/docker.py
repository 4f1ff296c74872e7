"""The Docker sandbox: programs in warm containers of a daemon, each with a workspace of its own for as long as a cell lasts.

Docker makes the container: its image, its namespaces, its limits. A launcher of ours (executors.docker_launcher) mounts
workspaces into it while it runs and brings programs in, confined as bubblewrap confines them: so a step asks nothing of the
daemon, and both kinds of sandbox give the same answers. That needs root, on the daemon's own machine.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import blake3
import msgspec

from executors import determinism, docker_container, egress, instance
from executors.completion import completed
from executors.docker_container import DockerSettings
from executors.docker_daemon import Daemon
from executors.docker_exec import DockerExecSandbox
from executors.docker_pool import Pool, Warm
from executors.egress import Egress
from executors.errors import OptionRefused, SandboxBroken, SandboxUnavailable
from executors.interfaces import Capabilities, Cell, Job, RunResult, Sandbox
from executors.launched import probe_folder, resource_limits
from executors.launched_cell import LaunchedCell
from executors.launcher import Answer, Launcher, held_before
from executors.paths import SCRATCH
from executors.profile import VERSION, Profile
from executors.sandboxes import Options, check_settings
from store.snapshot import Limits
from store.workspace import BindMount, OverlayMount

__all__ = ["DockerSandbox", "DockerSettings"]

_log = logging.getLogger(__name__)
_LAUNCHER = Path(__file__).with_name("docker_launcher.py")
_SCRATCH = {path: folder.decode() for path, folder in SCRATCH.items()}
_UNKNOWN = {
    "cgroup": None,
    "cgroup_missing": "not tried",
    "cpus_missing": "not tried",
    "label": "",
    "never_repeats": "not tried",
}
_NUMBERS = ("warm_containers", "memory_bytes", "processes", "cpus")
_NAMESPACED_PROCESSES = 8
"""The group's limit strikes first, since it counts how often it struck; the other one is this much above it."""


async def start(profile: Profile, options: Options) -> Sandbox:
    """`StartSandbox`. Settings: those of `settings_of`. Raises SandboxUnavailable.

    Containers are entered where they can be: not by a plain user, nor those of a runtime that was chosen.
    """
    settings = settings_of(options)
    if settings.runtime is not None or not profile.privileged:
        return await DockerExecSandbox.start(profile, settings)
    return await DockerSandbox.start(profile, settings)


def settings_of(options: Options) -> DockerSettings:
    """What the configuration says: `image`, `base_url`, `work_dir`, `runtime`, `pull`, numbers by their names, and `egress.SETTINGS`.

    Raises OptionRefused.
    """
    check_settings("docker", options, ("image", "base_url", "work_dir", "runtime", "pull", *_NUMBERS, *egress.SETTINGS))
    given = options.settings
    own = docker_container.own_system(given)
    values: dict[str, Any] = {name: given[name] for name in ("base_url", "runtime", "pull", *_NUMBERS) if name in given}
    values |= {
        "image": own.image,
        "work_dir": own.work_dir,
        "probe_parent": options.probe_parent,
        "workspace": options.workspace,
    }
    try:
        settings = msgspec.convert(values, DockerSettings, strict=False)
    except msgspec.ValidationError as error:
        raise OptionRefused(f"`sandbox_options`: docker: {error}") from None
    return msgspec.structs.replace(settings, egress=egress.configured("docker", given))


class DockerSandbox:
    """`Sandbox` in containers of one image. Made by `start`."""

    def __init__(self, profile: Profile, settings: DockerSettings, daemon: Daemon, launcher: Launcher) -> None:
        self._profile, self._settings, self._daemon, self._launcher = profile, settings, daemon, launcher
        self._egress = settings.egress
        configuration = docker_container.configuration(profile, settings, instance.own_name())
        self._pool = Pool(daemon, configuration, settings.warm_containers)
        self._restarting = asyncio.Lock()
        self._closed = False
        self._environment = docker_container.environment(profile, settings, daemon.image_variables)
        self.capabilities = _capabilities(profile, _UNKNOWN, None)

    @classmethod
    async def start(cls, profile: Profile, settings: DockerSettings) -> DockerSandbox:
        """Find the daemon and the image, remove what dead servers left, and run a program, before anybody relies on it.

        Raises SandboxUnavailable, saying what is missing and what to type.
        """
        if not profile.privileged:
            raise SandboxUnavailable(
                "the Docker sandbox mounts workspaces into running containers, which only root can; "
                "run psf as root, or use bubblewrap, which needs none"
            )
        wrong = docker_container.fault(settings)
        if wrong is not None:
            raise SandboxUnavailable(wrong)
        daemon = await Daemon.connect(settings)
        try:
            launcher = await _start_launcher(profile)
        except BaseException:
            await daemon.close()
            raise
        sandbox = cls(profile, settings, daemon, launcher)
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
            VERSION, "docker", os.uname().machine, self._daemon.image_identity, self._environment, self._settings.work_dir,
            self._profile.filter_program, self._profile.hostname, self._profile.shared_memory_bytes,
        ]  # fmt: skip
        return blake3.blake3(msgspec.msgpack.encode(facts)).digest()

    async def _try(self) -> None:
        """Run a program in a container, on an overlay if one can be had where workspaces will lie."""
        container = await self._pool.take(self._launcher)
        await self._pool.give_back(container)
        overlay: str | None = "not asked for"
        with probe_folder(self._settings.probe_parent) as folder:
            if self._settings.workspace != "copy":
                overlay = await self._try_overlay(folder)
            if overlay is not None:
                await self._try_program(BindMount(str(folder)))
            run_true = functools.partial(self._run_true, BindMount(str(folder)))
            self._egress = await egress.tried(self._egress, run_true)
        self.capabilities = egress.told(_capabilities(self._profile, container.facts, overlay), self._egress)

    async def _try_overlay(self, folder: Path) -> str | None:
        """None when a program runs on an overlay, else why not."""
        names = ("lower", "upper", "work")
        for name in names:
            (folder / name).mkdir()
        try:
            await self._try_program(OverlayMount(str(folder), names[:1], *names[1:]))
        except SandboxBroken as error:
            if self._settings.workspace == "overlay":
                raise
            return error.detail or str(error)
        return None

    async def _run_true(self, mount: OverlayMount | BindMount, limits: Limits) -> RunResult:
        async with self.open(mount, limits) as cell:
            return await cell.run(Job(("true",), (), b"", limits))

    async def _try_program(self, mount: OverlayMount | BindMount) -> None:
        result = await self._run_true(mount, Limits())
        if result.exit_code != 0:
            words = result.stderr.data.decode(errors="replace").strip() or result.ending.value
            raise SandboxUnavailable(f"the image {self._settings.image} cannot run `true`: {words}")

    @asynccontextmanager
    async def open(self, mount: OverlayMount | BindMount, limits: Limits) -> AsyncIterator[Cell]:
        self._egress.order(limits)  # before anything is done for a run that cannot be
        launcher = await self._living_launcher()
        container = await self._pool.take(launcher)
        cell = _DockerCell(self._profile, self._settings, self._environment, container, self._egress)
        try:
            await cell.open(mount, limits)
        except BaseException:
            await self._pool.throw_away(container)
            raise
        try:
            yield cell
        finally:
            await completed(self._let_go(container, cell))

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            async with self._restarting:  # one that is just being started is closed, too
                await self._launcher.close()
            await self._pool.close()
            await self._daemon.close()

    async def _let_go(self, container: Warm, cell: _DockerCell) -> None:
        try:
            clean = await cell.close()
        except BaseException:
            await self._pool.throw_away(container)
            raise
        await (self._pool.give_back(container) if clean else self._pool.throw_away(container))

    async def _living_launcher(self) -> Launcher:
        """The launcher, started anew if it died. What it had adopted is thrown away as it comes up."""
        async with self._restarting:
            if not self._launcher.alive and not self._closed:
                _log.error("the launcher for containers died; starting another")
                await completed(self._restart())
        return self._launcher

    async def _restart(self) -> None:
        await self._launcher.close()
        self._launcher = await _start_launcher(self._profile)


class _DockerCell(LaunchedCell):
    def __init__(
        self,
        profile: Profile,
        settings: DockerSettings,
        environment: dict[str, str],
        container: Warm,
        egress: Egress,
    ) -> None:
        super().__init__("docker", container.launcher, -1)
        self._egress = egress
        self._profile, self._settings, self._environment, self._container = profile, settings, environment, container

    async def open(self, mount: OverlayMount | BindMount, limits: Limits) -> None:
        scratch = {"bytes": limits.scratch_bytes, "inodes": limits.scratch_inodes, "folders": _SCRATCH}
        before = await held_before(mount)
        asked = self._ask("open", mount=msgspec.to_builtins(mount), before=before, scratch=scratch)
        _, descriptors = await completed(asked, undo=_close_descriptors)
        self.scratch = descriptors[0]

    async def close(self) -> bool:
        """Take the workspace out of the container. Returns whether nothing is left in it.

        Raises SandboxBroken when somebody still holds the workspace.
        """
        os.close(self.scratch)
        answer, _ = await self._ask("close", scratch={"folders": _SCRATCH})
        clean: bool = answer["clean"]
        return clean

    async def _ask(self, operation: str, **facts: Any) -> Answer:
        facts |= {"container": self._container.identity, "work_dir": self._settings.work_dir}
        shared = self._profile.shared_memory_bytes
        return await self._launcher.ask(operation, [], shared_memory_bytes=shared, **facts)

    def _order(self, job: Job) -> dict[str, Any]:
        environment = determinism.variables(self._environment, deterministic=job.deterministic) | dict(job.env)
        if any("\0" in text for text in (*job.argv, *environment, *environment.values())):
            raise SandboxBroken("an argument or a variable contains a NUL character, which no program can be given")
        in_group = self._container.facts["cgroup"] is not None
        return {
            "egress": self._egress.order(job.limits),
            "texts": dict(self._egress.texts()),
            "container": self._container.identity,
            "argv": job.argv,
            "environment": environment,
            "work_dir": self._settings.work_dir,
            "network": job.limits.network,
            "rlimits": resource_limits(job.limits, in_group=in_group),
            "memory_bytes": job.limits.memory_bytes,
            "cpu_time_s": job.limits.cpu_time_s,
            "cpus": job.limits.cpus,
            "disk_bytes": job.limits.disk_bytes,
            "disk_inodes": job.limits.disk_inodes,
            "processes": job.limits.processes + (_NAMESPACED_PROCESSES if in_group else 0),
            "group_processes": job.limits.processes,
            "wall_time_s": job.limits.wall_time_s,
        }


async def _close_descriptors(answer: Answer) -> None:
    for descriptor in answer[1]:
        os.close(descriptor)


async def _start_launcher(profile: Profile) -> Launcher:
    texts = {path: text for path, text in profile.texts if path.startswith("/etc/")}
    texts |= dict.fromkeys(profile.masked, "")
    setup = {"uid": profile.user.uid, "gid": profile.user.gid, "texts": texts}
    launcher, _ = await Launcher.start(setup, profile.filter_program, _LAUNCHER)
    return launcher


def _capabilities(profile: Profile, facts: dict[str, Any], overlay: str | None) -> Capabilities:
    missing = [
        "paths: where Docker keeps its images on the host shows in a program's table of mounts",
    ]
    if overlay is not None:
        missing.append(f"workspace: no overlays ({overlay}); trees are copied, which is slower")
    if facts["cgroup"] is None:
        missing.append(
            f"memory: no control group ({facts['cgroup_missing']}); limited for each process, not for a run, and not measured"
        )
    if facts["cpus_missing"] is not None:
        missing.append(f"cpus: no quota of processors ({facts['cpus_missing']}); `cpus` in limits cannot be given")
    if profile.filter_program is None:
        missing.append("system_calls: no filter for this architecture")
    if facts["label"]:
        missing.append(f"access control: the label {facts['label']} binds a container's init, not the programs in it")
    enforced = {
        "files": "the image, read-only; private work directory and scratch (mount namespace)",
        "network": "none but a loopback, or not even that (network namespace of its own)",
        "identity": "own user, pid, ipc, uts and cgroup namespaces; no capabilities; no new privileges",
        "wall_time": "killed by the launcher",
        "cpu_time": "RLIMIT_CPU, each process"
        + (f"; {facts['cgroup']}, all together, watched" if facts["cgroup"] else ""),
        "disk": "watched",
        "inodes": "watched",
        "memory": facts["cgroup"] or "RLIMIT_DATA, each process",
        "processes": "RLIMIT_NPROC" + (f" and {facts['cgroup']}" if facts["cgroup"] else ""),
        "output": "kept and flood caps",
        "file_size": "RLIMIT_FSIZE",
        "open_files": "RLIMIT_NOFILE",
        "scratch": "sized file system (hard)",
    }
    if facts["cpus_missing"] is None:
        enforced["cpus"] = f"a quota, {facts['cgroup']}"
    if profile.filter_program is not None:
        enforced["system_calls"] = "seccomp"
    repeats, random = determinism.told(facts["never_repeats"])
    workspace: Literal["overlay", "copy"] = "copy" if overlay is not None else "overlay"
    return Capabilities("docker", workspace, enforced | repeats, (*missing, *random))
