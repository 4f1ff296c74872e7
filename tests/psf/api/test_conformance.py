"""A running server keeps to its own description, whatever is sent to it, right and wrong: by schemathesis."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import tarfile
import threading
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.core import NOT_SET
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import positive_data_acceptance

from psf.api import openapi, server
from tests.psf.api.conftest import application
from tests.psf.service import Bench

EXAMPLES = 12
TAG, FILE = "kept", "a.txt"


def description() -> dict[str, Any]:
    described = web.Application()
    for table in server.TABLES:
        described.add_routes(table)
    return openapi.document(described.router.routes())


def archives() -> Iterator[bytes]:
    """A tar and a zip, each whole and cut off, and what is neither."""
    tar, zipped = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writing:
        writing.addfile(tarfile.TarInfo("a"), io.BytesIO())
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a/b", "text")
    for data in (tar.getvalue(), zipped.getvalue()):
        yield from (data, data[:-30], data[:100])
    yield from (b"", b"\0" * 2000)


@schemathesis.serializer(
    "application/x-tar", "application/gzip", "application/zip", "application/x-psf-bundle", "application/octet-stream"
)
def as_they_are(_: object, value: Any) -> bytes:
    return value if isinstance(value, bytes) else b""


for media in ("application/x-tar", "application/gzip", "application/zip"):
    schemathesis.openapi.media_type(media, st.sampled_from(list(archives())))

BUNDLES = [b""]
"""The last one is whole, once there is a session that it is of."""
whole, cut, changed = (
    st.builds(lambda: BUNDLES[-1]),
    st.builds(lambda: BUNDLES[-1][:-40]),
    st.builds(lambda: BUNDLES[-1].replace(b"a", b"b", 1)),
)
schemathesis.openapi.media_type("application/x-psf-bundle", st.one_of(whole, cut, changed))

DESCRIPTION = description()
SEEN: defaultdict[str, set[int]] = defaultdict(set)
"""Statuses by operation: one that never answers with success is not tested at all."""
SCHEMA = schemathesis.openapi.from_dict(DESCRIPTION, config=SchemathesisConfig(seed=1))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in a thread, as its clients here block."""
    loop, addresses = asyncio.new_event_loop(), []
    started, ended = threading.Event(), asyncio.Event()

    async def serve() -> None:
        bench = Bench(tmp_path_factory.mktemp("conformance") / "store")
        runner = web.AppRunner(application(bench))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        addresses.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        started.set()
        await ended.wait()
        await runner.cleanup()
        bench.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(20)
    yield addresses[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join(20)
    loop.close()
    assert [operation for operation, statuses in SEEN.items() if min(statuses) >= 300] == []


@pytest.fixture
def there(address: str) -> dict[str, Any]:
    """A session with a history, one that forked from it, a tag: by the names that parameters and fields have for such."""
    with requests.Session() as caller:
        session = caller.post(f"{address}/v1/sessions", json={"files": {FILE: {"text": "one\n"}}}).json()["session_id"]
        for code in ("a.txt=two", "words"):
            head = caller.post(f"{address}/v1/sessions/{session}/execute", json={"code": code}).json()["snapshot"]
        forks = caller.post(f"{address}/v1/sessions/{session}/fork", json={}).json()["sessions"]
        caller.put(f"{address}/v1/tags/{TAG}", json={"snapshot": head}).raise_for_status()
        BUNDLES.append(caller.get(f"{address}/v1/sessions/{session}/bundle").content)
    return {
        "session_id": session, "session": session, "snapshot": head, "path": FILE, "name": TAG, "file": "docs.js", "from": TAG, "to": TAG,
        "at": "-1", "good": 0, "runtime": "python", "language": "python", "tag": TAG, "fork": forks[0]["session_id"], "turns": itertools.count(),
    }  # fmt: skip


def aimed(case: schemathesis.Case, there: dict[str, Any]) -> None:
    """Let two of three requests be about what is there; else nearly all would end with "not found"."""
    if next(there["turns"]) % 3 == 0:
        return
    for place, parameters in ((ParameterLocation.PATH, case.path_parameters), (ParameterLocation.QUERY, case.query)):
        component = case.meta.components.get(place) if case.meta is not None else None
        if component is not None and component.mode.is_positive:
            for name in parameters.keys() & there.keys():
                parameters[name] = there[name]
    component = case.meta.components.get(ParameterLocation.BODY) if case.meta is not None else None
    if component is None or component.mode.is_negative:
        return
    if isinstance(case.body, dict):
        fields = there | {"from": there["fork"]} if case.path.endswith("/merge") else there
        for name in case.body.keys() & (fields.keys() - {"name"}):
            case.body[name] = fields[name]


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate),
)  # fmt: skip
def test_an_operation_is_as_described(case: schemathesis.Case, address: str, there: dict[str, Any]) -> None:
    aimed(case, there)
    response = case.call_and_validate(base_url=address, excluded_checks=[positive_data_acceptance])
    described = DESCRIPTION["paths"][case.path].get(case.method.lower())
    if described is None:
        return  # a method that the route has not
    SEEN[f"{case.method} {case.path}"].add(response.status_code)
    codes = described["responses"][str(response.status_code)].get("x-codes")
    if codes is not None and case.path.startswith("/v1/"):
        assert response.json()["error"]["code"] in codes


