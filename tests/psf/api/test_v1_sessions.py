"""`/v1`: sessions are made, listed, changed, ended and brought back; heads are moved; what is asked twice under a key is done once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from store.snapshot import EMPTY_SNAPSHOT_ID
from tests.psf.api.conftest import Api


async def made(api: Api, **fields: Any) -> dict[str, Any]:
    status, answer = await api.post("/v1/sessions", fields)
    assert status == 201, answer
    return answer


async def ran(api: Api, session: str, code: str, **fields: Any) -> dict[str, Any]:
    status, answer = await api.post(f"/v1/sessions/{session}/execute", {"code": code, **fields})
    assert status == 200, answer
    return answer


async def test_a_session_is_answered_with_all_that_is_known_of_it(api: Api) -> None:
    session = await made(api, runtime="bash", ttl_s=60, name="mine", limits={"processes": 5})
    assert (session["runtime"], session["ttl_s"], session["name"], session["limits"]) == (
        "bash",
        60.0,
        "mine",
        {"processes": 5},
    )
    assert (session["head"], session["steps"], session["expired"]) == (EMPTY_SNAPSHOT_ID.hex(), 0, False)
    assert session["created_at"] == "1970-01-12T13:46:40.000+00:00"
    assert session["expires_at"] == "1970-01-12T13:47:40.000+00:00"
    assert await api.get(f"/v1/sessions/{session['session_id']}") == (200, session)


async def test_a_session_may_begin_with_files_with_a_snapshot_or_with_both(api: Api) -> None:
    first = await made(api, files={"d/a": {"text": "1"}, "b": {"base64": "Mg==", "executable": True}})
    assert first["steps"] == 1
    second = await made(api, **{"from": first["head"]}, files={"c": {"text": "3"}})
    _, manifest = await api.get(f"/v1/snapshots/{second['head']}/manifest")
    assert [(entry["path"], entry["kind"]) for entry in manifest["entries"]] == [
        ("b", "executable"), ("c", "file"), ("d", "directory"), ("d/a", "file"),
    ]  # fmt: skip
    _, log = await api.get(f"/v1/sessions/{second['session_id']}/log")
    assert [(move["kind"], move["step"]) for move in log["moves"]] == [("create", 2)]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"runtime": 5}, "runtime"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"ttl_s": -1}, "ttl_s"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"files": {"a": {}}}, "files.a"),
        ({"files": {"a": {"text": "x", "base64": ""}}}, "files.a"),
        ({"files": {"a": {"base64": "!"}}}, "files.a.base64"),
        ({"files": {"../a": {"text": ""}}}, "files.../a"),
        ({"files": {"/tmp/a": {"text": ""}}}, "files./tmp/a"),
        ({"files": {"a": {"text": ""}, "a/b": {"text": ""}}}, "files"),
        ({"files": {"a": {"text": ""}, "./a": {"text": ""}}}, "files../a"),
        ({"files": {"_psf_main.py": {"text": ""}}}, "files._psf_main.py"),
        ({"limits": {"processes": 0}}, "limits.processes"),
        ({"image": "x"}, "image"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_made(api: Api, fields: dict[str, Any], field: str) -> None:
    status, answer = await api.post("/v1/sessions", fields)
    assert (status, answer["error"]["field"]) == (422, field), answer
    assert (await api.get("/v1/sessions"))[1]["sessions"] == []


async def test_a_snapshot_to_begin_with_must_be_ones_own(api: Api) -> None:
    for unknown in ("ab" * 32, "ab", "nothing"):
        status, answer = await api.post("/v1/sessions", {"from": unknown})
        assert (status, answer["error"]["code"]) == (404, "snapshot_unknown")


async def test_sessions_are_listed_last_first_in_pages_without_those_that_have_expired(api: Api) -> None:
    ids = []
    for number in range(7):
        api.bench.clock.now_s += 1
        ids.append((await made(api, ttl_s=3 if number == 2 else 100))["session_id"])
    seen: list[str] = []
    cursor = ""
    while True:
        _, page = await api.get(f"/v1/sessions?limit=2{cursor}")
        seen += [session["session_id"] for session in page["sessions"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == [one for one in ids[::-1] if one != ids[2]]
    _, whole = await api.get("/v1/sessions?expired=true")
    assert [session["session_id"] for session in whole["sessions"]] == ids[::-1]
    assert [session["expired"] for session in whole["sessions"]].count(True) == 1
    for wrong in ("x", "1_", "1e9_a", "1_a b"):
        assert (await api.get(f"/v1/sessions?cursor={wrong}"))[0] == 422


async def test_settings_are_changed_one_by_one_and_stand_in_the_log(api: Api) -> None:
    session = await made(api, ttl_s=50, name="old", limits={"processes": 5})
    path = f"/v1/sessions/{session['session_id']}"
    for change in ({"name": "new"}, {"ttl_s": 70}, {"limits": {"processes": 6}}, {"name": None}):
        status, answer = await api.send("PATCH", path, _json(change), **_JSON)
        assert status == 200
        session = {**session, **change}
        assert {field: answer[field] for field in ("name", "ttl_s", "limits")} == {
            field: session[field] for field in ("name", "ttl_s", "limits")
        }
    _, log = await api.get(f"{path}/log")
    assert [move["kind"] for move in log["moves"]] == ["settings"] * 4 + ["create"]
    assert (await api.send("PATCH", path, _json({"ttl_s": 0}), **_JSON))[0] == 422


async def test_settings_that_are_changed_at_once_are_all_changed(api: Api) -> None:
    session = (await made(api, name="old", ttl_s=50))["session_id"]
    path = f"/v1/sessions/{session}"
    changes = [{"name": "new"}, {"ttl_s": 60}, {"limits": {"processes": 5}}]
    for status, _ in await asyncio.gather(*(api.send("PATCH", path, _json(change), **_JSON) for change in changes)):
        assert status == 200
    _, answer = await api.get(path)
    assert (answer["name"], answer["ttl_s"], answer["limits"]) == ("new", 60.0, {"processes": 5})


async def test_a_deleted_session_is_gone_until_it_is_undeleted(api: Api) -> None:
    session = await made(api, ttl_s=50)
    path = f"/v1/sessions/{session['session_id']}"
    await ran(api, session["session_id"], "a=1")
    for _ in range(2):
        async with api.client.delete(path) as response:
            assert response.status == 204
    assert (await api.post(f"{path}/execute", {"code": "b=1"}))[0] == 410
    assert (await api.get(path))[1]["expired"]
    status, answer = await api.post(f"{path}/undelete", {})
    assert (status, answer["expired"], answer["ttl_s"]) == (200, False, 50.0)
    await ran(api, session["session_id"], "b=1")
    _, log = await api.get(f"{path}/log")
    assert [move["kind"] for move in log["moves"]] == ["execute", "undelete", "deleted", "execute", "create"]


async def test_an_expired_session_lives_again_with_another_ttl(api: Api) -> None:
    session = await made(api, ttl_s=5)
    api.bench.clock.now_s += 10
    path = f"/v1/sessions/{session['session_id']}"
    assert (await api.post(f"{path}/execute", {"code": "b=1"}))[0] == 410
    status, answer = await api.post(f"{path}/undelete", {"ttl_s": 500})
    assert (status, answer["expired"], answer["ttl_s"]) == (200, False, 500.0)
    await ran(api, session["session_id"], "b=1")


async def test_a_fork_of_a_deleted_session_lives_as_long_as_that_did(api: Api) -> None:
    session = await made(api, ttl_s=50)
    path = f"/v1/sessions/{session['session_id']}"
    async with api.client.delete(path):
        pass
    _, forks = await api.post(f"{path}/fork", {"names": ["a"]})
    _, fork = await api.get(f"/v1/sessions/{forks['sessions'][0]['session_id']}")
    assert (fork["ttl_s"], fork["expired"], fork["name"]) == (50.0, False, "a")


async def test_a_head_goes_back_to_a_step_an_id_a_tag_or_so_many_steps_and_forward_again(api: Api) -> None:
    session = (await made(api))["session_id"]
    heads = [(await ran(api, session, f"f{number}=x"))["snapshot"] for number in range(4)]
    assert (await api.send("PUT", "/v1/tags/here", _json({"session": session, "at": 2}), **_JSON))[0] == 200
    for to, expected in ((1, 0), ("-1", None), (heads[3], 3), ("here", 1), (heads[2][:8], 2), ("4", 3)):
        status, answer = await api.post(f"/v1/sessions/{session}/rollback", {"to": to})
        assert status == 200, answer
        assert answer["head"] == (heads[expected] if expected is not None else EMPTY_SNAPSHOT_ID.hex())
    for wrong in ("nothing", 9, "-9", "ffffff"):
        status, answer = await api.post(f"/v1/sessions/{session}/rollback", {"to": wrong})
        assert (status, answer["error"]["code"]) == (404, "snapshot_missing")


async def test_a_head_that_stands_elsewhere_is_told_and_stays(api: Api) -> None:
    session = await made(api)
    name, base = session["session_id"], session["head"]
    head = (await ran(api, name, "a=1", expected=base))["snapshot"]
    calls = [
        ("execute", {"code": "b=1"}), ("rollback", {"to": 0}), ("files", {"write": {"x": {"text": ""}}}),
    ]  # fmt: skip
    for route, body in calls:
        status, answer = await api.post(f"/v1/sessions/{name}/{route}", {**body, "expected": base})
        assert (status, answer["error"]["code"]) == (409, "head_moved")
        assert (answer["error"]["expected"], answer["error"]["actual"]) == (base, head)
    assert await api.bench.head(name) == head
    status, answer = await api.post(f"/v1/sessions/{name}/execute", {"code": "b=1", "expected": "abc"})
    assert (status, answer["error"]["field"]) == (422, "expected")


# -- the same request again -----------------------------------------------------------------------------------------------


def _repeatable() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        ("POST", "/v1/sessions", {"name": "k", "files": {"a": {"text": "1"}}}),
        ("POST", "/v1/sessions/{id}/execute", {"code": "b=2", "fetch": ["b", "c"]}),
        ("POST", "/v1/sessions/{id}/rollback", {"to": 0}),
        ("POST", "/v1/sessions/{id}/fork", {"names": ["x", "y", "z"]}),
        ("POST", "/v1/sessions/{id}/files", {"write": {"w": {"text": "1"}}}),
        ("PATCH", "/v1/sessions/{id}", {"name": "other"}),
        ("POST", "/create_session", {"language": "bash"}),
        ("POST", "/execute_session", {"session_id": "{id}", "code": "q=2", "fetch_files": ["q"]}),
    ]


@pytest.mark.parametrize(("method", "path", "body"), _repeatable(), ids=[f"{one[0]} {one[1]}" for one in _repeatable()])
async def test_a_request_with_a_key_is_done_once_and_answered_as_often_as_it_is_asked(
    api: Api, method: str, path: str, body: dict[str, Any]
) -> None:
    session = await api.session()
    await api.bench.step(session, "a=1")
    path = path.replace("{id}", session)
    body = {key: session if value == "{id}" else value for key, value in body.items()}
    headers = {**_JSON, "Idempotency-Key": "one"}
    first = await api.send(method, path, _json(body), **headers)
    assert first[0] < 300, first
    before = await api.bench.moves(session), len(api.bench.fake.requests), len(list(api.bench.store.heads.roots()))
    again = await api.send(method, path, _json(body), **headers)
    plain = {key: value for key, value in first[1].items() if key != "repeated"}
    assert (again[0], {key: value for key, value in again[1].items() if key != "repeated"}) == (first[0], plain)
    assert before == (
        await api.bench.moves(session),
        len(api.bench.fake.requests),
        len(list(api.bench.store.heads.roots())),
    )
    status, answer = await api.send(
        method, path, _json({**body, "ttl": 7} if "language" in body else _other(body)), **headers
    )
    assert status == 422
    assert "Idempotency-Key" in str(answer)
    third = await api.send(method, path, _json(body), **{**headers, "Idempotency-Key": "two"})
    assert third[0] < 300
    assert before != (
        await api.bench.moves(session),
        len(api.bench.fake.requests),
        len(list(api.bench.store.heads.roots())),
    )


async def test_a_key_is_remembered_over_a_restart_and_after_the_session_went_on(api: Api, bench: Any) -> None:
    session = await api.session()
    headers = {**_JSON, "Idempotency-Key": "one"}
    body = _json({"code": "a=1", "fetch": ["a"]})
    _, first = await api.send("POST", f"/v1/sessions/{session}/execute", body, **headers)
    await api.bench.step(session, "b=1")
    api.bench.clock.now_s += 1e6
    _, again = await api.send("POST", f"/v1/sessions/{session}/execute", body, **headers)
    assert again == {**first, "repeated": True}
    assert first["files"] == {"a": {"text": "1"}}


async def test_a_key_is_its_routes_and_no_empty_or_strange_one_is_taken(api: Api) -> None:
    session = await api.session()
    headers = {**_JSON, "Idempotency-Key": "one"}
    assert (await api.send("POST", f"/v1/sessions/{session}/execute", _json({"code": "a=1"}), **headers))[0] == 200
    assert (await api.send("POST", f"/v1/sessions/{session}/rollback", _json({"to": 0}), **headers))[0] == 200
    for key in ("", "x" * 201, "caf\u00e9\u0080"):
        status, answer = await api.send(
            "POST", f"/v1/sessions/{session}/rollback", _json({"to": 0}), **{**headers, "Idempotency-Key": key}
        )
        assert (status, answer["error"]["field"]) == (422, "Idempotency-Key")


_JSON = {"Content-Type": "application/json"}


def _json(value: object) -> str:
    return json.dumps(value)


def _other(body: dict[str, Any]) -> dict[str, Any]:
    """The same fields, one of them with another value."""
    changed: dict[str, Any] = {
        "name": "else",
        "code": "else=2",
        "to": 1,
        "names": ["p", "q", "r"],
        "write": {"w": {"text": "2"}},
    }
    field = next(field for field in changed if field in body)
    return {**body, field: changed[field]}
