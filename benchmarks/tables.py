"""Parts of the figures that all pages have: tables in Markdown, what budgets came to, a cell of times."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.budgets import Verdict
from benchmarks.measure import Series


def budgets(found: Sequence[Verdict]) -> str:
    rows = []
    for verdict in found:
        bound = f"{'≥' if verdict.at_least else '≤'} {verdict.limit:g}"
        word = "met" if verdict.met else f"**missed**, {_miss(verdict)}"
        rows.append([verdict.what, verdict.measure, bound, f"{verdict.median:.2f}", f"{verdict.minimum:.2f}", word])
    return table(["what", "of", "budget", "medians", "minima", ""], rows)


def _miss(verdict: Verdict) -> str:
    worse = verdict.limit / verdict.median if verdict.at_least else verdict.median / verdict.limit
    reachable = verdict.reachable
    return f"by {worse:.2f}x" + (f" (the floor itself: {reachable:.0f})" if reachable is not None else "")


def cell(series: Series | None) -> str:
    """Wall time's median, its minimum in brackets, CPU time's median."""
    if series is None:
        return ""
    wall, least, cpu = (
        milliseconds(seconds) for seconds in (series.wall_median_s, series.wall_minimum_s, series.cpu_median_s)
    )
    return f"{wall} ({least}) · {cpu}"


def milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def amount(value: float) -> str:
    """Of bytes."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} B"


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
