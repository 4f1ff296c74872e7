"""Steps that run a program: in a session, each a snapshot and a move of its head; or without one, leaving no trace.

Order of every step: objects durable, snapshot durable, head advanced, answer. It holds its session's turn from reading the head to
advancing it. A cancelled step changes nothing; once its commit has begun it is finished, answered or not.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from executors.completion import completed
from executors.interfaces import Executor, Result, StageWatch
from psf import record, recorded, systems
from psf.errors import StepCancelled
from psf.limits import LimitRules, StageLimits, of_stages
from psf.masking import MaskedWatch, masked
from psf.memo import Memo, memo_key
from psf.once import RepeatableHeads, refuse_other_head
from psf.record import Order
from psf.repeats import made_before
from psf.runtimes import Runtime, Runtimes
from psf.sessions import SessionService
from psf.systems import SystemRules, system_of
from psf.turns import Turns, to_thread
from store import snapshot as snapshots
from store.asked import NOTHING_ASKED, AskedLimits
from store.ids import Kind, SnapshotId
from store.interfaces import UNKEYED, Keyed, Move, Objects, Session
from store.snapshot import EMPTY_SNAPSHOT, Run, Snapshot

_log = logging.getLogger(__name__)


class Executed(msgspec.Struct, frozen=True):
    """What became of an order. `snapshot` is the session's new head; None for a run without a session.

    `repeated`: the same request had been carried out before, and this is what it was answered. `memo`: an equal step's record was taken.
    """

    result: Result
    snapshot: SnapshotId | None
    runtime: str
    repeated: bool = False
    memo: bool = False


class Place(msgspec.Struct, frozen=True):
    """Where a step begins, and within what: what is known of it in its session's turn."""

    session: Session
    parent: Snapshot
    runtime: Runtime
    limits: StageLimits
    epoch: int


