"""What stands before the handlers: HTTP as it comes over the wire, names of the server, bodies in pieces."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest

from psf.api import decode, server
from tests.psf.api.conftest import BODY_BYTES_MAX, TOO_LARGE, Api

JSON = "application/json"
SMALL = b'{"code": "1", "language": "bash"}'
LARGE = SMALL + b" " * server.SMALL_BODY_BYTES


class Answer:
    """An answer as it came: its status, and its body, decoded if it is JSON."""

    def __init__(self, raw: bytes) -> None:
        self.head, _, body = raw.partition(b"\r\n\r\n")
        if self.head.startswith(b"HTTP/1.1 100 "):
            self.head, _, body = body.partition(b"\r\n\r\n")
        self.status = int(self.head.split()[1])
        self.is_json = b"content-type: application/json" in self.head.lower()
        self.body: Any = json.loads(body) if self.is_json else body.decode()


async def wire(api: Api, *pieces: bytes) -> Answer:
    """Send bytes as they are, each piece by itself, and read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            return Answer(await reader.read())
    finally:
        writer.close()
        await writer.wait_closed()


def request(line: str, *headers: str, body: bytes = b"", host: str | None = "localhost") -> bytes:
    lines = [line + " HTTP/1.1", *([f"Host: {host}"] if host is not None else []), "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def post(path: str, body: bytes, *headers: str) -> bytes:
    return request(f"POST {path}", f"Content-Type: {JSON}", f"Content-Length: {len(body)}", *headers, body=body)


def chunked(path: str, *chunks: bytes) -> list[bytes]:
    head = request(f"POST {path}", f"Content-Type: {JSON}", "Transfer-Encoding: chunked")
    return [head, *(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks), b"0\r\n\r\n"]


async def test_a_body_may_come_in_pieces(api: Api) -> None:
    answer = await wire(api, *chunked("/run_code", b'{"code": "he', b'llo", "lang', b'uage": "bash"}'))
    assert (answer.status, answer.body["run_result"]["stdout"]) == (200, "hello")


async def test_a_body_that_comes_in_pieces_is_bounded_too(api: Api) -> None:
    answer = await wire(api, *chunked("/run_code", *[b" " * (BODY_BYTES_MAX // 4)] * 5))
    assert (answer.status, answer.body) == (413, {"detail": TOO_LARGE})


async def test_a_body_of_just_the_bound_is_read(api: Api) -> None:
    body = json.dumps({"language": "bash", "code": "x"}).encode()
    assert (await wire(api, post("/run_code", body + b" " * (BODY_BYTES_MAX - len(body))))).status == 200
    assert (await wire(api, post("/run_code", body + b" " * (BODY_BYTES_MAX - len(body) + 1)))).status == 413


async def test_a_client_that_waits_to_be_told_to_go_on_is_told(api: Api) -> None:
    answer = await wire(api, post("/run_code", b'{"language": "bash", "code": "x"}', "Expect: 100-continue"))
    assert answer.status == 200


@pytest.mark.parametrize(
    "data",
    [gzip.compress(b" " * (64 << 20)), gzip.compress(b"{}"), b"no gzip", zlib.compress(b"{}"), b""],
    ids=["bomb", "small", "damaged", "deflate", "empty"],
)
@pytest.mark.parametrize("coding", ["gzip", "GZIP", "deflate", "br", "zstd", "identity, gzip", "x"])
async def test_no_compressed_body_is_unpacked(api: Api, data: bytes, coding: str) -> None:
    answer = await wire(api, post("/run_code", data, f"Content-Encoding: {coding}"))
    assert answer.status in (400, 415), answer.body
    if answer.status == 415:
        assert answer.body == {"detail": "send the body without Content-Encoding"}
    assert api.bench.fake.requests == []


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/ping HTTP/9.9\r\nHost: localhost\r\n\r\n",
        request("FOO /v1/ping"),
        request("GET /v1/sessions/\udcff/log".encode("utf-8", "surrogateescape").decode("latin-1")),
        request("GET /v1/ping", "X: " + "a" * 20_000),
        request("GET /" + "a" * 20_000),
        request("GET /v1/ping", "Host: evil.example"),
        request("POST /run_code", f"Content-Type: {JSON}", "Content-Length: -5"),
        request("POST /run_code", f"Content-Type: {JSON}", "Content-Length: 2", "Transfer-Encoding: chunked", body=b"{}"),
        request("POST /run_code", f"Content-Type: {JSON}", "Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n0\r\n\r\n"),
    ],
    ids=["tls", "short", "version", "method", "path", "header", "long", "hosts", "length", "smuggled", "chunk"],
)  # fmt: skip
async def test_what_is_not_http_is_400_in_plain_words(api: Api, raw: bytes) -> None:
    answer = await wire(api, raw)
    assert answer.status == 400
    assert "Traceback" not in str(answer.body)
    assert "/psf/" not in str(answer.body)


async def test_half_a_body_runs_nothing(api: Api) -> None:
    session = await api.session()
    before = await api.state(session)
    body = json.dumps({"session_id": session, "code": "a=1", "keep": "all"}).encode()
    _reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    writer.write(post("/execute_session", body)[:-1])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    # A second call on the same loop is answered after the first connection's end was seen.
    assert (await api.get("/v1/ping"))[0] == 200
    assert await api.state(session) == before
    assert api.bench.fake.requests == []


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8080"])
async def test_the_servers_own_names_are_answered(api: Api, host: str) -> None:
    assert (await wire(api, request("GET /v1/ping", host=host))).body == "pong"


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "localhost.evil.example", "evil.example:80", "localhost@evil.example", "127.0.0.1.nip.io", "10.0.0.1",
     "0.0.0.0", "[::2]", "[", "//localhost", "evil/localhost"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/ping", "/healthz", "/nothing"])
async def test_other_names_are_refused_on_every_path(api: Api, host: str | None, path: str) -> None:
    answer = await wire(api, request(f"GET {path}", host=host))
    assert answer.status in (400, 403)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8080", 200),
        ("http://127.0.0.1", 200),
        ("http://[::1]:80", 200),
        ("null", 403),
        ("", 403),
        ("http://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("http://[", 403),
        ("file://", 403),
    ],
)
async def test_only_the_machines_own_pages_may_call(api: Api, origin: str, status: int) -> None:
    session = await api.session()
    before = await api.state(session)
    answer, body = await api.post("/create_session", {}, Origin=origin)
    assert answer == status
    assert ("detail" in body) == (status == 403)
    answer, body = await api.post(f"/v1/sessions/{session}/rollback", {"to": 0}, Origin=origin)
    assert answer == status
    assert ("error" in body) == (status == 403)
    assert len(await api.bench.moves(session)) == (2 if status == 200 else 1)
    if status == 403:
        assert await api.state(session) == before


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
async def test_json_is_known_by_its_content_type(api: Api, kind: str) -> None:
    assert (await api.send("POST", "/create_session", b"{}", **{"Content-Type": kind}))[0] == 200


@pytest.mark.parametrize(
    "header", [[], ["Content-Type: text/plain"], ["Content-Type: ;;;"], ["Content-Type: application/jsonp"], ["Content-Type:"]],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("path", ["/run_code", "/execute_session", "/create_session", "/v1/sessions/x/fork"])
async def test_a_body_of_no_or_another_type_is_415(api: Api, header: list[str], path: str) -> None:
    answer = await wire(api, request(f"POST {path}", "Content-Length: 2", *header, body=b"{}"))
    assert answer.status == 415
    text = answer.body["error"]["message"] if path.startswith("/v1") else answer.body["detail"]
    assert "Content-Type: application/json" in text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/sessions/%FF/log",
        "/v1/sessions/%00/log",
        "/v1/sessions/%ED%A0%80/log",
        "/v1/sessions/" + "x" * 4000 + "/log",
    ],
)
async def test_a_sessions_name_in_the_path_may_be_anything(api: Api, path: str) -> None:
    answer = await wire(api, request(f"GET {path}"))
    assert (answer.status, answer.body["error"]["code"]) == (404, "session_missing")


async def test_a_missing_body_is_told_as_that_where_one_is_needed(api: Api) -> None:
    session = await api.session()
    for path in ("/run_code", "/execute_session", f"/v1/sessions/{session}/rollback"):
        assert (await wire(api, request(f"POST {path}"))).status == 415
        assert (await wire(api, post(path, b""))).status == 422


async def test_a_second_content_encoding_is_seen_too(api: Api) -> None:
    body = gzip.compress(b'{"code": "1", "language": "bash"}')
    for codings in (("identity", "gzip"), ("gzip", "identity"), ("identity", "br")):
        headers = [f"Content-Encoding: {coding}" for coding in codings]
        answer = await wire(api, post("/run_code", body, *headers))
        assert answer.status in (400, 415, 422), answer.body


async def test_a_body_that_does_not_come_is_not_waited_for(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "BODY_PATIENCE_S", 0.1)
    head = request("POST /run_code", f"Content-Type: {JSON}", "Content-Length: 100", body=b'{"code": ')
    assert (await wire(api, head)).status == 408


async def test_bodies_take_so_much_room_and_no_more(api: Api) -> None:
    """Those that come slowly hold what they announce; small ones go by, and all is well when the slow ones are gone."""
    head = request("POST /run_code", f"Content-Type: {JSON}", f"Content-Length: {BODY_BYTES_MAX}")
    slow = [await asyncio.open_connection("127.0.0.1", api.client.port) for _ in range(server.BODIES_MAX)]
    for _, writer in slow:
        writer.write(head)
        await writer.drain()
    for _ in range(100):
        answer = await wire(api, post("/run_code", LARGE))
        if answer.status == 504:
            break
        await asyncio.sleep(0.01)
    assert answer.body == {"detail": "the bodies of other requests take all the room there is; try again later"}
    assert (await api.get("/healthz"))[0] == 200
    assert (await wire(api, post("/run_code", SMALL))).status == 200
    for _, writer in slow:
        writer.close()
        await writer.wait_closed()
    for _ in range(500):
        answer = await wire(api, post("/run_code", LARGE))
        if answer.status == 200:
            break
        await asyncio.sleep(0.01)
    assert answer.status == 200
