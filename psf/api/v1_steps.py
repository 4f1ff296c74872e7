"""The native family: steps that run programs, and histories that are run again."""

from __future__ import annotations

import asyncio
import base64
import codecs
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from aiohttp import web

from executors.interfaces import Result, RunResult, StageWatch
from psf import limits
from psf.api import decode
from psf.api.callers import tenant_of
from psf.api.errors import answer, to_response
from psf.api.fusion import left_out_paths
from psf.api.keys import CAPABILITIES, POLICY, SERVICES
from psf.api.operations import FINDING, RUNNING, STEPPING, Operation, described, text
from psf.api.repeating import keyed_of, to_the_end
from psf.api.v1_decode import arguments, expected_of, files, path_of, snapshot_reference, variables
from psf.api.v1_schemas import (
    BisectAnswer,
    BisectRequest,
    BlameAnswer,
    CancelledAnswer,
    DifferenceAnswer,
    ExecuteAnswer,
    ExecuteRequest,
    FileAnswer,
    ReplayAnswer,
    ReplayedStepAnswer,
    ReplayRequest,
    RuntimeAnswer,
    RuntimesAnswer,
    StageAnswer,
)
from psf.errors import InvalidField, PathMissing
from psf.record import Order
from psf.replay import Difference, Replacement, ReplayReport
from psf.steps import Executed
from psf.text_diff import shown
from store.snapshot import Run

NOTE_CHARACTERS_MAX = 64 << 10
PARALLEL_MAX = 64
HEARTBEAT_S = 15.0
_EVENTS = "text/event-stream"

routes = web.RouteTableDef()


@routes.post("/v1/sessions/{session_id}/execute")
@described(Operation(answer=ExecuteAnswer, answer_media=(_EVENTS,), body=ExecuteRequest, keyed=True, errors=STEPPING))
async def execute(request: web.Request) -> web.StreamResponse:
    """Run a step. With `stream` as server-sent events: stdout and stderr as they come, then the result, or an error."""
    body = await decode.read_body(request, ExecuteRequest)
    session_id, tenant, keyed = request.match_info["session_id"], tenant_of(request), await keyed_of(request)
    decode.require("require", body.require, request.app[CAPABILITIES])
    work_dir = request.app[POLICY].work_dir
    if decode.depend_on_work_dir((*body.files, *body.fetch)):
        work_dir = await request.app[SERVICES].sessions.work_dir(session_id, tenant)
    order = await decode.aside(lambda: _order(request, body, work_dir), request.content_length or 0)
    expected = expected_of(body.expected)

    async def step(watch: StageWatch | None) -> Executed:
        steps = request.app[SERVICES].steps
        doing = steps.execute(session_id, tenant, order, keyed=keyed, expected=expected, memo=body.memo, watch=watch)
        return await to_the_end(request, doing, keyed)

    if body.stream:
        return await _streamed(request, step)
    return await _answered(await step(None))


@routes.delete("/v1/sessions/{session_id}/execute")
@described(Operation(answer=CancelledAnswer))
async def cancel(request: web.Request) -> web.Response:
    """Stop the step that is running in the session."""
    cancelled = await request.app[SERVICES].steps.cancel(request.match_info["session_id"], tenant_of(request))
    return answer(CancelledAnswer(cancelled))


@routes.post("/v1/sessions/{session_id}/replay")
@described(Operation(answer=ReplayAnswer, body=ReplayRequest, body_optional=True, errors=(*RUNNING, *FINDING)))
async def replay(request: web.Request) -> web.Response:
    """Run recorded steps again and tell which come out otherwise; with `verify` only see that all that is recorded is whole."""
    body = await decode.read_body(request, ReplayRequest, optional=True)
    if not 1 <= body.parallel <= PARALLEL_MAX:
        raise InvalidField(("body", "parallel"), f"must be between 1 and {PARALLEL_MAX}", body.parallel)
    changes: dict[int, Replacement] = {}
    for number, changed in body.change.items():
        if not number.isascii() or not number.isdecimal() or len(number) > 9:
            raise InvalidField(("body", "change", number[:200]), "must be the number of a step", number[:200])
        code = decode.code(changed.code) if changed.code is not None else None
        changes[int(number)] = Replacement(code, changed.runtime)
    replays, session_id, tenant = request.app[SERVICES].replays, request.match_info["session_id"], tenant_of(request)
    start, end = await snapshot_reference(request, body.start), await snapshot_reference(request, body.to)
    if body.verify:
        report = await replays.verify(session_id, tenant, start=start, end=end)
    else:
        report = await replays.replay(session_id, tenant, start=start, end=end, parallel=body.parallel, changes=changes)
    return answer(report_answer(report))


