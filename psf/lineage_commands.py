"""Commands that ask a history: bisect, blame, replay."""

from __future__ import annotations

import argparse
import sys

from rich.text import Text

from psf.client import Client
from psf.client.models import Replay
from psf.desk import session_and_place, session_of, work
from psf.history_reports import headline, out, short_id
from psf.progress import waiting
from psf.run_commands import limits_of, print_json, program_of
from psf.store_reports import shown_id
from psf.terminal import printable

NONE_FOUND, DIFFERS = 1, 1


@work
async def bisect(parsed: argparse.Namespace, client: Client) -> int:
    code, runtime = program_of(parsed)
    session = await session_of(client, parsed.session)
    with waiting("looking for the first step after which it fails", wanted=not parsed.json):
        found = await session.bisect(code, runtime=runtime, good=parsed.good, bad=parsed.bad, limits=limits_of(parsed))
    if parsed.json:
        print_json(found)
    elif found.step is None or found.snapshot is None:
        sys.stdout.write(f"it fails after no step ({found.runs} runs)\n")
    else:
        snapshot = await client.snapshot(found.snapshot)
        sys.stdout.write(f"{shown_id(found.snapshot)} step {found.step}: {headline(snapshot)} ({found.runs} runs)\n")
    return NONE_FOUND if found.step is None else 0


@work
async def blame(parsed: argparse.Namespace, client: Client) -> int:
    session, place = await session_and_place(client, parsed.session)
    found = await session.blame(parsed.path, at=place)
    if parsed.json:
        print_json(found)
    else:
        snapshot = await client.snapshot(found.snapshot)
        sys.stdout.write(f"{shown_id(found.snapshot)} step {found.step}: {headline(snapshot)}\n")
    return 0


@work
async def replay(parsed: argparse.Namespace, client: Client) -> int:
    session, place = await session_and_place(client, parsed.session)
    with waiting("verifying" if parsed.verify else "running the steps again", wanted=not parsed.json):
        if parsed.verify:
            report = await session.verify(start=parsed.start, to=place)
        else:
            report = await session.replay(start=parsed.start, to=place, parallel=parsed.parallel)
    if parsed.json:
        print_json(report)
    else:
        _show(report, "verified" if parsed.verify else "run again")
    return 0 if report.same else DIFFERS


def _show(report: Replay, done: str) -> None:
    console = out()
    if report.same:
        console.print(Text(f"{report.steps} steps {done}: all the same", "green"))
        return
    console.print(Text(f"{report.steps} steps {done}: {len(report.different)} are not the same", "red"))
    for step in report.different:
        console.print(Text(f"step {step.step} ").append(short_id(step.snapshot), "yellow"))
        for one in step.differences:
            stage = f"{one.stage} " if one.stage else ""
            console.print(
                Text(
                    f"  {printable(stage + one.what)}: {printable(one.recorded)[:200]} -> {printable(one.replayed)[:200]}"
                )
            )
            for line in (*one.paths, *one.diff):
                console.print(Text(f"    {printable(line.rstrip())}"))
        for cause in step.causes:
            console.print(Text(f"  maybe: {printable(cause)}", "dim"))
