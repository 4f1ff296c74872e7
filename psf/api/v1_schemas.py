"""Bodies of `/v1`. Unknown fields are refused; times in answers are RFC 3339, sizes bytes, durations seconds."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from executors.interfaces import Usage
from psf.api.schemas import LeftOutPath
from store.asked import NOTHING_ASKED, AskedLimits


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body that says nothing psf does not know."""


class FileContent(_Request, frozen=True):
    """A file to be put: base64, or text."""

    base64: str | None = None
    text: str | None = None
    executable: bool = False


class CreateRequest(_Request, frozen=True):
    """POST /v1/sessions. `from`: a snapshot id or a tag to begin with; `files` are put into that, by path."""

    runtime: str = "python"
    ttl_s: float = 1800
    name: str | None = None
    limits: AskedLimits = NOTHING_ASKED
    image: str = ""
    work_dir: str = ""
    start: str | None = msgspec.field(default=None, name="from")
    files: dict[str, FileContent] = {}


class SettingsRequest(_Request, frozen=True):
    """PATCH /v1/sessions/{id}: what is left out stays."""

    name: str | msgspec.UnsetType | None = msgspec.UNSET
    ttl_s: float | msgspec.UnsetType = msgspec.UNSET
    limits: AskedLimits | msgspec.UnsetType = msgspec.UNSET


class UndeleteRequest(_Request, frozen=True):
    """POST /v1/sessions/{id}/undelete. Without `ttl_s` as before."""

    ttl_s: float | None = None


class SessionAnswer(msgspec.Struct, frozen=True):
    """A session. `steps` is the number of the snapshot that its head stands at."""

    session_id: str
    name: str | None
    head: str
    steps: int
    runtime: str
    sandbox: str
    ttl_s: float
    limits: AskedLimits
    image: str
    work_dir: str
    created_at: str
    used_at: str
    expires_at: str
    expired: bool


class SessionsAnswer(msgspec.Struct, frozen=True):
    """Created last first. `next` is the cursor of the following page; null on the last."""

    sessions: list[SessionAnswer]
    next: str | None


class ExecuteRequest(_Request, frozen=True):
    """POST /v1/sessions/{id}/execute. `files` by name, as programs see them; `fetch` names files to be returned.

    `secrets` are variables that reach the program and no record. `expected`: the head this step is to follow. `note` is kept in the log.
    `stream`: answer by server-sent events. `compile_limits`: for the first of two stages, else those of `limits`.
    """

    code: str
    runtime: str | None = None
    stdin: str = ""
    args: list[str] = []
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}
    files: dict[str, FileContent] = {}
    fetch: list[str] = []
    keep: Literal["fetched", "all"] = "all"
    limits: AskedLimits = NOTHING_ASKED
    compile_limits: AskedLimits | None = None
    deterministic: bool = False
    memo: bool = False
    require: list[str] = []
    expected: str | None = None
    note: str = ""
    stream: bool = False


class StageAnswer(msgspec.Struct, frozen=True):
    """One stage: how its first process ended, what it printed, which limits were reached, what it took.

    Streams that are not UTF-8 come as base64 in `stdout_b64` or `stderr_b64`, and as text with replacement characters beside it.
    """

    ending: str
    exit_code: int | None
    signal: int | None
    stdout: str
    stderr: str
    stdout_bytes: int
    stderr_bytes: int
    truncated: bool
    hit: tuple[str, ...]
    usage: Usage
    stdout_b64: str | msgspec.UnsetType = msgspec.UNSET
    stderr_b64: str | msgspec.UnsetType = msgspec.UNSET


class FileAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file's content: text when it is UTF-8, else base64."""

    text: str | None = None
    base64: str | None = None


class ExecuteAnswer(msgspec.Struct, frozen=True):
    """A step. `ending` is that of the last stage that ran. `memo`: an equal step's record was taken; `repeated`: the request was done before."""

    snapshot: str
    runtime: str
    ending: str
    exit_code: int | None
    stages: dict[str, StageAnswer]
    files: dict[str, FileAnswer]
    left_out: list[LeftOutPath]
    memo: bool
    repeated: bool


class MoveRequest(_Request, frozen=True):
    """POST /v1/sessions/{id}/rollback. `to`: a snapshot id or prefix, a tag, a step number, or "-n"."""

    to: str | int
    expected: str | None = None


class HeadAnswer(msgspec.Struct, frozen=True):
    head: str


