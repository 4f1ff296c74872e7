"""What histories cost: requests beside a bare one, the memo, replays, very many forks and sessions.

A full run writes results/history.json, and from it the figures in README.md and results/history.svg.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks import trees
from benchmarks.budgets import HISTORY_BUDGETS, Verdict, verdicts
from benchmarks.history_rows import ROWS, set_up
from benchmarks.measure import Answer, Context
from benchmarks.page import Page, machine
from benchmarks.plot import history_svg
from benchmarks.served import Served
from benchmarks.tables import budgets, cell, table

PAGE = Page("history")


class Results(msgspec.Struct):
    """One run: all that the page and the picture are made from."""

    mode: str
    duration_s: float
    machine: dict[str, str]
    answers: list[Answer]

    @property
    def verdicts(self) -> list[Verdict]:
        return verdicts(self.answers, HISTORY_BUDGETS)


def main() -> int:
    arguments = _arguments()
    console = Console(stderr=True)
    if arguments.render:
        results = msgspec.json.decode(PAGE.results.read_bytes(), type=Results)
        PAGE.write(render(results), history_svg(results.answers))
        return 0
    arguments.work.mkdir(parents=True, exist_ok=True)
    with console.status("") as status:
        context = Context(
            arguments.work.resolve(), not arguments.full, lambda text: status.update(f"benchmarks: {text}"), []
        )
        results = measure(context, arguments.only, console)
    if arguments.json:
        sys.stdout.buffer.write(msgspec.json.encode(results) + b"\n")
    else:
        console.print(render(results), highlight=False, markup=False, soft_wrap=True)
    if arguments.full and not arguments.only:
        PAGE.keep(results)
        PAGE.write(render(results), history_svg(results.answers))
    return 0


def measure(context: Context, only: list[str], console: Console) -> Results:
    """All rows, or those named."""
    began = time.monotonic()
    answers: list[Answer] = []
    folder = context.folder / "history"
    shutil.rmtree(folder, ignore_errors=True)
    with Served(folder) as served:
        scene = set_up(context, served)
        for name, row in ROWS.items():
            if not only or name in only:
                row_began = time.monotonic()
                answers += row(scene)
                console.print(f"{name:16}{time.monotonic() - row_began:7.1f} s", highlight=False)
    shutil.rmtree(folder, ignore_errors=True)
    return Results("quick" if context.quick else "full", time.monotonic() - began, machine(context.folder), answers)


def render(results: Results) -> str:
    """The figures as Markdown."""
    facts = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    parts = [
        f"A {results.mode} run of {results.duration_s / 60:.0f} minutes. Machine: {facts}.",
        "### Histories: budgets",
        budgets(results.verdicts),
    ]
    for answer in results.answers:
        parts.append(f"### {answer.what}")
        if answer.series:
            floor = answer.series["aiohttp echo"].wall_median_s
            rows = [
                [name, cell(series), f"{series.wall_median_s / floor:.1f}"] for name, series in answer.series.items()
            ]
            parts.append(table(["", "ms", "x of the echo"], rows))
        else:
            parts.append(table(["", ""], [[name, f"{value:,.1f}"] for name, value in answer.values.items()]))
    return "\n\n".join(parts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="few rounds, half a minute (the default)")
    length.add_argument("--full", action="store_true", help="everything, some minutes")
    length.add_argument("--render", action="store_true", help="make page and picture again from the last results")
    parser.add_argument("--only", action="append", default=[], choices=list(ROWS), help="one row; repeatable")
    parser.add_argument("--json", action="store_true", help="also write the results to standard output")
    parser.add_argument("--work", type=Path, default=trees.ROOT / ".cache/benchmarks", help="folder to work in")
    return parser.parse_args()
