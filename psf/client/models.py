"""What a server answers, as values. Fields that this client does not know are passed over; those that may be missing have defaults.

Ids are hexadecimal digits, times RFC 3339, sizes bytes, durations seconds.
"""

from __future__ import annotations

import base64
import signal as signals
from typing import Any

import msgspec

EXITED, SIGNALLED, TIMED_OUT = "exited", "signalled", "timed_out"
TIMED_OUT_STATUS = 124
"""As `timeout` of coreutils has it."""


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What each stage may use; None: the session's or the server's own."""

    wall_time_s: float | None = None
    cpu_time_s: int | None = None
    memory_bytes: int | None = None
    processes: int | None = None
    output_kept_bytes: int | None = None
    output_flood_bytes: int | None = None
    file_bytes: int | None = None
    scratch_bytes: int | None = None
    scratch_inodes: int | None = None
    open_files: int | None = None
    disk_bytes: int | None = None
    disk_inodes: int | None = None
    cpus: float | None = None
    network: str | None = None


class NewFile(msgspec.Struct, frozen=True):
    """A file to be written."""

    data: bytes
    executable: bool = False


class Usage(msgspec.Struct, frozen=True):
    """What a stage took; None where the server's machine cannot tell."""

    wall_time_s: float = 0.0
    cpu_time_s: float | None = None
    memory_peak_bytes: int | None = None
    disk_bytes: int | None = None


class LeftOut(msgspec.Struct, frozen=True):
    """What could not be returned or kept, and why."""

    path: str
    reason: str
    path_b64: str | None = None


class Stage(msgspec.Struct, frozen=True):
    """One stage: how its first process ended, what it printed, which limits were reached."""

    ending: str
    exit_code: int | None = None
    signal: int | None = None
    stdout: str = ""
    stderr: str = ""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    truncated: bool = False
    hit: tuple[str, ...] = ()
    usage: Usage = Usage()
    stdout_b64: str | None = None
    stderr_b64: str | None = None

    @property
    def ok(self) -> bool:
        return self.ending == EXITED and self.exit_code == 0

    @property
    def stdout_data(self) -> bytes:
        """What it printed, also when that is not UTF-8."""
        return self.stdout.encode() if self.stdout_b64 is None else base64.b64decode(self.stdout_b64)

    @property
    def stderr_data(self) -> bytes:
        return self.stderr.encode() if self.stderr_b64 is None else base64.b64decode(self.stderr_b64)

    @property
    def status(self) -> int:
        """The exit status a shell would tell: 128+n after signal n, 124 after a time-out."""
        if self.ending == TIMED_OUT:
            return TIMED_OUT_STATUS
        if self.signal is not None:
            return 128 + self.signal
        return self.exit_code if self.exit_code is not None else 128 + signals.SIGKILL


class FileContent(msgspec.Struct, frozen=True):
    """A file that was fetched."""

    text: str | None = None
    base64: str | None = None

    @property
    def data(self) -> bytes:
        return self.text.encode() if self.text is not None else base64.b64decode(self.base64 or "")


class Result(msgspec.Struct, frozen=True):
    """What became of a step. `ok`: all its stages ended with 0. A program that failed is a result like any other.

    `snapshot` is the session's new head. `memo`: an equal step's record was taken; `repeated`: the step had been done before under this key.
    """

    snapshot: str
    runtime: str
    ending: str
    stages: dict[str, Stage]
    exit_code: int | None = None
    files: dict[str, FileContent] = {}
    left_out: tuple[LeftOut, ...] = ()
    memo: bool = False
    repeated: bool = False

    @property
    def last(self) -> Stage:
        """The last stage that ran: what did not compile has no run."""
        return list(self.stages.values())[-1] if self.stages else Stage(self.ending, self.exit_code)

    @property
    def ok(self) -> bool:
        return self.last.ok

    @property
    def stdout(self) -> str:
        return self.last.stdout

    @property
    def stderr(self) -> str:
        return self.last.stderr

    @property
    def status(self) -> int:
        """The exit status a shell would tell (see Stage)."""
        return self.last.status


