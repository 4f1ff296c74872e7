"""The executors' vocabulary: what any sandbox and any executor promise.

An executor does a whole step: it brings a tree to life, runs a program on it in a sandbox, and captures what is left. A sandbox
knows only how to confine one program. Verdicts are data; breakage is an ExecutorError.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, runtime_checkable

import msgspec

from store.ids import TreeId
from store.snapshot import Ending, LeftOut, Limits
from store.workspace import BindMount, OverlayMount

Keep = Literal["all", "fetched", "nothing"]
Watch = Callable[[str, bytes], None]
"""Is told what a program prints while it runs: which stream ("stdout" or "stderr"), and a piece of at most PIECE_BYTES_MAX.

It is told what is kept (`Limits.output_kept_bytes`): of each stream the beginning, in order, and when that was not all of it, at the
end the mark that stands in `Output.data` too. It is called on the event loop, so it must return at once, and never after the
call that it was given to has ended. One that raises is logged and told no more; the program goes on as if nobody watched.
"""
StageWatch = Callable[[str, str, bytes], None]
"""`Watch` of a whole step: the stage, and what a `Watch` is told of it."""
PIECE_BYTES_MAX = 64 << 10


class System(msgspec.Struct, frozen=True):
    """What a session asks of the system that its programs see: an image, and where the work directory lies. '': as the server has it."""

    image: str = ""
    work_dir: str = ""


OWN_SYSTEM = System()


class Job(msgspec.Struct, frozen=True):
    """One process to run: what, with what, within what. `deterministic`: under the profile that makes programs repeat (`determinism`)."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    stdin: bytes
    limits: Limits
    deterministic: bool = False


class Output(msgspec.Struct, frozen=True):
    """What came out of one stream: the kept bytes (a mark stands where some were cut) and how many there were in all."""

    data: bytes = b""
    total_bytes: int = 0
    truncated: bool = False


class Usage(msgspec.Struct, frozen=True):
    """What a run took. None where this machine cannot tell.

    `disk_bytes`: the most that its work directory was seen to have grown by since the step began, in an overlay with the program's own
    file: counted again and again while it ran, and once when it had ended. What was written and given back between two looks is not in it.
    """

    wall_time_s: float
    cpu_time_s: float | None = None
    memory_peak_bytes: int | None = None
    disk_bytes: int | None = None


class RunResult(msgspec.Struct, frozen=True):
    """How a job ended. One of exit code and signal is set, unless it was killed for time or output."""

    ending: Ending
    exit_code: int | None
    signal: int | None
    stdout: Output
    stderr: Output
    hit: tuple[str, ...]
    usage: Usage


class Capabilities(msgspec.Struct, frozen=True):
    """What a sandbox enforces here, and how: guarantee -> mechanism. `missing` says each lack in one sentence
    that begins with the guarantee's name and a colon."""

    sandbox: str
    workspace: Literal["overlay", "copy"]
    enforced: dict[str, str]
    missing: tuple[str, ...]


class Cell(Protocol):
    """One confined place with one workspace: stages of a step run in it one after the other."""

    @property
    def scratch(self) -> int:
        """Descriptor of the folder that holds the scratch directories of this cell (`profile.SCRATCH`)."""
        ...

    async def run(self, job: Job, watch: Watch | None = None) -> RunResult:
        """Run a job to its end; on return every process of it is dead. A cancelled call kills them too. `watch` sees what it prints.

        Raises SandboxBroken; DeterminismUnavailable for a deterministic job that this sandbox cannot run so. A program that
        cannot be found or started is a result (exit code 127 or 126), not an error.
        """
        ...


class Sandbox(Protocol):
    @property
    def capabilities(self) -> Capabilities: ...

    def open(self, mount: OverlayMount | BindMount, limits: Limits) -> AbstractAsyncContextManager[Cell]:
        """A cell with this workspace as its work directory. When the context ends nothing is mounted on the workspace.

        Raises SandboxBroken on entering; on leaving, when the workspace could not be let go.
        """
        ...

    async def close(self) -> None:
        """Kill what runs and give back everything on the host. Idempotent."""
        ...


@runtime_checkable
class Identified(Protocol):
    """A `Sandbox` whose programs see another system than this machine's, such as an image."""

    def identity(self) -> bytes:
        """Digest of all that a result may depend on of that system."""
        ...


class StageRequest(msgspec.Struct, frozen=True):
    """One stage of a step, resolved: its name (compile or run), what to execute, and its limits."""

    name: str
    argv: tuple[str, ...]
    limits: Limits


class Request(msgspec.Struct, frozen=True):
    """A step, resolved, with the bytes it needs.

    `program` is put into the work directory under `program_name` for the run. `files` and `fetch` are paths as programs see
    them (`paths.resolve`). `number` is the step's: what it changes carries it. `deterministic`: all stages run under the profile
    that makes programs repeat.
    """

    tree: TreeId
    number: int
    program_name: str
    program: bytes
    stages: tuple[StageRequest, ...]
    stdin: bytes
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, bytes], ...]
    fetch: tuple[str, ...]
    keep: Keep
    system: System = OWN_SYSTEM
    deterministic: bool = False


class Result(msgspec.Struct, frozen=True):
    """What a step left: the tree afterwards, the stages that ran, the files asked for by the names they were asked under.

    A limit that capture reached (entries, bytes) counts as reached by the last stage. `system` is the digest of the system that
    programs saw: what a result may depend on beside the request.
    """

    tree: TreeId
    stages: tuple[tuple[str, RunResult], ...]
    fetched: dict[str, bytes]
    left_out: tuple[LeftOut, ...]
    warm: bool
    system: bytes = b""


class Executor(Protocol):
    async def execute(self, request: Request, watch: StageWatch | None = None) -> Result:
        """Do the step; `watch` sees what its stages print. Raises ExecutorError or StoreError when psf itself could not; then the result does not exist.

        Objects of the new tree are put into the store but not synced: the caller makes them durable with its snapshot.
        """
        ...

    async def prepare(self, system: System) -> bytes:
        """See that a system can be had, and tell its digest (`Result.system`). Raises ExecutorError, saying what is missing."""
        ...

    async def close(self) -> None: ...
