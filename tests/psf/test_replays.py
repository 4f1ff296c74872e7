"""Histories that came from elsewhere run again within what this server gives, and nothing more."""

from __future__ import annotations

from typing import Any

import pytest

from executors.errors import SystemUnknown
from psf.errors import InvalidField, NetworkRefused
from psf.record import Order
from psf.services import Services
from store import snapshot as snapshots
from store.ids import BlobId, Kind, SnapshotId
from store.interfaces import Session
from store.snapshot import EMPTY_SNAPSHOT_ID, Limits, Outcome, Run, Snapshot
from store.tree import EMPTY_TREE
from tests.psf.service import RULES, TENANT, Bench


def taken_in(bench: Bench, *, image: str = "", sandbox: str = "fake", **limits: Any) -> Services:
    """Services of a store with a session `s` of one step within these limits, which nobody here has checked."""
    objects = bench.store.objects
    code = BlobId(objects.put(Kind.BLOB, b"a=1"))
    step = Run("bash", b"\5" * 32, code, code, (), (), (), (), "all", (("run", Limits(**limits)),))
    head = SnapshotId(
        objects.put(
            Kind.SNAPSHOT,
            snapshots.encode(Snapshot(1, 1, (EMPTY_SNAPSHOT_ID,), EMPTY_TREE, step, Outcome((), ()))),
        )
    )
    session = Session("s", TENANT, None, head, "bash", sandbox, 60.0, 1_000_000.0, 1_000_000.0, image=image)
    bench.store.heads.create([session], "create")
    return bench.another(sandbox)


async def test_a_step_runs_again_within_the_limits_of_the_server(bench: Bench) -> None:
    services = taken_in(bench, wall_time_s=1e8, memory_bytes=1 << 45)
    await services.replays.replay("s", TENANT)
    (stage,) = bench.fake.requests[0].stages
    assert (stage.limits.wall_time_s, stage.limits.memory_bytes) == (
        RULES.maximum.wall_time_s,
        RULES.maximum.memory_bytes,
    )


async def test_a_step_that_had_a_network_does_not_run_where_there_is_none_to_be_had(bench: Bench) -> None:
    services = taken_in(bench, network="egress")
    with pytest.raises(NetworkRefused):
        await services.replays.replay("s", TENANT)
    assert not bench.fake.requests


@pytest.mark.parametrize("limits", [{"wall_time_s": -1.0}, {"processes": 0}], ids=str)
async def test_a_step_whose_limits_are_none_does_not_run(bench: Bench, limits: dict[str, Any]) -> None:
    services = taken_in(bench, **limits)
    with pytest.raises(InvalidField):
        await services.replays.replay("s", TENANT)
    assert not bench.fake.requests


async def test_an_image_that_the_server_does_not_offer_is_not_run_in(bench: Bench) -> None:
    services = taken_in(bench, image="somebody/else", sandbox="docker")
    with pytest.raises(SystemUnknown):
        await services.replays.replay("s", TENANT)
    with pytest.raises(SystemUnknown):
        await services.replays.bisect("s", TENANT, Order(b"false", "bash"))
    assert not bench.fake.requests
