"""What one tenant may have, so that others have something, too."""

from __future__ import annotations

import asyncio
import io

import pytest

from executors.errors import Overloaded
from psf import tags
from psf.errors import QuotaReached
from psf.record import Order
from psf.services import TenantLimits
from store.snapshot import EMPTY_SNAPSHOT_ID
from tests.psf.service import Bench

ORDER = Order(b"a=1", keep="all")


async def test_a_tenant_has_so_many_sessions_and_others_have_theirs(bench: Bench) -> None:
    sessions = bench.another(tenants=TenantLimits(sessions=3)).sessions
    first = await sessions.create("bash", 60, "one")
    with pytest.raises(QuotaReached, match=r"1 sessions of 3, too many for 3 more; .*retention_s"):
        await sessions.fork(first.session_id, "one", names=(None,) * 3)
    await sessions.fork(first.session_id, "one", names=(None,) * 2)
    with pytest.raises(QuotaReached):
        await sessions.create("bash", 60, "one")
    assert bench.store.heads.count("one") == 3
    assert await sessions.create("bash", 60, "two")


async def test_a_tenant_has_so_many_tags_and_may_move_and_let_go_of_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tags, "TAGS_MAX", 2)
    service = bench.services.tags
    for name in ("a", "b", "a"):
        await service.set("one", name, lambda: EMPTY_SNAPSHOT_ID)
    with pytest.raises(QuotaReached):
        await service.set("one", "c", lambda: EMPTY_SNAPSHOT_ID)
    await service.set("two", "c", lambda: EMPTY_SNAPSHOT_ID)
    await service.remove("one", "a")
    await service.set("one", "c", lambda: EMPTY_SNAPSHOT_ID)


async def test_sessions_that_are_taken_in_count_as_others_do(bench: Bench) -> None:
    services = bench.another(tenants=TenantLimits(sessions=2))
    session = await services.sessions.create("bash", 60, "one")
    data = io.BytesIO()
    services.exchange.export_bundle(session, data, since=None, have=[])

    async def take(name: str) -> str:
        data.seek(0)
        return (await services.exchange.import_bundle("one", data, as_session=name, extend=False)).change

    assert [await take("copy"), await take("copy")] == ["created", "unchanged"]
    with pytest.raises(QuotaReached):
        await take("another")
    assert bench.store.heads.count("one") == 2


async def test_a_tenant_has_so_many_steps_at_once_and_others_have_theirs(bench: Bench) -> None:
    services = bench.another(tenants=TenantLimits(steps=2))
    ids = [(await services.sessions.create("bash", 60, "one")).session_id for _ in range(3)]
    other = (await services.sessions.create("bash", 60, "two")).session_id
    steps = [asyncio.ensure_future(services.steps.execute(one, "one", ORDER)) for one in ids]
    beside = await services.steps.execute(other, "two", ORDER)
    results = await asyncio.gather(*steps, return_exceptions=True)
    assert beside.snapshot is not None
    assert [isinstance(result, Overloaded) for result in results].count(True) == 1
    assert (await services.steps.execute(ids[0], "one", ORDER)).snapshot is not None


async def test_steps_that_run_again_count_as_others_do(bench: Bench) -> None:
    services = bench.another(tenants=TenantLimits(steps=2))
    session = (await services.sessions.create("bash", 60, "one")).session_id
    for _ in range(3):
        await services.steps.execute(session, "one", ORDER)
    assert (await services.replays.replay(session, "one", parallel=2)).steps == 3
    ran = len(bench.fake.requests)
    with pytest.raises(Overloaded):
        await services.replays.replay(session, "one", parallel=3)
    assert len(bench.fake.requests) == ran
    assert (await services.steps.execute(session, "one", ORDER)).snapshot is not None
