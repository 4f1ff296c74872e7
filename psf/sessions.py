"""The heart: sessions, and what moves their heads.

Order of every move: objects durable, snapshot durable, head advanced, answer. A step holds its session's turn from reading the head
to advancing it. A cancelled step changes nothing; once its commit has begun it is finished, answered or not.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec

from executors.completion import completed
from executors.interfaces import OWN_SYSTEM, Executor, Result, System
from psf import record, systems
from psf.errors import InvalidField, SessionExpired
from psf.history import find_snapshot
from psf.limits import LimitRules, StageLimits, of_stages
from psf.record import Order
from psf.runtimes import Runtime, Runtimes
from psf.systems import SystemRules, system_of
from psf.turns import Turns, to_thread
from store import snapshot as snapshots
from store.asked import NOTHING_ASKED, AskedLimits
from store.ids import Kind, SnapshotId
from store.interfaces import Heads, Leases, Move, Objects, Session
from store.snapshot import EMPTY_SNAPSHOT, EMPTY_SNAPSHOT_ID, Snapshot

FORKS_MAX = 10_000


class Executed(msgspec.Struct, frozen=True):
    """What became of an order. `snapshot` is the session's new head; None for a run without a session."""

    result: Result
    snapshot: SnapshotId | None


class SessionService:
    """Create, execute, rollback, fork, log. `clock` gives seconds since 1970; `run_facts` what every run record repeats."""

    def __init__(
        self,
        objects: Objects,
        heads: Heads,
        leases: Leases,
        turns: Turns,
        executor: Executor,
        runtimes: Runtimes,
        *,
        systems: SystemRules,
        run_facts: dict[str, object],
        clock: Callable[[], float],
        rules: LimitRules,
    ) -> None:
        self._objects, self._heads, self._leases = objects, heads, leases
        self._executor, self._runtimes = executor, runtimes
        self._systems, self._run_facts, self._clock = systems, run_facts, clock
        self._rules = rules
        self._turns = turns

    async def create(
        self,
        runtime: str,
        ttl_s: float,
        tenant: str,
        name: str | None = None,
        limits: AskedLimits = NOTHING_ASKED,
        system: System = OWN_SYSTEM,
    ) -> Session:
        """A new session with an empty work directory, whose steps get `limits` unless they ask for others, and the system it asks for.

        Raises RuntimeUnknown, InvalidField, and ExecutorError when its system cannot be had.
        """
        self._runtimes.get(runtime)
        systems.check(system, self._systems)
        if system != OWN_SYSTEM:
            await self._executor.prepare(system)
        now_s = self._clock()
        session = Session(
            _new_id(), tenant, name, EMPTY_SNAPSHOT_ID, runtime, self._systems.sandbox, ttl_s, now_s, now_s, limits,
            system.image, system.work_dir,
        )  # fmt: skip
        await to_thread(lambda: self._heads.create([session], "create"))
        return session

    async def get(self, session_id: str, tenant: str, *, retained: bool = False) -> Session:
        """A session that has not expired, or with `retained` also one that has. Raises SessionMissing, SessionExpired."""
        session = await to_thread(lambda: self._heads.get(session_id, tenant))
        if retained or not self._is_expired(session) or await to_thread(lambda: self._leases.is_held(session_id)):
            # A running step is use: it renews the session when it ends.
            return session
        # It may just have ended: then the session was renewed before the turn was given up.
        session = await to_thread(lambda: self._heads.get(session_id, tenant))
        if self._is_expired(session):
            raise SessionExpired(session_id)
        return session

    async def work_dir(self, session_id: str, tenant: str) -> str:
        """Where the session's programs see its work directory. Raises as `get` does."""
        return self._systems.work_dir_of(system_of(await self.get(session_id, tenant)))

    def _is_expired(self, session: Session) -> bool:
        return session.expires_at_s() < self._clock()

    async def run(self, order: Order) -> Executed:
        """Run without a session: starts empty, leaves no trace. Raises as `execute` does."""
        runtime = self._runtimes.get(order.runtime or "")
        order = msgspec.structs.replace(order, keep="nothing")
        limits = self._limits(runtime, NOTHING_ASKED, order)
        request = record.to_request(self._runtimes, runtime, EMPTY_SNAPSHOT, order, limits)
        return Executed(await self._executor.execute(request), None)

    async def execute(self, session_id: str, tenant: str, order: Order) -> Executed:
        """Run a step and move the head to its snapshot. The order's runtime, if any, becomes the session's.

        Raises SessionMissing, SessionExpired, SandboxDiffers, SystemUnknown, RuntimeUnknown, NetworkRefused, GuaranteeMissing, ExecutorError, StoreError;
        then the head has not moved.
        """
        session = await self.get(session_id, tenant)
        systems.refuse(session, self._systems)
        self._runtimes.get(order.runtime or session.runtime)
        async with self._turns.take(session_id) as epoch:
            session = await self.get(session_id, tenant, retained=True)
            runtime = self._runtimes.get(order.runtime or session.runtime)
            limits = self._limits(runtime, session.limits, order)
            parent = await to_thread(lambda: self._snapshot(session.head))
            started_s = self._clock()
            request = record.to_request(self._runtimes, runtime, parent, order, limits, system_of(session))
            result = await self._executor.execute(request)
            run_record = record.run_record(result, started_s, self._run_facts)
            # To its end even when the caller goes away: the turn must not end while it is under way.
            commit = to_thread(lambda: self._commit(session, parent, runtime, order, limits, result, run_record, epoch))
            snapshot = await completed(commit)
            return Executed(result, snapshot)

    async def rollback(self, session_id: str, tenant: str, to: str | int) -> SnapshotId:
        """Move the head to an earlier (or any other) snapshot of the session's history; itself a move that can be undone.

        `to`: a snapshot id or a prefix of it, a step number, or `-n` for n steps back. Raises NotInHistory.
        """
        await self.get(session_id, tenant)
        async with self._turns.take(session_id) as epoch:
            session = await self.get(session_id, tenant, retained=True)
            target = await to_thread(lambda: find_snapshot(self._objects, self._heads, session, to))
            move = Move(0, "rollback", session.head, target, self._clock(), b"")
            await completed(to_thread(lambda: self._heads.advance(session_id, session.head, move, epoch=epoch)))
        return target

    async def fork(
        self, session_id: str, tenant: str, *, start: str | int | None = None, names: tuple[str | None, ...] = (None,)
    ) -> list[Session]:
        """New sessions, one per name, on a snapshot of this one's history (default: its head). Copies nothing.

        They get this server's sandbox, as any new session does. Also from an expired session that is still retained. Raises NotInHistory.
        """
        if not 1 <= len(names) <= FORKS_MAX:
            raise InvalidField(("body", "count"), f"must be between 1 and {FORKS_MAX}", len(names))
        # A turn of its own: what is forked must stay until it is, even if the session it is forked from is dropped now.
        async with self._turns.take(f"fork {_new_id()}") as epoch:
            session = await self.get(session_id, tenant, retained=True)
            head = session.head
            if start is not None:
                head = await to_thread(lambda: find_snapshot(self._objects, self._heads, session, start))
            now_s = self._clock()
            forks = [
                msgspec.structs.replace(
                    session,
                    session_id=_new_id(),
                    name=name,
                    head=head,
                    sandbox=self._systems.sandbox,
                    created_at_s=now_s,
                    used_at_s=now_s,
                )
                for name in names
            ]
            await completed(to_thread(lambda: self._heads.create(forks, "fork", epoch=epoch)))
        return forks

    async def log(self, session_id: str, tenant: str, *, before: int | None, limit: int) -> list[tuple[Move, Snapshot]]:
        """Moves of the head, newest first, each with the snapshot it led to. Also of an expired session that is retained."""
        await self.get(session_id, tenant, retained=True)

        def read() -> list[tuple[Move, Snapshot]]:
            moves = self._heads.log(session_id, before=before, limit=limit)
            return [(move, self._snapshot(move.to_snapshot)) for move in moves]

        return await to_thread(read)

    # -- parts of a step ----------------------------------------------------------------------------------------------

    def _snapshot(self, identity: SnapshotId) -> Snapshot:
        return snapshots.decode(self._objects.get(Kind.SNAPSHOT, identity))

    def _limits(self, runtime: Runtime, session: AskedLimits, order: Order) -> StageLimits:
        """What the stages of a step get. Raises NetworkRefused, GuaranteeMissing."""
        compiling = {"compile": order.compile_limits} if runtime.compile is not None else {}
        return of_stages({**compiling, "run": order.run_limits}, session, self._rules)

    def _commit(
        self,
        session: Session,
        parent: Snapshot,
        runtime: Runtime,
        order: Order,
        limits: StageLimits,
        result: Result,
        run_record: bytes,
        epoch: int,
    ) -> SnapshotId:
        """Put the outcome and move the head, which makes both durable. In a thread."""
        environment = self._runtimes.environment_digest(runtime, self._systems.sandbox, result.system)
        step = record.put_step(self._objects, runtime, environment, order, limits)
        outcome = record.put_outcome(self._objects, result)
        after = Snapshot(snapshots.VERSION, parent.depth + 1, (session.head,), result.tree, step, outcome)
        identity = SnapshotId(self._objects.put(Kind.SNAPSHOT, snapshots.encode(after)))
        move = Move(0, "execute", session.head, identity, self._clock(), run_record)
        self._heads.advance(session.session_id, session.head, move, runtime=runtime.name, epoch=epoch)
        return identity


def _new_id() -> str:
    return secrets.token_hex(20)
