"""Sessions: what moves a head, what does not, and when a session is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from executors.errors import Overloaded, SandboxBroken
from executors.interfaces import Executor, Request, Result, StageWatch
from psf.errors import InvalidField, RuntimeUnknown, SandboxDiffers, SessionExpired
from psf.record import Order
from psf.turns import WAITING_STEPS_MAX
from store.bundle_import import TTL_S_MAX
from store.check import check
from store.errors import NotInHistory, SessionMissing
from store.ids import Kind
from store.interfaces import Move, SessionSettings
from tests.psf.service import TENANT, Bench


class Gate:
    """An executor whose steps wait until they are let through, or are told to fail."""

    def __init__(self, inner: Executor) -> None:
        self._inner, self.open, self.begun, self.fails = inner, asyncio.Event(), 0, False

    async def execute(self, request: Request, watch: StageWatch | None = None) -> Result:
        self.begun += 1
        if self.fails:
            raise SandboxBroken("it broke")
        await self.open.wait()
        return await self._inner.execute(request, watch)

    async def close(self) -> None:
        await self._inner.close()


class Gated(Bench):
    """A bench whose steps stop at a gate, which all its services share."""

    def __init__(self, root: Path) -> None:
        self._gate: Gate | None = None
        super().__init__(root, self._enter)

    def _enter(self, executor: Executor) -> Executor:
        self._gate = self._gate or Gate(executor)
        return self._gate

    @property
    def gate(self) -> Gate:
        assert self._gate is not None
        return self._gate

    async def begun(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.gate.begun < count:
                await asyncio.sleep(0.001)


@pytest.fixture
def gated(tmp_path: Path):
    opened = Gated(tmp_path / "gated")
    yield opened
    opened.close()


async def test_a_step_moves_the_head_to_its_snapshot_and_starts_from_the_last(bench: Bench) -> None:
    session = await bench.session()
    heads = [await bench.step(session, "a=1"), await bench.step(session, "b=2")]
    assert await bench.head(session) == heads[-1]
    assert await bench.moves(session) == ["create", "execute", "execute"]
    first, second = bench.fake.requests
    assert (first.number, second.number) == (1, 2)
    assert first.tree != second.tree


async def test_equal_steps_give_equal_snapshots_in_every_session(bench: Bench) -> None:
    one, other = await bench.session(), await bench.session()
    bench.clock.now_s += 50
    assert await bench.step(one, "a=1") == await bench.step(other, "a=1")


async def test_a_language_given_with_a_step_becomes_the_sessions(bench: Bench) -> None:
    session = await bench.session("python")
    await bench.step(session, "x", "bash")
    await bench.step(session, "y")
    assert [request.program_name for request in bench.fake.requests] == ["_psf_main.sh", "_psf_main.sh"]


async def test_a_failing_step_of_another_language_does_not_change_the_sessions(gated: Gated) -> None:
    session = await gated.session("python")
    gated.gate.fails = True
    with pytest.raises(SandboxBroken):
        await gated.step(session, "x", "bash")
    assert (await gated.service.get(session, TENANT)).runtime == "python"


async def test_an_unknown_language_is_refused_before_anything_is_done(bench: Bench) -> None:
    session = await bench.session()
    with pytest.raises(RuntimeUnknown, match="cobol"):
        await bench.step(session, "x", "cobol")
    with pytest.raises(RuntimeUnknown):
        await bench.service.create("cobol", 1.0, TENANT)
    assert bench.fake.requests == []
    assert await bench.moves(session) == ["create"]


async def test_an_executor_that_breaks_leaves_the_head_and_the_next_step_works(gated: Gated) -> None:
    session = await gated.session()
    gated.gate.fails = True
    with pytest.raises(SandboxBroken):
        await gated.step(session, "a=1")
    assert await gated.moves(session) == ["create"]
    gated.gate.fails = False
    gated.gate.open.set()
    await gated.step(session, "a=1")
    assert await gated.moves(session) == ["create", "execute"]


async def test_a_cancelled_step_leaves_the_head_and_frees_the_turn(gated: Gated) -> None:
    session = await gated.session()
    step = asyncio.ensure_future(gated.step(session, "a=1"))
    await gated.begun(1)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    gated.gate.open.set()
    await gated.step(session, "b=1")
    assert await gated.moves(session) == ["create", "execute"]


async def test_steps_of_one_session_run_one_after_the_other(gated: Gated) -> None:
    session = await gated.session()
    steps = [asyncio.ensure_future(gated.step(session, f"word-{number}")) for number in range(5)]
    await gated.begun(1)
    await asyncio.sleep(0.02)
    assert gated.gate.begun == 1
    gated.gate.open.set()
    await asyncio.gather(*steps)
    assert [request.number for request in gated.fake.requests] == [1, 2, 3, 4, 5]


async def test_sessions_do_not_wait_for_each_other(gated: Gated) -> None:
    steps = [asyncio.ensure_future(gated.step(await gated.session(), "x")) for _ in range(3)]
    await gated.begun(3)
    gated.gate.open.set()
    await asyncio.gather(*steps)


async def test_two_services_on_one_store_lose_no_step(bench: Bench) -> None:
    session, other = await bench.session(), bench.another()

    async def steps(service, name: str) -> None:
        for number in range(10):
            await service.steps.execute(session, TENANT, Order(code=f"{name}{number}=x".encode(), keep="all"))

    await asyncio.gather(steps(bench.services, "a"), steps(other, "b"))
    assert len(await bench.moves(session)) == 21
    assert [request.number for request in bench.fake.requests] == list(range(1, 21))


async def test_no_more_steps_wait_for_a_session_than_the_bound(gated: Gated) -> None:
    session = await gated.session()
    steps = {asyncio.ensure_future(gated.step(session, "x")) for _ in range(WAITING_STEPS_MAX + 1 + 5)}
    async with asyncio.timeout(10):
        while len(refused := [step for step in steps if step.done()]) < 5:
            await asyncio.wait(steps, return_when=asyncio.FIRST_COMPLETED, timeout=0.01)
    assert all(isinstance(step.exception(), Overloaded) for step in refused)
    gated.gate.open.set()
    await asyncio.gather(*steps - set(refused))
    assert len(await gated.moves(session)) == 1 + WAITING_STEPS_MAX + 1


async def test_rollback_moves_the_head_back_and_can_itself_be_undone(bench: Bench) -> None:
    session = await bench.session()
    heads = [await bench.head(session), await bench.step(session, "a=1"), await bench.step(session, "b=2")]
    for reference, expected in (
        (1, heads[1]),
        ("2", heads[2]),
        ("-2", heads[0]),
        (heads[2][:6], heads[2]),
        ("0", heads[0]),
    ):
        assert (await bench.service.rollback(session, TENANT, reference)).hex() == expected
        assert await bench.head(session) == expected
    assert await bench.moves(session) == ["create", "execute", "execute", *["rollback"] * 5]


@pytest.mark.parametrize("reference", [7, "7", "-9", "abcdef", "HEAD", "", "ABCDEF", "-", "1.5", "-1x", "0" * 64])
async def test_a_reference_to_nothing_in_the_history_is_refused_and_changes_nothing(
    bench: Bench, reference: str | int
) -> None:
    session = await bench.session()
    head = await bench.step(session, "a=1")
    with pytest.raises(NotInHistory):
        await bench.service.rollback(session, TENANT, reference)
    with pytest.raises(NotInHistory):
        await bench.service.fork(session, TENANT, start=reference)
    assert await bench.head(session) == head


async def test_another_sessions_snapshot_is_not_in_the_history(bench: Bench) -> None:
    one, other = await bench.session(), await bench.session()
    head = await bench.step(one, "secret=1")
    with pytest.raises(NotInHistory):
        await bench.service.rollback(other, TENANT, head)


async def test_forks_start_where_they_were_told_and_go_their_own_way(bench: Bench) -> None:
    session = await bench.session()
    first, last = await bench.step(session, "a=1"), await bench.step(session, "b=2")
    forks = await bench.service.fork(session, TENANT, names=("x", None))
    (early,) = await bench.service.fork(session, TENANT, start=1)
    assert [(fork.name, fork.head.hex()) for fork in forks] == [("x", last), (None, last)]
    assert early.head.hex() == first
    assert await bench.step(early.session_id, "b=2") == last
    assert await bench.head(session) == last
    assert await bench.moves(early.session_id) == ["fork", "execute"]


async def test_the_number_of_forks_is_bounded(bench: Bench) -> None:
    session = await bench.session()
    for names in ((), (None,) * 10_001):
        with pytest.raises(InvalidField):
            await bench.service.fork(session, TENANT, names=names)


async def test_another_tenants_session_is_not_there(bench: Bench) -> None:
    session = await bench.session()
    with pytest.raises(SessionMissing):
        await bench.service.get(session, "somebody else")


async def test_ttl_is_idle_time_which_steps_renew_and_reads_do_not(bench: Bench) -> None:
    session = await bench.session(ttl_s=100.0)
    bench.clock.now_s += 90
    await bench.step(session, "x")
    bench.clock.now_s += 90
    await bench.moves(session)
    await bench.service.get(session, TENANT)
    bench.clock.now_s += 11
    for act in (
        bench.step(session, "x"),
        bench.service.rollback(session, TENANT, 0),
        bench.service.get(session, TENANT),
    ):
        with pytest.raises(SessionExpired):
            await act


async def test_a_session_whose_step_is_running_does_not_expire(gated: Gated) -> None:
    session = await gated.session(ttl_s=100.0)
    running = asyncio.ensure_future(gated.step(session, "x"))
    await gated.begun(1)
    gated.clock.now_s += 1000
    waiting = asyncio.ensure_future(gated.step(session, "y"))
    assert gated.store.heads.drop_unused_since(gated.clock.now_s, is_running=gated.store.leases.is_held) == 0
    gated.gate.open.set()
    await asyncio.gather(running, waiting)
    gated.clock.now_s += 99
    await gated.service.get(session, TENANT)


async def test_a_step_that_ends_while_one_looks_has_renewed_its_session(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading the session and asking whether it runs, its last step may end."""
    session = await bench.session(ttl_s=100.0)
    bench.clock.now_s += 1000
    head = (await bench.service.get(session, TENANT, retained=True)).head

    def ends_now(session_id: str) -> bool:
        bench.store.heads.advance(session_id, head, Move(0, "execute", head, head, bench.clock.now_s, b""))
        return False

    monkeypatch.setattr(bench.store.leases, "is_held", ends_now)
    assert (await bench.service.get(session, TENANT)).session_id == session


