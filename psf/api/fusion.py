"""SandboxFusion's endpoints and the seed's sessions: same fields, statuses and meanings."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec
from aiohttp import web

from executors.errors import SandboxBroken
from executors.interfaces import Result, RunResult, System
from executors.paths import WORK
from psf import limits
from psf.api import decode
from psf.api.callers import concerns, tenant_of
from psf.api.errors import answer
from psf.api.keys import CAPABILITIES, POLICY, SERVICES, Policy
from psf.api.operations import RUNNING, STARTING, STEPPING, Operation, described
from psf.api.repeating import keyed_of, to_the_end
from psf.api.schemas import (
    CommandResult,
    CreateSessionAnswer,
    CreateSessionRequest,
    ExecuteSessionAnswer,
    ExecuteSessionRequest,
    LeftOutPath,
    RunCodeAnswer,
    RunCodeRequest,
)
from psf.errors import InvalidField, SessionExpired
from psf.record import Order
from store.asked import AskedLimits
from store.errors import SessionMissing
from store.snapshot import Ending, LeftOut

TTL_S_MAX = 10 * 365 * 86400.0
# With a broken sandbox the answer is one of status SandboxError.
_RUNNING = tuple(error for error in RUNNING if error is not SandboxBroken)
_STEPPING = tuple(error for error in (*STEPPING, SessionMissing, SessionExpired) if error is not SandboxBroken)

routes = web.RouteTableDef()


@routes.get("/v1/ping")
@described(Operation(answer=Literal["pong"]))
async def ping(_: web.Request) -> web.Response:
    """That the server answers."""
    return answer("pong")


@routes.post("/run_code")
@described(Operation(answer=RunCodeAnswer, body=RunCodeRequest, errors=_RUNNING))
async def run_code(request: web.Request) -> web.Response:
    """Run a program without a session: it starts empty and leaves nothing."""
    body = await decode.read_body(request, RunCodeRequest)
    order = await _order(request, body, request.app[POLICY].work_dir)
    try:
        executed = await request.app[SERVICES].steps.run(order)
    except SandboxBroken as error:
        return answer(RunCodeAnswer("SandboxError", str(error), None, None, None, {}))
    return await _answered(executed.result, to_answer)


@routes.post("/create_session")
@described(
    Operation(answer=CreateSessionAnswer, body=CreateSessionRequest, body_optional=True, keyed=True, errors=STARTING)
)
async def create_session(request: web.Request) -> web.Response:
    """Make an empty session."""
    body = await decode.read_body(request, CreateSessionRequest, optional=True)
    ttl_s = decode.seconds("ttl", body.ttl, TTL_S_MAX)
    limits.check(body.limits, request.app[POLICY].rules, ("body", "limits"))
    tenant, system, keyed = tenant_of(request), System(body.image, body.work_dir), await keyed_of(request)
    creating = request.app[SERVICES].sessions.create(
        body.language, ttl_s, tenant, limits=body.limits, system=system, keyed=keyed
    )
    session = await to_the_end(request, creating, keyed)
    concerns(request, session.session_id)
    return answer(CreateSessionAnswer(session.session_id))


@routes.post("/execute_session")
@described(Operation(answer=ExecuteSessionAnswer, body=ExecuteSessionRequest, keyed=True, errors=_STEPPING))
async def execute_session(request: web.Request) -> web.Response:
    """Run a step in a session."""
    body = await decode.read_body(request, ExecuteSessionRequest)
    concerns(request, body.session_id)
    keyed = await keyed_of(request)
    work_dir = request.app[POLICY].work_dir
    if decode.depend_on_work_dir((*body.files, *body.fetch_files)):
        work_dir = await request.app[SERVICES].sessions.work_dir(body.session_id, tenant_of(request))
    order = msgspec.structs.replace(await _order(request, body, work_dir), keep=body.keep)
    try:
        step = request.app[SERVICES].steps.execute(body.session_id, tenant_of(request), order, keyed=keyed)
        executed = await to_the_end(request, step, keyed)
    except SandboxBroken as error:
        return answer(ExecuteSessionAnswer("SandboxError", str(error), None, None, None, {}, body.session_id, None))
    head = executed.snapshot.hex() if executed.snapshot else None

    def in_session(result: Result) -> ExecuteSessionAnswer:
        facts = msgspec.structs.asdict(to_answer(result))
        return ExecuteSessionAnswer(**facts, session_id=body.session_id, snapshot=head)

    return await _answered(executed.result, in_session)


async def _order(request: web.Request, body: RunCodeRequest | ExecuteSessionRequest, work_dir: str) -> Order:
    policy = request.app[POLICY]
    decode.require("require", body.require, request.app[CAPABILITIES])
    return await decode.aside(lambda: to_order(body, policy, work_dir), request.content_length or 0)


async def _answered(result: Result, shape: Callable[[Result], RunCodeAnswer | ExecuteSessionAnswer]) -> web.Response:
    size_bytes = sum(map(len, result.fetched.values()))
    size_bytes += sum(len(run.stdout.data) + len(run.stderr.data) for _, run in result.stages)
    return await decode.aside(lambda: answer(shape(result)), size_bytes)


def to_order(body: RunCodeRequest | ExecuteSessionRequest, policy: Policy, work_dir: str = WORK) -> Order:
    """A checked order; programs see the work directory at `work_dir`. Raises InvalidField. Pure."""
    rules = policy.rules
    limits.check(body.limits, rules, ("body", "limits"))
    memory_bytes = decode.memory("memory_limit_MB", body.memory_limit_MB, rules.maximum.memory_bytes)

    def of_stage(field: str, timeout: float | msgspec.UnsetType) -> AskedLimits:
        given = None if timeout is msgspec.UNSET else decode.seconds(field, timeout, rules.maximum.wall_time_s)
        return limits.merged(AskedLimits(wall_time_s=given, memory_bytes=memory_bytes), body.limits)

    if body.language == "":
        raise InvalidField(("body", "language"), "is empty; name a language", "", kind="literal_error")
    return Order(
        code=decode.code(body.code),
        runtime=body.language,
        stdin=(body.stdin or "").encode(),
        files=decode.files("files", body.files, work_dir),
        fetch=decode.fetch("fetch_files", body.fetch_files, work_dir),
        compile_limits=of_stage("compile_timeout", body.compile_timeout),
        run_limits=of_stage("run_timeout", body.run_timeout),
    )


def to_answer(result: Result) -> RunCodeAnswer:
    """A result in SandboxFusion's words. Success only when every stage finished with 0. Pure."""
    stages = dict(result.stages)
    succeeded = all(run.ending is Ending.EXITED and run.exit_code == 0 for run in stages.values())
    return RunCodeAnswer(
        "Success" if succeeded else "Failed",
        "; ".join(text for name, run in result.stages if (text := _over_limit(name, run))),
        _command(stages.get("compile")),
        _command(stages.get("run")),
        None,
        {name: base64.b64encode(data).decode() for name, data in result.fetched.items()},
        left_out_paths(result.left_out),
    )