@routes.post("/v1/sessions/{session_id}/bisect")
@described(Operation(answer=BisectAnswer, body=BisectRequest, errors=(*RUNNING, *FINDING)))
async def bisect(request: web.Request) -> web.Response:
    """Find the first step after which a program fails."""
    body = await decode.read_body(request, BisectRequest)
    limits.check(body.limits, request.app[POLICY].rules, ("body", "limits"))
    order = Order(code=decode.code(body.code), runtime=body.runtime, compile_limits=body.limits, run_limits=body.limits)
    good, bad = await snapshot_reference(request, body.good), await snapshot_reference(request, body.bad)
    session_id, tenant = request.match_info["session_id"], tenant_of(request)
    found = await request.app[SERVICES].replays.bisect(session_id, tenant, order, start=good, end=bad)
    return answer(BisectAnswer(found.step, found.snapshot.hex() if found.snapshot else None, found.runs))


@routes.get("/v1/sessions/{session_id}/blame/{path:.+}")
@described(
    Operation(
        answer=BlameAnswer, query=(text("at", "where in the history, as in rollback"),), errors=(*FINDING, PathMissing)
    )
)
async def blame(request: web.Request) -> web.Response:
    """Tell which step last changed what stands at a path; `at`: in another snapshot than the head."""
    path = path_of(("path", "path"), request.match_info["path"])
    at = await snapshot_reference(request, request.query.get("at"))
    session_id, tenant = request.match_info["session_id"], tenant_of(request)
    found = await request.app[SERVICES].replays.blame(session_id, tenant, path, at=at)
    if found is None:
        raise PathMissing(b"/".join(path))
    step = found.snapshot.step
    runtime = step.runtime if isinstance(step, Run) else None
    kind = type(step).__name__.lower() if step is not None else "base"
    return answer(BlameAnswer(found.snapshot.depth, found.identity.hex(), runtime, kind))


@routes.get("/v1/runtimes")
@described(Operation(answer=RuntimesAnswer))
async def list_runtimes(request: web.Request) -> web.Response:
    """The languages that steps can be written in."""
    table = request.app[SERVICES].runtimes
    rows = [RuntimeAnswer(name, table.get(name).compile is not None) for name in table.names]
    return answer(RuntimesAnswer(rows))


def _order(request: web.Request, body: ExecuteRequest, work_dir: str) -> Order:
    rules = request.app[POLICY].rules
    limits.check(body.limits, rules, ("body", "limits"))
    compiling = body.compile_limits if body.compile_limits is not None else body.limits
    limits.check(compiling, rules, ("body", "compile_limits"))
    if len(body.note) > NOTE_CHARACTERS_MAX:
        raise InvalidField(("body", "note"), f"has {len(body.note)} characters; at most {NOTE_CHARACTERS_MAX}")
    env, secrets = variables("env", body.env), variables("secrets", body.secrets)
    if both := {name for name, _ in env} & {name for name, _ in secrets}:
        raise InvalidField(("body", "secrets", min(both)), "stands in env too; say it once")
    return Order(
        code=decode.code(body.code),
        runtime=body.runtime,
        stdin=body.stdin.encode(),
        args=arguments("args", body.args),
        env=env,
        files=files("files", body.files, work_dir),
        fetch=decode.fetch("fetch", body.fetch, work_dir),
        keep=body.keep,
        compile_limits=compiling,
        run_limits=body.limits,
        deterministic=body.deterministic or body.memo,
        secrets=secrets,
        note=body.note,
    )


# -- answers --------------------------------------------------------------------------------------------------------------


async def _answered(executed: Executed) -> web.Response:
    result = executed.result
    size_bytes = sum(map(len, result.fetched.values()))
    size_bytes += sum(len(run.stdout.data) + len(run.stderr.data) for _, run in result.stages)
    return await decode.aside(lambda: answer(executed_answer(executed)), size_bytes)


def executed_answer(executed: Executed) -> ExecuteAnswer:
    """A step as it is answered. Pure."""
    result, snapshot = executed.result, executed.snapshot
    last = result.stages[-1][1]
    return ExecuteAnswer(
        snapshot.hex() if snapshot is not None else "",
        executed.runtime,
        last.ending.value,
        last.exit_code,
        stages_answer(result),
        {name: _file(data) for name, data in result.fetched.items()},
        left_out_paths(result.left_out),
        executed.memo,
        executed.repeated,
    )


