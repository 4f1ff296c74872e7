"""What `psf doctor` prints for people: a table of sandboxes against guarantees, and what to do about what is missing."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from executors import guarantees
from psf.doctor import Finding, Report, advice_to_start, remedy
from psf.terminal import printable


def show(report: Report) -> None:
    """Print it, readable in 80 columns."""
    console = Console(highlight=False)
    machine = report.machine
    console.print(
        Text(
            f"psf {report.version} on Linux {machine.kernel}, {machine.architecture},"
            f" {'as root' if machine.root else 'as a plain user'};"
            f" user namespaces {'can' if machine.user_namespaces else 'cannot'} be made"
        )
    )
    console.print()
    working = [finding for finding in report.sandboxes if finding.works]
    if working:
        console.print(_table(working))
        console.print()
    for finding in working:
        _show_lacks(console, finding, report)
    for finding in report.sandboxes:
        if not finding.works:
            _paragraph(console, f"{finding.name} does not work here", finding.reason)
    if not working and (advice := advice_to_start(machine)):
        _paragraph(console, "To get one", advice)
    console.print(Text(_verdict(report), style="bold"))


def _table(working: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("guarantee")
    for finding in working:
        table.add_column(Text(printable(finding.name)), overflow="fold")
    for name in guarantees.NAMES:
        table.add_row(name, *(_mark(finding, name) for finding in working))
    return table


def _mark(finding: Finding, name: str) -> Text:
    if name in finding.failed:
        return Text("BROKEN", style="bold red")
    return Text("no", style="yellow") if name in finding.missing else Text("yes", style="green")


def _show_lacks(console: Console, finding: Finding, report: Report) -> None:
    for name, reason in finding.lacks().items():
        told = f"a trial got past it: {reason}" if name in finding.failed else reason
        _paragraph(console, f"{finding.name} lacks {name}", told)
        if advice := remedy(name, report.machine, finding.name):
            console.print(Padding(Text(f"To get it: {advice}", style="cyan"), (0, 0, 0, 2)))
    if finding.lacks():
        console.print()


def _paragraph(console: Console, head: str, text: str) -> None:
    console.print(Text.assemble((printable(head), "bold"), ": ", printable(text)))


def _verdict(report: Report) -> str:
    if report.chosen is None:
        return f"psf serve cannot run anything here (executor = {report.executor})"
    (finding,) = (finding for finding in report.sandboxes if finding.name == report.chosen)
    lacks = [name for name in finding.lacks() if name in guarantees.GUARANTEES]
    what = f"without {', '.join(lacks)}" if lacks else "with every guarantee"
    return f"psf serve uses {report.chosen} here (executor = {report.executor}), {what}"
