"""benchmarks/README.md says what was measured, and what was measured is what it says."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from benchmarks import run, sandbox_report, sandbox_run, traces
from benchmarks.accounting import Account
from benchmarks.budgets import verdicts
from benchmarks.measure import Answer, Arm, Phases, Series, cpu_time_s, in_turn
from benchmarks.plot import sandboxes_svg, svg
from benchmarks.report import PAGE, render
from benchmarks.sandbox_rows import Left


@pytest.fixture
def results() -> run.Results:
    return msgspec.json.decode(PAGE.results.read_bytes(), type=run.Results)


@pytest.fixture
def sandbox_results() -> sandbox_run.Results:
    return msgspec.json.decode(sandbox_report.PAGE.results.read_bytes(), type=sandbox_run.Results)


def seen(wall_s: float, cpu_s: float = 1.0) -> Series:
    return Series(3, wall_s, wall_s, cpu_s, cpu_s)


def test_the_page_shows_the_last_results(results: run.Results) -> None:
    assert PAGE.shown() == f"\n{render(results)}\n"


def test_the_picture_shows_the_last_results(results: run.Results) -> None:
    assert PAGE.picture.read_text() == svg(results.answers)


def test_the_page_shows_the_last_results_of_sandboxes(sandbox_results: sandbox_run.Results) -> None:
    assert sandbox_report.PAGE.shown() == f"\n{sandbox_report.render(sandbox_results)}\n"


def test_the_picture_shows_the_last_results_of_sandboxes(sandbox_results: sandbox_run.Results) -> None:
    assert sandbox_report.PAGE.picture.read_text() == sandboxes_svg(sandbox_results.answers)


def test_the_last_runs_of_sandboxes_left_nothing(sandbox_results: sandbox_run.Results) -> None:
    assert [found.sandbox for found in sandbox_results.left if found.runs >= 1000] == ["bubblewrap", "nsjail", "docker"]
    assert sandbox_results.exit_status == 0


def test_whatever_runs_left_is_named_and_makes_the_exit_status_1(sandbox_results: sandbox_run.Results) -> None:
    before = {"groups": ["a", "b"], "files": ["x"]}
    after = {"groups": ["b", "c"], "files": ["x", "x"]}
    words = traces.difference(before, after)
    assert words == ["groups: gone: a", "groups: left: c", "files: left: x"]
    left = [Left("nsjail", 1000, traces.counts(before, after), words)]
    broken = msgspec.structs.replace(sandbox_results, left=left)
    assert broken.exit_status == 1
    assert "| nsjail | 1000 | 2 → 2 | 1 → 2 |" in sandbox_report.render(broken)
    assert "- nsjail: groups: left: c" in sandbox_report.render(broken)


def test_a_process_that_lives_on_is_in_the_account_and_not_in_what_was_waited_for() -> None:
    account = Account()
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    try:
        ours_s, all_s = cpu_time_s(), account.cpu_time_s()
        with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            account.launchers.add(child.pid)
            assert child.stdout is not None
            child.stdout.readline()
            assert account.cpu_time_s() - all_s > 0.25
            assert cpu_time_s() - ours_s < 0.25
            child.communicate(b"\n")
    finally:
        account.leave()


def test_a_sample_of_many_is_one_on_average() -> None:
    clock = iter(range(0, 1000, 10))
    series = in_turn([Arm("a", lambda: None, repeats=20)], 3, patience_s=1000, clock=lambda: float(next(clock)))["a"]
    assert series.cpu_median_s == 0.5


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
