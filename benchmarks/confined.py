"""The other side of a bare program: sandboxes that are started, and a run in one, as the executor does it without the workspace's part."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

from benchmarks.accounting import Account
from benchmarks.measure import Answer, Arm, Context, Phases, in_turn
from benchmarks.traces import Watched
from executors import bubblewrap, docker, nsjail
from executors import profile as profiles
from executors.docker_container import DockerSettings
from executors.interfaces import Job, Sandbox
from executors.sandboxes import Options
from store.snapshot import Ending, Limits
from store.workspace import BindMount, OverlayMount

Given = TypeVar("Given")
Mount = OverlayMount | BindMount
PROGRAMS = {
    "true": ("true",),
    "bash": ("bash", "-c", "echo 1"),
    "python": ("python3", "-c", "print(1)"),
}
_WALL_TIME_S = 60


class Bench:
    """Starts sandboxes, and runs programs in them and beside them. `daemon`: where a Docker daemon listens, and its image."""

    def __init__(self, context: Context, account: Account, daemon: tuple[str, str] | None) -> None:
        self.context, self.account = context, account
        self.profile = profiles.build()
        self._loop = asyncio.new_event_loop()
        self._folder = context.folder / "sandboxes"
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder / "lower").mkdir(parents=True)
        self._numbers = itertools.count()
        self.mark = f"psf-benchmark-{os.getpid()}"
        self._daemon = daemon
        options = Options(self._folder / "probes")
        for name in ("probes", "temporary"):
            (self._folder / name).mkdir()
        # What we make ourselves is then found there, and nobody else's is.
        tempfile.tempdir = str(self._folder / "temporary")
        self.starts: dict[str, Callable[..., Coroutine[Any, Any, Sandbox]]] = {
            "bubblewrap": partial(bubblewrap.start, self.profile, options),
            "nsjail": partial(nsjail.start, self.profile, options),
        }
        if daemon is not None:
            self.starts["docker"] = self._start_docker

    def _start_docker(self, warm_containers: int = 4) -> Coroutine[Any, Any, Sandbox]:
        assert self._daemon is not None
        url, image = self._daemon
        settings = DockerSettings(
            image, self._folder / "probes", base_url=url, warm_containers=warm_containers, patience_s=20
        )
        return docker.DockerSandbox.start(self.profile, settings)

    def close(self) -> None:
        self._loop.close()
        tempfile.tempdir = None
        shutil.rmtree(self._folder)

    def do(self, act: Coroutine[Any, Any, Given]) -> Given:
        return self._loop.run_until_complete(act)

    def start(self, name: str, **settings: int) -> Sandbox:
        sandbox = self.do(self.starts[name](**settings))
        self.account.launchers.add(launcher_of(sandbox))
        return sandbox

    def stop(self, sandbox: Sandbox) -> None:
        self.account.launchers.discard(launcher_of(sandbox))
        self.do(sandbox.close())

    def ask(self, question: str, tree: str, what: str, arms: list[Arm], rounds: int, patience_s: float) -> Answer:
        tell = self.context.tell
        series = in_turn(
            arms,
            rounds,
            patience_s=self.context.patience_s(patience_s),
            warm_up=1,
            tell=lambda text: tell(f"{question} ({tree}), {text}"),
            clock=self.account.cpu_time_s,
        )
        return Answer(question, tree, what, series)

    # -- runs ---------------------------------------------------------------------------------------------------------

    def workspace(self, sandbox: Sandbox) -> Mount:
        """A fresh, empty one."""
        folder = self._folder / str(next(self._numbers))
        overlay = sandbox.capabilities.workspace == "overlay"
        for place in (folder / "upper", folder / "work") if overlay else (folder,):
            place.mkdir(parents=True)
            if self.profile.privileged:
                os.chown(place, self.profile.user.uid, self.profile.user.gid)
        return OverlayMount(str(folder), ("../lower",), "upper", "work") if overlay else BindMount(str(folder))

    def forget(self, mount: Mount) -> None:
        shutil.rmtree(mount.folder)

    async def run(self, sandbox: Sandbox, mount: Mount, argv: tuple[str, ...], phases: Phases) -> None:
        """Open a cell, run the program, close the cell."""
        async with AsyncExitStack() as stack:
            with phases("open"):
                cell = await stack.enter_async_context(sandbox.open(mount, Limits()))
            with phases("run"):
                result = await cell.run(Job(argv, (), b"", Limits(wall_time_s=_WALL_TIME_S)))
            with phases("close"):
                await stack.aclose()
        if result.exit_code != 0 or result.ending is not Ending.EXITED:
            raise RuntimeError(f"{argv[0]} in {sandbox.capabilities.sandbox}: {result}")

    def arm(self, name: str, sandbox: Callable[[], Sandbox], argv: tuple[str, ...], **fields: Any) -> Arm:
        """Of warm runs. The workspace's folders are made before and removed after."""
        mounts: list[Mount] = []

        def before() -> None:
            mounts.extend(self.workspace(sandbox()) for _ in range(self.account.repeats))

        def act() -> Phases:
            phases = Phases()
            for mount in mounts:
                self.do(self.run(sandbox(), mount, argv, phases))
            return phases

        def after() -> None:
            while mounts:
                self.forget(mounts.pop())

        return Arm(name, act, before, after, repeats=self.account.repeats, **fields)

    def bare(self, argv: tuple[str, ...]) -> Arm:
        """The same program, started by this process: posix_spawn, nothing confined, output thrown away."""
        path = self.profile.interpreter if argv[0] == "python3" else shutil.which(argv[0])
        assert path is not None
        environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"}
        quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]

        def act() -> None:
            for _ in range(self.account.repeats):
                pid = os.posix_spawn(path, argv, environment, file_actions=quiet)
                if os.waitpid(pid, 0)[1] != 0:
                    raise RuntimeError(f"{path} failed")

        return Arm("bare", act, repeats=self.account.repeats)

    def watched(self, sandbox: Sandbox) -> Watched:
        return Watched(launcher_of(sandbox), containers_of(sandbox), self._folder, self.mark)


def launcher_of(sandbox: Sandbox) -> int:
    """Whoever measures looks behind the Protocol."""
    pid: int = sandbox._launcher._process.pid  # type: ignore[attr-defined]  # noqa: SLF001
    return pid


def containers_of(sandbox: Sandbox) -> tuple[tuple[str, int], ...]:
    pool = getattr(sandbox, "_pool", None)
    warm = pool._all.values() if pool is not None else ()  # noqa: SLF001
    return tuple((container.identity, container.started.pid) for container in warm)
