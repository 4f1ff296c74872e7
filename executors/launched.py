"""Sandboxes on this machine whose programs the launcher starts by way of a confiner: bwrap, or another program of its kind.

All is here but how a confiner is told what the walls are. No confiner is started as root: one that makes a user namespace would map
its user to the host's root, who may write kernel settings.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import resource
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import msgspec

from executors import determinism, egress
from executors.completion import completed
from executors.egress import Egress
from executors.errors import SandboxBroken, SandboxUnavailable
from executors.interfaces import Capabilities, Cell, Job, RunResult
from executors.launched_cell import LaunchedCell
from executors.launcher import Answer, Launcher, held_before
from executors.paths import SCRATCH
from executors.profile import Profile
from executors.sandboxes import Options
from store.files import Files
from store.snapshot import Limits, Network
from store.workspace import BindMount, OverlayMount

_log = logging.getLogger(__name__)
_ENV = "/usr/bin/env"
_STAGED, _PROCESSES_OF_OURS = "on the stage", 2
"""The second: what confines outside and its pid 1 inside count towards a control group's limit, and are not the program's."""


class Confiner(msgspec.Struct, frozen=True):
    """The program that puts up the walls around one job, and how it is told what they are.

    `program` and `libraries` are copied to where the sandbox's user can reach them. `command` is its argv, up to the number of
    processes and the job's argv. What `compile` gives (for a profile, the launcher's stage, a cell and what programs can reach; without
    a network it is started in a namespace for that, to which it must keep) it finds on ARGUMENTS_DESCRIPTOR, each piece followed by
    `terminator`. It must start the program as a child of its pid namespace's
    first process. `litters`: a folder where it makes folders; only the launcher's namespace sees what stands there.
    """

    sandbox: str
    program: str
    libraries: tuple[str, ...]
    command: tuple[str, ...]
    compile: Callable[[Profile, str, str, Network], list[str]]
    terminator: str = "\0"
    litters: str | None = None


class LaunchedSandbox:
    """`Sandbox` on this machine, whose programs the launcher starts by way of a confiner. Made by `launch`."""

    def __init__(
        self, profile: Profile, confiner: Confiner, options: Options, launcher: Launcher, facts: dict[str, Any]
    ) -> None:
        self._profile, self._confiner, self._options = profile, confiner, options
        self._egress = egress.configured(confiner.sandbox, options.settings)
        self._launcher, self._facts = launcher, facts
        self._numbers = itertools.count(1)
        self._restarting = asyncio.Lock()
        self._closed = False
        self.capabilities = _capabilities(profile, confiner.sandbox, options.workspace, facts)

    @classmethod
    async def launch(cls, profile: Profile, confiner: Confiner, options: Options) -> Self:
        """Start the launcher and find out what can be enforced here, by doing it.

        Raises SandboxUnavailable when there are no namespaces to be had, or no program can be started in them.
        """
        launcher, facts = await _start_launcher(profile, confiner, options)
        sandbox = cls(profile, confiner, options, launcher, facts)
        try:
            await sandbox._try()
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    async def _try(self) -> None:
        """Run a program, before anybody relies on it; and one that has a way out, if that can be had."""
        try:
            result, self._egress = await asyncio.gather(
                self._run_true(Limits()), egress.tried(self._egress, self._run_true)
            )
        except SandboxBroken as error:
            raise SandboxUnavailable(
                f"{self._confiner.sandbox} cannot start a program here: {error.detail or error}"
            ) from None
        if result.exit_code != 0:
            raise SandboxUnavailable(f"{self._confiner.sandbox} cannot run `true` here: {result}")
        self.capabilities = egress.told(self.capabilities, self._egress)

    async def _run_true(self, limits: Limits) -> RunResult:
        with probe_folder(self._options.probe_parent) as folder:
            async with self.open(BindMount(str(folder)), limits) as cell:
                return await cell.run(Job(("true",), (), b"", limits))

    @asynccontextmanager
    async def open(self, mount: OverlayMount | BindMount, limits: Limits) -> AsyncIterator[Cell]:
        self._egress.order(limits)  # before anything is done for a run that cannot be
        launcher = await self._living_launcher()
        name = f"cell-{next(self._numbers)}"
        scratch = {"bytes": limits.scratch_bytes, "inodes": limits.scratch_inodes, "folders": _scratch_folders()}

        async def close(answer: Answer) -> None:
            os.close(answer[1][0])
            try:
                await launcher.ask("close", [], cell=name)
            except SandboxBroken:
                if launcher.alive:
                    raise
                # What it mounted went with it.

        mounted: dict[str, Any] = {"mount": msgspec.to_builtins(mount), "before": await held_before(mount)}
        opening = launcher.ask("open", [], cell=name, scratch=scratch, **mounted)
        answer = await completed(opening, undo=close)
        try:
            yield _ConfinedCell(self._profile, self._confiner, self._facts, launcher, name, answer[1][0], self._egress)
        finally:
            await completed(close(answer))

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            async with self._restarting:  # one that is just being started is closed, too
                await self._launcher.close()

    async def _living_launcher(self) -> Launcher:
        """The launcher, started anew if it died: its death ends what it ran, not the server."""
        async with self._restarting:
            if not self._launcher.alive and not self._closed:
                _log.error("the sandbox launcher died; starting another")
                await completed(self._restart())
        return self._launcher

    async def _restart(self) -> None:
        await self._launcher.close()
        self._launcher, self._facts = await _start_launcher(self._profile, self._confiner, self._options)


class _ConfinedCell(LaunchedCell):
    def __init__(
        self,
        profile: Profile,
        confiner: Confiner,
        facts: dict[str, Any],
        launcher: Launcher,
        name: str,
        scratch: int,
        egress: Egress,
    ) -> None:
        super().__init__(confiner.sandbox, launcher, scratch)
        self._egress = egress
        self._profile, self._confiner, self._facts, self._name = profile, confiner, facts, name

    def _order(self, job: Job) -> dict[str, Any]:
        # The call's own variables are the program's alone: in the shell at the gate, LD_PRELOAD would run before all limits.
        own = [f"{key}={value}" for key, value in job.env]
        argv = (_ENV, "--", *own, *job.argv) if own else job.argv
        if any("\0" in text for text in argv):
            # It separates what bwrap is told: what follows it would be an order to bwrap.
            raise SandboxBroken("an argument or a variable contains a NUL character, which no program can be given")
        in_group = self._facts["cgroup"] is not None
        order = self._egress.order(job.limits)
        profile = self._profile if order is None else _with_texts(self._profile, self._egress)
        variables = determinism.variables(dict(profile.environment), deterministic=job.deterministic)
        profile = msgspec.structs.replace(profile, environment=tuple(variables.items()))
        return {
            "argv": argv,
            "egress": order,
            "arguments": self._confiner.compile(profile, self._facts["stage"], self._name, job.limits.network),
            "network": job.limits.network,
            "rlimits": resource_limits(job.limits, in_group=in_group),
            "memory_bytes": job.limits.memory_bytes,
            "cell": self._name,
            "cpu_time_s": job.limits.cpu_time_s,
            "cpus": job.limits.cpus,
            "disk_bytes": job.limits.disk_bytes,
            "disk_inodes": job.limits.disk_inodes,
            # The group's limit strikes first, where there is one, since it counts how often it struck.
            "processes": job.limits.processes + (4 * _PROCESSES_OF_OURS if in_group else 1),
            "group_processes": job.limits.processes + _PROCESSES_OF_OURS,
            "wall_time_s": job.limits.wall_time_s,
        }


def _with_texts(profile: Profile, egress: Egress) -> Profile:
    """The profile of a program with egress: what it finds in /etc is on the stage, and shown over what others find."""
    shown = tuple((_STAGED, path) for path, _ in egress.texts())
    return msgspec.structs.replace(profile, binds=(*profile.binds, *shown))


async def _start_launcher(profile: Profile, confiner: Confiner, options: Options) -> tuple[Launcher, dict[str, Any]]:
    own_texts = egress.configured(confiner.sandbox, options.settings).texts()
    setup = {
        "uid": profile.user.uid,
        "gid": profile.user.gid,
        "program": confiner.program,
        "libraries": confiner.libraries,
        "command": confiner.command,
        "terminator": confiner.terminator,
        "litters": confiner.litters,
        "system": profile.system,
        "texts": {
            **{f"root{path}": text for path, text in profile.texts},
            **{staged(path): text for path, text in own_texts},
        },
        "binds": _binds(profile),
    }
    with probe_folder(options.probe_parent) as folder:
        return await Launcher.start({**setup, "probe_folder": str(folder)}, profile.filter_program)


def _binds(profile: Profile) -> dict[str, str]:
    """What the stage shows of the host: what the sandbox's user cannot reach by itself, and all of /etc that programs see."""
    private = {staged(target): source for source, target in profile.binds if not is_reachable(source)}
    return private | {f"root{target}": source for source, target in profile.binds if comes_with_etc(source, target)}


