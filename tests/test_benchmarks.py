"""benchmarks/README.md says what was measured, and what was measured is what it says."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks import run
from benchmarks.budgets import verdicts
from benchmarks.measure import Answer, Arm, Phases, Series, in_turn
from benchmarks.plot import svg
from benchmarks.report import PAGE, render


@pytest.fixture
def results() -> run.Results:
    return msgspec.json.decode(PAGE.results.read_bytes(), type=run.Results)


def seen(wall_s: float, cpu_s: float = 1.0) -> Series:
    return Series(3, wall_s, wall_s, cpu_s, cpu_s)


def test_the_page_shows_the_last_results(results: run.Results) -> None:
    assert PAGE.shown() == f"\n{render(results)}\n"


def test_the_picture_shows_the_last_results(results: run.Results) -> None:
    assert PAGE.picture.read_text() == svg(results.answers)


def test_arms_take_turns_and_a_slow_one_is_asked_less_often() -> None:
    calls: list[str] = []
    arms = [Arm("a", lambda: calls.append("a")), Arm("slow", lambda: calls.append("slow"), every=2)]
    found = in_turn(arms, 4, patience_s=1000)
    assert calls == ["a", "slow", "a", "a", "slow", "a"]
    assert {name: series.count for name, series in found.items()} == {"a": 4, "slow": 2}


def test_no_arm_ends_before_three_rounds() -> None:
    assert in_turn([Arm("a", lambda: None)], 5, patience_s=-1)["a"].count == 3


def test_what_is_done_meanwhile_is_not_counted() -> None:
    def act() -> Phases:
        phases = Phases()
        phases.outside_wall_s = phases.outside_cpu_s = 1000.0
        return phases

    series = in_turn([Arm("a", act)], 1, patience_s=1000)["a"]
    assert series.wall_median_s < 0
    assert series.cpu_median_s < 0


@pytest.mark.parametrize(("ours_s", "met"), [(1.4, [True, True]), (1.6, [False, False])])
def test_a_budget_is_kept_or_missed_by_its_ratio(ours_s: float, met: list[bool]) -> None:
    series = {"psf": seen(ours_s), "floor": seen(1.0), "git": seen(150.0)}
    found = verdicts([Answer("step", "packages", "", series)])
    assert [verdict.met for verdict in found] == met
    assert [verdict.reachable for verdict in found] == [None, 150.0]


def test_a_promise_is_judged_on_the_larger_tree_when_that_was_measured() -> None:
    answers = [Answer("initial", tree, "", {"psf": seen(1), "tar": seen(1)}) for tree in ("checkout", "packages")]
    assert [verdict.tree for verdict in verdicts(answers)] == ["packages"]
    assert [verdict.tree for verdict in verdicts(answers[:1])] == ["checkout"]
