"""Running a history again: does each step leave what it left, and if not, which is the first that does not, and how.

Steps are independent of one another: each runs on the recorded tree that it began with, so any number may run at once, and one that
differs does not make all later ones differ. Where something is replaced on purpose (`Replacement`), the steps from there on follow one
another, and what is told is what becomes different downstream. No head moves, and nothing is made durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal, NamedTuple

import msgspec

from executors.interfaces import OWN_SYSTEM, Executor, System
from psf import record, text_diff
from psf.runtimes import Runtimes
from store import snapshot as snapshots
from store.diff import diff
from store.edit import put_entries, write_edits
from store.ids import BlobId, Kind, SnapshotId, TreeId
from store.interfaces import Objects
from store.known import KnownTrees
from store.merging import merge
from store.snapshot import Limits, Merge, Outcome, Run, Snapshot, Stage, Write

PATHS_TOLD_MAX = 100
LINES_TOLD_MAX = 400

Chain = Sequence[tuple[SnapshotId, Snapshot]]
"""Snapshots by first parents, oldest first. The first is where the replay begins; the others are its steps."""
What = Literal["tree", "stages", "ending", "exit_code", "signal", "stdout", "stderr"]


class Replacement(msgspec.Struct, frozen=True):
    """What a step is run with instead of what is recorded; None: as recorded."""

    code: bytes | None = None
    runtime: str | None = None


class Difference(msgspec.Struct, frozen=True):
    """One thing that came out otherwise: in short, and for what people read also line by line. `paths`: those that differ in a tree."""

    what: What
    stage: str | None
    recorded: str
    replayed: str
    paths: tuple[bytes, ...] = ()
    lines: tuple[str, ...] = ()


class ReplayedStep(msgspec.Struct, frozen=True):
    """A step that was run again, and what came out otherwise. `causes`: why it may have, as far as psf can see."""

    number: int
    snapshot: SnapshotId
    tree: TreeId
    differences: tuple[Difference, ...]
    causes: tuple[str, ...]


class ReplayReport(msgspec.Struct, frozen=True):
    """How many steps were run again, those that differ, and the tree that the last one left."""

    steps: int
    different: tuple[ReplayedStep, ...]
    tree: TreeId

    @property
    def first(self) -> ReplayedStep | None:
        """The first divergence."""
        return self.different[0] if self.different else None


class _Left(NamedTuple):
    tree: TreeId
    outcome: Outcome | None
    system: bytes = b""
    """Digest of the system that a program saw."""


def _unseen(_: int) -> None:
    return None


class Replayer:
    """Runs recorded steps on `executor`, with the languages of this server, in a `system` that it gives.

    `sandbox` is the kind of its sandbox, as sessions know it. `bounded` gives what there is to be had of limits that are recorded.
    """

    def __init__(
        self,
        objects: Objects,
        executor: Executor,
        runtimes: Runtimes,
        sandbox: str,
        system: System = OWN_SYSTEM,
        *,
        bounded: Callable[[Limits], Limits] = lambda limits: limits,
    ) -> None:
        self._objects, self._executor, self._runtimes, self._sandbox = objects, executor, runtimes, sandbox
        self._system, self._bounded = system, bounded
        self._known = KnownTrees(objects)

    async def replay(
        self,
        chain: Chain,
        *,
        parallel: int = 1,
        replacements: Mapping[int, Replacement] | None = None,
        seen: Callable[[int], None] = _unseen,
    ) -> ReplayReport:
        """Run the steps of `chain` again. `replacements` are by position in it, from 1; `seen` is told how many steps are done.

        Raises RuntimeUnknown for a language that is gone; ExecutorError, StoreError when psf cannot run or read one.
        """
        replacements = replacements or {}
        independent = min(replacements, default=len(chain))
        done: list[ReplayedStep | None] = [None] * len(chain)
        slots = asyncio.Semaphore(parallel)

        async def one(position: int, tree: TreeId) -> TreeId:
            done[position] = step = await self._step(chain, position, tree, replacements.get(position))
            seen(sum(step is not None for step in done))
            return step.tree

        async def in_slot(position: int) -> None:
            async with slots:
                await one(position, chain[position - 1][1].tree)

        try:
            async with asyncio.TaskGroup() as group:
                for position in range(1, independent):
                    group.create_task(in_slot(position))
        except ExceptionGroup as broken:
            raise broken.exceptions[0] from None
        tree = chain[independent - 1][1].tree
        for position in range(independent, len(chain)):
            tree = await one(position, tree)
        steps = [step for step in done if step is not None]
        return ReplayReport(len(steps), tuple(step for step in steps if step.differences), tree)

    async def _step(self, chain: Chain, position: int, tree: TreeId, replacement: Replacement | None) -> ReplayedStep:
        identity, recorded = chain[position]
        left = await self._left(recorded, tree, replacement)
        told = await asyncio.to_thread(lambda: tuple(self._differences(recorded, left)))
        follows = tree != chain[position - 1][1].tree
        causes = self._causes(recorded, replacement, left.system, follows=follows) if told else ()
        return ReplayedStep(recorded.depth, identity, left.tree, told, causes)

    async def _left(self, recorded: Snapshot, tree: TreeId, replacement: Replacement | None) -> _Left:
        """What a step leaves when it is taken on `tree`."""
        step = recorded.step
        if isinstance(step, Run):
            order = await asyncio.to_thread(lambda: record.order_of(self._objects, step))
            if replacement is not None:
                given = {key: value for key, value in msgspec.structs.asdict(replacement).items() if value is not None}
                order = msgspec.structs.replace(order, **given)
            runtime = self._runtimes.get(order.runtime or "")
            parent = Snapshot(snapshots.VERSION, recorded.depth - 1, (), tree, None, None)
            given = dict(step.limits)
            running = given.get("run", Limits())
            compiling = (("compile", given.get("compile", running)),) if runtime.compile is not None else ()
            limits = tuple((stage, self._bounded(one)) for stage, one in (*compiling, ("run", running)))
            request = record.to_request(self._runtimes, runtime, parent, order, limits, self._system)
            result = await self._executor.execute(request)
            outcome = await asyncio.to_thread(lambda: record.put_outcome(self._objects, result))
            return _Left(result.tree, outcome, result.system)
        return _Left(await asyncio.to_thread(lambda: self._without_run(recorded, tree)), recorded.outcome)

    def _without_run(self, recorded: Snapshot, tree: TreeId) -> TreeId:
        step = recorded.step
        if isinstance(step, Write):
            return put_entries(self._objects, tree, write_edits(step, recorded.depth), recorded.depth)
        if isinstance(step, Merge):
            base, theirs = (self._snapshot(identity) for identity in (step.base, recorded.parents[1]))
            return merge(
                self._known, base.tree, tree, theirs.tree, number=recorded.depth, on_conflict=step.on_conflict
            ).tree
        return recorded.tree

    def _snapshot(self, identity: SnapshotId) -> Snapshot:
        return snapshots.decode(self._objects.get(Kind.SNAPSHOT, identity))

    # -- comparing ------------------------------------------------------------------------------------------------------

    def _differences(self, recorded: Snapshot, left: _Left) -> Iterator[Difference]:
        """What came out otherwise, what a person would look at first coming first."""
        before, after = _stages(recorded.outcome), _stages(left.outcome)
        if before.keys() != after.keys():
            yield Difference("stages", None, ", ".join(before), ", ".join(after))
        for name in before.keys() & after.keys():
            yield from self._of_stage(before[name], after[name])
        if recorded.tree != left.tree:
            yield self._of_trees(recorded.tree, left.tree)

    def _of_stage(self, before: Stage, after: Stage) -> Iterator[Difference]:
        verdicts: tuple[tuple[What, object, object], ...] = (
            ("ending", str(before.ending), str(after.ending)),
            ("exit_code", before.exit_code, after.exit_code),
            ("signal", before.signal, after.signal),
        )
        for what, old, new in verdicts:
            if old != new:
                yield Difference(what, before.name, str(old), str(new))
        streams: tuple[tuple[What, BlobId, BlobId], ...] = (
            ("stdout", before.stdout.blob, after.stdout.blob),
            ("stderr", before.stderr.blob, after.stderr.blob),
        )
        for what, was, now in streams:
            if was != now:
                old_data, new_data = (self._objects.get(Kind.BLOB, blob) for blob in (was, now))
                lines = text_diff.between(old_data, new_data, "recorded", "replayed")
                sizes = f"{len(old_data)} bytes", f"{len(new_data)} bytes"
                yield Difference(what, before.name, *sizes, lines=tuple(islice(lines, LINES_TOLD_MAX)))

    def _of_trees(self, before: TreeId, after: TreeId) -> Difference:
        changes = list(islice(diff(self._objects, before, after), PATHS_TOLD_MAX))
        lines = islice(text_diff.unified(self._objects, changes), LINES_TOLD_MAX)
        paths = tuple(b"/".join(change.path) for change in changes)
        return Difference("tree", None, before.hex(), after.hex(), paths, tuple(lines))

    def _causes(
        self, recorded: Snapshot, replacement: Replacement | None, system: bytes, *, follows: bool
    ) -> tuple[str, ...]:
        step = recorded.step
        if not isinstance(step, Run):
            return ()
        runtime = self._runtimes.get((replacement and replacement.runtime) or step.runtime)
        known = self._runtimes.environment_digest(runtime, self._sandbox, system) == step.environment
        limits = [given for _, given in step.limits]
        causes = {
            "it was run with a replacement": replacement is not None,
            "an earlier step left another tree": follows,
            "the environment is another: the language's row, the system's packages, or the kind of sandbox": not known,
            f"secrets are not recorded: {', '.join(step.secrets)}": bool(step.secrets),
            "it could reach the network": any(given.network == "egress" for given in limits),
            "it did not run under the profile that makes programs repeat: addresses, and on how many processors its threads run, "
            "may differ": not step.deterministic,
            "under every profile: clocks, random numbers of the kernel's, the turns of threads and the order in which directories "
            "are listed may differ": True,
        }
        return tuple(text for text, holds in causes.items() if holds)


def _stages(outcome: Outcome | None) -> dict[str, Stage]:
    return {stage.name: stage for stage in outcome.stages} if outcome is not None else {}
