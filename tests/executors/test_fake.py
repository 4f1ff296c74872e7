"""The scripted executor keeps and gives what an executor would, so that tests on it mean something."""

from __future__ import annotations

from executors.fake import FakeExecutor, Script
from executors.interfaces import Keep
from executors.testing.history import SHELL, contents, make_request
from store.ids import TreeId
from store.memory import MemoryObjects
from store.snapshot import Ending
from store.tree import EMPTY_TREE

WRITES = {"kept": b"1", "d/fetched": b"2"}


async def step(objects: MemoryObjects, tree: TreeId, keep: Keep) -> tuple[dict[str, bytes], dict[str, bytes | None]]:
    fake = FakeExecutor(objects, lambda _: Script(WRITES))
    result = await fake.execute(make_request(tree, 1, SHELL, "", keep=keep, fetch=("d/fetched", "missing")))
    return result.fetched, contents(objects, result.tree)


async def test_it_writes_what_its_script_says_and_keeps_what_was_asked() -> None:
    fetched = {"d/fetched": b"2"}
    assert await step(MemoryObjects(), EMPTY_TREE, "all") == (fetched, {"kept": b"1", "d": None, "d/fetched": b"2"})
    assert await step(MemoryObjects(), EMPTY_TREE, "fetched") == (fetched, {"d": None, "d/fetched": b"2"})
    assert await step(MemoryObjects(), EMPTY_TREE, "nothing") == (fetched, {})


async def test_it_plays_each_request_and_remembers_it() -> None:
    objects = MemoryObjects()
    fake = FakeExecutor(objects, lambda request: Script(stdout=request.program, stderr=b"!", exit_code=request.number))
    requests = [make_request(EMPTY_TREE, number, SHELL, f"program {number}") for number in (1, 2)]
    runs = [(await fake.execute(request)).stages[0][1] for request in requests]
    assert [(run.stdout.data, run.stdout.total_bytes, run.exit_code) for run in runs] == [
        (b"program 1", 9, 1),
        (b"program 2", 9, 2),
    ]
    assert fake.requests == requests


async def test_it_shows_what_it_prints_to_who_watches() -> None:
    told: list[tuple[str, str, bytes]] = []
    fake = FakeExecutor(MemoryObjects(), lambda _: Script(stdout=b"x" * 100_000, stderr=b"!"))
    await fake.execute(make_request(EMPTY_TREE, 1, SHELL, ""), lambda *piece: told.append(piece))
    assert b"".join(data for *_, data in told) == b"x" * 100_000 + b"!"
    assert [piece[:2] for piece in told] == [("run", "stdout"), ("run", "stdout"), ("run", "stderr")]


async def test_only_a_program_that_exited_has_an_exit_code() -> None:
    fake = FakeExecutor(MemoryObjects(), lambda _: Script(ending=Ending.TIMED_OUT))
    name, run = (await fake.execute(make_request(EMPTY_TREE, 1, SHELL, ""))).stages[0]
    assert (name, run.ending, run.exit_code) == ("run", Ending.TIMED_OUT, None)


async def test_it_knows_that_it_was_closed() -> None:
    fake = FakeExecutor(MemoryObjects(), lambda _: Script())
    assert not fake.closed
    await fake.close()
    assert fake.closed
