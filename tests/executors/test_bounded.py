"""No more steps at once than there are slots; who waits too long is told so."""

from __future__ import annotations

import asyncio

import pytest

from executors.bounded import BoundedExecutor
from executors.errors import Overloaded
from executors.fake import FakeExecutor, Script
from executors.interfaces import Request, Result, StageWatch, System
from executors.testing.history import SHELL, make_request
from store.memory import MemoryObjects
from store.tree import EMPTY_TREE

REQUEST = make_request(EMPTY_TREE, 1, SHELL, "")
PATIENT_S, IMPATIENT_S = 60.0, 0.05


class Gated:
    """An executor whose steps stay until they are let go. Counts how many are inside."""

    def __init__(self) -> None:
        self._fake = FakeExecutor(MemoryObjects(), lambda _: Script())
        self.inside, self.most, self.gate = 0, 0, asyncio.Event()

    @property
    def closed(self) -> bool:
        return self._fake.closed

    async def execute(self, request: Request, watch: StageWatch | None = None) -> Result:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.gate.wait()
            return await self._fake.execute(request, watch)
        finally:
            self.inside -= 1

    async def prepare(self, system: System) -> bytes:
        return await self._fake.prepare(system)

    async def close(self) -> None:
        await self._fake.close()


class Broken(Gated):
    async def execute(self, request: Request, watch: StageWatch | None = None) -> Result:
        raise OSError("broken")


async def started(*steps: asyncio.Task[Result]) -> None:
    """Let steps run until they wait for something."""
    for _ in range(10 * len(steps)):
        await asyncio.sleep(0)


async def test_no_more_steps_run_at_once_than_there_are_slots() -> None:
    inner = Gated()
    bounded = BoundedExecutor(inner, 3, PATIENT_S)
    steps = [asyncio.create_task(bounded.execute(REQUEST)) for _ in range(10)]
    await started(*steps)
    assert inner.inside == 3
    inner.gate.set()
    await asyncio.gather(*steps)
    assert inner.most == 3


async def test_who_watches_is_told_through_it() -> None:
    told: list[tuple[str, str, bytes]] = []
    inner = FakeExecutor(MemoryObjects(), lambda _: Script(stdout=b"seen"))
    await BoundedExecutor(inner, 1, PATIENT_S).execute(REQUEST, lambda *piece: told.append(piece))
    assert told == [("run", "stdout", b"seen")]


async def test_who_waits_too_long_for_a_slot_is_turned_away_and_takes_none() -> None:
    inner = Gated()
    bounded = BoundedExecutor(inner, 1, IMPATIENT_S)
    first = asyncio.create_task(bounded.execute(REQUEST))
    await started(first)
    with pytest.raises(Overloaded) as caught:
        await bounded.execute(REQUEST)
    assert str(caught.value) == f"no execution slot became free within {IMPATIENT_S:g} s; try again later"
    assert caught.value.code == "overloaded"
    inner.gate.set()
    await first
    await bounded.execute(REQUEST)


async def test_a_step_that_has_its_slot_may_take_longer_than_others_wait() -> None:
    inner = Gated()
    bounded = BoundedExecutor(inner, 1, IMPATIENT_S)
    step = asyncio.create_task(bounded.execute(REQUEST))
    await asyncio.sleep(4 * IMPATIENT_S)
    assert not step.done()
    inner.gate.set()
    await step


async def test_a_broken_or_cancelled_step_gives_its_slot_back() -> None:
    broken = BoundedExecutor(Broken(), 1, IMPATIENT_S)
    for _ in range(3):
        with pytest.raises(OSError, match="broken"):
            await broken.execute(REQUEST)
    inner = Gated()
    bounded = BoundedExecutor(inner, 1, PATIENT_S)
    for _ in range(3):
        holding, waiting = (asyncio.create_task(bounded.execute(REQUEST)) for _ in range(2))
        await started(holding, waiting)
        for step in (waiting, holding):
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await step
    inner.gate.set()
    await bounded.execute(REQUEST)


async def test_closing_it_closes_what_it_bounds() -> None:
    inner = Gated()
    await BoundedExecutor(inner, 1, PATIENT_S).close()
    assert inner.closed
