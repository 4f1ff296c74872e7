"""Tokens at the door: tenants that do not see one another, scopes, and a log of who asked for what."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from psf import audit, tokens
from psf.errors import ConfigurationError
from psf.tokens import NewToken, Scope
from tests.psf.api.conftest import Api, application
from tests.psf.service import Bench

CALLERS: dict[str, tuple[str, Scope]] = {
    "ann": ("one", "execute"),
    "bob": ("one", "read"),
    "eve": ("two", "execute"),
    "loc": ("local", "execute"),
}


class Door(Api):
    """Calls by name."""

    made: dict[str, NewToken]

    async def call(self, who: str | None, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.made[who].token}"} if who else {}
        data = json.dumps(body) if body is not None else None
        return await self.send(method, path, data, **{"Content-Type": "application/json", **headers})


@pytest.fixture
async def door(bench: Bench, tmp_path: Path) -> AsyncIterator[Door]:
    made = {name: tokens.new(name, tenant, (scope,)) for name, (tenant, scope) in CALLERS.items()}
    file = tmp_path / "tokens.toml"
    file.write_text("".join(token.lines for token in made.values()))
    async with TestClient(TestServer(application(bench, tokens.load(file)))) as client:
        door = Door(client, bench)
        door.made = made
        yield door


async def made_by(door: Door, who: str) -> str:
    status, answer = await door.call(who, "POST", "/create_session", {})
    assert status == 200
    session: str = answer["session_id"]
    return session


async def test_nobody_comes_in_without_a_token_but_to_see_that_the_server_lives(door: Door) -> None:
    for method, path in (
        ("POST", "/create_session"),
        ("POST", "/run_code"),
        ("GET", "/v1/sessions/x/log"),
        ("GET", "/nothing"),
    ):
        status, _ = await door.call(None, method, path, {} if method == "POST" else None)
        assert status == 401, path
    async with door.client.get("/v1/sessions/x/log") as response:
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert (await response.json())["error"]["code"] == "unauthenticated"
    for path in ("/healthz", "/v1/ping"):
        assert (await door.call(None, "GET", path))[0] == 200


async def test_a_body_is_not_read_before_the_caller_is_known(door: Door) -> None:
    assert (await door.call(None, "POST", "/run_code", {"code": 5}))[0] == 401


async def test_tenants_do_not_see_one_another(door: Door) -> None:
    session = await made_by(door, "ann")
    unknown = "0" * 40
    for method, path, body in (
        ("POST", "/execute_session", {"session_id": "SESSION", "code": "a=1"}),
        ("POST", "/v1/sessions/SESSION/rollback", {"to": "0"}),
        ("POST", "/v1/sessions/SESSION/fork", {}),
        ("GET", "/v1/sessions/SESSION/log", None),
    ):
        answers = []
        for one in (session, unknown):
            text = json.dumps(body).replace("SESSION", one)
            status, answer = await door.call("eve", method, path.replace("SESSION", one), json.loads(text))
            answers.append((status, json.dumps(answer).replace(one, "SESSION")))
        assert answers[0] == answers[1]
        assert answers[0][0] in (404, 410)
        own = json.loads(json.dumps(body).replace("SESSION", session))
        assert (await door.call("ann", method, path.replace("SESSION", session), own))[0] in (200, 201)


async def test_a_tag_is_of_one_tenant_however_its_name_is_written(door: Door) -> None:
    session = await made_by(door, "ann")
    await door.call("ann", "POST", f"/v1/sessions/{session}/execute", {"code": "a=1"})
    assert (await door.call("ann", "PUT", "/v1/tags/mine", {"session": session}))[0] == 200
    for who, name in (("loc", "one%2Fmine"), ("eve", "one%2Fmine"), ("eve", "..%2Fone%2Fmine")):
        assert (await door.call(who, "GET", f"/v1/snapshots/{name}"))[0] == 404, (who, name)
        assert (await door.call(who, "DELETE", f"/v1/tags/{name}"))[0] == 404, (who, name)
    assert (await door.call("ann", "GET", "/v1/snapshots/mine"))[0] == 200


async def test_whoever_may_only_look_changes_nothing(door: Door) -> None:
    session = await made_by(door, "ann")
    assert (await door.call("bob", "GET", f"/v1/sessions/{session}/log"))[0] == 200
    status, answer = await door.call("bob", "POST", f"/v1/sessions/{session}/rollback", {"to": "0"})
    assert (status, answer["error"]["code"]) == (403, "forbidden")
    assert (await door.call("bob", "POST", "/create_session", {}))[0] == 403
    log = (await door.call("ann", "GET", f"/v1/sessions/{session}/log"))[1]
    assert len(log["moves"]) == 1


async def test_each_change_that_is_asked_for_is_written_down_and_nothing_of_what_it_holds(
    door: Door, tmp_path: Path
) -> None:
    file = tmp_path / "audit.log"
    with audit.kept_in(file):
        session = await made_by(door, "ann")
        await door.call("ann", "POST", "/execute_session", {"session_id": session, "code": "hidden=treasure"})
        await door.call("eve", "POST", f"/v1/sessions/{session}/rollback", {"to": "0"})
        await door.call(None, "POST", f"/v1/sessions/{session}/fork", {"names": ["treasure"]})
        await door.call("ann", "POST", "/nowhere", {})
        await door.call("ann", "GET", f"/v1/sessions/{session}/log")
    text = file.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    told = [
        (line.get("token"), line.get("tenant"), line["route"], line["status"], line.get("session")) for line in lines
    ]
    assert told == [
        ("ann", "one", "/create_session", 200, session),
        ("ann", "one", "/execute_session", 200, session),
        ("eve", "two", "/v1/sessions/{session_id}/rollback", 404, session),
        (None, None, "/v1/sessions/{session_id}/fork", 401, session),
        ("ann", "one", "unknown", 404, None),
    ]
    assert all(line["at"].endswith("+00:00") and line["method"] == "POST" for line in lines)
    assert "treasure" not in text
    assert not any(made.token in text for made in door.made.values())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    await door.call("ann", "POST", "/create_session", {})
    assert file.read_text() == text


async def test_the_log_may_be_moved_away(door: Door, tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    with audit.kept_in(file):
        await made_by(door, "ann")
        file.rename(tmp_path / "audit.log.1")
        await made_by(door, "ann")
    assert [len(path.read_text().splitlines()) for path in (file, tmp_path / "audit.log.1")] == [1, 1]


def test_a_log_that_cannot_be_written_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"audit_log: .*No such file"), audit.kept_in(tmp_path / "no" / "log"):
        pass
