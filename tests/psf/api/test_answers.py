"""Answers: SandboxFusion's words for what was seen, and the native family's pages."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from executors.interfaces import Output, Result, RunResult, Usage
from psf.api.fusion import to_answer
from store.snapshot import Ending, LeftOut
from store.tree import EMPTY_TREE
from tests.psf.api.conftest import Api


def ran(ending: Ending, exit_code: int | None = None, number: int | None = None, stdout: bytes = b"") -> RunResult:
    return RunResult(ending, exit_code, number, Output(stdout, len(stdout)), Output(), (), Usage(0.5))


def seen(**stages: RunResult) -> Any:
    return to_answer(Result(EMPTY_TREE, tuple(stages.items()), {"f": b"\xff"}, (), False))


GOOD = ran(Ending.EXITED, 0)


@pytest.mark.parametrize(
    ("run", "status", "command", "code", "message"),
    [
        (GOOD, "Success", "Finished", 0, ""),
        (ran(Ending.EXITED, 3), "Failed", "Finished", 3, ""),
        (ran(Ending.EXITED, 137), "Failed", "Finished", 137, ""),
        (ran(Ending.SIGNALLED, None, 9), "Failed", "Finished", -9, ""),
        (
            ran(Ending.OUT_OF_MEMORY, None, 9),
            "Failed",
            "Finished",
            -9,
            "run: killed, since it wanted more memory than its limit",
        ),
        (ran(Ending.OUTPUT_LIMIT, stdout=b"ab"), "Failed", "Finished", -9, "run: killed after 2 bytes of output"),
        (
            msgspec.structs.replace(ran(Ending.DISK_LIMIT), hit=("disk",)),
            "Failed",
            "Finished",
            -9,
            "run: killed, since it put more into the work directory than its limit (disk)",
        ),
        (ran(Ending.TIMED_OUT), "Failed", "TimeLimitExceeded", None, ""),
    ],
)
def test_an_ending_becomes_its_status_and_return_code(
    run: RunResult, status: str, command: str, code: int | None, message: str
) -> None:
    answer = seen(run=run)
    assert answer.status == status
    assert (answer.run_result.status, answer.run_result.return_code) == (command, code)
    assert (answer.compile_result, answer.message, answer.executor_pod_name) == (None, message, None)


def test_what_does_not_compile_has_no_run_result() -> None:
    answer = seen(compile=ran(Ending.EXITED, 1))
    assert (answer.status, answer.run_result, answer.compile_result.return_code) == ("Failed", None, 1)
    assert seen(compile=GOOD, run=GOOD).status == "Success"


def test_output_that_is_not_text_is_shown_with_replacement_and_files_are_base64() -> None:
    answer = seen(run=ran(Ending.EXITED, 0, stdout=b"a\xffb\0"))
    assert answer.run_result.stdout == "a\ufffdb\0"
    assert base64.b64decode(answer.files["f"]) == b"\xff"
    assert answer.run_result.execution_time == 0.5


def test_what_was_left_out_is_named_with_the_reason() -> None:
    left_out = (LeftOut(b"pipe", "a FIFO"), LeftOut(b"\xff", "a device"))
    answer = to_answer(Result(EMPTY_TREE, (("run", GOOD),), {}, left_out, False))
    assert msgspec.to_builtins(answer.left_out) == [
        {"path": "pipe", "reason": "a FIFO"}, {"path": "\ufffd", "reason": "a device", "path_b64": "/w=="},
    ]  # fmt: skip


async def test_times_and_numbers_may_be_given_as_text_and_unknown_fields_are_ignored(api: Api) -> None:
    body = {"language": "bash", "code": "hi", "run_timeout": "5", "memory_limit_MB": "64", "colour": "red"}
    status, answer = await api.post("/run_code", body)
    assert (status, answer["run_result"]["stdout"]) == (200, "hi")
    limits = api.bench.fake.requests[0].stages[0].limits
    assert (limits.wall_time_s, limits.memory_bytes) == (5.0, 64 << 20)


async def test_more_than_the_server_allows_is_cut_to_what_it_allows(api: Api) -> None:
    await api.post("/run_code", {"language": "bash", "code": "x", "run_timeout": 1e9, "memory_limit_MB": 10**9})
    limits = api.bench.fake.requests[0].stages[0].limits
    assert (limits.wall_time_s, limits.memory_bytes) == (3600.0, 1 << 34)


async def test_an_answer_tells_the_ending_and_what_was_taken(api: Api) -> None:
    _, answer = await api.post("/run_code", {"language": "bash", "code": "x"})
    run = answer["run_result"]
    assert (run["ending"], run["hit"]) == ("exited", [])
    assert set(run["usage"]) == {"wall_time_s", "cpu_time_s", "memory_peak_bytes", "disk_bytes"}


async def test_files_that_are_null_or_marked_are_skipped(api: Api) -> None:
    files = {"a": None, "IGNORE_THIS_FILE": "!!!", "b": "YQ=="}
    assert (await api.post("/run_code", {"language": "bash", "code": "x", "files": files}))[0] == 200
    assert api.bench.fake.requests[0].files == (("b", b"a"),)


async def test_a_run_without_a_session_leaves_nothing(api: Api) -> None:
    before = set(api.bench.store.objects)
    status, answer = await api.post("/run_code", {"language": "python", "code": "a=1", "fetch_files": ["a"]})
    assert (status, answer["files"]) == (200, {"a": "MQ=="})
    assert "snapshot" not in answer
    assert set(api.bench.store.objects) == before
    assert list(api.bench.store.heads.roots()) == []


async def test_fields_of_a_session_may_be_left_out(api: Api) -> None:
    for body in ({}, {"language": "bash"}, {"ttl": 5}, {"ttl": "5"}):
        assert (await api.post("/create_session", body))[0] == 200
    assert (await api.send("POST", "/create_session", None))[0] == 200


async def test_the_log_is_paged_newest_first_and_complete(api: Api) -> None:
    session = await api.session()
    for number in range(7):
        await api.bench.step(session, f"a={number}")
    steps: list[int] = []
    cursor = ""
    while True:
        _, page = await api.get(f"/v1/sessions/{session}/log?limit=3{cursor}")
        steps += [move["step"] for move in page["moves"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert steps == list(range(7, -1, -1))


async def test_an_entry_of_the_log_tells_what_happened(api: Api) -> None:
    session = await api.session()
    head = await api.bench.step(session, "a=1", "bash")
    _, page = await api.get(f"/v1/sessions/{session}/log")
    newest, first = page["moves"]
    assert (newest["kind"], newest["to"], newest["from"], newest["runtime"]) == ("execute", head, first["to"], "bash")
    assert newest["endings"] == {"run": "exited"}
    assert newest["run"]["sandbox"] == "fake"
    assert (first["kind"], first["from"], first["run"], first["step"]) == ("create", None, None, 0)


async def test_forks_are_made_by_number_and_by_name(api: Api) -> None:
    session = await api.session()
    head = await api.bench.step(session, "a=1")
    status, answer = await api.post(f"/v1/sessions/{session}/fork", {"names": ["x", "y"]})
    assert status == 201
    assert [(fork["name"], fork["head"]) for fork in answer["sessions"]] == [("x", head), ("y", head)]
    _, answer = await api.post(f"/v1/sessions/{session}/fork", {"from": 0, "count": 3})
    assert len({fork["session_id"] for fork in answer["sessions"]}) == 3
    assert (await api.send("POST", f"/v1/sessions/{session}/fork", None))[0] == 201


async def test_ping_and_health_answer(api: Api) -> None:
    assert await api.get("/v1/ping") == (200, "pong")
    status, answer = await api.get("/healthz")
    assert (status, answer["status"], answer["sandbox"]["sandbox"]) == (200, "ok", "fake")
    assert answer["sandbox"]["missing"] == ["network: nothing is run"]
