"""Systems of sessions are started when they are asked for, shared while they are used, and closed when others are used more."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from executors.errors import SandboxBroken, SandboxUnavailable, SystemUnknown
from executors.interfaces import OWN_SYSTEM, System
from executors.systems import IDLE_MAX, ManySystems, OneSystem, Site
from tests.executors.test_sandboxes import Named

OWN = System("own", "/work")


class Machine:
    """Starts systems, and keeps what was started."""

    def __init__(self) -> None:
        self.own = Named("docker")
        self.started: list[tuple[System, Named]] = []
        self.starting = asyncio.Event()
        self.starting.set()
        self.lacks: set[str] = set()
        self.systems = ManySystems(Site(self.own, OWN.work_dir, b"own"), OWN, self._start)

    async def _start(self, system: System) -> Site:
        await self.starting.wait()
        if system.image in self.lacks:
            raise SandboxUnavailable(f"no {system.image}")
        sandbox = Named("docker")
        self.started.append((system, sandbox))
        return Site(sandbox, system.work_dir, system.image.encode())

    async def use(self, *systems: System) -> None:
        for system in systems:
            async with self.systems.site(system):
                pass

    def names(self) -> list[str]:
        return [system.image for system, _ in self.started]

    def running(self) -> list[str]:
        return [system.image for system, sandbox in self.started if not sandbox.closed]


async def test_by_whatever_name_the_servers_own_system_is_asked_for_nothing_is_started() -> None:
    machine = Machine()
    for system in (OWN_SYSTEM, OWN, System("own"), System("", "/work")):
        async with machine.systems.site(system) as site:
            assert site.sandbox is machine.own
    assert machine.started == []


async def test_what_is_not_asked_for_is_the_servers() -> None:
    machine = Machine()
    async with machine.systems.site(System("other")) as site:
        assert (site.work_dir, site.identity) == ("/work", b"other")
    async with machine.systems.site(System("", "/app")) as site:
        assert (site.work_dir, site.identity) == ("/app", b"own")


async def test_a_system_is_started_once_for_all_who_want_it() -> None:
    machine = Machine()
    machine.starting.clear()
    users = [asyncio.create_task(machine.use(System("a"))) for _ in range(5)]
    await asyncio.sleep(0)
    machine.starting.set()
    await asyncio.gather(*users)
    await machine.use(System("a"), System("a", "/work"))
    assert machine.names() == ["a"]


async def test_those_used_longest_ago_are_closed_and_none_that_is_in_use() -> None:
    machine = Machine()
    names = [f"i{number}" for number in range(IDLE_MAX + 2)]
    async with machine.systems.site(System(names[0])):
        await machine.use(*map(System, names[1:]))
        assert machine.running() == [names[0], *names[2:]]
        await machine.use(System(names[2]), System("late"))
        assert machine.running() == [names[0], names[2], *names[4:], "late"]
    await machine.use(System(names[1]))
    assert machine.names().count(names[1]) == 2, "started anew"


async def test_what_cannot_be_started_is_said_to_all_and_tried_again() -> None:
    machine = Machine()
    machine.lacks.add("a")
    results = await asyncio.gather(*(machine.use(System("a")) for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["no a"] * 3
    machine.lacks.clear()
    await machine.use(System("a"))
    assert machine.running() == ["a"]


async def test_who_gives_up_while_a_system_starts_leaves_it_to_others_and_to_the_end() -> None:
    machine = Machine()
    machine.starting.clear()
    impatient = asyncio.create_task(machine.use(System("a")))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    machine.starting.set()
    await machine.systems.close()
    assert (machine.names(), machine.running()) == (["a"], [])


async def test_closing_closes_all_in_use_or_not_and_nothing_is_started_after_it() -> None:
    machine = Machine()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(machine.systems.site(System("a")))
        await machine.use(System("b"))
        await machine.systems.close()
        assert machine.running() == []
        assert machine.own.closed
    await machine.systems.close()
    with pytest.raises(SandboxBroken):
        await machine.use(System("c"))


async def test_a_sandbox_with_one_system_refuses_others_and_says_what_has_them() -> None:
    systems = OneSystem(Site(Named("bubblewrap")))
    for system in (OWN_SYSTEM, System("", "/work")):
        async with systems.site(system) as site:
            assert site.work_dir == "/work"
    for system in (System("a"), System("", "/app")):
        with pytest.raises(SystemUnknown, match=r"bubblewrap .* --executor docker"):
            async with systems.site(system):
                pass