class Steps:
    """`run` and `execute`. `clock` gives seconds since 1970; `run_facts` what every run record repeats."""

    def __init__(
        self,
        objects: Objects,
        heads: RepeatableHeads,
        turns: Turns,
        sessions: SessionService,
        executor: Executor,
        runtimes: Runtimes,
        *,
        systems: SystemRules,
        run_facts: dict[str, object],
        clock: Callable[[], float],
        rules: LimitRules,
        memo: Memo | None = None,
    ) -> None:
        self._running: dict[str, asyncio.Task[Executed]] = {}
        self._objects, self._heads, self._turns, self._sessions = objects, heads, turns, sessions
        self._executor, self._runtimes = executor, runtimes
        self._systems, self._run_facts, self._clock = systems, run_facts, clock
        self._rules, self._memo = rules, memo

    async def run(self, order: Order) -> Executed:
        """Run without a session: starts empty, leaves no trace. Raises as `execute` does."""
        runtime = self._runtimes.get(order.runtime or "")
        order = msgspec.structs.replace(order, keep="nothing")
        limits = self._limits(runtime, NOTHING_ASKED, order)
        request = record.to_request(self._runtimes, runtime, EMPTY_SNAPSHOT, order, limits)
        result = masked(await self._executor.execute(request), order.secrets)
        return Executed(result, None, runtime.name)

    async def execute(
        self,
        session_id: str,
        tenant: str,
        order: Order,
        *,
        keyed: Keyed = UNKEYED,
        expected: SnapshotId | None = None,
        memo: bool = False,
        watch: StageWatch | None = None,
    ) -> Executed:
        """Run a step and move the head to its snapshot. The order's runtime, if any, becomes the session's.

        Under a key (`keyed`) it is done once: a repeat is given what came of it. `expected`: where the head must stand. `memo`: an equal step's
        record will do, if it ran under the profile that makes programs repeat. `watch` sees what its programs print.
        Raises SessionMissing, SessionExpired, SandboxDiffers, SystemUnknown, RuntimeUnknown, NetworkRefused, GuaranteeMissing, KeyReused,
        HeadMoved, StepCancelled, ExecutorError, StoreError; then the head has not moved.
        """
        if keyed.key and (again := await to_thread(lambda: self._again(keyed, tenant))) is not None:
            return again
        session = await self._sessions.get(session_id, tenant)
        systems.refuse(session, self._systems)
        self._runtimes.get(order.runtime or session.runtime)
        with self._turns.share(tenant):
            return await self._in_turn(session_id, tenant, order, keyed, expected, memo=memo, watch=watch)

    async def _in_turn(
        self,
        session_id: str,
        tenant: str,
        order: Order,
        keyed: Keyed,
        expected: SnapshotId | None,
        *,
        memo: bool,
        watch: StageWatch | None,
    ) -> Executed:
        async with self._turns.take(session_id) as epoch:
            if keyed.key and (again := await to_thread(lambda: self._again(keyed, tenant))) is not None:
                return again
            session, parent = await to_thread(lambda: self._head(session_id, tenant))
            refuse_other_head(session, expected)
            runtime = self._runtimes.get(order.runtime or session.runtime)
            limits = self._limits(runtime, session.limits, order)
            place = Place(session, parent, runtime, limits, epoch)
            if memo and (known := await self._from_memo(place, order, keyed)) is not None:
                return known
            return await self._stoppable(place, self._carry_out(place, order, keyed, watch))

    async def cancel(self, session_id: str, tenant: str) -> bool:
        """Stop the step that runs in the session, whose head does not move; False when none does, or it is past stopping."""
        await self._sessions.get(session_id, tenant, retained=True)
        step = self._running.get(session_id)
        return step is not None and step.cancel()

    async def _stoppable(self, place: Place, step: Coroutine[Any, Any, Executed]) -> Executed:
        """Do the step in a task of its own, which `cancel` finds. Raises StepCancelled when it was stopped so."""
        session_id = place.session.session_id
        task = self._running[session_id] = asyncio.ensure_future(step)
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            raise StepCancelled from None
        finally:
            self._running.pop(session_id, None)

    async def _carry_out(self, place: Place, order: Order, keyed: Keyed, watch: StageWatch | None = None) -> Executed:
        started_s = self._clock()
        system = system_of(place.session)
        request = record.to_request(self._runtimes, place.runtime, place.parent, order, place.limits, system)
        seen = MaskedWatch(watch, order.secrets) if watch is not None else None
        result = masked(await self._executor.execute(request, seen), order.secrets)
        self._running.pop(place.session.session_id, None)  # past stopping: its head is going to move
        if seen is not None:
            seen.end()
        facts = {**self._run_facts, **record.noted(order)}
        if keyed.key:
            facts |= recorded.scratch_files(result, self._systems.work_dir_of(system))
        run_record = record.run_record(result, started_s, facts)
        # To its end even when the caller goes away: the turn must not end while it is under way.
        snapshot = await completed(to_thread(lambda: self._commit(place, order, result, run_record, keyed)))
        return Executed(result, snapshot, place.runtime.name)

    def _commit(self, place: Place, order: Order, result: Result, run_record: bytes, keyed: Keyed) -> SnapshotId:
        """Put the outcome and move the head, which makes both durable. In a thread."""
        step = self._step(place, order, result.system)
        outcome = record.put_outcome(self._objects, result)
        number = place.parent.depth + 1
        after = Snapshot(snapshots.VERSION, number, (place.session.head,), result.tree, step, outcome)
        identity = self._advance(place, after, run_record, keyed)
        if self._memo is not None and record.is_repeatable(step, outcome) and self._holds_all(place, order):
            self._memo.remember(memo_key(place.session.tenant, place.parent, step), identity)
        return identity

    def _advance(self, place: Place, after: Snapshot, run_record: bytes, keyed: Keyed) -> SnapshotId:
        head = place.session.head
        identity = SnapshotId(self._objects.put(Kind.SNAPSHOT, snapshots.encode(after)))
        move = Move(0, "execute", head, identity, self._clock(), run_record, keyed.key, keyed.asked)
        self._heads.advance(place.session.session_id, head, move, runtime=place.runtime.name, epoch=place.epoch)
        return identity

    def _step(self, place: Place, order: Order, system: bytes) -> Run:
        environment = self._runtimes.environment_digest(place.runtime, self._systems.sandbox, system)
        return record.put_step(self._objects, place.runtime, environment, order, place.limits)

    # -- what was done before -------------------------------------------------------------------------------------------

    def _again(self, keyed: Keyed, tenant: str) -> Executed | None:
        """What a request with this key was answered. In a thread."""
        made = made_before(self._heads, keyed, tenant)
        if not made:
            return None
        (moved,) = made
        return self._recorded(moved.session, moved.move.to_snapshot, moved.move.run_record, repeated=True)

    def _recorded(
        self, session: Session, identity: SnapshotId, run_record: bytes, *, repeated: bool = False
    ) -> Executed:
        snapshot = self._snapshot(identity)
        work_dir = self._systems.work_dir_of(system_of(session))
        result = recorded.result_of(self._objects, snapshot, run_record, work_dir)
        assert isinstance(snapshot.step, Run)
        return Executed(result, identity, snapshot.step.runtime, repeated, recorded.is_of_memo(run_record))

    async def _from_memo(self, place: Place, order: Order, keyed: Keyed) -> Executed | None:
        """The step taken from the record of an equal one, as a snapshot and a move like any other; None when there is none to be had."""
        memo = self._memo
        if memo is None or not record.may_be_remembered(order, place.limits) or not self._holds_all(place, order):
            return None
        system = await self._executor.prepare(system_of(place.session))
        audited = memo.is_audited(random.random())  # noqa: S311 - a sample, not a secret

        def take() -> tuple[bytes, SnapshotId | None, Executed | None]:
            step = self._step(place, order, system)
            key = memo_key(place.session.tenant, place.parent, step)
            found = memo.find(key, place.session.tenant)
            if found is None or audited:
                return key, found, None
            return key, found, self._as_remembered(place, order, keyed, step, found)

        key, found, taken = await completed(to_thread(take))
        if found is None or taken is not None:
            return taken
        executed = await self._stoppable(place, self._carry_out(place, order, keyed))
        await to_thread(lambda: memo.compare(key, found, executed.snapshot))
        return executed

    def _as_remembered(self, place: Place, order: Order, keyed: Keyed, step: Run, found: SnapshotId) -> Executed:
        """Move the head to the outcome of an equal step. In a thread."""
        facts = {**self._run_facts, **record.noted(order), recorded.MEMO: found.hex()}
        run_record = record.memo_record(self._clock(), facts)
        executed = self._recorded(place.session, found, run_record)
        equal = self._snapshot(found)
        after = msgspec.structs.replace(equal, depth=place.parent.depth + 1, parents=(place.session.head,), step=step)
        identity = self._advance(place, after, run_record, keyed)
        return msgspec.structs.replace(executed, snapshot=identity, memo=True)

    def _holds_all(self, place: Place, order: Order) -> bool:
        """Whether the tree after a step holds all files that it is asked for: an equal step has no others."""
        return not recorded.leads_to_scratch(order.fetch, self._systems.work_dir_of(system_of(place.session)))

    # -- parts ----------------------------------------------------------------------------------------------------------

    def _head(self, session_id: str, tenant: str) -> tuple[Session, Snapshot]:
        session = self._heads.get(session_id, tenant)
        return session, self._snapshot(session.head)

    def _snapshot(self, identity: SnapshotId) -> Snapshot:
        return snapshots.decode(self._objects.get(Kind.SNAPSHOT, identity))

    def _limits(self, runtime: Runtime, session: AskedLimits, order: Order) -> StageLimits:
        """What the stages of a step get. Raises NetworkRefused, GuaranteeMissing."""
        compiling = {"compile": order.compile_limits} if runtime.compile is not None else {}
        return of_stages({**compiling, "run": order.run_limits}, session, self._rules)