def test_a_life_of_a_session_is_answered_as_described(address: str) -> None:
    def call(
        method: str, route: str, body: Any = NOT_SET, query: dict[str, str] | None = None, **parameters: str
    ) -> Any:
        case = SCHEMA[route][method].Case(path_parameters=parameters, query=query or {}, body=body)
        response = case.call_and_validate(base_url=address)
        assert response.status_code < 300
        return json.loads(response.content) if response.content.startswith(b"{") else response.content

    own, snapshots = "/v1/sessions/{session_id}", "/v1/snapshots/{snapshot}"
    session = call("POST", "/v1/sessions", {"files": {"a": {"text": "1\n2\n"}}})["session_id"]
    (fork,) = call("POST", f"{own}/fork", {"names": ["other"]}, session_id=session)["sessions"]
    head = call("POST", f"{own}/execute", {"code": "b=2", "memo": True, "note": "n"}, session_id=session)["snapshot"]
    call("POST", f"{own}/files", {"write": {"c/d": {"base64": "/w=="}}, "expected": head}, session_id=session)
    call("POST", f"{own}/files", {"write": {"a": {"text": "2\n"}}}, session_id=fork["session_id"])
    merged = call("POST", f"{own}/merge", {"from": fork["session_id"]}, session_id=session)["head"]
    assert call("PUT", "/v1/tags/{name}", {"session": session, "at": 1}, name="first")["name"] == "first"
    assert call("GET", "/v1/diff", query={"from": "first", "to": merged, "unified": "true"})["unified"]
    for snapshot in (head, merged, "first"):
        assert call("GET", snapshots, snapshot=snapshot)["kind"] in ("run", "merge", "write")
        assert call("GET", f"{snapshots}/manifest", snapshot=snapshot)["entries"]
    assert call("GET", f"{own}/blame/{{path}}", session_id=session, path="a")["kind"] == "write"
    assert call("POST", f"{own}/bisect", {"code": "words", "bad": head}, session_id=session)["step"] is None
    assert call("POST", f"{own}/replay", {"parallel": 2}, session_id=session)["same"]
    assert call("POST", f"{own}/replay", {"verify": True}, session_id=session)["same"]
    call("POST", f"{own}/rollback", {"to": "-1"}, session_id=session)
    call("PATCH", own, {"name": "renamed", "limits": {"processes": 3}}, session_id=session)
    assert [move["kind"] for move in call("GET", f"{own}/log", session_id=session)["moves"]][-1] == "create"
    call("DELETE", own, session_id=session)
    assert call("GET", own, session_id=session)["expired"]
    call("POST", f"{own}/undelete", {}, session_id=session)
    call("DELETE", "/v1/tags/{name}", name="first")
