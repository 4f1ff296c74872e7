"""What may be removed and what may not: of sessions that were rolled back, that expired, that were deleted, that were forked or tagged."""

from __future__ import annotations

import secrets

import pytest

from psf import sweeper
from psf.sweeper import Sweeper
from store.errors import ObjectMissing, SessionMissing
from store.ids import Kind, SnapshotId
from store.snapshot import EMPTY_SNAPSHOT_ID
from tests.psf.service import TENANT, Bench

RETENTION_S = 1000.0


def swept(bench: Bench) -> None:
    """Drop what was retained long enough, and remove all that nothing needs any more: what is condemned first goes by the next sweep."""
    horizon_s = bench.clock.now_s - RETENTION_S
    bench.store.heads.drop_unused_since(horizon_s, is_running=bench.store.leases.is_held)
    for _ in range(3):
        bench.store.sweep(dry=False, pause=lambda: False)
    report, _ = bench.store.check(full=True)
    assert report.clean, report


def is_there(bench: Bench, snapshot: str) -> bool:
    try:
        bench.store.objects.get(Kind.SNAPSHOT, bytes.fromhex(snapshot))
    except ObjectMissing:
        return False
    return True


async def history(bench: Bench, steps: int = 4) -> tuple[str, list[str]]:
    bench.store.objects.seal_bytes = 3000  # so that each step is about a pack
    session = await bench.session(ttl_s=100.0)
    return session, [await bench.step(session, f"f={secrets.token_hex(4000)}") for _ in range(steps)]


async def test_what_was_rolled_back_over_stays_and_can_be_gone_forward_to(bench: Bench) -> None:
    session, heads = await history(bench)
    await bench.service.rollback(session, TENANT, 1)
    await bench.step(session, "another=way")
    swept(bench)
    assert all(is_there(bench, head) for head in heads)
    assert (await bench.service.rollback(session, TENANT, heads[3])).hex() == heads[3]


@pytest.mark.parametrize("end", ["expired", "deleted"])
async def test_of_a_session_that_ended_all_stays_until_it_was_retained_long_enough(bench: Bench, end: str) -> None:
    session, heads = await history(bench)
    if end == "deleted":
        await bench.services.lifetimes.delete(session, TENANT)
        bench.clock.now_s += RETENTION_S - 1
    else:
        bench.clock.now_s += 100.0 + RETENTION_S - 1
    swept(bench)
    assert all(is_there(bench, head) for head in heads)
    assert [move.to_snapshot.hex() for move, _ in await bench.service.log(session, TENANT, before=None, limit=4)][
        -1
    ] == heads[0 if end == "expired" else 1]
    revived = await bench.services.lifetimes.undelete(session, TENANT)
    assert (revived.head.hex(), revived.ttl_s) == (heads[3], 100.0)
    bench.clock.now_s += 100.0 + RETENTION_S + 2
    swept(bench)
    with pytest.raises(SessionMissing):
        await bench.service.get(session, TENANT, retained=True)
    assert not any(is_there(bench, head) for head in heads)


async def test_forks_and_tags_keep_what_they_come_from_and_nothing_else(bench: Bench) -> None:
    session, heads = await history(bench, 6)
    (fork,) = await bench.service.fork(session, TENANT, start=2)
    await bench.services.tags.set(TENANT, "kept", lambda: SnapshotId(bytes.fromhex(heads[3])))
    await bench.services.lifetimes.delete(session, TENANT)
    bench.clock.now_s += RETENTION_S + 2
    await bench.services.lifetimes.undelete(fork.session_id, TENANT, ttl_s=1e6)
    swept(bench)
    assert [is_there(bench, head) for head in heads] == [True, True, True, True, False, False]
    assert await bench.step(fork.session_id, "g=1")
    await bench.services.tags.remove(TENANT, "kept")
    swept(bench)
    assert [is_there(bench, head) for head in heads] == [True, True, False, False, False, False]
    assert is_there(bench, EMPTY_SNAPSHOT_ID.hex())


async def test_a_clock_that_is_set_forward_drops_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await bench.session()
    now_s = [bench.clock.now_s, 5.0]
    monkeypatch.setattr(sweeper.time, "time", lambda: now_s[0])
    monkeypatch.setattr(sweeper.time, "monotonic", lambda: now_s[1])
    sweeping = Sweeper(bench.store, retention_s=RETENTION_S, gc_period_s=0, patience_s=0)
    now_s[0] += 10 * 365 * 86400
    sweeping._drop_expired()
    assert await bench.service.get(session, TENANT, retained=True)
    now_s[1] += 100.0 + RETENTION_S + 1
    sweeping._drop_expired()
    with pytest.raises(SessionMissing):
        await bench.service.get(session, TENANT, retained=True)
