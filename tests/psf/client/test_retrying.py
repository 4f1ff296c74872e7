"""When a request is made again, and after how long; and what of a stream is told twice: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from psf.client import NO_RETRIES, Client, Invalid, NotPsf, Overloaded, Retries, ServerFailed, Unreachable
from psf.client.retrying import retry_after_s
from psf.client.streaming import Event, EventParser
from tests.psf.client.conftest import QUICK

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def test_pauses_double_up_to_a_most_and_the_dice_shorten_them() -> None:
    retries = Retries(attempts=6, pause_s=1.0, pause_s_max=5.0)
    assert [retries.pause_before(attempt, dice=lambda: 1.0) for attempt in range(1, 7)] == [1, 2, 4, 5, 5, None]
    assert retries.pause_before(2, dice=lambda: 0.0) == 1.0


def test_a_server_that_asks_for_a_pause_gets_it_within_reason() -> None:
    retries = Retries(pause_s=1.0, retry_after_s_max=60.0)
    assert retries.pause_before(1, 30.0, dice=lambda: 0.0) == 30.5
    assert retries.pause_before(1, 61.0) is None


def test_retry_after_may_be_seconds_or_a_date() -> None:
    assert retry_after_s("7") == 7.0
    assert retry_after_s(formatdate(1000.0, usegmt=True), now_s=lambda: 990.0) == 10.0
    assert retry_after_s(formatdate(1000.0, usegmt=True), now_s=lambda: 2000.0) == 0.0
    assert retry_after_s("soon") is retry_after_s(None) is None


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_come_out_whole_however_they_are_cut(size: int) -> None:
    text = b": still running\n\nevent: stdout\ndata: {}\n\ndata: a\ndata:b\n\nevent: result\ndata: \xc3\xbc\n\n"
    parser = EventParser()
    found = [event for at in range(0, len(text), size) for event in parser.feed(text[at : at + size])]
    assert found == [("stdout", b"{}"), ("message", b"a\nb"), ("result", "ü".encode())]


class Scripted:
    """A server that answers what it is told, one after the other, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Handler] = []
        self.asked: list[tuple[str, str, str | None, bytes]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        key = request.headers.get("Idempotency-Key")
        self.asked.append((request.method, request.path_qs, key, await request.read()))
        return await self.answers.pop(0)(request)

    def told(self, status: int, body: object = None, **headers: str) -> None:
        async def answer(_: web.Request) -> web.StreamResponse:
            data = msgspec.json.encode(body)
            return web.Response(status=status, body=data, content_type="application/json", headers=headers)

        self.answers.append(answer)

    def hangs_up(self) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        self.answers.append(answer)

    def streams(self, *events: tuple[str, Any], end: bool = True) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for name, data in events:
                await response.write(f"event: {name}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n")
            if not end:
                await asyncio.sleep(0.02)
                assert request.transport is not None
                request.transport.abort()
            return response

        self.answers.append(answer)


@pytest.fixture
async def scripted() -> AsyncIterator[tuple[Scripted, Client]]:
    server = Scripted()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    async with TestServer(application) as running, Client(str(running.make_url("")), retries=QUICK) as client:
        yield server, client


HEAD = {"head": "ab"}
RESULT = {"snapshot": "ab", "runtime": "bash", "ending": "exited", "exit_code": 0, "repeated": False, "unheard_of": 1}


def result(text: str, **fields: Any) -> dict[str, Any]:
    return {**RESULT, "stages": {"run": {"ending": "exited", "exit_code": 0, "stdout": text, "later": []}}, **fields}


def printed(text: str) -> tuple[str, Any]:
    return "stdout", {"stage": "run", "text": text}


async def test_a_change_keeps_its_key_over_all_retries_and_another_has_another(
    scripted: tuple[Scripted, Client],
) -> None:
    server, client = scripted
    server.hangs_up()
    for status in (503, 429):
        server.told(status, {"error": {"code": "overloaded", "message": "later"}})
    server.told(200, HEAD)
    server.told(200, HEAD)
    session = client.attach("s")
    assert await session.rollback("-1") == "ab"
    await session.rollback("-1")
    assert len(set(server.asked[:4])) == 1
    assert len({key for _, _, key, _ in server.asked}) == 2
    assert None not in {key for _, _, key, _ in server.asked}


async def test_every_change_has_a_key(scripted: tuple[Scripted, Client]) -> None:
    server, client = scripted
    session = client.attach("s")
    info = {"session_id": "s", "head": "ab", "runtime": "bash"}
    calls: list[tuple[Any, object]] = [
        (lambda: session.run("x"), result("")), (lambda: session.rollback(1), HEAD), (lambda: session.merge("t"), HEAD),
        (lambda: session.fork(), {"sessions": [{"session_id": "t", "head": "ab"}]}), (lambda: session.write({"a": "b"}), HEAD),
        (lambda: session.write_file("a", b"b"), HEAD), (lambda: session.delete_file("a"), HEAD),
        (lambda: session.change(name="n"), info), (lambda: session.undelete(), info), (lambda: client.session("bash").make(), info),
    ]  # fmt: skip
    for call, answer in calls:
        server.told(200, answer)
        await call()
    assert [asked for asked in server.asked if not asked[2]] == []


async def test_what_is_refused_for_good_is_asked_for_once(scripted: tuple[Scripted, Client]) -> None:
    server, client = scripted
    server.told(422, {"error": {"code": "invalid_field", "message": "no", "field": "to"}})
    with pytest.raises(Invalid, match="no"):
        await client.attach("s").rollback("x")
    server.told(500, {"error": {"code": "internal", "message": "incident 1"}})
    with pytest.raises(ServerFailed, match="incident 1"):
        await client.attach("s").rollback("x")
    assert len(server.asked) == 2


async def test_retries_end_with_the_last_error(scripted: tuple[Scripted, Client]) -> None:
    server, client = scripted
    for _ in range(QUICK.attempts):
        server.told(504, "no JSON of psf's")
    with pytest.raises(Overloaded, match="504"):
        await client.health()
    for _ in range(QUICK.attempts):
        server.hangs_up()
    with pytest.raises(Unreachable):
        await client.health()
    assert len(server.asked) == 2 * QUICK.attempts


async def test_retry_after_is_waited_for_and_what_is_too_long_is_not(scripted: tuple[Scripted, Client]) -> None:
    server, client = scripted
    server.told(429, None, **{"Retry-After": "1"})
    server.told(200, {"status": "ok"})
    began_s = asyncio.get_running_loop().time()
    await client.health()
    assert asyncio.get_running_loop().time() - began_s >= 1
    server.told(429, None, **{"Retry-After": "3600"})
    with pytest.raises(Overloaded) as raised:
        await client.health()
    assert raised.value.retry_after_s == 3600


async def test_what_was_deleted_by_the_first_attempt_is_not_missed_by_the_second(
    scripted: tuple[Scripted, Client],
) -> None:
    server, client = scripted
    server.hangs_up()
    server.told(404, {"error": {"code": "snapshot_unknown", "message": "no such tag"}})
    await client.untag("x")


async def test_a_cancel_that_may_have_come_through_is_not_made_again(scripted: tuple[Scripted, Client]) -> None:
    server, client = scripted
    server.hangs_up()
    with pytest.raises(Unreachable):
        await client.attach("s").cancel()
    assert len(server.asked) == 1


async def test_an_answer_that_is_not_psfs_is_said_to_be_that(scripted: tuple[Scripted, Client]) -> None:
    server, client = scripted
    server.told(200, ["something", "else"])
    with pytest.raises(NotPsf):
        await client.health()


async def test_nobody_there_is_unreachable() -> None:
    async with Client("http://127.0.0.1:9", retries=NO_RETRIES) as client:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
            await client.health()


async def test_a_silent_server_is_given_up_in_time(scripted: tuple[Scripted, Client]) -> None:
    server, client = scripted

    async def silent(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(5)
        return web.Response()

    server.answers.append(silent)
    async with Client(client.url, retries=NO_RETRIES, silence_s=0.05) as impatient:
        with pytest.raises(Unreachable):
            await impatient.health()


async def test_a_token_goes_with_every_request(
    scripted: tuple[Scripted, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = scripted
    seen: list[str | None] = []

    async def look(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"status": "ok"})

    monkeypatch.setenv("PSF_URL", client.url)
    monkeypatch.setenv("PSF_TOKEN", "of the environment")
    for made in (Client(), Client(token="given")):
        server.answers.append(look)
        async with made:
            await made.health()
    assert seen == ["Bearer of the environment", "Bearer given"]


# -- streams that break -------------------------------------------------------------------------------------------------------


async def test_what_was_not_told_before_a_break_comes_from_the_result(scripted: tuple[Scripted, Client]) -> None:
    server, client = scripted
    server.streams(printed("one "), end=False)
    server.streams(("result", result("one two", repeated=True)))
    stream = client.attach("s").stream("x")
    assert [event async for event in stream] == [Event("stdout", "run", "one "), Event("stdout", "run", "two")]
    assert stream.result.repeated
    assert {key for _, _, key, _ in server.asked} == {stream.key}


@pytest.mark.parametrize("again", [[printed("other")], []])
async def test_a_step_that_had_to_begin_anew_says_so(
    scripted: tuple[Scripted, Client], again: list[tuple[str, Any]]
) -> None:
    server, client = scripted
    server.streams(printed("one "), end=False)
    server.streams(*again, ("result", result("other")))
    events = [event async for event in client.attach("s").stream("x")]
    assert events == [Event("stdout", "run", "one "), Event("restarted"), Event("stdout", "run", "other")]


async def test_a_stream_that_ends_without_a_result_or_is_told_to_wait_is_asked_for_again(
    scripted: tuple[Scripted, Client],
) -> None:
    server, client = scripted
    server.streams()
    server.streams(("error", {"status": 429, "error": {"code": "overloaded", "message": "later"}}))
    server.streams(printed("a"), ("result", result("a")))
    assert [event async for event in client.attach("s").stream("x")] == [Event("stdout", "run", "a")]


async def test_a_stream_that_is_refused_raises_what_a_call_would(scripted: tuple[Scripted, Client]) -> None:
    server, client = scripted
    server.streams(("error", {"status": 422, "error": {"code": "invalid_field", "message": "no", "field": "code"}}))
    with pytest.raises(Invalid) as raised:
        await client.attach("s").stream("x").finish()
    assert raised.value.field == "code"


async def test_what_was_done_before_is_told_as_if_it_ran(scripted: tuple[Scripted, Client]) -> None:
    server, client = scripted
    server.streams(("result", result("one", repeated=True)))
    assert [event.text async for event in client.attach("s").stream("x")] == ["one"]


async def test_output_that_was_cut_is_not_pieced_together(scripted: tuple[Scripted, Client]) -> None:
    server, client = scripted
    server.streams(printed("one "), end=False)
    cut = result("on [...] o", repeated=True)
    cut["stages"]["run"]["truncated"] = True
    server.streams(("result", cut))
    assert [event.text async for event in client.attach("s").stream("x")] == ["one "]
