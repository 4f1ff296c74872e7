"""Settings of sessions, and their ends: each change is a move that leaves the head where it is. `clock` gives seconds since 1970."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from psf.once import Once
from psf.sessions import SessionService, lived_s
from store.interfaces import UNKEYED, Heads, Keyed, Move, Session, SessionSettings

DELETED = "deleted"


class Lifetimes:
    """Change, delete, undelete."""

    def __init__(self, heads: Heads, once: Once, sessions: SessionService, clock: Callable[[], float]) -> None:
        self._heads, self._once, self._sessions, self._clock = heads, once, sessions, clock

    async def change(
        self, session_id: str, tenant: str, settings: Callable[[Session], SessionSettings], *, keyed: Keyed = UNKEYED
    ) -> Session:
        """Give a session the settings that `settings` makes of those it has in its turn. Raises SessionMissing, SessionExpired, KeyReused."""
        await self._once.move(session_id, tenant, self._setting("settings", settings, keyed), keyed=keyed)
        return await self._sessions.get(session_id, tenant, retained=True)

    async def delete(self, session_id: str, tenant: str) -> None:
        """Let a session expire now. While it is retained it can be undeleted. Done again it changes nothing."""
        session = await self._sessions.get(session_id, tenant, retained=True)
        if not self._sessions.is_expired(session):
            facts = msgspec.json.encode({"ttl_s": session.ttl_s})
            expired = self._setting(DELETED, lambda one: SessionSettings(one.name, 0.0, one.limits), UNKEYED, facts)
            await self._once.move(session_id, tenant, expired)

    async def undelete(
        self, session_id: str, tenant: str, *, ttl_s: float | None = None, keyed: Keyed = UNKEYED
    ) -> Session:
        """Let a session live again that has expired or was deleted, with `ttl_s` or as long as before."""

        def alive(session: Session) -> SessionSettings:
            return SessionSettings(
                session.name, ttl_s if ttl_s is not None else lived_s(self._heads, session), session.limits
            )

        await self._once.move(session_id, tenant, self._setting("undelete", alive, keyed), keyed=keyed, retained=True)
        return await self._sessions.get(session_id, tenant, retained=True)

    def _setting(
        self, kind: str, settings: Callable[[Session], SessionSettings], keyed: Keyed, facts: bytes = b""
    ) -> Callable[[Session, int], Move]:
        def act(session: Session, epoch: int) -> Move:
            move = Move(0, kind, session.head, session.head, self._clock(), facts, keyed.key, keyed.asked)
            self._heads.advance(session.session_id, session.head, move, settings=settings(session), epoch=epoch)
            return move

        return act
