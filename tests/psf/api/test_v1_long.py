"""`/v1`: long bodies, which whoever sends or takes them slowly does not keep others waiting for."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from psf.api import streams
from tests.psf.api.conftest import Api
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
