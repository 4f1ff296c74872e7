"""What is written down of a step: the step as asked, the outcome as seen, and the facts that may differ next time."""

from __future__ import annotations

import msgspec

from executors.interfaces import OWN_SYSTEM, Keep, Output, Request, Result, RunResult, StageRequest, System
from psf.limits import StageLimits
from psf.runtimes import Runtime, Runtimes
from store.asked import NOTHING_ASKED, AskedLimits
from store.ids import BlobId, Kind
from store.interfaces import Objects
from store.snapshot import Ending, Outcome, Run, Snapshot, Stage, Stream


class Order(msgspec.Struct, frozen=True):
    """What a caller wants run: decoded and checked, in psf's own terms. `runtime` None is the session's; limits not asked for are too."""

    code: bytes
    runtime: str | None = None
    stdin: bytes = b""
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, bytes], ...] = ()
    fetch: tuple[str, ...] = ()
    keep: Keep = "fetched"
    compile_limits: AskedLimits = NOTHING_ASKED
    run_limits: AskedLimits = NOTHING_ASKED
    deterministic: bool = False
    secrets: tuple[tuple[str, str], ...] = ()
    """Variables that the program gets like those of `env`, and whose values are kept nowhere."""
    note: str = ""
    """What the caller wants to find in the log; nobody reads it on the way."""


def put_step(objects: Objects, runtime: Runtime, environment: bytes, order: Order, limits: StageLimits) -> Run:
    """The order as a step within `limits`; its bytes go into the store."""
    return Run(
        runtime=runtime.name,
        environment=environment,
        code=_blob(objects, order.code),
        stdin=_blob(objects, order.stdin),
        args=order.args,
        env=order.env,
        files=tuple((name, _blob(objects, data)) for name, data in sorted(order.files)),
        fetch=order.fetch,
        keep="all" if order.keep == "all" else "fetched",
        limits=limits,
        secrets=tuple(sorted(name for name, _ in order.secrets)),
        deterministic=order.deterministic,
    )


def may_be_remembered(order: Order, limits: StageLimits) -> bool:
    """Whether the result of an order depends on nothing but what its step says, as far as that can be had."""
    return order.deterministic and not order.secrets and all(given.network != "egress" for _, given in limits)


def is_repeatable(step: Run, outcome: Outcome) -> bool:
    """Whether a step that was carried out may be taken for an equal one: it ended by itself, within all of its limits."""
    ended = all(stage.ending is Ending.EXITED and not stage.hit for stage in outcome.stages)
    closed = all(given.network != "egress" for _, given in step.limits)
    return step.deterministic and not step.secrets and closed and ended and not outcome.left_out


def order_of(objects: Objects, run: Run) -> Order:
    """The order that a recorded step carried out, but for its limits, which the step has, and the values of secrets, which nobody
    keeps. Raises ObjectMissing, ObjectDamaged.
    """
    return Order(
        code=objects.get(Kind.BLOB, run.code),
        runtime=run.runtime,
        stdin=objects.get(Kind.BLOB, run.stdin),
        args=run.args,
        env=run.env,
        files=tuple((name, objects.get(Kind.BLOB, blob)) for name, blob in run.files),
        fetch=run.fetch,
        keep="all" if run.keep == "all" else "fetched",
        deterministic=run.deterministic,
    )


def to_request(
    runtimes: Runtimes,
    runtime: Runtime,
    parent: Snapshot,
    order: Order,
    limits: StageLimits,
    system: System = OWN_SYSTEM,
) -> Request:
    """What an executor is asked for an order: the step after `parent`, with as many stages as it has limits."""
    commands = {"compile": runtime.compile, "run": runtime.run}
    return Request(
        tree=parent.tree,
        number=parent.depth + 1,
        program_name=runtime.file,
        program=order.code,
        stages=tuple(StageRequest(stage, runtimes.command(commands[stage] or ()), given) for stage, given in limits),
        stdin=order.stdin,
        args=order.args,
        env=(*runtimes.environment(runtime), *order.env, *order.secrets),
        files=order.files,
        fetch=order.fetch,
        keep=order.keep,
        system=system,
        deterministic=order.deterministic,
    )


def put_outcome(objects: Objects, result: Result) -> Outcome:
    """What was seen of a step; the output goes into the store."""
    return Outcome(tuple(_stage(objects, name, run) for name, run in result.stages), result.left_out)


def run_record(result: Result, started_at_s: float, facts: dict[str, object]) -> bytes:
    """JSON of what is never hashed: times, CPU, memory, and `facts` of this server."""
    stages = {name: msgspec.to_builtins(run.usage) for name, run in result.stages}
    return msgspec.json.encode({"started_at_s": started_at_s, "stages": stages, "warm": result.warm, **facts})


def memo_record(at_s: float, facts: dict[str, object]) -> bytes:
    """As `run_record`, of a step that did not run."""
    return msgspec.json.encode({"started_at_s": at_s, "stages": {}, "warm": False, **facts})


def noted(order: Order) -> dict[str, object]:
    """What the caller wants to find in the log, as a fact of the run record."""
    return {"note": order.note} if order.note else {}


def _stage(objects: Objects, name: str, run: RunResult) -> Stage:
    streams = [_stream(objects, output) for output in (run.stdout, run.stderr)]
    return Stage(name, run.ending, run.exit_code, run.signal, streams[0], streams[1], run.hit)


def _stream(objects: Objects, output: Output) -> Stream:
    return Stream(_blob(objects, output.data), output.total_bytes, output.truncated)


def _blob(objects: Objects, data: bytes) -> BlobId:
    return BlobId(objects.put(Kind.BLOB, data))
