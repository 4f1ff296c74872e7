"""Snapshots, steps and outcomes: the immutable facts of a history, and their canonical encoding.

A snapshot holds nothing that may differ between two equal runs: no clock, no host, no duration. Such facts are in the run
record, beside the log entry. Text of a program's output is a blob; a snapshot names it.

Snapshots also come from strangers. So what they hold is counted and bounded, and all of that is compared before anything is built:
a few bytes of an encoding can be a hundred in memory.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import msgspec

from store.errors import DecodeError
from store.ids import ID_BYTES, BlobId, Kind, SnapshotId, TreeId, object_id
from store.tree import EMPTY_TREE

VERSION = 1
DEPTH_MAX = 10_000_000
SNAPSHOT_BYTES_MAX = 32 << 20
"""The longest encoding: names of files that were sent, fetched and left out, and arguments, are what makes one long."""
STAGES_MAX = 16
PARTS_MAX = 20_000
"""Of everything else that there may be many of: files sent, names fetched, paths left out."""

Word = Annotated[str, msgspec.Meta(max_length=200)]
"""What psf itself calls something."""
Text = Annotated[str, msgspec.Meta(max_length=1 << 20)]
PathBytes = Annotated[bytes, msgspec.Meta(max_length=1 << 20)]
_IS_ID = msgspec.Meta(min_length=ID_BYTES, max_length=ID_BYTES)
_Blob = Annotated[BlobId, _IS_ID]
_FEW = msgspec.Meta(max_length=STAGES_MAX)
_MANY = msgspec.Meta(max_length=PARTS_MAX)


class Ending(enum.StrEnum):
    """How the first process of a stage ended. Every ending is a result; none is an error of psf."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"
    DISK_LIMIT = "disk_limit"


Network = Literal["none", "loopback", "egress"]
"""What programs can reach: nothing, one another over a loopback of their own, or what lies beyond the machine."""


