"""A server over a bench, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestServer

from psf.client import Client, Retries
from tests.psf.api.conftest import application
from tests.psf.service import Bench

QUICK = Retries(attempts=4, pause_s=0.01, pause_s_max=0.02)


@pytest.fixture
async def url(bench: Bench) -> AsyncIterator[str]:
    async with TestServer(application(bench)) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    async with Client(url, retries=QUICK) as made:
        yield made
