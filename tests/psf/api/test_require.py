"""A call says what it must be able to rely on; what is missing is refused by name before anything runs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestClient, TestServer

from executors import guarantees
from executors.interfaces import Capabilities
from psf.api import server
from psf.api.keys import Policy
from tests.psf.api.conftest import BODY_BYTES_MAX, Api
from tests.psf.service import Bench

CAPABILITIES = Capabilities(
    "fake",
    "copy",
    {name: "something" for name in guarantees.GUARANTEES if name != "disk"},
    ("memory: no control group here", "rename: answers EXDEV"),
)


@pytest.fixture
async def api(bench: Bench) -> AsyncIterator[Api]:
    policy = Policy(bench.rules, server.LOOPBACK_NAMES)
    application = server.build(bench.services, CAPABILITIES, policy, BODY_BYTES_MAX)
    async with TestClient(TestServer(application)) as client:
        yield Api(client, bench)


async def test_what_is_there_can_be_required(api: Api) -> None:
    required = [name for name in guarantees.NAMES if name not in ("memory", "disk", "rename", *guarantees.FACILITIES)]
    status, answer = await api.post("/run_code", {"language": "bash", "code": "x", "require": required})
    assert (status, answer["status"]) == (200, "Success")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("memory", "no control group here"), ("disk", "nothing enforces it"), ("rename", "answers EXDEV")],
)
async def test_what_is_missing_is_refused_with_the_reason_and_nothing_has_happened(
    api: Api, name: str, reason: str
) -> None:
    session = await api.session()
    before = await api.state(session)
    body = {"session_id": session, "code": "a=1", "require": ["files", name]}
    status, answer = await api.post("/execute_session", body)
    assert status == 501
    assert f"{name} ({reason})" in answer["detail"]
    # What is there is named too, and what was not asked for is not complained of.
    there, missing = answer["detail"].split(". It guarantees ")[::-1]
    assert there.split(", ") == list(guarantees.there(CAPABILITIES))
    assert missing.count("(") == 1
    assert await api.state(session) == before
    assert api.bench.fake.requests == []


async def test_an_unknown_name_is_told_with_those_there_are(api: Api) -> None:
    status, answer = await api.post("/run_code", {"language": "bash", "code": "x", "require": ["memroy", "memory"]})
    assert status == 422
    (detail,) = answer["detail"]
    assert detail["loc"] == ["body", "require", 0]
    assert "'memroy'" in detail["msg"]
    assert ", ".join(guarantees.NAMES) in detail["msg"]
