"""What is written down of a step: the step as asked, the outcome as seen, and the facts that may differ next time."""

from __future__ import annotations

import msgspec

from executors.interfaces import Keep, Output, Result, RunResult
from psf.limits import StageLimits
from psf.runtimes import Runtime
from store.asked import NOTHING_ASKED, AskedLimits
from store.ids import BlobId, Kind
from store.interfaces import Objects
from store.snapshot import Outcome, Run, Stage, Stream


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
    )


def put_outcome(objects: Objects, result: Result) -> Outcome:
    """What was seen of a step; the output goes into the store."""
    return Outcome(tuple(_stage(objects, name, run) for name, run in result.stages), result.left_out)


def run_record(result: Result, started_at_s: float, facts: dict[str, object]) -> bytes:
    """JSON of what is never hashed: times, CPU, memory, and `facts` of this server."""
    stages = {name: msgspec.to_builtins(run.usage) for name, run in result.stages}
    return msgspec.json.encode({"started_at_s": started_at_s, "stages": stages, "warm": result.warm, **facts})


def _stage(objects: Objects, name: str, run: RunResult) -> Stage:
    streams = [_stream(objects, output) for output in (run.stdout, run.stderr)]
    return Stage(name, run.ending, run.exit_code, run.signal, streams[0], streams[1], run.hit)


def _stream(objects: Objects, output: Output) -> Stream:
    return Stream(_blob(objects, output.data), output.total_bytes, output.truncated)


def _blob(objects: Objects, data: bytes) -> BlobId:
    return BlobId(objects.put(Kind.BLOB, data))