async def test_an_expired_session_can_be_forked_and_read_while_it_is_retained(bench: Bench) -> None:
    session = await bench.session(ttl_s=10.0)
    head = await bench.step(session, "a=1")
    bench.clock.now_s += 1000
    assert await bench.moves(session) == ["create", "execute"]
    (fork,) = await bench.service.fork(session, TENANT)
    assert fork.head.hex() == head
    await bench.step(fork.session_id, "b=2")


async def test_a_dropped_sessions_snapshots_become_garbage_and_its_neighbours_do_not(bench: Bench) -> None:
    gone, neighbour = await bench.session(ttl_s=10.0), await bench.session(ttl_s=10_000.0)
    shared = await bench.step(gone, "a=1")
    (fork,) = await bench.service.fork(gone, TENANT)
    await bench.steps.execute(fork.session_id, TENANT, Order(code=b"c=3", keep="all"))
    await bench.step(gone, "only=here")
    await bench.step(neighbour, "d=4")
    assert check(bench.store.objects, bench.store.heads).garbage == 0
    bench.clock.now_s += 5  # the fork was used a moment later
    await bench.step(fork.session_id, "e=5")
    horizon_s = bench.clock.now_s + 6
    assert bench.store.heads.drop_unused_since(horizon_s, is_running=bench.store.leases.is_held) == 1
    report = check(bench.store.objects, bench.store.heads)
    assert report.clean
    assert report.garbage > 0
    with pytest.raises(SessionMissing):
        await bench.moves(gone)
    assert bench.store.objects.get(Kind.SNAPSHOT, bytes.fromhex(shared))
    assert await bench.moves(fork.session_id) == ["fork", "execute", "execute"]
    assert await bench.moves(neighbour) == ["create", "execute"]


