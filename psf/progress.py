"""Progress of long work: bars on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from store.check import Progress as Told
from store.check import no_progress

REDRAW_S = 0.1


@contextmanager
def waiting(what: str, *, wanted: bool) -> Iterator[None]:
    """Shows that work is under way of which nobody knows how long it takes."""
    if not wanted or not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True, emoji=False).status(what):
        yield


class _Bars:
    """One bar for each kind of work, drawn anew ten times a second at most: work may tell of every object."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._tasks: dict[str, TaskID] = {}
        self._drawn_s = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if what in self._tasks and done < total and now_s - self._drawn_s < REDRAW_S:
            return
        self._drawn_s = now_s
        if what not in self._tasks:
            self._tasks[what] = self._shown.add_task(what, total=None)
        self._shown.update(self._tasks[what], completed=done, total=total or None)


@contextmanager
def shown(wanted: bool) -> Iterator[Told]:
    """Something to tell progress to. Bars go to stderr, so that what a command prints can be piped."""
    if not wanted or not sys.stderr.isatty():
        yield no_progress
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, emoji=False), transient=True) as bars:
        yield _Bars(bars)
