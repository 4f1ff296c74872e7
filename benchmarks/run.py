"""How fast the store is, side by side with git, restic, borg and tar.

A full run writes results/store.json, and from it the figures in README.md and results/store.svg, which README.md says how to read.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks import trees
from benchmarks.budgets import Verdict, verdicts
from benchmarks.measure import Answer, Context
from benchmarks.page import machine
from benchmarks.plot import svg
from benchmarks.report import PAGE, render
from benchmarks.rows import ROWS, Scene
from benchmarks.scale import SCALE_ROWS
from benchmarks.subject import enter_namespace
from benchmarks.tools import TOOLS


class Results(msgspec.Struct):
    """One run: all that the page and the picture are made from."""

    mode: str
    duration_s: float
    machine: dict[str, str]
    versions: dict[str, str]
    trees: dict[str, dict[str, int]]
    answers: list[Answer]
    left_out: list[str]

    @property
    def verdicts(self) -> list[Verdict]:
        return verdicts(self.answers)


def main() -> int:
    arguments = _arguments()
    console = Console(stderr=True)
    if arguments.render:
        results = msgspec.json.decode(PAGE.results.read_bytes(), type=Results)
        PAGE.write(render(results), svg(results.answers))
        return 0
    reason = enter_namespace()
    if reason is not None:
        console.print(f"benchmarks: {reason}; they need root, or a user who may make user namespaces", highlight=False)
        return 2
    arguments.work.mkdir(parents=True, exist_ok=True)
    with console.status("") as status:

        def tell(text: str) -> None:
            status.update(f"benchmarks: {text}")

        context = Context(arguments.work.resolve(), not arguments.full, tell, [])
        context.left_out += [reason for kind in TOOLS if (reason := kind.missing()) is not None]
        for missing in context.left_out:
            console.print(f"benchmarks: without {missing}", highlight=False)
        results = measure(context, arguments.only, console)
    if arguments.json:
        sys.stdout.buffer.write(msgspec.json.encode(results) + b"\n")
    else:
        console.print(render(results), highlight=False, markup=False, soft_wrap=True)
    if arguments.full and not arguments.only:
        PAGE.keep(results)
        PAGE.write(render(results), svg(results.answers))
        console.print(f"wrote {PAGE.results.relative_to(trees.ROOT)} and the page beside it", highlight=False)
    return 0


def measure(context: Context, only: list[str], console: Console) -> Results:
    """All rows, or those named in `only`."""
    started = time.monotonic()
    answers: list[Answer] = []
    sources = [trees.checkout(context.folder)]
    if not context.quick:
        context.tell("unpacking numpy, scipy and pandas")
        sources.append(trees.packages(context.folder))

    def note(row: str, name: str, began: float) -> None:
        console.print(f"{row:16}{name:10}{time.monotonic() - began:7.1f} s", highlight=False)

    for source in sources if not only or set(only) & ROWS.keys() else ():
        scene = Scene(source, context)
        for name, row in ROWS.items():
            if only and name not in only and name != "initial":
                continue  # the first row makes the stores that the others need
            began = time.monotonic()
            answers += row(scene)
            note(name, source.name, began)
        scene.close()
    for name, scale_row in SCALE_ROWS.items():
        if not only or name in only:
            began = time.monotonic()
            answers += scale_row(context)
            note(name, "", began)
    mode = "quick" if context.quick else "full"
    duration_s = time.monotonic() - started
    sizes = {
        source.name: {"files": source.files, "directories": source.directories, "bytes": source.total_bytes}
        for source in sources
    }
    return Results(mode, duration_s, machine(context.folder), _versions(), sizes, answers, context.left_out)


def _versions() -> dict[str, str]:
    found = {}
    for command, option in (("git", "--version"), ("restic", "version"), ("borg", "--version"), ("tar", "--version")):
        if shutil.which(command):
            done = subprocess.run([command, option], capture_output=True, text=True, check=True)
            words = done.stdout.splitlines()[0].split()
            found[command] = next((word for word in words if word[0].isdigit()), words[-1])
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="a small tree, few rounds, two minutes (the default)")
    length.add_argument("--full", action="store_true", help="everything, a quarter of an hour")
    length.add_argument("--render", action="store_true", help="make page and picture again from the last results")
    parser.add_argument("--only", action="append", default=[], choices=[*ROWS, *SCALE_ROWS], help="one row; repeatable")
    parser.add_argument("--json", action="store_true", help="also write the results to standard output")
    parser.add_argument(
        "--work", type=Path, default=trees.ROOT / ".cache/benchmarks", help="folder to work in; kept for the next run"
    )
    return parser.parse_args()