def stages_answer(result: Result) -> dict[str, StageAnswer]:
    """Stages by name. Pure."""
    return {name: _stage(run) for name, run in result.stages}


def _stage(run: RunResult) -> StageAnswer:
    out, out_b64 = _text(run.stdout.data)
    err, err_b64 = _text(run.stderr.data)
    return StageAnswer(
        run.ending.value, run.exit_code, run.signal, out, err, run.stdout.total_bytes, run.stderr.total_bytes,
        run.stdout.truncated or run.stderr.truncated, run.hit, run.usage, out_b64, err_b64,
    )  # fmt: skip


def _text(data: bytes) -> tuple[str, str | msgspec.UnsetType]:
    try:
        return data.decode(), msgspec.UNSET
    except UnicodeDecodeError:
        return data.decode(errors="replace"), base64.b64encode(data).decode()


def _file(data: bytes) -> FileAnswer:
    try:
        return FileAnswer(text=data.decode())
    except UnicodeDecodeError:
        return FileAnswer(base64=base64.b64encode(data).decode())


def report_answer(report: ReplayReport) -> ReplayAnswer:
    """A replay's report as it is answered. Pure."""
    different = [
        ReplayedStepAnswer(
            step.number, step.snapshot.hex(), [_difference(one) for one in step.differences], list(step.causes)
        )
        for step in report.different
    ]
    return ReplayAnswer(report.steps, not different, different, report.tree.hex())


def _difference(one: Difference) -> DifferenceAnswer:
    paths = [shown(path) for path in one.paths]
    return DifferenceAnswer(one.what, one.stage, one.recorded, one.replayed, paths, list(one.lines))


# -- server-sent events ---------------------------------------------------------------------------------------------------


async def _streamed(
    request: web.Request, step: Callable[[StageWatch], Coroutine[Any, Any, Executed]]
) -> web.StreamResponse:
    """Events `stdout` and `stderr` ({stage, text}), then `result` (the answer) or `error`. Comments keep the connection open.

    What is not UTF-8 comes as `base64` too, and as text with replacement characters.
    """
    events: asyncio.Queue[bytes | None] = asyncio.Queue()
    begun: defaultdict[tuple[str, str], bytes] = defaultdict(bytes)
    """Of each stream the first bytes of a character whose others have not come yet."""

    def watch(stage: str, stream: str, data: bytes) -> None:
        printed, begun[stage, stream] = _pieces(begun[stage, stream] + data)
        if printed:
            events.put_nowait(_event(stream, {"stage": stage, **printed}))

    def end(_: object) -> None:
        for (stage, stream), data in begun.items():
            if data:
                events.put_nowait(_event(stream, {"stage": stage, **_undecoded(data)}))
        events.put_nowait(None)

    task = asyncio.ensure_future(step(watch))
    task.add_done_callback(end)
    response = web.StreamResponse(headers={"Content-Type": _EVENTS, "Cache-Control": "no-store"})
    try:
        await response.prepare(request)
        while (event := await _next(events)) is not None:
            await response.write(event)
        await response.write(_last(task, request))
        await response.write_eof()
    finally:
        task.cancel()  # who has gone away cancels what has no key: that goes on in a task of its own
    return response


def _pieces(data: bytes) -> tuple[dict[str, str], bytes]:
    """What can be told of these bytes, and those of a character that is not whole yet. Pure."""
    try:
        text, used = codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError:
        return _undecoded(data), b""
    return ({"text": text} if text else {}), data[used:]


def _undecoded(data: bytes) -> dict[str, str]:
    return {"text": data.decode(errors="replace"), "base64": base64.b64encode(data).decode()}


async def _next(events: asyncio.Queue[bytes | None]) -> bytes | None:
    try:
        return await asyncio.wait_for(events.get(), HEARTBEAT_S)
    except TimeoutError:
        return b": still running\n\n"


def _last(task: asyncio.Task[Executed], request: web.Request) -> bytes:
    error = task.exception()
    if error is None:
        return _event("result", executed_answer(task.result()))
    assert isinstance(error, Exception)
    response = to_response(error, request.path)
    body = response.body
    assert isinstance(body, bytes)
    return _event("error", {"status": response.status, **msgspec.json.decode(body)})


def _event(name: str, data: object) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"
