"""`/v1`: steps and what is answered of them, as a stream too; cancelling, secrets, notes, memo; replay, bisect, blame."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

from executors.errors import SandboxBroken
from executors.fake import Script
from executors.interfaces import Request, Result, StageWatch
from store.snapshot import Ending
from tests.psf.api.conftest import Api, application
from tests.psf.api.test_v1_sessions import made, ran
from tests.psf.service import Bench, play


async def test_a_step_is_answered_with_its_stages_its_files_and_its_snapshot(api: Api) -> None:
    session = (await made(api))["session_id"]
    answer = await ran(api, session, "a=1", fetch=["a", "b"], runtime="bash")
    assert answer["snapshot"] == await api.bench.head(session)
    assert (answer["runtime"], answer["ending"], answer["exit_code"]) == ("bash", "exited", 0)
    assert answer["files"] == {"a": {"text": "1"}}
    assert (answer["memo"], answer["repeated"], answer["left_out"]) == (False, False, [])
    stage = answer["stages"]["run"]
    assert (stage["stdout"], stage["stdout_bytes"], stage["truncated"], stage["hit"]) == ("", 0, False, [])
    assert set(stage["usage"]) == {"wall_time_s", "cpu_time_s", "memory_peak_bytes", "disk_bytes"}
    assert "stdout_b64" not in stage


async def test_a_program_gets_all_that_the_body_says(api: Api) -> None:
    session = (await made(api))["session_id"]
    await ran(
        api, session, "x", stdin="in", args=["1", "2"], env={"A": "a"}, files={"f": {"text": "t"}, "/tmp/g": {"base64": "Zw=="}},
        limits={"processes": 7}, keep="fetched", deterministic=True, runtime="python",
    )  # fmt: skip
    (request,) = api.bench.fake.requests
    assert (request.stdin, request.args, request.files) == (b"in", ("1", "2"), (("f", b"t"), ("/tmp/g", b"g")))
    assert ("A", "a") in request.env
    assert (request.keep, request.deterministic, request.stages[-1].limits.processes) == ("fetched", True, 7)


async def test_output_that_is_no_text_comes_whole_beside_the_text(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.bench.fake, "_play", lambda _: Script(writes={"f": b"\xff"}, stdout=b"\xfe"))
    session = (await made(api))["session_id"]
    answer = await ran(api, session, "x", fetch=["f"])
    assert (answer["stages"]["run"]["stdout"], answer["stages"]["run"]["stdout_b64"]) == ("\ufffd", "/g==")
    assert answer["files"] == {"f": {"base64": "/w=="}}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"code": 1}, "code"),
        ({"args": ["a\0"]}, "args.0"),
        ({"env": {"1A": ""}}, "env.1A"),
        ({"env": {"A": "\0"}}, "env.A"),
        ({"env": {"A=B": ""}}, "env.A=B"),
        ({"secrets": {"": "x"}}, "secrets."),
        ({"env": {"A": "1"}, "secrets": {"A": "2"}}, "secrets.A"),
        ({"files": {"a": {"text": "x"}, "a/b": {"text": ""}}}, "files.a/b"),
        ({"files": {"/etc/x": {"text": "x"}}}, "files./etc/x"),
        ({"fetch": [""]}, "fetch.0"),
        ({"keep": "some"}, "keep"),
        ({"limits": {"memory_bytes": 1 << 49}}, "limits.memory_bytes"),
        ({"compile_limits": {"memory_bytes": 1 << 49}}, "compile_limits.memory_bytes"),
        ({"require": ["magic"]}, "require.0"),
        ({"note": "x" * 70000}, "note"),
        ({"expected": "12"}, "expected"),
        ({"languag": "bash"}, "languag"),
    ],
)
async def test_a_wrong_field_of_a_step_is_named_and_nothing_runs(api: Api, fields: dict[str, Any], field: str) -> None:
    session = (await made(api))["session_id"]
    before = await api.state(session)
    status, answer = await api.post(f"/v1/sessions/{session}/execute", {"code": "a=1", **fields})
    assert (status, answer["error"].get("field")) == (422, field), answer
    assert (await api.state(session), api.bench.fake.requests) == (before, [])


async def test_values_of_secrets_reach_the_program_and_nothing_else(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    word, short = "correct horse", "abc"
    monkeypatch.setattr(
        api.bench.fake, "_play", lambda _: Script(stdout=f"<{word}> {short}".encode(), stderr=word.encode())
    )
    session = (await made(api))["session_id"]
    answer = await ran(api, session, "x", secrets={"KEY": word, "B": short}, note="a note", memo=True)
    (request,) = api.bench.fake.requests
    assert {("KEY", word), ("B", short)} <= set(request.env)
    assert (answer["stages"]["run"]["stdout"], answer["stages"]["run"]["stderr"]) == ("<***> abc", "***")
    _, snapshot = await api.get(f"/v1/snapshots/{answer['snapshot']}")
    assert snapshot["did"]["secrets"] == ["B", "KEY"]
    _, log = await api.get(f"/v1/sessions/{session}/log")
    assert log["moves"][0]["run"]["note"] == "a note"
    kept = [api.bench.store.objects.get(*name) for name in api.bench.store.objects]
    assert not any(word.encode() in data for data in kept)
    assert word not in json.dumps(log)


# -- streams --------------------------------------------------------------------------------------------------------------


class Printing:
    """An executor whose programs print what they are told to, when they are told to."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.pieces: asyncio.Queue[tuple[str, str, bytes] | Exception | None] = asyncio.Queue()
        self.begun, self.cancelled = asyncio.Event(), asyncio.Event()

    async def execute(self, request: Request, watch: StageWatch | None = None) -> Result:
        self.begun.set()
        try:
            while (piece := await self.pieces.get()) is not None:
                if isinstance(piece, Exception):
                    raise piece
                if watch is not None:
                    watch(*piece)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return await self._inner.execute(request)

    async def prepare(self, system: Any) -> bytes:
        return await self._inner.prepare(system)

    async def close(self) -> None:
        return None