class FilesRequest(_Request, frozen=True):
    """POST /v1/sessions/{id}/files: written and deleted in one step. A path to be deleted must be there."""

    write: dict[str, FileContent] = {}
    delete: list[str] = []
    expected: str | None = None


class MergeRequest(_Request, frozen=True):
    """POST /v1/sessions/{id}/merge. `from`: another session, up to its head or to `at`."""

    start: str = msgspec.field(name="from")
    at: str | int | None = None
    on_conflict: Literal["report", "ours", "theirs"] = "report"
    expected: str | None = None


class Change(_Request, frozen=True):
    """What a step is run with instead of what is recorded."""

    code: str | None = None
    runtime: str | None = None


class ReplayRequest(_Request, frozen=True):
    """POST /v1/sessions/{id}/replay. `from` and `to` as in rollback; `change` by step number; `verify`: only read what is recorded."""

    start: str | int | None = msgspec.field(default=None, name="from")
    to: str | int | None = None
    parallel: int = 1
    change: dict[str, Change] = {}
    verify: bool = False


class DifferenceAnswer(msgspec.Struct, frozen=True):
    what: str
    stage: str | None
    recorded: str
    replayed: str
    paths: list[str]
    diff: list[str]


class ReplayedStepAnswer(msgspec.Struct, frozen=True):
    step: int
    snapshot: str
    differences: list[DifferenceAnswer]
    causes: list[str]


class ReplayAnswer(msgspec.Struct, frozen=True):
    """How many steps were run (or verified) again, and those that differ, the first divergence first."""

    steps: int
    same: bool
    different: list[ReplayedStepAnswer]
    tree: str


class BisectRequest(_Request, frozen=True):
    """POST /v1/sessions/{id}/bisect. `code` fails when it ends with anything but 0; `good` (default: the base) is taken not to fail."""

    code: str
    runtime: str | None = None
    good: str | int | None = None
    bad: str | int | None = None
    limits: AskedLimits = NOTHING_ASKED


class BisectAnswer(msgspec.Struct, frozen=True):
    """The first step after which it fails; null when after none."""

    step: int | None
    snapshot: str | None
    runs: int


class BlameAnswer(msgspec.Struct, frozen=True):
    """The step that last changed what stands at a path."""

    step: int
    snapshot: str
    runtime: str | None
    kind: str


class EntryAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands at a path. `changed`: the number of the step that last changed it. `path_b64` when the path is not UTF-8."""

    path: str
    kind: str
    size_bytes: int = 0
    changed: int = 0
    id: str | None = None
    target: str | None = None
    path_b64: str | None = None


class SnapshotAnswer(msgspec.Struct, frozen=True):
    """One record of a history: `step` its number, `did` what was asked for."""

    id: str
    step: int
    parents: list[str]
    tree: str
    kind: str
    did: dict[str, Any]
    stages: dict[str, StageAnswer]
    left_out: list[LeftOutPath]


class ManifestAnswer(msgspec.Struct, frozen=True):
    entries: list[EntryAnswer]
    next: str | None


class ChangeAnswer(msgspec.Struct, frozen=True):
    """A path that is not the same on both sides. `change`: added, removed or changed."""

    path: str
    change: str
    before: EntryAnswer | None
    after: EntryAnswer | None


class DiffAnswer(msgspec.Struct, frozen=True):
    """What differs; `unified` the lines of a text diff when they were asked for. `truncated`: there is more."""

    changes: list[ChangeAnswer]
    truncated: bool
    unified: list[str] | None = None


class TagRequest(_Request, frozen=True):
    """PUT /v1/tags/{name}: the snapshot's id, or a session and a place in its history."""

    snapshot: str | None = None
    session: str | None = None
    at: str | int | None = None


class TagAnswer(msgspec.Struct, frozen=True):
    name: str
    snapshot: str
    at: str


class TagsAnswer(msgspec.Struct, frozen=True):
    tags: list[TagAnswer]


class RuntimeAnswer(msgspec.Struct, frozen=True):
    name: str
    compiled: bool


class RuntimesAnswer(msgspec.Struct, frozen=True):
    runtimes: list[RuntimeAnswer]


class ImportedAnswer(msgspec.Struct, frozen=True):
    """A snapshot made from an archive. It stays as long as its tag."""

    snapshot: str
    tag: str
    files: int
    total_bytes: int
    left_out: list[LeftOutPath]


class CancelledAnswer(msgspec.Struct, frozen=True):
    """Whether a step was stopped; false when none ran or it was past stopping."""

    cancelled: bool
