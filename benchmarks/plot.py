"""The pictures beside the tables, as SVG. Axes are logarithmic.

Of the store: steps by size of the tree, steps by tool, commits by sessions. Of sandboxes: runs by sandbox, for each program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from benchmarks.measure import Answer

WIDTH, HEIGHT = 1230, 400
_INK, _FAINT, _PAPER = "#24292f", "#d8dee4", "#ffffff"
_COLOURS = {"psf": "#0969da", "psf flat": "#8ec5ff", "git": "#cf222e", "pygit2": "#e08700", "floor": "#6e7781", "bare": "#6e7781", "bubblewrap": "#0969da", "docker": "#1a7f37", "nsjail": "#e08700"}  # fmt: skip
_LEFT, _TOP, _PANEL_WIDTH, _PANEL_HEIGHT = 60, 60, 320, 270

Ticks = Sequence[tuple[float, str]]


def svg(answers: Sequence[Answer]) -> str:
    by_question: dict[str, Answer] = {}
    for answer in answers:
        by_question[answer.question] = answer  # of one asked of several trees, the last and largest
    parts = []
    if "step-size" in by_question:
        parts.append(_at(0, _step_sizes(by_question["step-size"])))
    if "step" in by_question:
        parts.append(_at(1, _step_tools(by_question["step"])))
    if "commits" in by_question:
        parts.append(_at(2, _commits(by_question["commits"])))
    return _picture(parts)


def sandboxes_svg(answers: Sequence[Answer]) -> str:
    asked = [answer for answer in answers if answer.question == "warm"]
    return _picture([_at(panel, _runs(answer)) for panel, answer in enumerate(asked)])


def _picture(parts: Sequence[str]) -> str:
    style = f'font-family="sans-serif" font-size="12" fill="{_INK}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" {style}>'
    return f'{head}\n<rect width="{WIDTH}" height="{HEIGHT}" fill="{_PAPER}"/>\n{"".join(parts)}</svg>\n'


def _at(panel: int, content: str) -> str:
    return f'<g transform="translate({_LEFT + panel * (_PANEL_WIDTH + 85)},{_TOP})">\n{content}</g>\n'


def _step_sizes(answer: Answer) -> str:
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, series in answer.series.items():
        if " " in name:
            side, size = name.split(" ", 1)
            side += " flat" if size.endswith("flat") else ""
            lines.setdefault(side, []).append((float(size.split("k")[0]) * 1000, series.wall_median_s * 1e3))
    sizes = sorted({size for points in lines.values() for size, _ in points})
    lines["floor"] = [(size, answer.series["floor"].wall_median_s * 1e3) for size in sizes]
    ticks = [(size, f"{size:,.0f}") for size in sizes]
    return _lines("one-file step by files in the tree (ms)", lines, ticks, {})


def _commits(answer: Answer) -> str:
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, rate in answer.values.items():
        side, sessions = name.rsplit(" ", 1)
        lines.setdefault(side.split(",")[0], []).append((float(sessions), rate))
    ticks = [(sessions, f"{sessions:.0f}") for sessions, _ in lines["psf"]]
    return _lines("durable commits per second by sessions", lines, ticks, {"floor": "one sync and one commit each"})


def _lines(title: str, lines: dict[str, list[tuple[float, float]]], ticks: Ticks, labels: dict[str, str]) -> str:
    across = _scale([position for position, _ in ticks], _PANEL_WIDTH)
    low, high, grid = _decades([value for points in lines.values() for _, value in points])
    up = _scale([low, high], -_PANEL_HEIGHT)
    parts = [_title(title), *(_rule(_PANEL_HEIGHT + up(value), _number(value)) for value in grid)]
    for position, text in ticks:
        parts.append(_text(across(position), _PANEL_HEIGHT + 18, text, "middle"))
    for number, (name, points) in enumerate(sorted(lines.items())):
        colour = _COLOURS.get(name, _INK)
        places = [(across(x), _PANEL_HEIGHT + up(y)) for x, y in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>\n')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>\n' for x, y in places]
        across_words = 1 if labels else 3
        x, y = (number % across_words) * 105, _PANEL_HEIGHT + 38 + (number // across_words) * 16
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}"/>\n')
        parts.append(_text(x + 15, y, labels.get(name, name), "start"))
    return "".join(parts)


def history_svg(answers: Sequence[Answer]) -> str:
    """Requests about histories, and the memo's, beside a bare one."""
    panels = [
        _bars(f"{answer.what} (ms)", [(series.wall_median_s * 1e3, name) for name, series in answer.series.items()])
        for answer in answers
        if answer.question in ("moves", "memo")
    ]
    return _picture([_at(number, panel) for number, panel in enumerate(panels)])


def _step_tools(answer: Answer) -> str:
    names = [name for name in answer.series if name != "psf with its mount"]
    values = [(answer.series[name].wall_median_s * 1e3, name) for name in names]
    return _bars(f"one-file step by tool, {answer.tree} (ms)", values)


def _runs(answer: Answer) -> str:
    values = [(series.cpu_median_s * 1e3, name) for name, series in answer.series.items()]
    return _bars(f"CPU time of a warm run of {answer.tree} (ms)", values)


def _bars(title: str, unsorted: Sequence[tuple[float, str]]) -> str:
    """The fastest first."""
    values = sorted(unsorted)
    low, high, grid = _decades([value for value, _ in values])
    across = _scale([low, high], _PANEL_WIDTH - 135)
    height = _PANEL_HEIGHT / len(values)
    parts = [_title(title)]
    for value in grid:
        x = 95 + across(value)
        parts.append(f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{_PANEL_HEIGHT}" stroke="{_FAINT}"/>\n')
        parts.append(_text(x, _PANEL_HEIGHT + 18, _number(value), "middle"))
    for number, (value, name) in enumerate(values):
        y, colour = number * height, _COLOURS.get(name.split(",")[0], "#8250df")
        parts.append(
            f'<rect x="95" y="{y + 4:.1f}" width="{across(value):.1f}" height="{height - 8:.1f}" fill="{colour}"/>\n'
        )
        parts.append(_text(88, y + height / 2 + 4, name, "end"))
        parts.append(_text(99 + across(value), y + height / 2 + 4, _number(value), "start"))
    return "".join(parts)


def _decades(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """The powers of ten around the values."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return 10.0**first, 10.0**last, [10.0**power for power in range(first, last + 1)]


def _scale(values: Sequence[float], length: float) -> Callable[[float], float]:
    low, high = math.log10(min(values)), math.log10(max(values))
    return lambda value: (math.log10(value) - low) / (high - low) * length


def _title(text: str) -> str:
    return f'<text x="0" y="-20" font-size="14" font-weight="bold">{escape(text)}</text>\n'


def _rule(y: float, label: str) -> str:
    line = f'<line x1="0" y1="{y:.1f}" x2="{_PANEL_WIDTH}" y2="{y:.1f}" stroke="{_FAINT}"/>\n'
    return line + _text(-8, y + 4, label, "end")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>\n'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
