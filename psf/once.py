"""Moves of heads: each in its session's turn, and under a key once, however often it is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from executors.completion import completed
from psf.repeats import made_before
from psf.turns import Turns, to_thread
from store.errors import HeadMoved
from store.ids import SnapshotId
from store.interfaces import UNKEYED, Heads, Keyed, Move, Repeats, Session


class RepeatableHeads(Heads, Repeats, Protocol):
    """Heads that know which requests they have carried out."""


class Once:
    """`get` finds a session of a tenant (psf.sessions): it raises for one that is missing, or, unless `retained`, has expired."""

    def __init__(self, heads: RepeatableHeads, turns: Turns, get: Callable[..., Awaitable[Session]]) -> None:
        self._heads, self._turns, self._get = heads, turns, get

    async def move(
        self,
        session_id: str,
        tenant: str,
        act: Callable[[Session, int], Move],
        *,
        keyed: Keyed = UNKEYED,
        expected: SnapshotId | None = None,
        retained: bool = False,
    ) -> Move:
        """The move that `act` makes of a session, in a thread, in the epoch that it is given; or the one that the same request has made.

        `expected`: where the head must stand. Raises KeyReused, HeadMoved, SessionMissing, SessionExpired, and what `act` does.
        """
        if keyed.key and (made := await to_thread(lambda: made_before(self._heads, keyed, tenant))):
            return made[0].move
        await self._get(session_id, tenant, retained=retained)
        async with self._turns.take(session_id) as epoch:

            def once() -> Move:
                if made := made_before(self._heads, keyed, tenant):
                    return made[0].move
                session = self._heads.get(session_id, tenant)
                refuse_other_head(session, expected)
                return act(session, epoch)

            return await completed(to_thread(once))


def refuse_other_head(session: Session, expected: SnapshotId | None) -> None:
    """Raises HeadMoved when the session's head is not where the caller takes it to be; None: anywhere."""
    if expected is not None and session.head != expected:
        raise HeadMoved(session.session_id, expected.hex(), session.head.hex())
