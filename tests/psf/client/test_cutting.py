"""A connection that is cut at every point of an execute, and the execute asked for again under its key: it is in the history once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from executors.interfaces import Executor, Request, Result, StageWatch
from psf.client import NO_RETRIES, Client, Unreachable
from psf.client.models import Result as Outcome
from tests.psf.api.conftest import application
from tests.psf.client.conftest import QUICK
from tests.psf.client.cutting import cutting
from tests.psf.service import Bench

STRIDE = 7
"""Every so many bytes; a prime, so that boundaries of any structure are met."""


class Slow:
    """An executor that takes its time: a retry comes while the first attempt still runs."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner

    async def execute(self, request: Request, watch: StageWatch | None = None) -> Result:
        await asyncio.sleep(0.005)
        return await self._inner.execute(request, watch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[tuple[str, Bench]]:
    bench = Bench(tmp_path / "store", Slow)
    async with TestServer(application(bench)) as server:
        yield str(server.make_url("")).rstrip("/"), bench
    bench.close()


async def execute(client: Client, session_id: str, key: str, streams: bool) -> Outcome:
    session = client.attach(session_id)
    if streams:
        return await session.stream("a=1", key=key).finish()
    return await session.run("a=1", key=key)


async def sizes(url: str, session_id: str, streams: bool) -> dict[str, int]:
    """How many bytes one execute is, up and down."""
    async with cutting(url) as (address, proxy), Client(address) as client:
        await execute(client, session_id, "x" * 36, streams)
        return dict(proxy.passed)


@pytest.mark.parametrize("streams", [False, True], ids=["run", "stream"])
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("who", ["the same client", "another client"])
async def test_an_execute_that_is_cut_anywhere_and_repeated_is_in_the_history_once(
    slow: tuple[str, Bench], way: str, who: str, streams: bool
) -> None:
    url, bench = slow
    length = (await sizes(url, await bench.session(ttl_s=1e6), streams))[way]
    assert length > 200
    cut = 0
    for number, at in enumerate([*range(0, length, STRIDE), length - 2, length - 1, length]):
        session_id, key = await bench.session(ttl_s=1e6), f"{number:036}"
        async with cutting(url, **{way: at}) as (address, proxy):
            if who == "the same client":
                async with Client(address, retries=QUICK) as client:
                    result = await execute(client, session_id, key, streams)
            else:
                async with Client(address, retries=NO_RETRIES) as client:
                    with contextlib.suppress(Unreachable):
                        await execute(client, session_id, key, streams)
                async with Client(url) as client:
                    result = await execute(client, session_id, key, streams)
            cut += proxy.connections > 1 or who != "the same client"
        assert await bench.moves(session_id) == ["create", "execute"], f"cut {way} after {at} of {length} bytes"
        assert result.snapshot == await bench.head(session_id)
        assert result.ok
    assert cut > 0.9 * length / STRIDE  # behind the result of a stream nothing is needed any more


@pytest.mark.parametrize("streams", [False, True], ids=["run", "stream"])
async def test_many_who_ask_for_one_execute_at_once_get_the_one_there_is(
    slow: tuple[str, Bench], streams: bool
) -> None:
    url, bench = slow
    session_id = await bench.session(ttl_s=1e6)
    async with Client(url) as client:
        results = await asyncio.gather(*(execute(client, session_id, "k", streams) for _ in range(10)))
    assert len({result.snapshot for result in results}) == 1
    assert sorted(result.repeated for result in results) == [False] + [True] * 9
    assert await bench.moves(session_id) == ["create", "execute"]


async def test_what_is_cut_before_it_was_whole_was_never_begun(slow: tuple[str, Bench]) -> None:
    url, bench = slow
    session_id = await bench.session(ttl_s=1e6)
    length = (await sizes(url, await bench.session(ttl_s=1e6), False))["up"]
    before = len(bench.fake.requests)
    async with cutting(url, up=length - 1) as (address, _), Client(address, retries=NO_RETRIES) as client:
        with pytest.raises(Unreachable):
            await execute(client, session_id, "k" * 36, False)
    assert len(bench.fake.requests) == before
    assert await bench.moves(session_id) == ["create"]


async def test_files_forks_and_rollbacks_that_are_cut_are_done_once_too(slow: tuple[str, Bench]) -> None:
    url, bench = slow
    for at in range(0, 400, 57):
        session_id = await bench.session(ttl_s=1e6)
        for down in (at, 1):
            async with cutting(url, down=down) as (address, _), Client(address, retries=QUICK) as client:
                session = client.attach(session_id)
                await session.write_file("a", f"{at} {down}")
        async with cutting(url, down=at) as (address, _), Client(address, retries=QUICK) as client:
            forks = await client.attach(session_id).fork_many(3)
        async with cutting(url, down=at) as (address, _), Client(address, retries=QUICK) as client:
            await client.attach(session_id).rollback("-1")
        assert await bench.moves(session_id) == ["create", "write", "write", "rollback"]
        assert len({fork.session_id for fork in forks}) == 3
