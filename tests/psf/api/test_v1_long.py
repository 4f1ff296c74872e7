"""`/v1`: long bodies, which whoever sends or takes them slowly does not keep others waiting for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from psf.api import decode, server, streams
from tests.psf.api.conftest import Api
from tests.psf.api.test_v1_sessions import made
from tests.psf.api.test_v1_snapshots import long_tree


async def test_who_takes_archives_slowly_keeps_nobody_else_waiting(api: Api) -> None:
    head = await long_tree(api, 40)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    slow = [await api.client.get(f"/v1/snapshots/{head}/archive") for _ in range(3)]
    try:
        async with asyncio.timeout(5):
            assert (await api.get("/v1/sessions"))[0] == 200
    finally:
        for response in slow:
            response.close()


async def test_who_takes_nothing_of_an_archive_is_cut_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PATIENCE_S", 0.1)
    monkeypatch.setattr(streams, "SENDING_MAX", 1)
    head = await long_tree(api, 40)
    response = await api.client.get(f"/v1/snapshots/{head}/archive")
    assert (await api.get(f"/v1/snapshots/{head}/archive"))[0] == 429
    await asyncio.sleep(1)
    async with api.client.get(f"/v1/snapshots/{head}/archive") as again:
        assert again.status == 200
    response.close()


async def endless() -> AsyncIterator[bytes]:
    yield b"x"
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/v1/sessions/SESSION/files/f"), ("POST", "/v1/snapshots?tag=x"), ("POST", "/v1/bundles")],
)
async def test_a_body_that_does_not_come_is_not_waited_for(
    api: Api, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    monkeypatch.setattr(decode, "BODY_PATIENCE_S", 0.1)
    monkeypatch.setattr(streams, "PATIENCE_S", 0.1)
    session = (await made(api))["session_id"]
    async with (
        asyncio.timeout(5),
        api.client.request(method, path.replace("SESSION", session), data=endless()) as response,
    ):
        assert (response.status, (await response.json())["error"]["code"]) == (408, "body_too_slow")


@pytest.mark.parametrize("path", ["/v1/snapshots?tag=x", "/v1/bundles", "/v1/sessions/SESSION/files/f"])
async def test_a_body_that_cannot_be_unpacked_is_refused(api: Api, path: str) -> None:
    session = (await made(api))["session_id"]
    method = "PUT" if "files" in path else "POST"
    headers = {"Content-Encoding": "gzip"}
    async with api.client.request(
        method, path.replace("SESSION", session), data=b"no gzip at all", headers=headers
    ) as response:
        assert response.status in (400, 422), await response.text()


async def test_a_body_that_is_put_aside_takes_no_room_of_others(api: Api) -> None:
    session = (await made(api))["session_id"]
    slow = [asyncio.ensure_future(api.client.post("/v1/bundles", data=endless())) for _ in range(server.BODIES_MAX)]
    await asyncio.sleep(0.5)
    try:
        async with api.client.put(f"/v1/sessions/{session}/files/f", data=b"x" * 500_000) as response:
            assert response.status == 200, await response.text()
    finally:
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