@contextmanager
def probe_folder(parent: Path) -> Iterator[Path]:
    """A folder for trying something where workspaces will lie."""
    folder = parent / f"probe-{secrets.token_hex(8)}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        Files().remove_tree(os.fsencode(folder))


def is_reachable(path: str) -> bool:
    """Whether the sandbox's user can reach a host path by itself; others are offered on the launcher's stage."""
    return path.startswith(("/etc/", "/usr/"))


def comes_with_etc(source: str, target: str) -> bool:
    """Whether programs see it by way of the stage's own /etc, which is whole: with what is the host's and what is made up."""
    return target.startswith("/etc/") and source != _STAGED


def staged(target: str) -> str:
    return "bind" + target


def _scratch_folders() -> list[str]:
    return [folder.decode() for folder in SCRATCH.values()]


def resource_limits(limits: Limits, *, in_group: bool) -> dict[str, tuple[int, int]]:
    """Limits of each process (RLIMIT_ names, soft and hard), beside those of a control group if there is one."""
    chosen = {
        "CORE": (0, 0),
        "CPU": (limits.cpu_time_s, limits.cpu_time_s + 1),
        "FSIZE": (limits.file_bytes, limits.file_bytes),
        "NOFILE": (limits.open_files, limits.open_files),
        "MEMLOCK": (8 << 20, 8 << 20),
        "STACK": (8 << 20, resource.RLIM_INFINITY),
    }
    if not in_group:
        # Private writable memory of each process; address space (RLIMIT_AS) would break runtimes that only reserve it.
        chosen["DATA"] = (limits.memory_bytes, limits.memory_bytes)
    return chosen


