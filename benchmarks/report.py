"""The figures as Markdown: what stands between the markers of README.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from benchmarks.budgets import Verdict
from benchmarks.measure import Answer, Series

MARKERS = ("<!-- figures: made by benchmarks/store.py, not by hand -->", "<!-- end of figures -->")
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
        _budgets(results.verdicts),
    ]
    for name, size in results.trees.items():
        asked = [answer for answer in results.answers if answer.tree == name]
        if asked:
            heading = (
                f"### {name}: {size['files']:,} files in {size['directories']:,} directories, {_bytes(size['bytes'])}"
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
        rows = [[name, _cell(series), str(series.count)] for name, series in answer.series.items()]
        return [f"### {answer.what}", _table(["arm", "ms", "samples"], rows)]
    return []


def _budgets(found: Sequence[Verdict]) -> str:
    rows = []
    for verdict in found:
        bound = f"{'≥' if verdict.at_least else '≤'} {verdict.limit:g}"
        word = "met" if verdict.met else f"**missed**, {_miss(verdict)}"
        rows.append([verdict.what, verdict.measure, bound, f"{verdict.median:.2f}", f"{verdict.minimum:.2f}", word])
    return _table(["what", "of", "budget", "medians", "minima", ""], rows)


def _miss(verdict: Verdict) -> str:
    worse = verdict.limit / verdict.median if verdict.at_least else verdict.median / verdict.limit
    reachable = verdict.reachable
    return f"by {worse:.2f}x" + (f" (the floor itself: {reachable:.0f})" if reachable is not None else "")


def _times(answers: Iterable[Answer]) -> str:
    rows = []
    for answer in answers:
        if not answer.series:
            continue
        floor = next((f"{name} {_cell(answer.series[name])}" for name in FLOORS if name in answer.series), "")
        rows.append([answer.question, floor, _cell(answer.series.get("psf"))])
        rows[-1] += [_cell(answer.series.get(name)) for name in TOOLS]
        for name, series in answer.series.items():
            if name.startswith("psf") and name != "psf":
                label = f"{answer.question}: {name.removeprefix('psf').lstrip(', ')}"
                rows.append([label, "", _cell(series), *("" for _ in TOOLS)])
    return _table(["ms", "floor", "psf", *TOOLS], rows)


def _values(answers: Iterable[Answer]) -> str:
    asked = [answer for answer in answers if answer.values]
    columns = ("tar", "psf", *TOOLS)
    rows = [
        [answer.what, *(_bytes(answer.values[name]) if name in answer.values else "" for name in columns)]
        for answer in asked
    ]
    return _table(["bytes", *columns], rows)


def _phases(answers: Iterable[Answer]) -> str:
    rows, names = [], list[str]()
    for answer in answers:
        for name, series in answer.series.items():
            if answer.question in ("step", "step-size") and name.startswith("psf") and "advance" in series.phases_s:
                names = names or list(series.phases_s)
                label = name if answer.question == "step-size" else f"{name}, {answer.tree}"
                cells = [_milliseconds(series.phases_s.get(phase, 0)) for phase in names]
                rows.append([label, *cells, _milliseconds(series.wall_median_s)])
    return _table(["", *names, "whole"], rows)


def _sizes(answer: Answer) -> str:
    sizes = list(dict.fromkeys(name.split(" ", 1)[1] for name in answer.series if " " in name))
    sides = list(dict.fromkeys(name.split(" ", 1)[0] for name in answer.series if " " in name))
    rows = [[side, *(_cell(answer.series.get(f"{side} {size}")) for size in sizes)] for side in sides]
    rows.append(["floor", _cell(answer.series["floor"]), *("" for _ in sizes[1:])])
    return _table(["ms", *sizes], rows)


def _commits(answer: Answer) -> str:
    sides = list(dict.fromkeys(name.rsplit(" ", 1)[0] for name in answer.values))
    counts = list(dict.fromkeys(name.rsplit(" ", 1)[1] for name in answer.values))
    rows = [[side, *(f"{answer.values[f'{side} {count}']:,.0f}" for count in counts)] for side in sides]
    return _table(["sessions", *counts], rows)


def _cell(series: Series | None) -> str:
    """Wall time's median, its minimum in brackets, CPU time's median."""
    if series is None:
        return ""
    wall, least, cpu = (
        _milliseconds(seconds) for seconds in (series.wall_median_s, series.wall_minimum_s, series.cpu_median_s)
    )
    return f"{wall} ({least}) · {cpu}"


def _milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} B"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