def left_out_paths(left_out: Iterable[LeftOut]) -> list[LeftOutPath]:
    return [_left_out_path(left) for left in left_out]


def _left_out_path(left: LeftOut) -> LeftOutPath:
    try:
        return LeftOutPath(left.path.decode(), left.reason)
    except UnicodeDecodeError:
        return LeftOutPath(left.path.decode(errors="replace"), left.reason, base64.b64encode(left.path).decode())


def _over_limit(stage: str, run: RunResult) -> str | None:
    """What SandboxFusion's words cannot tell from a program that killed itself."""
    if run.ending is Ending.OUT_OF_MEMORY:
        return f"{stage}: killed, since it wanted more memory than its limit"
    if run.ending is Ending.OUTPUT_LIMIT:
        return f"{stage}: killed after {run.stdout.total_bytes + run.stderr.total_bytes} bytes of output"
    if run.ending is Ending.DISK_LIMIT:
        return f"{stage}: killed, since it put more into the work directory than its limit ({', '.join(run.hit)})"
    return None


def _command(run: RunResult | None) -> CommandResult | None:
    if run is None:
        return None
    return CommandResult(
        "TimeLimitExceeded" if run.ending is Ending.TIMED_OUT else "Finished",
        run.usage.wall_time_s,
        _return_code(run),
        run.stdout.data.decode(errors="replace"),
        run.stderr.data.decode(errors="replace"),
        run.ending.value,
        run.hit,
        run.usage,
    )


def _return_code(run: RunResult) -> int | None:
    if run.ending is Ending.TIMED_OUT:
        return None
    if run.ending in (Ending.OUTPUT_LIMIT, Ending.DISK_LIMIT):
        return -9
    return run.exit_code if run.signal is None else -run.signal