def _capabilities(profile: Profile, sandbox: str, workspace: str, facts: dict[str, Any]) -> Capabilities:
    missing = []
    if facts["overlay"] is not None and workspace != "copy":
        missing.append(
            f"workspace: no overlay can be mounted here ({facts['overlay']}); trees are copied, which is slower"
        )
    if facts["overlay"] is not None or workspace == "copy":
        missing.append("paths: where a copied tree lies on the host shows in a program's table of mounts")
    if facts["cgroup"] is None:
        missing.append(
            f"memory: no control group ({facts['cgroup_missing']}); limited for each process, not for a run, and not measured"
        )
    if facts["cpus_missing"] is not None:
        missing.append(f"cpus: no quota of processors ({facts['cpus_missing']}); `cpus` in limits cannot be given")
    if profile.filter_program is None:
        missing.append("system_calls: no filter for this architecture")
    if not facts["exact_status"]:
        missing.append("exit_status: this kernel (before 6.15) cannot tell exit code 128+n from death by signal n")
    overlay = facts["overlay"] is None and workspace != "copy"
    if overlay and not profile.privileged:
        missing.append("rename: without root, renaming a directory of an earlier step answers EXDEV; mv copies instead")
    enforced = {
        "files": "read-only system, private work directory and scratch (mount namespace)",
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
    return Capabilities(sandbox, "overlay" if overlay else "copy", enforced | repeats, (*missing, *random))
