"""The store's figures as Markdown: what stands between its markers in README.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from benchmarks.budgets import Verdict
from benchmarks.measure import Answer
from benchmarks.page import Page
from benchmarks.tables import amount, budgets, cell, milliseconds, table

PAGE = Page("store")
TOOLS = ("git", "git, synced", "pygit2", "pygit2, synced", "restic", "borg")
FLOORS = ("floor", "tar", "bare mount", "read and hash")


class Reported(Protocol):
    """A run, as `benchmarks.run.Results` has it."""

    mode: str
    duration_s: float
    machine: dict[str, str]
    versions: dict[str, str]
    trees: dict[str, dict[str, int]]
    answers: list[Answer]
    left_out: list[str]

    @property
    def verdicts(self) -> list[Verdict]: ...


def render(results: Reported) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    parts = [
        f"A {results.mode} run of {results.duration_s / 60:.0f} minutes. Machine: {machine}. Tools: {versions}.",
        *(f"Not measured: {reason}." for reason in results.left_out),
        "### Budgets",
        budgets(results.verdicts),
    ]
    for name, size in results.trees.items():
        asked = [answer for answer in results.answers if answer.tree == name]
        if asked:
            heading = (
                f"### {name}: {size['files']:,} files in {size['directories']:,} directories, {amount(size['bytes'])}"
            )
            parts += [heading, _times(asked), _values(asked)]
    parts += ["### Where a durable step's time goes (ms, medians of wall time)", _phases(results.answers)]
    for answer in results.answers:
        parts += _single(answer)
    notes = dict.fromkeys(f"{answer.question}: {answer.note}" for answer in results.answers if answer.note)
    parts += ["Notes:", "\n".join(f"- {note}." for note in notes)]
    return "\n\n".join(part for part in parts if part)


def _single(answer: Answer) -> list[str]:
    """A section for each question that is not about one tree."""
    if answer.question == "step-size":
        return [f"### {answer.what}", _sizes(answer)]
    if answer.question == "commits":
        return [f"### {answer.what}", _commits(answer)]
    if answer.question == "large":
        rows = [[name, cell(series), str(series.count)] for name, series in answer.series.items()]
        return [f"### {answer.what}", table(["arm", "ms", "samples"], rows)]
    return []


def _times(answers: Iterable[Answer]) -> str:
    rows = []
    for answer in answers:
        if not answer.series:
            continue
        floor = next((f"{name} {cell(answer.series[name])}" for name in FLOORS if name in answer.series), "")
        rows.append([answer.question, floor, cell(answer.series.get("psf"))])
        rows[-1] += [cell(answer.series.get(name)) for name in TOOLS]
        for name, series in answer.series.items():
            if name.startswith("psf") and name != "psf":
                label = f"{answer.question}: {name.removeprefix('psf').lstrip(', ')}"
                rows.append([label, "", cell(series), *("" for _ in TOOLS)])
    return table(["ms", "floor", "psf", *TOOLS], rows)


def _values(answers: Iterable[Answer]) -> str:
    asked = [answer for answer in answers if answer.values]
    columns = ("tar", "psf", *TOOLS)
    rows = [
        [answer.what, *(amount(answer.values[name]) if name in answer.values else "" for name in columns)]
        for answer in asked
    ]
    return table(["bytes", *columns], rows)


def _phases(answers: Iterable[Answer]) -> str:
    steps = [
        (name if answer.question == "step-size" else f"{name}, {answer.tree}", series)
        for answer in answers
        for name, series in answer.series.items()
        if answer.question in ("step", "step-size") and name.startswith("psf") and "advance" in series.phases_s
    ]
    names = list(dict.fromkeys(phase for _, series in steps for phase in series.phases_s))
    rows = [
        [label, *(milliseconds(series.phases_s.get(phase, 0)) for phase in names), milliseconds(series.wall_median_s)]
        for label, series in steps
    ]
    return table(["", *names, "whole"], rows)


def _sizes(answer: Answer) -> str:
    sizes = list(dict.fromkeys(name.split(" ", 1)[1] for name in answer.series if " " in name))
    sides = list(dict.fromkeys(name.split(" ", 1)[0] for name in answer.series if " " in name))
    rows = [[side, *(cell(answer.series.get(f"{side} {size}")) for size in sizes)] for side in sides]
    rows.append(["floor", cell(answer.series["floor"]), *("" for _ in sizes[1:])])
    return table(["ms", *sizes], rows)


def _commits(answer: Answer) -> str:
    sides = list(dict.fromkeys(name.rsplit(" ", 1)[0] for name in answer.values))
    counts = list(dict.fromkeys(name.rsplit(" ", 1)[1] for name in answer.values))
    rows = [[side, *(f"{answer.values[f'{side} {count}']:,.0f}" for count in counts)] for side in sides]
    return table(["sessions", *counts], rows)
