"""`psf log`: a session's steps as a graph, or the moves of its head."""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from typing import NamedTuple

from rich.text import Text

from psf.client import Client, Session
from psf.client.models import Move, Snapshot
from psf.desk import session_of, work
from psf.graph import draw, in_order
from psf.history_reports import ending_of, headline, out, short_id
from psf.progress import waiting
from psf.run_commands import print_json
from psf.terminal import printable

AT_ONCE = 8
BROUGHT_IN_MAX = 200
"""Of a line that was merged from another session no more is shown."""


class History(NamedTuple):
    """What is drawn: snapshots by their ids, which of them happened later, and what each is called."""

    snapshots: dict[str, Snapshot]
    recency: dict[str, float]
    names: dict[str, list[str]]
    moves: dict[str, Move]


@work
async def log(parsed: argparse.Namespace, client: Client) -> int:
    session = await session_of(client, parsed.session)
    with waiting("reading the history", wanted=not parsed.json):
        moves = await _moves(session, parsed.limit)
        history = None if parsed.json or parsed.moves else await _history(client, session, moves)
    if parsed.json:
        print_json(moves)
    elif history is None:
        for move in moves:
            _show_move(move)
    else:
        _show_graph(history)
    return 0


async def _moves(session: Session, limit: int) -> list[Move]:
    found: list[Move] = []
    async for move in session.log(page=min(limit, 500)):
        found.append(move)
        if len(found) == limit:
            break
    return found


async def _history(client: Client, session: Session, moves: list[Move]) -> History:
    info = await session.info()
    steps = {move.to: move for move in reversed(moves) if move.kind in ("execute", "write", "merge")}
    recency: dict[str, float] = {}
    for move in reversed(moves):
        recency.setdefault(move.to, move.sequence)
    snapshots = await _snapshots(client, dict.fromkeys([info.head, *recency]))
    for merged in [snapshot for snapshot in snapshots.values() if snapshot.kind == "merge"]:
        await _bring_in(client, snapshots, recency, merged)
    names: dict[str, list[str]] = defaultdict(list)
    names[info.head].append("HEAD")
    for tag in await client.tags():
        names[tag.snapshot].append(f"tag: {tag.name}")
    async for other in client.sessions():
        if other.session_id != session.session_id and other.head in snapshots:
            names[other.head].append(other.name or other.session_id[:12])
    return History(snapshots, recency, names, steps)


async def _snapshots(client: Client, ids: dict[str, None]) -> dict[str, Snapshot]:
    free = asyncio.Semaphore(AT_ONCE)

    async def one(identity: str) -> Snapshot:
        async with free:
            return await client.snapshot(identity)

    found = await asyncio.gather(*(one(identity) for identity in ids))
    return dict(zip(ids, found, strict=True))


async def _bring_in(
    client: Client, snapshots: dict[str, Snapshot], recency: dict[str, float], merged: Snapshot
) -> None:
    """The line that was merged, down to where it left what is known, as it happened: just before the merge."""
    current = merged.parents[1] if len(merged.parents) > 1 else None
    for _ in range(BROUGHT_IN_MAX):
        if current is None or current in snapshots:
            return
        snapshots[current] = await client.snapshot(current)
        recency[current] = recency.get(merged.id, 0) - 0.5
        current = next(iter(snapshots[current].parents), None)


def _show_graph(history: History) -> None:
    parents = {identity: snapshot.parents for identity, snapshot in history.snapshots.items()}
    console = out()
    for row in draw(in_order(parents, history.recency), parents):
        if row.node is None:
            console.print(Text(row.lines))
            continue
        console.print(Text(f"{row.lines} ").append_text(_row(history, row.node)))


def _row(history: History, identity: str) -> Text:
    snapshot, move = history.snapshots[identity], history.moves.get(identity)
    text = Text(f"{snapshot.step:>3} ").append(short_id(identity), "yellow")
    if names := history.names.get(identity):
        text.append(f" ({printable(', '.join(names))})", "bold green")
    text.append(f" {headline(snapshot)}")
    if ending := ending_of(snapshot):
        text.append(f"  {ending}", "red")
    if move is not None and move.at:
        text.append(f"  {printable(move.at[:19].replace('T', ' '))}", "dim")
    note = move.run.get("note") if move is not None and isinstance(move.run, dict) else None
    return text.append(f"  {printable(str(note))[:80]}", "italic") if note else text


def _show_move(move: Move) -> None:
    at = printable(move.at[:19].replace("T", " "))
    out().print(
        Text(f"{move.sequence:>6}  {at}  {printable(move.kind):<10} step {move.step:<5} ").append(
            short_id(move.to), "yellow"
        )
    )
