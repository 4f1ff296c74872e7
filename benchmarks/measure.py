"""Arms that run in turn, and what is said of their samples.

A machine that others use is now fast and now slow, so nothing is compared across minutes: in each round every arm runs once (a slow
one in each n-th round), and what counts are ratios within a run, of medians and of minima. CPU time is that of this process with all
its threads and of the programs it waited for, unless a row brings a clock that sees more; what the kernel does later, on its own
threads, nobody is charged for.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import msgspec

ROUNDS_MIN = 3


def nothing() -> None:
    """What an arm does before and after when there is nothing to do."""


class Context(msgspec.Struct):
    """What every row needs: where to work, how long, whom to tell what it does."""

    folder: Path
    quick: bool
    tell: Callable[[str], None]
    left_out: list[str]
    """What was not measured, with the reason."""

    def rounds(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def patience_s(self, full: float) -> float:
        return full / 6 if self.quick else full


class Arm(msgspec.Struct):
    """One way to do a thing. `act` is timed, `before` and `after` are not; it runs in each `every`-th round.

    `act` may return the `Phases` of what it did. It does the thing `repeats` times, and a sample is one of them on average.
    """

    name: str
    act: Callable[[], object]
    before: Callable[[], object] = nothing
    after: Callable[[], object] = nothing
    every: int = 1
    repeats: int = 1


class Series(msgspec.Struct):
    """What was seen of one arm, in seconds. `phases_s` are medians of wall time."""

    count: int
    wall_median_s: float
    wall_minimum_s: float
    cpu_median_s: float
    cpu_minimum_s: float
    phases_s: dict[str, float] = {}


class _Samples(msgspec.Struct):
    wall_s: list[float] = []
    cpu_s: list[float] = []
    phases_s: dict[str, list[float]] = {}

    def series(self) -> Series:
        return Series(
            len(self.wall_s),
            statistics.median(self.wall_s),
            min(self.wall_s),
            statistics.median(self.cpu_s),
            min(self.cpu_s),
            {name: statistics.median(values) for name, values in self.phases_s.items()},
        )


class Phases:
    """A stopwatch with names, for the parts of an act, and for what is done meanwhile that is not part of it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.outside_wall_s = self.outside_cpu_s = 0.0

    @contextmanager
    def outside(self) -> Iterator[None]:
        cpu_s, wall_s = cpu_time_s(), time.perf_counter()
        yield
        self.outside_wall_s += time.perf_counter() - wall_s
        self.outside_cpu_s += cpu_time_s() - cpu_s

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def cpu_time_s() -> float:
    children = getrusage(RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def in_turn(
    arms: Sequence[Arm],
    rounds: int,
    *,
    patience_s: float,
    warm_up: int = 0,
    tell: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = cpu_time_s,
) -> dict[str, Series]:
    """Run the arms in turn, `rounds` times or until `patience_s` is over (then at least three times); all samples count.

    Of the first `warm_up` rounds, with arms of every round only, nothing is kept. `clock` tells CPU time, in seconds.
    """
    samples: dict[str, _Samples] = {arm.name: _Samples() for arm in arms}
    for _ in range(warm_up):
        for arm in arms:
            if arm.every == 1:
                _sample(arm, _Samples(), clock)
    started = time.monotonic()
    for number in range(rounds):
        if number >= ROUNDS_MIN and time.monotonic() - started > patience_s:
            break
        for arm in arms:
            if number % arm.every == 0:
                tell(f"round {number + 1} of {rounds}: {arm.name}")
                _sample(arm, samples[arm.name], clock)
    return {name: found.series() for name, found in samples.items()}


def _sample(arm: Arm, samples: _Samples, clock: Callable[[], float]) -> None:
    arm.before()
    cpu_s, wall_s = clock(), time.perf_counter()
    done = arm.act()
    wall_s, cpu_s = time.perf_counter() - wall_s, clock() - cpu_s
    phases = done if isinstance(done, Phases) else Phases()
    samples.wall_s.append((wall_s - phases.outside_wall_s) / arm.repeats)
    samples.cpu_s.append((cpu_s - phases.outside_cpu_s) / arm.repeats)
    for name, seconds in phases.seconds.items():
        samples.phases_s.setdefault(name, []).append(seconds / arm.repeats)
    arm.after()


class Answer(msgspec.Struct):
    """What one question was answered with: times by arm, or (with a `unit`) a value by arm."""

    question: str
    tree: str
    what: str
    series: dict[str, Series] = {}
    values: dict[str, float] = {}
    unit: str = "s"
    note: str = ""
