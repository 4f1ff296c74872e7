"""The sandboxes' figures as Markdown: what stands between their markers in README.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from benchmarks.budgets import Verdict
from benchmarks.measure import Answer, Series
from benchmarks.page import Page
from benchmarks.sandbox_rows import Left
from benchmarks.tables import budgets, cell, milliseconds, table

PAGE = Page("sandboxes")
_BARE = "bare"


class Reported(Protocol):
    """A run, as `benchmarks.sandbox_run.Results` has it."""

    mode: str
    duration_s: float
    machine: dict[str, str]
    versions: dict[str, str]
    cpu_source: str
    answers: list[Answer]
    left: list[Left]
    left_out: list[str]

    @property
    def verdicts(self) -> list[Verdict]: ...


def render(results: Reported) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    parts = [
        f"A {results.mode} run of {results.duration_s / 60:.0f} minutes. Machine: {machine}. Programs: {versions}.",
        f"CPU time is told by {results.cpu_source}.",
        *(f"Not measured: {reason}." for reason in results.left_out),
        "### Sandboxes: budgets",
        budgets(results.verdicts),
    ]
    for question, heading in (("warm", "### A warm run"), ("cold", "### The first run after a start")):
        asked = [answer for answer in results.answers if answer.question == question]
        if asked:
            parts += [f"{heading}: {asked[0].what}", _times(asked), _ratios(asked)]
    for answer in results.answers:
        if answer.question == "start":
            parts += [f"### {answer.what}", _starts(answer)]
    parts += ["### Where a warm run's wall time goes (ms, medians)", _phases(results.answers)]
    parts += ["### Who spends a warm run's CPU time: `true` (ms, means)", _shares(results.answers)]
    parts += ["### What runs leave on the host: before and after", _left(results.left)]
    parts += ["\n".join(f"- {found.sandbox}: {words}" for found in results.left for words in found.differences)]
    return "\n\n".join(part for part in parts if part)


def _sides(answers: Sequence[Answer]) -> list[str]:
    return list(dict.fromkeys(name for answer in answers for name in answer.series))


def _times(answers: Sequence[Answer]) -> str:
    sides = _sides(answers)
    rows = [[answer.tree, *(cell(answer.series.get(side)) for side in sides)] for answer in answers]
    return table(["ms", *sides], rows)


def _ratios(answers: Sequence[Answer]) -> str:
    """Wall and CPU time as multiples of the bare program's."""
    sides = [side for side in _sides(answers) if side != _BARE]
    rows = [
        [answer.tree, *(_ratio(answer.series.get(side), answer.series[_BARE]) for side in sides)] for answer in answers
    ]
    return table(["times the bare program", *sides], rows)


def _ratio(series: Series | None, bare: Series) -> str:
    if series is None:
        return ""
    return f"{series.wall_median_s / bare.wall_median_s:.1f} · {series.cpu_median_s / bare.cpu_median_s:.1f}"


def _starts(answer: Answer) -> str:
    rows = [[name, cell(series), str(series.count)] for name, series in answer.series.items()]
    return table(["", "ms", "samples"], rows)


def _phases(answers: Sequence[Answer]) -> str:
    rows, names = [], list[str]()
    for answer in answers:
        for side, series in answer.series.items() if answer.question == "warm" else ():
            if series.phases_s:
                names = names or list(series.phases_s)
                cells = [milliseconds(series.phases_s[name]) for name in names]
                rows.append([f"{answer.tree}, {side}", *cells, milliseconds(series.wall_median_s)])
    return table(["", *names, "whole"], rows)


def _shares(answers: Sequence[Answer]) -> str:
    asked = [answer for answer in answers if answer.question == "shares"]
    names = list(asked[0].values) if asked else []
    rows = [[answer.tree, *(milliseconds(answer.values[name]) for name in names)] for answer in asked]
    return table(["", *names], rows)


def _left(found: Sequence[Left]) -> str:
    kinds = list(found[0].seen) if found else []
    rows = [
        [each.sandbox, str(each.runs), *(f"{before} → {after}" for before, after in each.seen.values())]
        for each in found
    ]
    return table(["", "runs", *kinds], rows)
