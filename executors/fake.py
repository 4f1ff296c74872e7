"""A scripted executor: for tests of what stands on one, without a sandbox."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from executors.interfaces import Output, Request, Result, RunResult, StageWatch, System, Usage
from executors.output import Following
from store.edit import FileEdit, put_files
from store.interfaces import Objects
from store.snapshot import Ending


class Script(msgspec.Struct, frozen=True):
    """What a fake run does: write files (by their path in the work directory), print, exit."""

    writes: dict[str, bytes] = {}
    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0
    ending: Ending = Ending.EXITED


class FakeExecutor:
    """`Executor` that runs nothing. `play` says what a request does; `requests` are those seen, `prepared` the systems that were asked for."""

    def __init__(self, objects: Objects, play: Callable[[Request], Script], system: bytes = b"fake") -> None:
        self._objects, self._play, self._system = objects, play, system
        self.requests: list[Request] = []
        self.prepared: list[System] = []
        self.closed = False

    async def execute(self, request: Request, watch: StageWatch | None = None) -> Result:
        self.requests.append(request)
        script = self._play(request)
        fetched = {name: data for name, data in script.writes.items() if name in request.fetch}
        kept = {"all": script.writes, "fetched": fetched, "nothing": {}}[request.keep]
        edits = {tuple(name.encode().split(b"/")): FileEdit(data) for name, data in kept.items()}
        tree = put_files(self._objects, request.tree, edits, request.number)
        exited = script.ending is Ending.EXITED
        stage = request.stages[-1].name
        stdout, stderr = (Output(data, len(data)) for data in (script.stdout, script.stderr))
        following = Following(watch and partial(watch, stage), max(stdout.total_bytes, stderr.total_bytes))
        following.feed("stdout", script.stdout)
        following.feed("stderr", script.stderr)
        following.end(stdout, stderr)
        run = RunResult(
            script.ending,
            script.exit_code if exited else None,
            None,
            stdout,
            stderr,
            (),
            Usage(0.001),
        )
        return Result(tree, ((stage, run),), fetched, (), warm=False, system=self._system)

    async def prepare(self, system: System) -> bytes:
        self.prepared.append(system)
        return self._system

    async def close(self) -> None:
        self.closed = True
