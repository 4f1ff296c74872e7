"""Running a history again: what is the same, the first that is not and why, and what a replacement changes downstream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from executors.errors import SandboxBroken
from executors.fake import FakeExecutor, Script
from executors.interfaces import Executor, Request, Result, StageWatch
from psf import runtimes
from psf.history import ancestors
from psf.record import Order
from psf.replay import Chain, Replacement, Replayer
from psf.runtimes import Runtimes
from store import snapshot as snapshots
from store.edit import put_entries, write_edits
from store.ids import Kind, SnapshotId
from store.known import KnownTrees
from store.merging import merge
from store.snapshot import EMPTY_SNAPSHOT_ID, Ending, Limits, Merge, Run, Snapshot, Step, Write, Written
from tests.psf.service import TENANT, Bench, play

CODES = ["a=1", "hello", "b=2", "a=3"]
PROFILE = "it did not run under the profile that makes programs repeat"
EVERY_PROFILE = "under every profile"


class Recorded:
    """A bench with a history of steps, and replayers of it."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.objects = bench, bench.store.objects

    async def make(self, codes: list[str]) -> None:
        session = await self.bench.session()
        for code in codes:
            await self.bench.step(session, code)
        self.head = SnapshotId(bytes.fromhex(await self.bench.head(session)))

    def add(self, step: Step, parents: tuple[SnapshotId, ...], tree: bytes) -> SnapshotId:
        depth = max(self.get(parent).depth for parent in parents) + 1
        return self.put(Snapshot(1, depth, parents, tree, step, None))  # type: ignore[arg-type]

    def get(self, identity: SnapshotId) -> Snapshot:
        return snapshots.decode(self.objects.get(Kind.SNAPSHOT, identity))

    def put(self, snapshot: Snapshot) -> SnapshotId:
        return SnapshotId(self.objects.put(Kind.SNAPSHOT, snapshots.encode(snapshot)))

    def chain(self, head: SnapshotId | None = None) -> Chain:
        return list(ancestors(self.objects, head or self.head))[::-1]

    def replayer(self, executor: Executor | None = None, *, sandbox: str = "fake") -> Replayer:
        table = Runtimes(runtimes.load(), "/usr/bin/python3", None)
        return Replayer(self.objects, executor or self.bench.fake, table, sandbox)

    def playing(self, changed: dict[str, Script], system: bytes = b"fake") -> FakeExecutor:
        """An executor whose programs do something else than they did."""
        return FakeExecutor(
            self.objects, lambda request: changed.get(request.program.decode()) or play(request), system
        )


@pytest.fixture
async def recorded(bench: Bench) -> Recorded:
    recorded = Recorded(bench)
    await recorded.make(CODES)
    return recorded


@pytest.mark.parametrize("parallel", [1, 3])
async def test_steps_that_repeat_leave_what_they_left(recorded: Recorded, parallel: int) -> None:
    told: list[int] = []
    report = await recorded.replayer().replay(recorded.chain(), parallel=parallel, seen=told.append)
    assert (report.steps, report.first, report.tree) == (4, None, recorded.get(recorded.head).tree)
    assert told == [1, 2, 3, 4]


async def test_a_replay_may_begin_at_any_step_and_of_none_there_is_nothing_to_tell(recorded: Recorded) -> None:
    assert (await recorded.replayer().replay(recorded.chain()[2:])).steps == 2
    report = await recorded.replayer().replay(recorded.chain()[-1:])
    assert (report.steps, report.tree) == (0, recorded.get(recorded.head).tree)


async def test_the_first_step_that_differs_is_named_with_its_paths_and_lines(recorded: Recorded) -> None:
    changed = {"b=2": Script(writes={"b": b"other"}), "a=3": Script(writes={"a": b"3"}, stdout=b"more\n")}
    report = await recorded.replayer(recorded.playing(changed)).replay(recorded.chain(), parallel=2)
    assert [step.number for step in report.different] == [3, 4]
    assert report.first is not None
    (of_tree,) = report.first.differences
    assert (of_tree.what, of_tree.paths) == ("tree", (b"b",))
    assert of_tree.lines[-4:] == ("-2", "\\ No newline at end of file", "+other", "\\ No newline at end of file")
    assert report.first.snapshot == recorded.chain()[3][0]
    (of_stdout,) = report.different[1].differences
    assert (of_stdout.what, of_stdout.stage, of_stdout.recorded, of_stdout.replayed) == (
        "stdout",
        "run",
        "0 bytes",
        "5 bytes",
    )
    assert of_stdout.lines[-1] == "+more"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (Script(stdout=b"hello", exit_code=3), [("exit_code", "0", "3")]),
        (
            Script(stdout=b"hello", ending=Ending.TIMED_OUT),
            [("ending", "exited", "timed_out"), ("exit_code", "0", "None")],
        ),
        (Script(stdout=b"hello", stderr=b"\0"), [("stderr", "0 bytes", "1 bytes")]),
    ],
    ids=["exit code", "ending", "stderr"],
)
async def test_each_kind_of_difference_is_told(
    recorded: Recorded, script: Script, told: list[tuple[str, str, str]]
) -> None:
    report = await recorded.replayer(recorded.playing({"hello": script})).replay(recorded.chain())
    assert report.first is not None
    assert [(one.what, one.recorded, one.replayed) for one in report.first.differences] == told
    assert len(report.different) == 1


