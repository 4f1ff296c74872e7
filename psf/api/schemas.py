"""Bodies of requests and answers. Field names and defaults of the compatible families are SandboxFusion's."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from executors.interfaces import Capabilities, Usage
from store.asked import NOTHING_ASKED, AskedLimits


class RunCodeRequest(msgspec.Struct, frozen=True):
    """POST /run_code. Times in seconds; `files` are base64 by name, null ones are skipped.

    `limits` go before `compile_timeout`, `run_timeout` and `memory_limit_MB`, which only SandboxFusion's clients send.
    """

    code: str
    language: str
    compile_timeout: float | msgspec.UnsetType = msgspec.UNSET
    run_timeout: float | msgspec.UnsetType = msgspec.UNSET
    memory_limit_MB: int = -1  # noqa: N815 - the name clients send
    stdin: str | None = None
    files: dict[str, str | None] = {}
    fetch_files: list[str] = []
    require: list[str] = []
    limits: AskedLimits = NOTHING_ASKED


class ExecuteSessionRequest(msgspec.Struct, frozen=True):
    """POST /execute_session: all of /run_code, in a session. `language` then becomes the session's."""

    session_id: str
    code: str
    language: str | None = None
    compile_timeout: float | msgspec.UnsetType = msgspec.UNSET
    run_timeout: float | msgspec.UnsetType = msgspec.UNSET
    memory_limit_MB: int = -1  # noqa: N815 - the name clients send
    stdin: str | None = None
    files: dict[str, str | None] = {}
    fetch_files: list[str] = []
    require: list[str] = []
    limits: AskedLimits = NOTHING_ASKED
    keep: Literal["fetched", "all"] = "fetched"


class CreateSessionRequest(msgspec.Struct, frozen=True):
    """POST /create_session. `ttl` is idle time in seconds; `limits` are what steps get that ask for no others.

    `image` and `work_dir` are of the system that its programs see; '': the server's.
    """

    language: str = "python"
    ttl: float = 1800
    limits: AskedLimits = NOTHING_ASKED
    image: str = ""
    work_dir: str = ""


class CommandResult(msgspec.Struct, frozen=True):
    """One stage as SandboxFusion reports it. `return_code` is -n after signal n, null after a time-out.

    Beyond SandboxFusion: `ending` says how it ended in psf's words, `hit` which limits were reached on the way, `usage` what it took.
    """

    status: Literal["Finished", "Error", "TimeLimitExceeded"]
    execution_time: float | None
    return_code: int | None
    stdout: str | None
    stderr: str | None
    ending: str
    hit: tuple[str, ...]
    usage: Usage


class LeftOutPath(msgspec.Struct, frozen=True, omit_defaults=True):
    """What could not be returned or kept, and why. `path_b64` when the path is not UTF-8."""

    path: str
    reason: str
    path_b64: str | None = None


class RunCodeAnswer(msgspec.Struct, frozen=True):
    """`message` says what killed a program that was over a limit, and what went wrong with status SandboxError."""

    status: Literal["Success", "Failed", "SandboxError"]
    message: str
    compile_result: CommandResult | None
    run_result: CommandResult | None
    executor_pod_name: str | None
    files: dict[str, str]
    left_out: list[LeftOutPath] = []


class ExecuteSessionAnswer(msgspec.Struct, frozen=True):
    """`snapshot` is the session's new head; null only with status SandboxError, when the head did not move."""

    status: Literal["Success", "Failed", "SandboxError"]
    message: str
    compile_result: CommandResult | None
    run_result: CommandResult | None
    executor_pod_name: str | None
    files: dict[str, str]
    session_id: str
    snapshot: str | None
    left_out: list[LeftOutPath] = []


class CreateSessionAnswer(msgspec.Struct, frozen=True):
    session_id: str


class ForkRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/sessions/{id}/fork. `from` as in rollback (default: the head); one fork for each of `names`, or `count` of them."""

    start: str | int | None = msgspec.field(default=None, name="from")
    count: int | None = None
    names: list[str] | None = None


class ForkedSession(msgspec.Struct, frozen=True):
    session_id: str
    head: str
    name: str | None


class ForkAnswer(msgspec.Struct, frozen=True):
    sessions: list[ForkedSession]


class LogEntry(msgspec.Struct, frozen=True):
    """One move of a head. `step` is the number of the snapshot it led to; `run` the record of an execution, else null."""

    sequence: int
    kind: str
    start: str | None = msgspec.field(name="from")
    to: str
    at: str
    step: int
    runtime: str | None
    endings: dict[str, str]
    left_out: list[LeftOutPath]
    run: Any


class LogAnswer(msgspec.Struct, frozen=True):
    """Newest first. `next` is the cursor of the following page; null on the last."""

    moves: list[LogEntry]
    next: str | None


# -- errors ---------------------------------------------------------------------------------------------------------------


class SideAnswer(msgspec.Struct, frozen=True):
    """What stands at a path on one side of a merge. `id`: of a file's content, or where a symbolic link leads."""

    kind: str
    id: str
    size_bytes: int
    changed: int


class ConflictAnswer(msgspec.Struct, frozen=True):
    """A path that both sides changed, differently; null where nothing stands at it."""

    path: str
    base: SideAnswer | None
    ours: SideAnswer | None
    theirs: SideAnswer | None


class ErrorFacts(msgspec.Struct, frozen=True):
    """`field`: what is to blame, of the body or the query. `expected`, `actual`: heads, with code head_moved.

    `ours`, `theirs`: the snapshots whose merge has these `conflicts`.
    """

    code: str
    message: str
    field: str | msgspec.UnsetType = msgspec.UNSET
    expected: str | msgspec.UnsetType = msgspec.UNSET
    actual: str | msgspec.UnsetType = msgspec.UNSET
    ours: str | msgspec.UnsetType = msgspec.UNSET
    theirs: str | msgspec.UnsetType = msgspec.UNSET
    conflicts: list[ConflictAnswer] | msgspec.UnsetType = msgspec.UNSET


class ErrorAnswer(msgspec.Struct, frozen=True):
    """Errors of `/v1`."""

    error: ErrorFacts


class DetailAnswer(msgspec.Struct, frozen=True):
    """Errors of the compatible families."""

    detail: str


class FaultAnswer(msgspec.Struct, frozen=True):
    """What is wrong with a request, as FastAPI words it: `loc` leads to the field, `input` is what was sent."""

    type: str
    loc: list[str | int]
    msg: str
    input: Any


class ValidationAnswer(msgspec.Struct, frozen=True):
    """What is wrong with a request to the compatible families."""

    detail: list[FaultAnswer]


class HealthAnswer(msgspec.Struct, frozen=True):
    """`sandbox`: what it is, what it enforces and how, and what it lacks."""

    status: Literal["ok"]
    version: str
    sandbox: Capabilities
