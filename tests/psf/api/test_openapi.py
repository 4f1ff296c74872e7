"""The description of the API is of the routes that there are, and of what their handlers read; and the page that shows it asks nobody else."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from psf import tokens
from psf.api import docs, server
from psf.api.operations import Operation, operation_of
from tests.psf.api.conftest import Api, application
from tests.psf.service import Bench

ROUTES = [route for table in server.TABLES for route in table if isinstance(route, web.RouteDef)]
each_route = pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")


def said_of(route: web.RouteDef) -> Operation:
    said = operation_of(route.handler)
    assert said is not None
    return said


async def described(api: Api) -> dict[str, Any]:
    status, document = await api.get("/openapi.json")
    assert status == 200
    return document


async def test_every_route_is_described_and_nothing_else(api: Api) -> None:
    document = await described(api)
    assert document["openapi"] == "3.1.0"
    found = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert found == {f"{route.method} {route.path.replace(':.+', '')}" for route in ROUTES}


def test_a_route_of_which_nothing_is_said_lets_no_server_start(bench: Bench) -> None:
    async def unsaid(_: web.Request) -> web.Response:
        return web.Response()

    built = application(bench)
    built.router.add_get("/v1/unsaid", unsaid)
    with pytest.raises(LookupError, match="/v1/unsaid"):
        docs.describe(built)


async def test_every_reference_within_the_document_leads_somewhere(api: Api) -> None:
    document = await described(api)
    references = set(re.findall(r'"\$ref": ?"#/(\w+)/(\w+)/(\w+)"', json.dumps(document)))
    assert references
    for first, second, third in references:
        assert third in document[first][second]


@each_route
def test_a_body_is_described_by_the_struct_that_the_handler_reads(route: web.RouteDef) -> None:
    source, said = inspect.getsource(route.handler), said_of(route)
    read = re.findall(r"read_body\(request, (\w+)(, optional=True)?\)", source)
    described = [(said.body.__name__, ", optional=True" if said.body_optional else "")] if said.body else []
    assert read == described
    assert ("put_aside(" in source or "decode.received(" in source) == bool(said.body_media)


@each_route
def test_a_key_is_described_where_the_handler_takes_one(route: web.RouteDef) -> None:
    assert said_of(route).keyed == ("keyed_of(request)" in inspect.getsource(route.handler))


@each_route
def test_the_query_is_described_as_the_handler_reads_it(route: web.RouteDef) -> None:
    source = inspect.getsource(route.handler)
    read = set(re.findall(r'(?:request\.query\.get\(|query_\w+\(request, )"(\w+)"', source))
    read |= {"cursor"} if "cursor_of(request)" in source or "_cursor_path(request)" in source else set()
    read |= {"from", "to"} if 'for field in ("from", "to")' in source else set()
    assert {given.name for given in said_of(route).query} == read


@each_route
def test_a_handler_says_in_one_line_what_it_does(route: web.RouteDef) -> None:
    assert (inspect.getdoc(route.handler) or "").partition("\n")[0].endswith(".")


async def test_the_codes_of_errors_are_those_of_the_one_table(api: Api) -> None:
    merge = (await described(api))["paths"]["/v1/sessions/{session_id}/merge"]["post"]["responses"]
    assert merge["409"]["x-codes"] == ["head_moved", "merge_conflicts", "no_common_step"]
    assert merge["429"]["headers"].keys() == {"Retry-After"}
    step = (await described(api))["paths"]["/execute_session"]["post"]["responses"]
    assert "session_missing" in step["410"]["x-codes"]
    assert step["504"]["x-codes"] == ["overloaded"]


async def test_the_page_and_its_files_are_psfs_own_and_ask_nobody_else(api: Api) -> None:
    async with api.client.get("/docs") as response:
        assert (response.status, response.content_type) == (200, "text/html")
        policy, page = response.headers["Content-Security-Policy"], await response.text()
    assert "http" not in policy
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert "/docs/docs.js" in named
    for address in named:
        if address.startswith("data:"):
            continue
        async with api.client.get(address) as response:
            assert response.status == 200, address
            assert len(await response.read()) > 100


@pytest.mark.parametrize("name", ["README.md", "..%2fdocs.py", "swagger-ui-bundle.js.map"])
async def test_other_files_are_not_given_out(api: Api, name: str) -> None:
    async with api.client.get(f"/docs/{name}") as response:
        assert response.status == 404


async def test_page_and_document_are_open_as_browsers_send_no_tokens(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(tokens.new("ann", "one", ("read",)).lines)
    known = tokens.load(file)
    async with TestClient(TestServer(application(bench, known))) as client:
        for path, status in (("/docs", 200), ("/docs/docs.js", 200), ("/openapi.json", 200), ("/v1/sessions", 401)):
            async with client.get(path) as response:
                assert response.status == status, path
        async with client.get("/openapi.json") as response:
            document = await response.json()
    assert document["paths"]["/docs"]["get"]["security"] == []
    assert "security" not in document["paths"]["/v1/sessions"]["get"]


@pytest.mark.parametrize(
    ("path", "known"), [("/v1/sessions?limits=3", "limit, cursor, expired"), ("/v1/tags?a=", "there is none here")]
)
async def test_a_parameter_that_is_not_described_is_refused(api: Api, path: str, known: str) -> None:
    status, answer = await api.get(path)
    assert (status, answer["error"]["code"]) == (422, "invalid_field")
    assert answer["error"]["field"] in path
    assert known in answer["error"]["message"]


async def test_parameters_that_the_compatible_family_does_not_know_do_no_harm(api: Api) -> None:
    assert (await api.get("/v1/ping?a=b"))[0] == 200
