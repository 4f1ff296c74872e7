"""Sessions against a model of dictionaries: any order of steps, rollbacks, forks, time, sweeps and restarts."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from executors.errors import SandboxBroken
from executors.interfaces import Executor, Keep, Request, Result, StageWatch
from psf.errors import RuntimeUnknown, SessionExpired
from psf.limits import LimitRules
from psf.record import Order
from store.asked import AskedLimits
from store.check import check
from store.errors import NotInHistory, SessionMissing
from store.snapshot import EMPTY_SNAPSHOT_ID, Limits
from tests.psf.service import TENANT, Bench
from tests.store.workbench import contents

EMPTY = EMPTY_SNAPSHOT_ID.hex()
REFUSALS = (SessionMissing, SessionExpired, RuntimeUnknown, NotInHistory, SandboxBroken)
BREAKS = "break"


class Breaking:
    """An executor that breaks when the program asks for it."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner

    async def execute(self, request: Request, watch: StageWatch | None = None) -> Result:
        if request.program == BREAKS.encode():
            raise SandboxBroken("as was asked")
        return await self._inner.execute(request, watch)

    async def close(self) -> None:
        await self._inner.close()


PROCESSES_MAX = 200
PROCESSES = st.sampled_from([None, None, 7, 1000])


class State(msgspec.Struct):
    """A snapshot in the model."""

    parent: str | None
    depth: int
    files: dict[str, str]


class Known(msgspec.Struct):
    """A session in the model. Moves are oldest first: kind, and where the head went."""

    head: str
    runtime: str
    ttl_s: float
    used_at_s: float
    moves: list[tuple[str, str]]
    processes: int | None = None
    """The only limit that anybody asks for here."""


def put(files: dict[str, str], name: str, content: str) -> dict[str, str]:
    """What stands in a file's way gives way: a directory of its name, a file that its directory needs."""
    above = {"/".join(name.split("/")[:length]) for length in range(1, name.count("/") + 1)}
    kept = {path: old for path, old in files.items() if path not in above and not path.startswith(name + "/")}
    return kept | {name: content}


