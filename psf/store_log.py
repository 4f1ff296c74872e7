"""`psf store log`: how the head of a session has moved. A bundle's range of moves is given by their numbers."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from psf.history import LOG_PAGE
from psf.references import resolve_session
from psf.store_commands import opened, print_array
from psf.store_reports import shown_id
from psf.terminal import printable
from store.interfaces import Heads, Move

_NUMBER_COLUMNS, _KIND_COLUMNS = 6, 10


def log(parsed: argparse.Namespace) -> int:
    """Print the moves of a session, newest first, each as soon as it is read."""
    with opened(parsed) as store:
        session = resolve_session(store, parsed.session)
        rows = map(move_row, islice(_moves(store.heads, session.session_id), parsed.limit))
        if parsed.json:
            print_array(rows)
        else:
            show_moves(rows)
    return 0


def _moves(heads: Heads, session_id: str) -> Iterator[Move]:
    before: int | None = None
    while page := heads.log(session_id, before=before, limit=LOG_PAGE):
        yield from page
        before = page[-1].sequence


def move_row(move: Move) -> dict[str, Any]:
    """What programs get of a move. `move` is its number, `at_s` seconds since 1970."""
    return {"move": move.sequence, "kind": move.kind, "snapshot": move.to_snapshot.hex(), "at_s": move.at_s}


def show_moves(rows: Iterator[dict[str, Any]]) -> None:
    """One line for each: number, time, kind, snapshot."""
    for row in rows:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["at_s"]))
        kind = printable(row["kind"]).ljust(_KIND_COLUMNS)
        sys.stdout.write(f"{row['move']:>{_NUMBER_COLUMNS}}  {at}  {kind}  {shown_id(row['snapshot'])}\n")