class SessionInfo(msgspec.Struct, frozen=True):
    """A session. `steps` is the number of the snapshot that its head stands at."""

    session_id: str
    head: str
    runtime: str
    name: str | None = None
    steps: int = 0
    sandbox: str = ""
    ttl_s: float = 0.0
    limits: Limits = Limits()
    image: str = ""
    work_dir: str = ""
    created_at: str = ""
    used_at: str = ""
    expires_at: str = ""
    expired: bool = False


class Fork(msgspec.Struct, frozen=True):
    """A session that begins on a snapshot of another one's."""

    session_id: str
    head: str
    name: str | None = None


class Move(msgspec.Struct, frozen=True):
    """One move of a head. `step` is the number of the snapshot it led to, `run` the record of an execution."""

    sequence: int
    kind: str
    to: str
    start: str | None = msgspec.field(default=None, name="from")
    at: str = ""
    step: int = 0
    runtime: str | None = None
    endings: dict[str, str] = {}
    left_out: tuple[LeftOut, ...] = ()
    run: Any = None


class Snapshot(msgspec.Struct, frozen=True):
    """One record of a history: `step` its number, `did` what was asked for, `stages` what was seen."""

    id: str
    step: int
    tree: str
    kind: str
    parents: tuple[str, ...] = ()
    did: dict[str, Any] = {}
    stages: dict[str, Stage] = {}
    left_out: tuple[LeftOut, ...] = ()


class Entry(msgspec.Struct, frozen=True):
    """What stands at a path. `kind`: file, executable, symlink, directory. `changed`: the step that last changed it."""

    path: str
    kind: str
    size_bytes: int = 0
    changed: int = 0
    id: str | None = None
    target: str | None = None
    path_b64: str | None = None


class Change(msgspec.Struct, frozen=True):
    """A path that is not the same on both sides. `change`: added, removed or changed."""

    path: str
    change: str
    before: Entry | None = None
    after: Entry | None = None


class Diff(msgspec.Struct, frozen=True):
    """What differs; `unified` the lines of a text diff when they were asked for. `truncated`: there is more."""

    changes: tuple[Change, ...]
    truncated: bool = False
    unified: tuple[str, ...] | None = None


class Difference(msgspec.Struct, frozen=True):
    """One thing that came out otherwise."""

    what: str
    stage: str | None = None
    recorded: str = ""
    replayed: str = ""
    paths: tuple[str, ...] = ()
    diff: tuple[str, ...] = ()


class ReplayedStep(msgspec.Struct, frozen=True):
    step: int
    snapshot: str
    differences: tuple[Difference, ...] = ()
    causes: tuple[str, ...] = ()


class Replay(msgspec.Struct, frozen=True):
    """How many steps were run (or verified) again, and those that differ, the first divergence first."""

    steps: int
    same: bool
    different: tuple[ReplayedStep, ...] = ()
    tree: str = ""


class Bisection(msgspec.Struct, frozen=True):
    """The first step after which the program fails; None when after none."""

    step: int | None = None
    snapshot: str | None = None
    runs: int = 0


class Blame(msgspec.Struct, frozen=True):
    """The step that last changed what stands at a path."""

    step: int
    snapshot: str
    runtime: str | None = None
    kind: str = ""


class Tag(msgspec.Struct, frozen=True):
    name: str
    snapshot: str
    at: str = ""


class Runtime(msgspec.Struct, frozen=True):
    name: str
    compiled: bool = False


class Uploaded(msgspec.Struct, frozen=True):
    """A snapshot made of an archive. It stays as long as its tag."""

    snapshot: str
    tag: str
    files: int = 0
    total_bytes: int = 0
    left_out: tuple[LeftOut, ...] = ()


class BundleTaken(msgspec.Struct, frozen=True):
    """What a bundle brought. `change`: created, extended or unchanged."""

    session_id: str
    change: str = ""
    moves: int = 0
    objects: int = 0


class Health(msgspec.Struct, frozen=True):
    """The server: its version, its sandbox and what that guarantees there."""

    status: str
    version: str = ""
    sandbox: dict[str, Any] = {}