@pytest.fixture
async def streaming(tmp_path: Any) -> AsyncIterator[tuple[Api, Printing]]:
    made: list[Printing] = []

    def wrap(inner: Any) -> Any:
        made.append(Printing(inner))
        return made[-1]

    bench = Bench(tmp_path / "store", wrap)
    try:
        async with TestClient(TestServer(application(bench))) as client:
            yield Api(client, bench), made[-1]
    finally:
        bench.close()


async def events(response: Any) -> AsyncIterator[tuple[str, Any]]:
    async for block in _blocks(response):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if lines:
            yield lines["event"], json.loads(lines["data"])


async def _blocks(response: Any) -> AsyncIterator[str]:
    buffer = ""
    async for piece in response.content.iter_any():
        buffer += piece.decode()
        while "\n\n" in buffer:
            block, buffer = buffer.split("\n\n", 1)
            yield block


async def test_a_stream_tells_what_is_printed_when_it_is_and_then_the_answer(streaming: tuple[Api, Printing]) -> None:
    api, printing = streaming
    session = (await made(api))["session_id"]
    body = {"code": "hello", "stream": True, "secrets": {"S": "sesame seed"}}
    async with api.client.post(f"/v1/sessions/{session}/execute", json=body) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        told = events(response)
        euro = "\u20ac".encode()
        for piece in (b"one " + b"." * 20, euro[:1], euro[1:] + b" sesa", b"me seed" + b"!" * 20):
            printing.pieces.put_nowait(("run", "stdout", piece))
        seen = ""
        while "!!" not in seen:
            name, data = await anext(told)
            assert (name, data["stage"]) == ("stdout", "run")
            seen += data["text"]
        printing.pieces.put_nowait(("run", "stderr", b"oops"))
        printing.pieces.put_nowait(None)
        rest = [event async for event in told]
    seen += "".join(data["text"] for name, data in rest if name == "stdout")
    assert seen == "one " + "." * 20 + "\u20ac ***" + "!" * 20
    assert "".join(data["text"] for name, data in rest if name == "stderr") == "oops"
    assert rest[-1][0] == "result"
    assert rest[-1][1]["snapshot"] == await api.bench.head(session)