class Limits(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one stage may use. `kept` bytes of each stream are stored; at `flood` bytes the program is killed.

    `disk_bytes` and `disk_inodes` are what a run may add to the work directory; `cpus` how many processors' time it gets, None: all.
    """

    wall_time_s: float = 10.0
    cpu_time_s: int = 3600
    memory_bytes: int = 2 << 30
    processes: int = 128
    output_kept_bytes: int = 8 << 20
    output_flood_bytes: int = 256 << 20
    file_bytes: int = 1 << 30
    scratch_bytes: int = 512 << 20
    scratch_inodes: int = 100_000
    open_files: int = 1024
    disk_bytes: int = 8 << 30
    disk_inodes: int = 200_000
    cpus: float | None = None
    network: Network = "loopback"


class Run(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="run"):
    """A step that ran a program. All that its result may depend on, besides the tree it started from."""

    runtime: Word
    environment: Annotated[bytes, msgspec.Meta(max_length=64)]
    """Digest of the runtime row, the root file system, the sandbox kind and profile, and the architecture."""
    code: _Blob
    stdin: _Blob
    args: Annotated[tuple[Text, ...], _MANY]
    env: Annotated[tuple[tuple[Text, Text], ...], _MANY]
    files: Annotated[tuple[tuple[Text, _Blob], ...], _MANY]
    fetch: Annotated[tuple[Text, ...], _MANY]
    keep: Literal["all", "fetched"] | Annotated[tuple[Text, ...], _MANY]
    limits: Annotated[tuple[tuple[Word, Limits], ...], _FEW]
    """Effective limits of each stage, by its name."""
    secrets: Annotated[tuple[Text, ...], _MANY] = ()
    """Names of variables whose values the run had and nobody keeps."""
    deterministic: bool = False
    """Whether it ran under the profile that makes programs repeat."""


class Written(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A file that was put: its path from the root, names parted by slashes."""

    path: PathBytes
    blob: _Blob
    size_bytes: int
    executable: bool


class Write(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="write"):
    """A step that ran nothing: paths were deleted, with all below them, and then files put. Sorted by path."""

    files: Annotated[tuple[Written, ...], _MANY]
    deleted: Annotated[tuple[PathBytes, ...], _MANY]


class Merge(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="merge"):
    """A step that brought the second parent's changes since `base` into the first. `on_conflict`: whose side was taken."""

    base: Annotated[SnapshotId, _IS_ID]
    on_conflict: Literal["report", "ours", "theirs"]


Step = Run | Write | Merge

_FIRST_FIELDS = {Limits: 10, Run: 10}
"""So many fields are always encoded. Later ones are left off the end while they have their defaults, so that the bytes of older
snapshots stay what they were. Those defaults must therefore never change."""


class Stream(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One output stream: its kept bytes (with a mark where some were cut) and how many there were in all."""

    blob: _Blob
    total_bytes: int
    truncated: bool


class Stage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What was seen of one stage (compile or run). Exactly one of exit code and signal is set when known."""

    name: Word
    ending: Ending
    exit_code: int | None
    signal: int | None
    stdout: Stream
    stderr: Stream
    hit: Annotated[tuple[Word, ...], _FEW]
    """Limits reached on the way, whatever the ending: memory, processes, output, ..."""


class LeftOut(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A path that was there after the run and could not be kept, with the reason."""

    path: PathBytes
    reason: Annotated[str, msgspec.Meta(max_length=1000)]


class Outcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    stages: Annotated[tuple[Stage, ...], _FEW]
    left_out: Annotated[tuple[LeftOut, ...], _MANY]


class Snapshot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One state of a work directory and how it came to be. `depth` is its distance from the base of its history."""

    version: int
    depth: int
    parents: Annotated[tuple[Annotated[SnapshotId, _IS_ID], ...], msgspec.Meta(max_length=2)]
    tree: Annotated[TreeId, _IS_ID]
    step: Step | None
    outcome: Outcome | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    """Canonical bytes of a snapshot. Raises DecodeError for one that decoding would refuse: it would be a lost step."""
    # There and back, since Python takes 5 for 5.0 and the two have different bytes.
    return _encoded(_decoded(_encoder.encode(snapshot)))


def decode(data: bytes) -> Snapshot:
    """The snapshot that `data` encodes. Raises DecodeError unless `data` is exactly what `encode` gives for it."""
    snapshot = _decoded(data)
    if snapshot.version != VERSION:
        raise DecodeError(f"snapshot format {snapshot.version} is not known; this psf reads {VERSION}")
    if not 0 <= snapshot.depth <= DEPTH_MAX:
        raise DecodeError(f"not a snapshot: it has the depth {snapshot.depth}; at most {DEPTH_MAX} is possible")
    if _encoded(snapshot) != data:
        raise DecodeError("not a snapshot: its encoding is not the canonical one")
    return snapshot


def _encoded(snapshot: Snapshot) -> bytes:
    step = snapshot.step
    if not isinstance(step, Run):
        return _encoder.encode(snapshot)
    limits = tuple((name, _without_defaults(given)) for name, given in step.limits)
    plain: Any = ("run", *_without_defaults(msgspec.structs.replace(step, limits=limits)))
    return _encoder.encode(msgspec.structs.replace(snapshot, step=plain))


def _without_defaults(value: Limits | Run) -> tuple[object, ...]:
    fields, defaults = msgspec.structs.astuple(value), value.__struct_defaults__
    length, first = len(fields), _FIRST_FIELDS[type(value)]
    while length > first and fields[length - 1] == defaults[length - 1 - len(fields)]:
        length -= 1
    return fields[:length]


def _decoded(data: bytes) -> Snapshot:
    if len(data) > SNAPSHOT_BYTES_MAX:
        raise DecodeError(f"not a snapshot: {len(data)} bytes; at most {SNAPSHOT_BYTES_MAX} are kept")
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"not a snapshot: {error}") from None


def snapshot_id(data: bytes) -> SnapshotId:
    return SnapshotId(object_id(Kind.SNAPSHOT, data))


EMPTY_SNAPSHOT = Snapshot(VERSION, 0, (), EMPTY_TREE, None, None)
"""Where a new session starts: an empty work directory."""
EMPTY_SNAPSHOT_BYTES = encode(EMPTY_SNAPSHOT)
EMPTY_SNAPSHOT_ID = snapshot_id(EMPTY_SNAPSHOT_BYTES)
