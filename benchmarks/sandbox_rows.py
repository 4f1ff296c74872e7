"""The rows about sandboxes: each a function from a bench to answers, or to what was left on the host."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack

import msgspec

from benchmarks import traces
from benchmarks.accounting import spent_s
from benchmarks.confined import PROGRAMS, Bench, launcher_of
from benchmarks.measure import Answer, Arm, Phases
from executors.interfaces import Job, Sandbox
from store.snapshot import Ending, Limits

RUNS = 1000
_TIMED_OUT_EVERY, _TIMED_OUT_S = 50, 0.05
_LEAVES_ALL = (
    "sleep 1000 & setsid sleep 1000 & mkfifo p; for place in . /tmp /dev/shm /mnt ~; do echo x > $place/x; done"
)


class Left(msgspec.Struct):
    """What `runs` runs of a sandbox left: `seen` by kind, how many before and after; `differences` in words."""

    sandbox: str
    runs: int
    seen: dict[str, tuple[int, int]]
    differences: list[str]


Found = list[Answer] | list[Left]


def warm(bench: Bench) -> list[Answer]:
    """All sandboxes stand ready; what is timed is a cell: opened, a program run in it, closed."""
    answers = []
    with ExitStack() as stack:
        sandboxes = {name: _started(bench, name, stack) for name in bench.starts}
        for program, argv in PROGRAMS.items():
            arms = [bench.bare(argv)]
            arms += [bench.arm(name, lambda name=name: sandboxes[name], argv) for name in sandboxes]  # type: ignore[misc]
            what = "a cell opened, the program run in it, the cell closed; all sandboxes are up"
            answers.append(bench.ask("warm", program, what, arms, bench.context.rounds(200, 20), 60))
    return answers


def cold(bench: Bench) -> list[Answer]:
    """The same, the first cell of a sandbox that has just been started; its start is not counted."""
    answers = []
    for program, argv in PROGRAMS.items():
        arms = [bench.bare(argv)]
        for name in bench.starts:
            here: list[Sandbox] = []
            arm = bench.arm(name, lambda here=here: here[-1], argv)  # type: ignore[misc]
            arms.append(_once(bench, name, here, arm))
        what = "the first cell after the start, which is not counted"
        answers.append(bench.ask("cold", program, what, arms, bench.context.rounds(15, 3), 40))
    return answers


def start(bench: Bench) -> list[Answer]:
    """From nothing to a sandbox that has shown that it works; and a container more, to the cell that is open in it."""
    arms = []
    for name in bench.starts:
        here: list[Sandbox] = []

        def begin(name: str = name, here: list[Sandbox] = here) -> None:
            here.append(bench.start(name))

        arms.append(Arm(name, begin, after=lambda here=here: bench.stop(here.pop())))  # type: ignore[misc]
    with ExitStack() as stack:
        if "docker" in bench.starts:
            arms.append(_container(bench, _started(bench, "docker", stack, warm_containers=0)))
        what = "a sandbox started and tried with `true`; a further container made and its cell open"
        return [bench.ask("start", "", what, arms, bench.context.rounds(15, 3), 40)]


def shares(bench: Bench) -> list[Answer]:
    """Who spends the CPU time of a warm run of `true`. From /proc/PID/stat, over many runs."""
    answers = []
    runs = bench.context.rounds(200, 60)
    for name in bench.starts:
        bench.context.tell(f"shares ({name})")
        with ExitStack() as stack:
            sandbox = _started(bench, name, stack)
            values = _shares(bench, sandbox, runs)
        answers.append(Answer("shares", name, "CPU time of a warm run of `true`, by who spends it", {}, values, "s"))
    return answers


def left(bench: Bench) -> list[Left]:
    """The host before and after many runs: well-behaved ones, ones that leave all they can, ones killed for time."""
    found = []
    runs = bench.context.rounds(RUNS, 100)
    for name in bench.starts:
        with ExitStack() as stack:
            sandbox = _started(bench, name, stack)
            _runs(bench, sandbox, 2 * _TIMED_OUT_EVERY, name)  # what is made once is made
            watched = bench.watched(sandbox)
            before = traces.look(watched)
            _runs(bench, sandbox, runs, name)
            after = traces.settled(before, lambda watched=watched: traces.look(watched))  # type: ignore[misc]
        found.append(Left(name, runs, traces.counts(before, after), traces.difference(before, after)))
    return found


def _started(bench: Bench, name: str, stack: ExitStack, **settings: int) -> Sandbox:
    sandbox = bench.start(name, **settings)
    stack.callback(bench.stop, sandbox)
    return sandbox


def _once(bench: Bench, name: str, here: list[Sandbox], arm: Arm) -> Arm:
    """The arm, on a sandbox of its own each time, which can have one first cell only."""

    def before() -> None:
        here.append(bench.start(name))
        arm.before()

    def after() -> None:
        arm.after()
        bench.stop(here.pop())

    return Arm(name, arm.act, before, after, repeats=arm.repeats)


def _container(bench: Bench, sandbox: Sandbox) -> Arm:
    """A cell opened where no container is warm."""
    stack = AsyncExitStack()
    mounts = []

    def act() -> None:
        bench.do(stack.enter_async_context(sandbox.open(mounts[-1], Limits())))  # type: ignore[arg-type]

    def after() -> None:
        bench.do(stack.aclose())
        bench.forget(mounts.pop())

    return Arm("docker, a container more", act, lambda: mounts.append(bench.workspace(sandbox)), after)


def _shares(bench: Bench, sandbox: Sandbox, runs: int) -> dict[str, float]:
    launcher = launcher_of(sandbox)

    def now() -> tuple[float, ...]:
        return (*spent_s(launcher), time.process_time(), bench.account.cpu_time_s())

    mounts = [bench.workspace(sandbox) for _ in range(runs)]
    bench.do(bench.run(sandbox, mounts[0], PROGRAMS["true"], Phases()))
    before = now()
    for mount in mounts[1:]:
        bench.do(bench.run(sandbox, mount, PROGRAMS["true"], Phases()))
    spent = [(b - a) / (runs - 1) for a, b in zip(before, now(), strict=True)]
    for mount in mounts:
        bench.forget(mount)
    user, system, children_user, children_system, server, whole = spent
    return {
        "server": server,
        "launcher, user": user,
        "launcher, kernel": system,
        "what it started, user": children_user,
        "what it started, kernel": children_system,
        "whole": whole,
    }


def _runs(bench: Bench, sandbox: Sandbox, runs: int, name: str) -> None:
    """Runs of all kinds. Of one that is killed for time, the time is short."""
    for number in range(runs):
        if number % 50 == 0:
            bench.context.tell(f"left ({name}), run {number} of {runs}")
        mount = bench.workspace(sandbox)
        bench.do(_run(sandbox, mount, number, bench.mark))
        bench.forget(mount)


async def _run(sandbox: Sandbox, mount: object, number: int, mark: str) -> None:
    timed_out = number % _TIMED_OUT_EVERY == 0
    argv = ("sleep", "1000") if timed_out else traces.litterer(mark) if number % 2 else ("true",)
    limits = Limits(wall_time_s=_TIMED_OUT_S if timed_out else 60)
    async with sandbox.open(mount, limits) as cell:  # type: ignore[arg-type]
        result = await cell.run(Job(argv, (), b"", limits))
    if result.ending is not (Ending.TIMED_OUT if timed_out else Ending.EXITED) or result.exit_code:
        raise RuntimeError(f"{argv} in {sandbox.capabilities.sandbox}: {result}")


ROWS: dict[str, Callable[[Bench], Found]] = {"start": start, "cold": cold, "warm": warm, "shares": shares, "left": left}