async def test_a_damaged_record_of_one_step_names_exactly_that_step(recorded: Recorded) -> None:
    """One whose recorded outcome is not what happens: the steps after it, on the recorded trees, are as they were."""
    chain = list(recorded.chain())
    lied = msgspec.structs.replace(chain[2][1], tree=chain[1][1].tree, outcome=chain[1][1].outcome)
    chain[2] = (recorded.put(lied), lied)
    report = await recorded.replayer().replay(chain)
    assert [step.number for step in report.different] == [2]


async def test_what_may_be_the_cause_is_told(recorded: Recorded) -> None:
    chain = list(recorded.chain())
    run = chain[2][1].step
    assert isinstance(run, Run)
    limits = (("run", Limits(network="egress")),)
    secret = msgspec.structs.replace(run, secrets=("TOKEN",), deterministic=True, limits=limits)
    chain[2] = (chain[2][0], msgspec.structs.replace(chain[2][1], step=secret))
    changes = {"hello": Script(stdout=b"bye"), "a=1": Script()}
    other = recorded.playing(changes)
    report = await recorded.replayer(other).replay(chain)
    assert [cause.partition(":")[0] for cause in report.different[0].causes] == [PROFILE, EVERY_PROFILE]
    *known, last = report.different[1].causes
    assert known == ["secrets are not recorded: TOKEN", "it could reach the network"]
    assert last.startswith(EVERY_PROFILE)
    report = await recorded.replayer(recorded.playing(changes, b"another")).replay(chain)
    assert all(step.causes[0].startswith("the environment is another") for step in report.different)
    report = await recorded.replayer(other, sandbox="another").replay(chain)
    assert all(step.causes[0].startswith("the environment is another") for step in report.different)


async def test_a_step_runs_again_under_the_profile_that_it_ran_under(recorded: Recorded) -> None:
    session = await recorded.bench.session()
    for deterministic in (True, False):
        order = Order(b"hello", keep="all", deterministic=deterministic)
        await recorded.bench.steps.execute(session, TENANT, order)
    head = SnapshotId(bytes.fromhex(await recorded.bench.head(session)))
    replaying = recorded.playing({})
    await recorded.replayer(replaying).replay(recorded.chain(head))
    for requests in (recorded.bench.fake.requests[-2:], replaying.requests):
        assert [request.deterministic for request in requests] == [True, False]


async def test_a_replacement_shows_what_becomes_different_downstream(recorded: Recorded) -> None:
    report = await recorded.replayer().replay(recorded.chain(), replacements={1: Replacement(code=b"c=9")})
    assert [step.number for step in report.different] == [1, 2, 3, 4]
    assert report.different[0].differences[0].paths == (b"a", b"c")
    assert report.different[0].causes[0] == "it was run with a replacement"
    assert report.different[1].causes[0] == "an earlier step left another tree"
    # The last step writes `a` anyway: what differs there is `c`, which was not there.
    assert report.different[3].differences[0].paths == (b"c",)


async def test_a_replacement_that_makes_no_difference_is_none(recorded: Recorded) -> None:
    report = await recorded.replayer().replay(recorded.chain(), replacements={2: Replacement(code=b"hello")})
    assert (report.steps, report.first) == (4, None)


async def test_another_language_may_be_put_in(recorded: Recorded) -> None:
    await recorded.replayer().replay(recorded.chain(), replacements={2: Replacement(runtime="bash")})
    names = [request.program_name for request in recorded.bench.fake.requests[-4:]]
    assert sorted(names) == ["_psf_main.py", "_psf_main.py", "_psf_main.py", "_psf_main.sh"]


async def test_files_written_and_merges_are_done_again(recorded: Recorded) -> None:
    start = recorded.get(recorded.head)
    blob = recorded.objects.put(Kind.BLOB, b"new")
    write = Write((Written(b"d/new", blob, 3, executable=True),), (b"a",))  # type: ignore[arg-type]
    tree = put_entries(recorded.objects, start.tree, write_edits(write, start.depth + 1), start.depth + 1)
    written = recorded.add(write, (recorded.head,), tree)
    other = recorded.add(
        Write((), (b"b",)), (recorded.head,), put_entries(recorded.objects, start.tree, {(b"b",): None}, 5)
    )
    known, trees = KnownTrees(recorded.objects), [recorded.get(one).tree for one in (recorded.head, written, other)]
    both = recorded.add(
        Merge(recorded.head, "report"), (written, other), merge(known, *trees, number=start.depth + 2).tree
    )
    report = await recorded.replayer().replay(recorded.chain(both))
    assert (report.steps, report.first) == (6, None)
    wrong = recorded.add(write, (recorded.head,), start.tree)
    report = await recorded.replayer().replay(recorded.chain(wrong))
    assert report.first is not None
    assert (report.first.number, report.first.causes) == (start.depth + 1, ())


async def test_a_replay_that_breaks_is_an_error_and_ends_the_others(recorded: Recorded) -> None:
    class Breaks:
        ended, begun = 0, asyncio.Semaphore(0)

        async def execute(self, request: Request, watch: StageWatch | None = None) -> Result:
            if request.number == 2:
                for _ in range(3):
                    await Breaks.begun.acquire()
                raise SandboxBroken("it broke")
            Breaks.begun.release()
            try:
                await asyncio.sleep(60)
            finally:
                Breaks.ended += 1
            raise AssertionError

        async def close(self) -> None: ...

    with pytest.raises(SandboxBroken):
        await recorded.replayer(Breaks()).replay(recorded.chain(), parallel=4)
    assert Breaks.ended == 3


async def test_the_chain_of_an_empty_history_is_its_base(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    recorded = Recorded(bench)
    report = await recorded.replayer().replay(recorded.chain(EMPTY_SNAPSHOT_ID))
    assert (report.steps, report.first) == (0, None)
    bench.close()
