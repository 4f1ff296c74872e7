"""What sessions may ask of the system that their programs see, and what is said to those who ask for more."""

from __future__ import annotations

import pytest

from executors.errors import SandboxUnavailable, SystemUnknown
from executors.interfaces import OWN_SYSTEM, System
from psf.errors import InvalidField
from psf.record import Order
from psf.systems import SystemRules, check
from tests.psf.service import TENANT, Bench

DOCKER = SystemRules("docker", System("psf/pybash", "/work"), ("python:3.11", "node:20"))
BUBBLEWRAP = SystemRules("bubblewrap")


@pytest.mark.parametrize(
    ("rules", "asked"),
    [
        (DOCKER, OWN_SYSTEM),
        (DOCKER, System("python:3.11")),
        (DOCKER, System("psf/pybash", "/srv/app")),
        (DOCKER, System("", "/work")),
        (BUBBLEWRAP, OWN_SYSTEM),
        (BUBBLEWRAP, System("", "/work")),
    ],
)
def test_what_a_server_offers_may_be_asked_for(rules: SystemRules, asked: System) -> None:
    check(asked, rules)


@pytest.mark.parametrize(
    ("rules", "asked", "field", "said"),
    [
        (DOCKER, System("alpine"), "image", "offers: psf/pybash, python:3.11, node:20; its setting docker_images"),
        (DOCKER, System("", "work"), "work_dir", "'work' is not an absolute path such as /work"),
        (DOCKER, System("", "/"), "work_dir", "not an absolute path"),
        (DOCKER, System("", "/a/../b"), "work_dir", "not an absolute path"),
        (DOCKER, System("", "/a\nb"), "work_dir", "not an absolute path"),
        (DOCKER, System("", "/" + "a" * 300), "work_dir", "not an absolute path"),
        (DOCKER, System("", "/usr/x"), "work_dir", "/usr/x and /usr are in each other's way"),
        (DOCKER, System("", "/tmp"), "work_dir", "in each other's way"),
        (BUBBLEWRAP, System("alpine"), "image", "its sandbox is bubblewrap, and only docker has"),
        (BUBBLEWRAP, System("", "/app"), "work_dir", "its sandbox is bubblewrap"),
    ],
)
def test_more_is_refused_by_field(rules: SystemRules, asked: System, field: str, said: str) -> None:
    with pytest.raises(InvalidField) as refusal:
        check(asked, rules)
    assert refusal.value.location == ("body", field)
    assert said in refusal.value.message


async def test_a_session_keeps_what_it_asked_for_and_so_do_its_forks(bench: Bench) -> None:
    service = bench.another("docker").sessions
    asked = System("", "/srv/app")
    session = await service.create("bash", 60, TENANT, system=asked)
    assert bench.fake.prepared == [asked]
    (fork,) = await service.fork(session.session_id, TENANT)
    bench.reopen()
    for identity in (session.session_id, fork.session_id):
        kept = await bench.service.get(identity, TENANT)
        assert System(kept.image, kept.work_dir) == asked


async def test_what_is_offered_no_more_is_refused_and_the_head_stays(bench: Bench) -> None:
    offering = bench.another("docker", images=("a:1",))
    session = await offering.sessions.create("bash", 60, TENANT, system=System("a:1"))
    await offering.steps.execute(session.session_id, TENANT, Order(b""))
    before = await bench.head(session.session_id)
    with pytest.raises(SystemUnknown, match="no more: image is none that this server offers"):
        await bench.another("docker").steps.execute(session.session_id, TENANT, Order(b""))
    (fork,) = await bench.service.fork(session.session_id, TENANT)
    with pytest.raises(SystemUnknown, match="its sandbox is fake"):
        await bench.steps.execute(fork.session_id, TENANT, Order(b""))
    assert await bench.head(session.session_id) == before == await bench.head(fork.session_id)


async def test_a_system_that_cannot_be_had_makes_no_session(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def prepare(system: System) -> None:
        raise SandboxUnavailable(f"no image {system.image}")

    monkeypatch.setattr(bench.fake, "prepare", prepare)
    with pytest.raises(SandboxUnavailable):
        await bench.another("docker").sessions.create("bash", 60, TENANT, system=System("", "/app"))
    assert list(bench.store.heads.roots()) == []


async def test_who_asks_for_nothing_waits_for_no_system(bench: Bench) -> None:
    await bench.service.create("bash", 60, TENANT)
    assert bench.fake.prepared == []
