"""A cell whose jobs a launcher runs: their streams, killing them, and what the launcher's answer says of how they ended."""

from __future__ import annotations

import asyncio
import logging
import os
from abc import ABC, abstractmethod
from functools import partial
from typing import Any

from executors.completion import completed
from executors.endings import ending_of, limits_hit, told_code
from executors.errors import SandboxBroken
from executors.interfaces import Job, Output, RunResult, Usage, Watch
from executors.launcher import Launcher
from executors.output import STREAMS, Following, Reader, Writer

_log = logging.getLogger(__name__)
_KILL_PATIENCE_S = 20.0


class LaunchedCell(ABC):
    """`Cell` whose jobs a launcher runs: streams, killing, and what its answer means. `sandbox` is for the log."""

    def __init__(self, sandbox: str, launcher: Launcher, scratch: int) -> None:
        self._sandbox, self._launcher = sandbox, launcher
        self.scratch = scratch

    @abstractmethod
    def _order(self, job: Job) -> dict[str, Any]:
        """What the launcher is told of a job. Raises SandboxBroken when it cannot be told."""
        ...

    async def run(self, job: Job, watch: Watch | None = None) -> RunResult:
        number = self._launcher.number()
        kill_tasks: set[asyncio.Task[None]] = set()

        def kill() -> None:
            kill_tasks.add(asyncio.ensure_future(self._launcher.tell("kill", number)))

        limits = job.limits
        following = Following(watch, limits.output_kept_bytes)
        turn = self._launcher.turn() if job.deterministic else None
        order = {**self._order(job), "turn": turn, "watched": following.wanted}
        ends: list[Reader | Writer] = []
        try:
            ends.append(Writer(job.stdin))
            readers: list[Reader] = []
            for stream in STREAMS:
                follow = partial(following.feed, stream)
                readers.append(Reader(limits.output_kept_bytes, limits.output_flood_bytes, kill, follow))
                ends.append(readers[-1])
            asked = asyncio.ensure_future(
                self._launcher.ask("run", [end.inner for end in ends], number, following.begin, **order)
            )
            try:
                answer, _ = await asyncio.shield(asked)
            except asyncio.CancelledError:
                kill()
                # Nobody asks any more how it ended, not even when the launcher goes first.
                asked.add_done_callback(lambda task: task.cancelled() or task.exception())
                await completed(asyncio.wait([asked], timeout=_KILL_PATIENCE_S))
                raise
            for end in ends:
                end.handed_over()
            stdout, stderr = [reader.output() for reader in readers]
            if answer["started"]:
                following.end(stdout, stderr)
        finally:
            following.close()
            for end in ends:
                end.close()
        if not answer["started"]:
            if not _out_of_memory(answer):
                reason = stderr.data.decode(errors="replace").strip() or "it ended without a word"
                _log.error("%s did not start: %s", self._sandbox, reason)
                raise SandboxBroken("the sandbox could not be set up; the server's log says why", detail=reason)
            stdout = stderr = Output()  # of the confiner, which had no room to bring the program up
        return self._result(answer, stdout, stderr, flooded=any(reader.flooded for reader in readers))

    def _result(self, answer: dict[str, Any], stdout: Output, stderr: Output, *, flooded: bool) -> RunResult:
        out_of_memory, overrun, usage = _out_of_memory(answer), answer["overrun"], answer["usage"] or [0, 0, None, None]
        ending, exit_code, by_signal = ending_of(
            _code(answer), timed_out=answer["timed_out"], overrun=overrun, flooded=flooded, out_of_memory=out_of_memory
        )
        truncated = stdout.truncated or stderr.truncated
        hit = limits_hit(ending, overrun, memory=out_of_memory, processes=usage[1] > 0, output=truncated)
        spent = Usage(answer["wall_time_s"], usage[3], usage[2], answer["disk_bytes"])
        return RunResult(ending, exit_code, by_signal, stdout, stderr, hit, spent)


def _code(answer: dict[str, Any]) -> int | None:
    """How the first process ended, as of `os.waitstatus_to_exitcode`; None when it never began."""
    if not answer["started"]:
        return None
    code = os.waitstatus_to_exitcode(answer["status"])
    return code if answer["exact"] else told_code(code)


def _out_of_memory(answer: dict[str, Any]) -> bool:
    """Whether the group's limit on memory killed something of the run."""
    return bool(answer["usage"]) and answer["usage"][0] > 0