class SessionMachine(RuleBasedStateMachine):
    """Sessions are called by the order in which they were made; those that were dropped keep their number."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.loop = asyncio.Runner()
        rules = LimitRules(maximum=msgspec.structs.replace(LimitRules().maximum, processes=PROCESSES_MAX))
        self.bench = Bench(self.root / "store", Breaking, rules)
        self.names: list[str] = []
        self.model: dict[str, Known] = {}
        self.states = {EMPTY: State(None, 0, {})}
        self.made: dict[tuple[str, str, str, Keep], str] = {}

    # -- the model's answers ------------------------------------------------------------------------------------------

    def now_s(self) -> float:
        return self.bench.clock.now_s

    def refusal(self, name: str, *, retained: bool = False) -> type[Exception] | None:
        known = self.model.get(name)
        if known is None:
            return SessionMissing
        expired = known.used_at_s + known.ttl_s < self.now_s()
        return SessionExpired if expired and not retained else None

    def ancestors(self, snapshot: str | None) -> list[str]:
        chain = []
        while snapshot is not None:
            chain.append(snapshot)
            snapshot = self.states[snapshot].parent
        return chain

    def find(self, known: Known, reference: str | int) -> str | None:
        """What a reference means, or None. Numbers are looked for on the head's own line first, then by newest move."""
        text = str(reference)
        starts = [known.head, *(to for _, to in reversed(known.moves))]
        if text.startswith("-"):
            line = self.ancestors(known.head)
            return line[int(text[1:])] if int(text[1:]) < len(line) else None
        if len(text) == 64:
            return text if any(text in self.ancestors(start) for start in starts) else None
        lines = [[name for name in self.ancestors(start) if self.states[name].depth == int(text)] for start in starts]
        return next((line[0] for line in lines if line), None)

    def move(self, name: str, kind: str, to: str, runtime: str | None = None) -> None:
        known = self.model[name]
        known.head, known.used_at_s, known.runtime = to, self.now_s(), runtime or known.runtime
        known.moves.append((kind, to))

    def attempt(self, call: Awaitable[Any], expected: type[Exception] | None) -> Any:
        """The call's answer, when the model expects one; None after the expected refusal."""

        async def answer() -> Any:
            return await call

        result, refused = None, None
        try:
            result = self.loop.run(answer())
        except REFUSALS as error:
            refused = type(error)
        assert refused is expected
        return result

    def name(self, number: int) -> str:
        return self.names[number % len(self.names)] if self.names else "never made"

    @initialize()
    def begin(self) -> None:
        """Something to go back in and to fork, since most of what can go wrong needs a history."""
        self.create("python", 50.0)
        self.create("bash", 500.0)
        for content in ("1", "2", "3"):
            self.execute(0, "a", content, "all", False, None)

    # -- what happens -------------------------------------------------------------------------------------------------

    @rule(
        runtime=st.sampled_from(["python", "bash", "cobol"]), ttl_s=st.sampled_from([50.0, 500.0]), processes=PROCESSES
    )
    def create(self, runtime: str, ttl_s: float, processes: int | None = None) -> None:
        unknown = RuntimeUnknown if runtime == "cobol" else None
        asked = AskedLimits(processes=processes)
        session = self.attempt(self.bench.service.create(runtime, ttl_s, TENANT, limits=asked), unknown)
        if session is not None:
            self.names.append(session.session_id)
            self.model[session.session_id] = Known(EMPTY, runtime, ttl_s, self.now_s(), [("create", EMPTY)], processes)

    @rule(
        number=st.integers(0, 4),
        file=st.sampled_from(["a", "b", "d/a", "d/e/f", "d"]),
        content=st.sampled_from(["1", "2"]),
        keep=st.sampled_from(["all", "fetched"]),
        fetched=st.booleans(),
        runtime=st.sampled_from([None, None, "python", "bash", "cobol"]),
        processes=PROCESSES,
    )
    def execute(
        self,
        number: int,
        file: str,
        content: str,
        keep: Keep,
        fetched: bool,
        runtime: str | None,
        processes: int | None = None,
    ) -> None:
        name, code = self.name(number), f"{file}={content}"
        asked = AskedLimits(processes=processes)
        order = Order(code.encode(), runtime, fetch=(file,) if fetched else (), keep=keep, run_limits=asked)
        expected = self.refusal(name) or (RuntimeUnknown if runtime == "cobol" else None)
        executed = self.attempt(self.bench.steps.execute(name, TENANT, order), expected)
        if executed is None:
            return
        known, snapshot = self.model[name], executed.snapshot.hex()
        before = self.states[known.head]
        files = put(before.files, file, content) if keep == "all" or fetched else before.files
        state = State(known.head, before.depth + 1, files)
        assert self.states.setdefault(snapshot, state) == state
        got = min(processes or known.processes or Limits().processes, PROCESSES_MAX)
        assert self.bench.fake.requests[-1].stages[-1].limits == Limits(processes=got)
        step = (known.head, runtime or known.runtime, f"{code} {fetched} {got}", keep)
        assert self.made.setdefault(step, snapshot) == snapshot, "equal steps gave different snapshots"
        self.move(name, "execute", snapshot, runtime)

    @rule(number=st.integers(0, 4), runtime=st.sampled_from([None, "bash"]))
    def execute_and_break(self, number: int, runtime: str | None) -> None:
        """Even the language stays as it was."""
        name = self.name(number)
        order = Order(BREAKS.encode(), runtime)
        self.attempt(self.bench.steps.execute(name, TENANT, order), self.refusal(name) or SandboxBroken)

    def reference(self, data: st.DataObject) -> str | int:
        ids = st.sampled_from(sorted(self.states))
        return data.draw(st.integers(-3, 4) | st.integers(0, 4).map(str) | st.sampled_from(["-0", "-1", "-2"]) | ids)

    @rule(number=st.integers(0, 4), data=st.data())
    def rollback(self, number: int, data: st.DataObject) -> None:
        name, reference = self.name(number), self.reference(data)
        expected, target = self.refusal(name), None
        if expected is None:
            target = self.find(self.model[name], reference)
            expected = None if target else NotInHistory
        head = self.attempt(self.bench.service.rollback(name, TENANT, reference), expected)
        if head is not None and target is not None:
            assert head.hex() == target
            self.move(name, "rollback", target)

    @rule(number=st.integers(0, 4), count=st.integers(1, 2), from_head=st.booleans(), data=st.data())
    def fork(self, number: int, count: int, from_head: bool, data: st.DataObject) -> None:
        name, start = self.name(number), None if from_head else self.reference(data)
        expected, target = self.refusal(name, retained=True), None
        if expected is None:
            known = self.model[name]
            target = known.head if start is None else self.find(known, start)
            expected = None if target else NotInHistory
        forks = self.attempt(self.bench.service.fork(name, TENANT, start=start, names=(None,) * count), expected)
        if forks is None or target is None:
            return
        assert [fork.head.hex() for fork in forks] == [target] * count
        origin = self.model[name]
        for fork in forks:
            self.names.append(fork.session_id)
            moves = [("fork", target)]
            self.model[fork.session_id] = Known(
                target, origin.runtime, origin.ttl_s, self.now_s(), moves, origin.processes
            )

    @rule(seconds=st.sampled_from([1.0, 50.0, 51.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.bench.clock.now_s += seconds

    @rule(retention_s=st.sampled_from([0.0, 100.0, 100.0]))
    def sweep(self, retention_s: float) -> None:
        horizon_s = self.now_s() - retention_s
        gone = [name for name, known in self.model.items() if known.used_at_s + known.ttl_s < horizon_s]
        store = self.bench.store
        assert store.heads.drop_unused_since(horizon_s, is_running=store.leases.is_held) == len(gone)
        for name in gone:
            del self.model[name]

    @rule()
    def restart(self) -> None:
        self.bench.close()
        self.bench.reopen()

    # -- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def every_session_is_as_in_the_model(self) -> None:
        for name in self.names:
            session = self.attempt(self.bench.service.get(name, TENANT), self.refusal(name))
            log = self.attempt(
                self.bench.service.log(name, TENANT, before=None, limit=1000), self.refusal(name, retained=True)
            )
            if session is not None:
                assert (session.head.hex(), session.runtime) == (self.model[name].head, self.model[name].runtime)
                assert session.limits == AskedLimits(processes=self.model[name].processes)
            if log is not None:
                moves = [(move.kind, move.to_snapshot.hex()) for move, _ in reversed(log)]
                assert moves == self.model[name].moves
                assert [move.sequence for move, _ in reversed(log)] == list(range(1, len(log) + 1))
                self.check_files(log[0][0].to_snapshot.hex(), log[0][1].tree)

    def check_files(self, snapshot: str, tree: Any) -> None:
        stored = contents(self.bench.store.objects, tree)
        files = {path.decode(): data.decode() for path, data in stored.items() if data is not None}
        assert files == self.states[snapshot].files

    def teardown(self) -> None:
        report = check(self.bench.store.objects, self.bench.store.heads)
        assert report.clean, report
        self.bench.close()
        self.loop.close()
        shutil.rmtree(self.root)


TestSessions = SessionMachine.TestCase
TestSessions.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=30)
