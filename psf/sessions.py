"""Sessions: making, finding, forking and ending them, and moves of their heads that make no snapshot.

A move holds its session's turn from reading the head to advancing it. Under a key (`Keyed`) it is made once, and a repeat is told what
came of it. `expected`: where the caller takes the head to stand; elsewhere it is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

import msgspec

from executors.completion import completed
from executors.interfaces import OWN_SYSTEM, Executor, System
from psf import systems
from psf.errors import InvalidField, QuotaReached, SessionExpired
from psf.history import find_snapshot
from psf.once import Once
from psf.repeats import made_before
from psf.runtimes import Runtimes
from psf.systems import SystemRules, system_of
from psf.turns import Turns, to_thread
from store import snapshot as snapshots
from store.asked import NOTHING_ASKED, AskedLimits
from store.bundle_import import TTL_S_MAX
from store.ids import Kind, SnapshotId
from store.interfaces import (
    UNKEYED,
    HeadLister,
    Heads,
    Keyed,
    Leases,
    Move,
    Objects,
    Repeats,
    Session,
)
from store.snapshot import EMPTY_SNAPSHOT_ID, Snapshot

FORKS_MAX = 10_000
SESSIONS_MAX = 1_000_000
MOVES_LOOKED_AT = 1000


class SessionHeads(Heads, HeadLister, Repeats, Protocol):
    """Heads with all that is asked of them here."""


class SessionService:
    """All that is done to sessions but steps (psf.steps, psf.changes). `clock` gives seconds since 1970."""

    def __init__(
        self,
        objects: Objects,
        heads: SessionHeads,
        leases: Leases,
        turns: Turns,
        executor: Executor,
        runtimes: Runtimes,
        *,
        systems: SystemRules,
        clock: Callable[[], float],
        sessions_max: int = SESSIONS_MAX,
    ) -> None:
        self._objects, self._heads, self._leases, self._turns = objects, heads, leases, turns
        self._executor, self._runtimes = executor, runtimes
        self._systems, self._clock, self._sessions_max = systems, clock, sessions_max
        self.once = Once(heads, turns, self.get)

    async def create(
        self,
        runtime: str,
        ttl_s: float,
        tenant: str,
        name: str | None = None,
        limits: AskedLimits = NOTHING_ASKED,
        system: System = OWN_SYSTEM,
        *,
        begin: Callable[[], SnapshotId] = lambda: EMPTY_SNAPSHOT_ID,
        keyed: Keyed = UNKEYED,
    ) -> Session:
        """A new session, whose steps get `limits` unless they ask for others, and the system it asks for.

        `begin` gives, in a thread and under a lease, the snapshot that it begins with; default: an empty work directory.
        Raises RuntimeUnknown, InvalidField, KeyReused, and ExecutorError when its system cannot be had.
        """
        self._runtimes.get(runtime)
        systems.check(system, self._systems)
        if system != OWN_SYSTEM:
            await self._executor.prepare(system)
        async with self._turns.take(f"create {keyed.key.hex() or _new_id()}") as epoch:

            def act() -> Session:
                if made := made_before(self._heads, keyed, tenant):
                    return _as_begun(made[0].session, made[0].move)
                self.refuse_more(tenant, 1)
                now_s = self._clock()
                session = Session(
                    _new_id(), tenant, name, begin(), runtime, self._systems.sandbox, ttl_s, now_s, now_s, limits,
                    system.image, system.work_dir,
                )  # fmt: skip
                self._heads.create([session], "create", keyed=keyed, epoch=epoch)
                return session

            return await completed(to_thread(act))

    async def get(self, session_id: str, tenant: str, *, retained: bool = False) -> Session:
        """A session that has not expired, or with `retained` also one that has. Raises SessionMissing, SessionExpired."""
        session = await to_thread(lambda: self._heads.get(session_id, tenant))
        if retained or not self.is_expired(session) or await to_thread(lambda: self._leases.is_held(session_id)):
            # A running step is use: it renews the session when it ends.
            return session
        # It may just have ended: then the session was renewed before the turn was given up.
        session = await to_thread(lambda: self._heads.get(session_id, tenant))
        if self.is_expired(session):
            raise SessionExpired(session_id)
        return session

    async def work_dir(self, session_id: str, tenant: str) -> str:
        """Where the session's programs see its work directory. Raises as `get` does."""
        return self._systems.work_dir_of(system_of(await self.get(session_id, tenant)))

    async def all(
        self, tenant: str, *, before: tuple[float, str] | None, limit: int, expired: bool = False
    ) -> list[tuple[Session, Snapshot]]:
        """The tenant's sessions with the snapshots their heads stand at, created last first, before (creation, id)."""

        def read() -> list[tuple[Session, Snapshot]]:
            found: list[Session] = []
            start = before
            while len(found) < limit and (page := self._heads.sessions(tenant, before=start, limit=limit)):
                found += [session for session in page if expired or not self.is_expired(session)]
                start = (page[-1].created_at_s, page[-1].session_id)
            return [(session, self.snapshot(session.head)) for session in found[:limit]]

        return await to_thread(read)

    def is_expired(self, session: Session) -> bool:
        """Whether it was idle for longer than its ttl, or deleted, which leaves it none."""
        return session.ttl_s <= 0 or session.expires_at_s() < self._clock()

    async def rollback(
        self,
        session_id: str,
        tenant: str,
        to: str | int,
        *,
        keyed: Keyed = UNKEYED,
        expected: SnapshotId | None = None,
    ) -> SnapshotId:
        """Move the head to an earlier (or any other) snapshot of the session's history; itself a move that can be undone.

        `to`: a snapshot id or a prefix of it, a step number, or `-n` for n steps back. Raises NotInHistory, HeadMoved, KeyReused.
        """

        def act(session: Session, epoch: int) -> Move:
            target = find_snapshot(self._objects, self._heads, session, to)
            move = Move(0, "rollback", session.head, target, self._clock(), b"", keyed.key, keyed.asked)
            self._heads.advance(session_id, session.head, move, epoch=epoch)
            return move

        return (await self.once.move(session_id, tenant, act, keyed=keyed, expected=expected)).to_snapshot

    async def fork(
        self,
        session_id: str,
        tenant: str,
        *,
        start: str | int | None = None,
        names: tuple[str | None, ...] = (None,),
        keyed: Keyed = UNKEYED,
    ) -> list[Session]:
        """New sessions, one per name, on a snapshot of this one's history (default: its head). Copies nothing.

        They get this server's sandbox, as any new session does. Also from an expired session that is still retained. Raises NotInHistory.
        """
        if not 1 <= len(names) <= FORKS_MAX:
            raise InvalidField(("body", "count"), f"must be between 1 and {FORKS_MAX}", len(names))
        # A turn of its own: what is forked must stay until it is, even if the session it is forked from is dropped now.
        async with self._turns.take(f"fork {keyed.key.hex() or _new_id()}") as epoch:

            def act() -> list[Session]:
                if made := made_before(self._heads, keyed, tenant):
                    return [_as_begun(moved.session, moved.move) for moved in made]
                self.refuse_more(tenant, len(names))
                session = self._heads.get(session_id, tenant)
                head = session.head if start is None else find_snapshot(self._objects, self._heads, session, start)
                now_s = self._clock()
                plain = msgspec.structs.replace(
                    session, head=head, sandbox=self._systems.sandbox, created_at_s=now_s, used_at_s=now_s,
                    ttl_s=lived_s(self._heads, session),
                )  # fmt: skip
                # In the order of their ids, as a repeat finds them.
                ids = sorted(_new_id() for _ in names)
                forks = [
                    msgspec.structs.replace(plain, session_id=new_id, name=name)
                    for new_id, name in zip(ids, names, strict=True)
                ]
                self._heads.create(forks, "fork", keyed=keyed, epoch=epoch)
                return forks

            return await completed(to_thread(act))

    def refuse_more(self, tenant: str, more: int) -> None:
        """Raises QuotaReached when the tenant has so many sessions that it may not have so many more. In a thread."""
        if (count := self._heads.count(tenant)) + more > self._sessions_max:
            advice = "those that expired count until they are not retained any more (retention_s)"
            raise QuotaReached(f"there are {count} sessions of {self._sessions_max}, too many for {more} more", advice)

    async def log(self, session_id: str, tenant: str, *, before: int | None, limit: int) -> list[tuple[Move, Snapshot]]:
        """Moves of the head, newest first, each with the snapshot it led to. Also of an expired session that is retained."""
        await self.get(session_id, tenant, retained=True)

        def read() -> list[tuple[Move, Snapshot]]:
            moves = self._heads.log(session_id, before=before, limit=limit)
            return [(move, self.snapshot(move.to_snapshot)) for move in moves]

        return await to_thread(read)

    def snapshot(self, identity: SnapshotId) -> Snapshot:
        """The snapshot of this id. In a thread. Raises ObjectMissing, ObjectDamaged."""
        return snapshots.decode(self._objects.get(Kind.SNAPSHOT, identity))


def lived_s(heads: Heads, session: Session) -> float:
    """How long a session lives when it is not used; of one that was deleted, before that was. In a thread."""
    if session.ttl_s:
        return session.ttl_s
    for move in heads.log(session.session_id, before=None, limit=MOVES_LOOKED_AT):
        if move.kind == "deleted" and (ttl_s := _noted_ttl_s(move.run_record)):
            return ttl_s
    return 0.0


def _noted_ttl_s(run_record: bytes) -> float | None:
    """What stands in the record of a deletion, which may have come in with a bundle; None when that is no time to live."""
    try:
        ttl_s = msgspec.json.decode(run_record, type=dict[str, float]).get("ttl_s", 0.0)
    except msgspec.MsgspecError:
        return None
    return min(ttl_s, TTL_S_MAX) if ttl_s > 0 else None


def _as_begun(session: Session, move: Move) -> Session:
    """A session as it was told to whoever made it, whatever has become of it since."""
    return msgspec.structs.replace(session, head=move.to_snapshot)


def _new_id() -> str:
    return secrets.token_hex(20)