async def test_a_restart_changes_nothing(bench: Bench) -> None:
    session = await bench.session("bash")
    heads = [await bench.step(session, "a=1"), await bench.step(session, "b=2", "python")]
    bench.close()
    bench.reopen()
    assert await bench.head(session) == heads[-1]
    assert (await bench.service.get(session, TENANT)).runtime == "python"
    assert (await bench.service.rollback(session, TENANT, 1)).hex() == heads[0]


async def test_ids_cannot_be_guessed(bench: Bench) -> None:
    ids = {await bench.session() for _ in range(20)}
    assert len(ids) == 20
    assert all(len(bytes.fromhex(session)) * 8 >= 128 for session in ids)


async def test_a_session_goes_on_with_the_sandbox_it_was_made_with_or_not_at_all(bench: Bench) -> None:
    session = await bench.session()
    head, other = await bench.step(session, "a=1"), bench.another("other")
    with pytest.raises(SandboxDiffers, match=r"'fake'.*'other'.*--executor fake"):
        await other.steps.execute(session, TENANT, Order(b"b=2", keep="all"))
    assert (await bench.head(session), await bench.moves(session)) == (head, ["create", "execute"])
    assert bench.fake.requests[1:] == []
    (fork,) = await other.sessions.fork(session, TENANT)
    assert (fork.sandbox, fork.head.hex()) == ("other", head)
    assert (await other.steps.execute(fork.session_id, TENANT, Order(b"b=2", keep="all"))).snapshot is not None


@pytest.mark.parametrize(
    ("record", "ttl_s"),
    [(b"", 0.0), (b'{"x":1}', 0.0), (b'{"ttl_s":"x"}', 0.0), (b'{"ttl_s":-5}', 0.0), (b'{"ttl_s":1e300}', TTL_S_MAX)],
)
async def test_a_deletion_that_came_from_elsewhere_may_say_anything(bench: Bench, record: bytes, ttl_s: float) -> None:
    session = await bench.service.create("bash", 60, TENANT)
    heads = bench.store.heads
    deleted = Move(0, "deleted", session.head, session.head, 1.0, record)
    heads.advance(session.session_id, session.head, deleted, settings=SessionSettings(None, 0.0, session.limits))
    assert (await bench.services.lifetimes.undelete(session.session_id, TENANT)).ttl_s == ttl_s