async def test_what_goes_wrong_comes_as_the_last_event(streaming: tuple[Api, Printing]) -> None:
    api, printing = streaming
    session = (await made(api))["session_id"]
    printing.pieces.put_nowait(SandboxBroken("it broke", detail="/secret/path"))
    async with api.client.post(f"/v1/sessions/{session}/execute", json={"code": "x", "stream": True}) as response:
        told = [event async for event in events(response)]
    ((name, data),) = told
    assert (name, data["status"], data["error"]["code"]) == ("error", 503, "sandbox_broken")
    assert "/secret" not in json.dumps(data)


async def test_who_goes_away_cancels_a_step_and_the_head_stays(streaming: tuple[Api, Printing]) -> None:
    api, printing = streaming
    session = await made(api)
    for stream in (True, False):
        printing.begun.clear()
        printing.cancelled.clear()
        body = {"code": "x", "stream": stream}
        call = asyncio.ensure_future(api.client.post(f"/v1/sessions/{session['session_id']}/execute", json=body))
        await asyncio.wait_for(printing.begun.wait(), 10)
        if stream:
            (await call).close()
        else:
            call.cancel()
        await asyncio.wait_for(printing.cancelled.wait(), 10)
    assert await api.bench.head(session["session_id"]) == session["head"]


async def test_who_goes_away_after_a_request_with_a_key_finds_it_done(streaming: tuple[Api, Printing]) -> None:
    api, printing = streaming
    session = (await made(api))["session_id"]
    path, headers = f"/v1/sessions/{session}/execute", {"Idempotency-Key": "k"}
    for stream in (True, False):
        call = asyncio.ensure_future(api.client.post(path, json={"code": "a=1", "stream": stream}, headers=headers))
        await asyncio.wait_for(printing.begun.wait(), 10)
        if stream:
            (await call).close()
        call.cancel()
        await asyncio.sleep(0.05)
        printing.pieces.put_nowait(None)
        while len(await api.bench.moves(session)) < 2:
            await asyncio.sleep(0.01)
        async with api.client.post(path, json={"code": "a=1", "stream": stream}, headers=headers) as response:
            assert response.status == 200
            assert '"repeated":true' in await response.text()
        assert await api.bench.moves(session) == ["create", "execute"]
        session = (await made(api))["session_id"]
        path, headers = f"/v1/sessions/{session}/execute", {"Idempotency-Key": "k2"}
        printing.begun.clear()


async def test_a_step_can_be_cancelled_by_somebody_else(streaming: tuple[Api, Printing]) -> None:
    api, printing = streaming
    session = await made(api)
    path = f"/v1/sessions/{session['session_id']}/execute"
    assert await api.send("DELETE", path, None) == (200, {"cancelled": False})
    call = asyncio.ensure_future(api.post(path, {"code": "x"}))
    await asyncio.wait_for(printing.begun.wait(), 10)
    assert await api.send("DELETE", path, None) == (200, {"cancelled": True})
    status, answer = await call
    assert (status, answer["error"]["code"]) == (409, "step_cancelled")
    assert await api.bench.head(session["session_id"]) == session["head"]
    printing.pieces.put_nowait(None)
    assert (await api.post(path, {"code": "a=1"}))[0] == 200
    assert (await api.send("DELETE", "/v1/sessions/nobody/execute", None))[0] == 404


