"""Places of a history, as ids of snapshots: what a server is asked about snapshots wants to know them whole."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from psf.client.errors import Misused
from psf.client.models import Move
from psf.client.snapshots import Snapshots

if TYPE_CHECKING:
    from psf.client.sessions import Session

_WHOLE, _BEGINNING = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{6,63}")
_STEP, _BACK = re.compile(r"[0-9]{1,9}"), re.compile(r"-[0-9]{1,9}")
_MAKES_A_STEP = frozenset({"execute", "write", "merge"})


async def find(session: Session, snapshots: Snapshots, place: str | int | None) -> str:
    """The id at a place; a tag stays its name, which servers know. Raises Misused."""
    if place is None:
        return (await session.info()).head
    text = str(place)
    if _WHOLE.fullmatch(text):
        return text
    if _BACK.fullmatch(text):
        return await _back(session, snapshots, int(text[1:]))
    if _BEGINNING.fullmatch(text) or _STEP.fullmatch(text):
        return await _named(session, snapshots, text, is_number=isinstance(place, int))
    return text


async def _named(session: Session, snapshots: Snapshots, text: str, *, is_number: bool) -> str:
    """The snapshot of a number, or of the beginning of an id; what could be both is an id first, as servers have it."""
    found: set[str] = set()
    numbered: str | None = None
    async for identity, number in _history(session, snapshots):
        if not is_number and _BEGINNING.fullmatch(text) and identity.startswith(text):
            found.add(identity)
        if numbered is None and _STEP.fullmatch(text) and number == int(text):
            numbered = identity
            if not _BEGINNING.fullmatch(text):
                break
    if len(found) > 1:
        raise Misused(f"{text!r} is the beginning of {len(found)} snapshots of this session; give more digits")
    if found:
        return found.pop()
    if numbered is None:
        raise Misused(f"{text!r} names no snapshot of this session's history; its log tells what there is")
    return numbered


async def _back(session: Session, snapshots: Snapshots, count: int) -> str:
    """So many steps before the head: by the log as far as that goes, without asking for each."""
    head = (await session.info()).head
    if count == 0:
        return head
    parents: dict[str, str] = {}
    async for move in session.log():
        _note(move, parents)
        if (found := _follow(parents, head, count)) is not None:
            return found
    async for identity, distance in _line(snapshots, head):
        if distance == count:
            return identity
    raise Misused(f"-{count} goes back further than the session's history")


def _note(move: Move, parents: dict[str, str]) -> None:
    if move.kind in _MAKES_A_STEP and move.start is not None:
        parents[move.to] = move.start


def _follow(parents: dict[str, str], start: str, count: int) -> str | None:
    if len(parents) < count:
        return None
    current: str | None = start
    for _ in range(count):
        current = parents.get(current) if current is not None else None
    return current


async def _history(session: Session, snapshots: Snapshots) -> AsyncIterator[tuple[str, int]]:
    """Every snapshot that the head has stood on, the head's own line first, then those before all of that, with their numbers."""
    moves = [move async for move in session.log()]
    numbers = {move.to: move.step for move in moves}
    parents: dict[str, str] = {}
    for move in moves:
        _note(move, parents)
    line: list[str] = []
    current: str | None = moves[0].to if moves else None
    while current is not None:
        line.append(current)
        current = parents.get(current)
    for identity in dict.fromkeys([*line, *numbers]):
        if identity in numbers:
            yield identity, numbers[identity]
    # A fork, or what was taken in from elsewhere, begins in the middle of a history.
    for move in moves[-1:]:
        if move.step > 0:
            async for identity, distance in _line(snapshots, move.to):
                yield identity, move.step - distance


async def _line(snapshots: Snapshots, start: str) -> AsyncIterator[tuple[str, int]]:
    """A snapshot and those before it, by first parents, with how far back they are."""
    current: str | None = start
    distance = 0
    while current is not None:
        yield current, distance
        parents = (await snapshots.snapshot(current)).parents
        current = parents[0] if parents else None
        distance += 1
