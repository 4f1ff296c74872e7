"""What was promised, as ratios of two arms of one question; see docs/design.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from benchmarks.measure import Answer


class Budget(msgspec.Struct, frozen=True):
    """`arm` over `against` is to be at most (or at least) `limit`, on the first of `trees` that was measured.

    Without `against`, a value by itself.
    """

    what: str
    question: str
    trees: tuple[str, ...]
    arm: str
    against: str | None
    measure: Literal["wall", "cpu", "value"]
    limit: float
    at_least: bool = False


class Verdict(msgspec.Struct):
    """A budget and what was seen: the ratio of medians and the ratio of minima.

    `reachable` is the ratio of medians that the floor itself would have had, where a tool is compared with a durable step.
    """

    what: str
    tree: str
    measure: str
    limit: float
    at_least: bool
    median: float
    minimum: float
    reachable: float | None = None

    @property
    def met(self) -> bool:
        return self.median >= self.limit if self.at_least else self.median <= self.limit


_MAIN = ("packages", "checkout")
_STEP = "durable one-file step"
BUDGETS = (
    Budget(f"{_STEP} / (fdatasync + SQLite FULL commit)", "step", _MAIN, "psf", "floor", "wall", 1.5),
    Budget(f"git add -A && git commit / {_STEP}", "step", _MAIN, "git", "psf", "wall", 100, True),
    Budget(f"the same, git synced / {_STEP}", "step", _MAIN, "git, synced", "psf", "wall", 100, True),
    Budget(f"pygit2 / {_STEP}", "step", _MAIN, "pygit2", "psf", "wall", 20, True),
    Budget(f"pygit2, synced / {_STEP}", "step", _MAIN, "pygit2, synced", "psf", "wall", 20, True),
    Budget(f"restic / {_STEP}", "step", _MAIN, "restic", "psf", "wall", 1000, True),
    Budget(f"borg / {_STEP}", "step", _MAIN, "borg", "psf", "wall", 1000, True),
    Budget("step, 100,000 files / 1,000 files", "step-size", ("made",), "psf 100k", "psf 1k", "wall", 1.2),
    Budget("step, 100,000 files / 1,000 files", "step-size", ("made",), "psf 100k", "psf 1k", "cpu", 1.2),
    Budget("fork / SQLite FULL commit", "fork", _MAIN, "psf", "floor", "wall", 2),
    Budget("a fork on disk, bytes", "disk-fork", _MAIN, "psf", None, "value", 2048),
    Budget("initial snapshot / tar c", "initial", _MAIN, "psf", "tar", "cpu", 2),
    Budget("cold restore / tar x", "restore", _MAIN, "psf", "tar", "cpu", 1),
)


_RUN = "of the sandbox alone"
SANDBOX_BUDGETS = tuple(
    Budget(f"{name}: {program} / bare {program}, {_RUN}", "warm", (program,), name, "bare", "cpu", limit)
    for name in ("bubblewrap", "docker", "nsjail")
    for program, limit in (("python", 1.7), ("bash", 3.0))
)
"""Of a whole request to `/execute_session`; so a sandbox that misses one leaves the server no chance to keep it."""

_REQUESTS = ("1,000 files",)
HISTORY_BUDGETS = (
    Budget(
        "a memo hit / an aiohttp echo of JSON, client and server together",
        "memo",
        _REQUESTS,
        "memo hit",
        "aiohttp echo",
        "cpu",
        6,
    ),
    Budget("a rollback beside the step after it, ms", "rollback", _REQUESTS, "rollback", None, "value", 2),
    Budget("a fork among very many on disk, bytes", "many", _REQUESTS, "bytes for each fork", None, "value", 2048),
)


def verdicts(answers: Sequence[Answer], budgets: Sequence[Budget] = BUDGETS) -> list[Verdict]:
    """Of those budgets whose arms were measured."""
    by_place = {(answer.question, answer.tree): answer for answer in answers}
    found = []
    for budget in budgets:
        asked = [by_place[budget.question, tree] for tree in budget.trees if (budget.question, tree) in by_place]
        ratios = _ratios(budget, asked[0]) if asked else None
        if ratios is not None:
            facts = (budget.what, asked[0].tree, budget.measure, budget.limit, budget.at_least)
            found.append(Verdict(*facts, *ratios, _reachable(budget, asked[0])))
    return found


def _reachable(budget: Budget, answer: Answer) -> float | None:
    left, floor = answer.series.get(budget.arm), answer.series.get("floor")
    if not budget.at_least or left is None or floor is None:
        return None
    return left.wall_median_s / floor.wall_median_s


def _ratios(budget: Budget, answer: Answer) -> tuple[float, float] | None:
    if budget.against is None:
        value = answer.values.get(budget.arm)
        return None if value is None else (value, value)
    left, right = answer.series.get(budget.arm), answer.series.get(budget.against)
    if left is None or right is None:
        return None
    if budget.measure == "cpu":
        return left.cpu_median_s / right.cpu_median_s, left.cpu_minimum_s / right.cpu_minimum_s
    return left.wall_median_s / right.wall_median_s, left.wall_minimum_s / right.wall_minimum_s
