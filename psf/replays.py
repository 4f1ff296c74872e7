"""Running a session's history again, and looking for the step that broke something. No head moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import msgspec

from executors.interfaces import Executor
from psf import record
from psf.errors import InvalidField
from psf.history import ancestors, find_snapshot
from psf.limits import LimitRules, of_recorded, of_stages
from psf.lineage import Blame, blame, first_failing
from psf.record import Order
from psf.replay import Chain, Difference, Replacement, ReplayedStep, Replayer, ReplayReport
from psf.runtimes import Runtimes
from psf.sessions import SessionService
from psf.systems import SystemRules, refuse_system, system_of
from psf.turns import Turns, to_thread
from store.capture import Path
from store.errors import ObjectDamaged, ObjectMissing
from store.ids import Kind, SnapshotId
from store.interfaces import Heads, Objects, Session
from store.known import KnownTrees
from store.reachable import is_implied, mark
from store.records import Name
from store.snapshot import Snapshot

STEPS_MAX = 100_000


class Bisected(msgspec.Struct, frozen=True):
    """The first step after which the command fails, None when it does after none, and how often it ran."""

    step: int | None
    snapshot: SnapshotId | None
    runs: int


class Replays:
    """Replay, verify, bisect, blame."""

    def __init__(
        self,
        objects: Objects,
        heads: Heads,
        sessions: SessionService,
        executor: Executor,
        runtimes: Runtimes,
        systems: SystemRules,
        rules: LimitRules,
        turns: Turns,
    ) -> None:
        self._objects, self._heads, self._sessions = objects, heads, sessions
        self._executor, self._runtimes, self._systems, self._rules = executor, runtimes, systems, rules
        self._turns = turns
        self._known = KnownTrees(objects)

    async def replay(
        self,
        session_id: str,
        tenant: str,
        *,
        start: str | int | None = None,
        end: str | int | None = None,
        parallel: int = 1,
        changes: Mapping[int, Replacement] | None = None,
        seen: Callable[[int], None] = lambda _: None,
    ) -> ReplayReport:
        """Run the steps between two snapshots of the history again (default: all to the head). `changes`: by step number.

        Raises NotInHistory, InvalidField, RuntimeUnknown, NetworkRefused, SystemUnknown, Overloaded, ExecutorError, StoreError.
        """
        session = await self._sessions.get(session_id, tenant, retained=True)
        refuse_system(session, self._systems)
        chain = await to_thread(lambda: self._chain(session, start, end))
        base = chain[0][1].depth
        for number in changes or {}:
            if not base < number < base + len(chain):
                message = f"is no step between {base + 1} and {base + len(chain) - 1}"
                raise InvalidField(("body", "change", str(number)), message, number)
        places = {number - base: replacement for number, replacement in (changes or {}).items()}
        replayer = Replayer(
            self._objects, self._executor, self._runtimes, self._systems.sandbox, system_of(session),
            bounded=lambda limits: of_recorded(limits, self._rules),
        )  # fmt: skip
        with ExitStack() as shares:
            for _ in range(min(parallel, len(chain) - 1)):
                shares.enter_context(self._turns.share(tenant))
            return await replayer.replay(chain, parallel=parallel, replacements=places, seen=seen)

    async def verify(
        self, session_id: str, tenant: str, *, start: str | int | None = None, end: str | int | None = None
    ) -> ReplayReport:
        """See that all that is recorded of the steps is there and is what its name says. Runs nothing."""
        session = await self._sessions.get(session_id, tenant, retained=True)

        def read() -> ReplayReport:
            chain = self._chain(session, start, end)
            known: set[Name] = set()
            damaged = [
                step for identity, snapshot in chain if (step := self._flaws(identity, snapshot, known)) is not None
            ]
            return ReplayReport(len(chain) - 1, tuple(damaged), chain[-1][1].tree)

        return await to_thread(read)

    def _flaws(self, identity: SnapshotId, snapshot: Snapshot, known: set[Name]) -> ReplayedStep | None:
        """What is wrong with a step's record, of what no earlier one has."""
        fresh = {(Kind.SNAPSHOT, bytes(parent)) for parent in snapshot.parents} | known
        before = set(fresh)
        reasons = list(mark(self._objects, [(Kind.SNAPSHOT, bytes(identity))], fresh).values())
        for name in fresh - before:
            try:
                if name[0] is Kind.BLOB and not is_implied(name):
                    self._objects.get(*name)
            except (ObjectMissing, ObjectDamaged) as error:
                reasons.append(str(error))
        known |= fresh
        if not reasons:
            return None
        told = tuple(Difference("tree", None, snapshot.tree.hex(), reason) for reason in reasons)
        return ReplayedStep(snapshot.depth, identity, snapshot.tree, told, ("what is recorded is damaged or gone",))

    async def bisect(
        self,
        session_id: str,
        tenant: str,
        order: Order,
        *,
        start: str | int | None = None,
        end: str | int | None = None,
    ) -> Bisected:
        """The first step after which a command fails (ends with anything but 0), in at most log2 n + 1 runs.

        It is taken not to fail at `start` (default: the base) and, once it fails, to go on failing to `end` (default: the head).
        """
        session = await self._sessions.get(session_id, tenant, retained=True)
        refuse_system(session, self._systems)
        chain = await to_thread(lambda: self._chain(session, start, end))
        runtime = self._runtimes.get(order.runtime or session.runtime)
        compiling = {"compile": order.compile_limits} if runtime.compile is not None else {}
        limits = of_stages({**compiling, "run": order.run_limits}, session.limits, self._rules)
        order = msgspec.structs.replace(order, keep="nothing")
        runs = 0

        async def fails(position: int) -> bool:
            nonlocal runs
            runs += 1
            parent = chain[position][1]
            request = record.to_request(self._runtimes, runtime, parent, order, limits, system_of(session))
            result = await self._executor.execute(request)
            return any(run.exit_code != 0 for _, run in result.stages)

        with self._turns.share(tenant):
            found = await first_failing(len(chain) - 1, fails)
        if found is None:
            return Bisected(None, None, runs)
        return Bisected(chain[found][1].depth, chain[found][0], runs)

    async def blame(self, session_id: str, tenant: str, path: Path, *, at: str | int | None = None) -> Blame | None:
        """The step that last changed what stands at a path; None when nothing stands there. Raises NotInHistory."""
        session = await self._sessions.get(session_id, tenant, retained=True)

        def find() -> Blame | None:
            return blame(self._known, self._point(session, at), path)

        return await to_thread(find)

    def _chain(self, session: Session, start: str | int | None, end: str | int | None) -> Chain:
        last = self._point(session, end)
        first = self._point(session, start) if start is not None else None
        chain: list[tuple[SnapshotId, Snapshot]] = []
        for identity, snapshot in ancestors(self._objects, last):
            chain.append((identity, snapshot))
            if identity == first:
                break
            if len(chain) > STEPS_MAX:
                raise InvalidField(
                    ("body", "from"), f"is more than {STEPS_MAX} steps before the end; say a later one", start
                )
        else:
            if first is not None:
                raise InvalidField(("body", "from"), "does not come before the end of what is replayed", start)
        return chain[::-1]

    def _point(self, session: Session, reference: str | int | None) -> SnapshotId:
        if reference is None:
            return session.head
        return find_snapshot(self._objects, self._heads, session, reference)
