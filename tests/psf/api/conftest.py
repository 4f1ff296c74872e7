"""The application over a bench, and a client to call it with."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from executors.interfaces import Capabilities
from psf.api import server
from psf.api.keys import Policy
from psf.tokens import Tokens
from tests.psf.service import Bench

BODY_BYTES_MAX = 1 << 20
TOO_LARGE = "the body is larger than this server takes (body_bytes_max); files are base64, a third more than their size"
CAPABILITIES = Capabilities("fake", "copy", {"files": "nothing is run"}, ("network: nothing is run",))


class Api:
    """Calls as any client makes them. An answer is its status and its decoded JSON."""

    def __init__(self, client: TestClient, bench: Bench) -> None:
        self.client, self.bench = client, bench

    async def send(self, method: str, path: str, data: Any, **headers: str) -> tuple[int, Any]:
        body = io.BytesIO(data.encode() if isinstance(data, str) else data) if data is not None else None
        async with self.client.request(method, path, data=body, headers=headers) as response:
            assert response.content_type == "application/json", await response.text()
            return response.status, json.loads(await response.read())

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        return await self.send("POST", path, json.dumps(body), **{"Content-Type": "application/json", **headers})

    async def get(self, path: str) -> tuple[int, Any]:
        return await self.send("GET", path, None)

    async def session(self, **fields: Any) -> str:
        status, answer = await self.post("/create_session", fields)
        assert status == 200, answer
        return answer["session_id"]

    async def state(self, session: str) -> object:
        """Everything that a refused call may not change."""
        return await self.bench.head(session), await self.bench.moves(session)


def application(bench: Bench, tokens: Tokens | None = None) -> web.Application:
    policy = Policy(bench.rules, server.LOOPBACK_NAMES)
    return server.build(bench.services, CAPABILITIES, policy, BODY_BYTES_MAX, tokens)


@pytest.fixture
async def api(bench: Bench) -> AsyncIterator[Api]:
    async with TestClient(TestServer(application(bench))) as client:
        yield Api(client, bench)