async def test_a_step_that_is_being_written_down_is_past_stopping(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    commit = api.bench.steps._commit

    def slow(*given: Any) -> Any:
        begun.set()
        assert go_on.wait(10)
        return commit(*given)

    monkeypatch.setattr(api.bench.steps, "_commit", slow)
    session = (await made(api))["session_id"]
    running = asyncio.ensure_future(ran(api, session, "a=1"))
    try:
        assert await asyncio.to_thread(begun.wait, 10)
        assert await api.send("DELETE", f"/v1/sessions/{session}/execute", None) == (200, {"cancelled": False})
    finally:
        go_on.set()
    assert (await running)["snapshot"] == await api.bench.head(session)


async def test_a_record_keeps_as_much_of_other_files_as_it_has_room_for(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"/tmp/short": b"x" * 1000, "/tmp/long": b"y" * (1 << 20)}
    execute = api.bench.fake.execute

    async def fetching(request: Request, watch: StageWatch | None = None) -> Result:
        return msgspec.structs.replace(await execute(request, watch), fetched=files)

    monkeypatch.setattr(api.bench.fake, "execute", fetching)
    session = (await made(api))["session_id"]
    answers = [
        (
            await api.post(
                f"/v1/sessions/{session}/execute",
                {"code": "a=1", "fetch": list(files)},
                **{"Idempotency-Key": "once"},
            )
        )[1]
        for _ in range(2)
    ]
    assert list(answers[0]["files"]) == list(files)
    assert list(answers[1]["files"]) == ["/tmp/short"]
    assert answers[1]["left_out"][0]["reason"].startswith("and 1 files")
    (newest, *_) = api.bench.store.heads.log(session, before=None, limit=1)
    assert len(newest.run_record) < 1 << 20


# -- memo -----------------------------------------------------------------------------------------------------------------


async def forked(api: Api, session: str) -> str:
    _, answer = await api.post(f"/v1/sessions/{session}/fork", {})
    return answer["sessions"][0]["session_id"]


async def test_an_equal_step_on_an_equal_tree_is_answered_from_the_record(api: Api) -> None:
    session = (await made(api))["session_id"]
    await ran(api, session, "a=1")
    other = await forked(api, session)
    first = await ran(api, session, "b=2", memo=True, fetch=["b"])
    second = await ran(api, other, "b=2", memo=True, fetch=["b"])
    assert (first["memo"], second["memo"]) == (False, True)
    assert len(api.bench.fake.requests) == 2
    same = {"snapshot", "files", "ending", "exit_code", "runtime", "left_out"}
    assert {field: first[field] for field in same} == {field: second[field] for field in same}
    assert await api.bench.head(other) == second["snapshot"]
    _, log = await api.get(f"/v1/sessions/{other}/log")
    assert log["moves"][0]["run"]["memo"] == first["snapshot"]
    assert (await ran(api, other, "c=1"))["snapshot"] != (await ran(api, session, "c=2"))["snapshot"]


@pytest.mark.parametrize(
    "fields",
    [
        {"code": "b=3"}, {"stdin": "x"}, {"args": ["x"]}, {"env": {"A": "b"}}, {"files": {"f": {"text": "x"}}}, {"limits": {"processes": 9}},
        {"runtime": "bash"}, {"keep": "fetched"}, {"fetch": ["q"]}, {"secrets": {"A": "b"}}, {"memo": False},
    ],
    ids=lambda fields: next(iter(fields)),
)  # fmt: skip
async def test_a_step_that_is_not_equal_runs(api: Api, fields: dict[str, Any]) -> None:
    session = (await made(api))["session_id"]
    other = await forked(api, session)
    await ran(api, session, "b=2", memo=True)
    answer = await ran(api, other, **{"code": "b=2", "memo": True, **fields})
    assert not answer["memo"]
    assert len(api.bench.fake.requests) == 2


@pytest.mark.parametrize(
    "script",
    [Script(exit_code=0, ending=Ending.TIMED_OUT), Script(ending=Ending.OUT_OF_MEMORY)],
    ids=lambda one: one.ending,
)
async def test_what_did_not_end_by_itself_is_not_remembered(
    api: Api, monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    monkeypatch.setattr(api.bench.fake, "_play", lambda _: script)
    session = (await made(api))["session_id"]
    other = await forked(api, session)
    for one in (session, other):
        assert not (await ran(api, one, "b=2", memo=True))["memo"]


async def test_what_is_fetched_from_where_no_tree_holds_it_is_made_anew(api: Api) -> None:
    session = (await made(api))["session_id"]
    other = await forked(api, session)
    for one in (session, other):
        assert not (await ran(api, one, "b=2", memo=True, fetch=["b", "/tmp/x"]))["memo"]
    assert len(api.bench.fake.requests) == 2


async def test_failures_are_remembered_as_they_were(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.bench.fake, "_play", lambda _: Script(stderr=b"no", exit_code=3))
    session = (await made(api))["session_id"]
    other = await forked(api, session)
    first, second = await ran(api, session, "b", memo=True), await ran(api, other, "b", memo=True)
    assert (second["memo"], second["exit_code"], second["stages"]["run"]["stderr"]) == (True, 3, "no")
    assert first["snapshot"] == second["snapshot"]


async def test_other_systems_and_other_tenants_share_no_memory(bench: Bench) -> None:
    from psf.record import Order

    order = Order(b"b=2", keep="all", deterministic=True)
    for tenant in ("one", "two"):
        session = await bench.service.create("bash", 60, tenant)
        assert not (await bench.steps.execute(session.session_id, tenant, order, memo=True)).memo
    bench.fake._system = b"another"
    session = await bench.service.create("bash", 60, "one")
    assert not (await bench.steps.execute(session.session_id, "one", order, memo=True)).memo
    session = await bench.service.create("bash", 60, "one")
    assert (await bench.steps.execute(session.session_id, "one", order, memo=True)).memo


async def test_a_sample_is_run_again_and_what_differs_is_forgotten(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    session = (await made(api))["session_id"]
    forks = [await forked(api, session) for _ in range(3)]
    await ran(api, session, "b=2", memo=True)
    monkeypatch.setattr(api.bench.memo, "_audit_rate", 1.0)
    assert not (await ran(api, forks[0], "b=2", memo=True))["memo"]
    assert msgspec.structs.asdict(api.bench.memo.counts) | {"misses": 0} == {
        "hits": 1,
        "misses": 0,
        "audits": 1,
        "mismatches": 0,
    }
    monkeypatch.setattr(api.bench.fake, "_play", lambda _: Script(stdout=b"otherwise"))
    answer = await ran(api, forks[1], "b=2", memo=True)
    assert (answer["memo"], answer["stages"]["run"]["stdout"]) == (False, "otherwise")
    assert api.bench.memo.counts.mismatches == 1
    assert "came out as" in caplog.text
    monkeypatch.setattr(api.bench.memo, "_audit_rate", 0.0)
    assert not (await ran(api, forks[2], "b=2", memo=True))["memo"]


async def test_the_memory_outlasts_a_restart_and_is_made_anew_when_it_is_damaged(api: Api) -> None:
    session = (await made(api))["session_id"]
    forks = [await forked(api, session) for _ in range(3)]
    await ran(api, session, "b=2", memo=True)
    bench = api.bench
    bench.close()
    bench.reopen()
    async with TestClient(TestServer(application(bench))) as client:
        assert (await ran(Api(client, bench), forks[0], "b=2", memo=True))["memo"]
    bench.close()
    (bench._root / "memo.sqlite").write_bytes(b"no database" * 1000)
    bench.reopen()
    async with TestClient(TestServer(application(bench))) as client:
        assert not (await ran(Api(client, bench), forks[1], "b=2", memo=True))["memo"]
        assert (await ran(Api(client, bench), forks[2], "b=2", memo=True))["memo"]


# -- running again --------------------------------------------------------------------------------------------------------


async def test_a_replay_names_the_first_step_that_comes_out_otherwise(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = (await made(api))["session_id"]
    for number in range(5):
        await ran(api, session, f"f{number}=x")
    status, report = await api.post(f"/v1/sessions/{session}/replay", {"parallel": 3})
    assert (status, report["steps"], report["same"], report["different"]) == (200, 5, True, [])
    monkeypatch.setattr(
        api.bench.fake,
        "_play",
        lambda request: Script(writes={"f2": b"y"}) if request.program == b"f2=x" else play(request),
    )
    _, report = await api.post(f"/v1/sessions/{session}/replay", {})
    assert [step["step"] for step in report["different"]] == [3]
    (difference,) = report["different"][0]["differences"]
    assert (difference["what"], difference["paths"]) == ("tree", ["f2"])
    assert {"-x", "+y"} <= set(difference["diff"])
    _, report = await api.post(f"/v1/sessions/{session}/replay", {"from": 3, "to": 5})
    assert (report["steps"], report["same"]) == (2, True)


async def test_a_replay_with_a_change_shows_what_differs_downstream(api: Api) -> None:
    session = (await made(api))["session_id"]
    for number in range(3):
        await ran(api, session, f"f{number}=x")
    head = await api.bench.head(session)
    _, report = await api.post(f"/v1/sessions/{session}/replay", {"change": {"2": {"code": "f1=z"}}})
    assert [step["step"] for step in report["different"]] == [2, 3]
    assert await api.bench.head(session) == head
    for wrong in (
        {"change": {"9": {}}},
        {"change": {"x": {}}},
        {"change": {"0": {}}},
        {"parallel": 0},
        {"from": 3, "to": 1},
    ):
        status, answer = await api.post(f"/v1/sessions/{session}/replay", wrong)
        assert status == 422, (wrong, answer)


async def test_verify_reads_all_that_is_recorded_and_names_the_step_that_is_damaged(api: Api) -> None:
    session = (await made(api))["session_id"]
    for number in range(4):
        await ran(api, session, f"f{number}=content {number}")
    _, report = await api.post(f"/v1/sessions/{session}/replay", {"verify": True})
    assert (report["steps"], report["same"]) == (4, True)
    assert len(api.bench.fake.requests) == 4
    get = api.bench.store.objects.get

    def damaged(kind: Any, identity: bytes) -> bytes:
        from store.errors import ObjectDamaged

        data = get(kind, identity)
        if data == b"content 2":
            raise ObjectDamaged(kind, identity, "is damaged")
        return data

    api.bench.services.replays._objects.get = damaged  # type: ignore[method-assign]
    _, report = await api.post(f"/v1/sessions/{session}/replay", {"verify": True})
    assert [step["step"] for step in report["different"]] == [3]


async def test_bisect_finds_the_step_that_broke_something_in_few_runs(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = (await made(api))["session_id"]
    heads = [(await ran(api, session, f"f{number}=x"))["snapshot"] for number in range(20)]
    broken_at = 13
    monkeypatch.setattr(
        api.bench.fake,
        "_play",
        lambda request: (
            Script(exit_code=int(request.number > broken_at)) if request.program == b"test" else play(request)
        ),
    )
    before = await api.state(session)
    status, found = await api.post(f"/v1/sessions/{session}/bisect", {"code": "test", "runtime": "bash"})
    assert (status, found["step"], found["snapshot"]) == (200, broken_at, heads[broken_at - 1])
    assert found["runs"] <= 6
    assert await api.state(session) == before
    broken_at = 99
    assert (await api.post(f"/v1/sessions/{session}/bisect", {"code": "test"}))[1]["step"] is None


async def test_blame_names_the_step_that_last_changed_a_path(api: Api) -> None:
    session = (await made(api))["session_id"]
    for code in ("a=1", "b=1", "a=2", "c=1"):
        await ran(api, session, code)
    _, answer = await api.get(f"/v1/sessions/{session}/blame/a")
    assert (answer["step"], answer["kind"], answer["runtime"]) == (3, "run", "python")
    assert (await api.get(f"/v1/sessions/{session}/blame/a?at=2"))[1]["step"] == 1
    status, answer = await api.get(f"/v1/sessions/{session}/blame/zzz")
    assert (status, answer["error"]["code"]) == (404, "path_missing")


async def test_the_languages_are_listed(api: Api) -> None:
    _, answer = await api.get("/v1/runtimes")
    assert {"python", "bash", "pybash"} <= {row["name"] for row in answer["runtimes"]}
