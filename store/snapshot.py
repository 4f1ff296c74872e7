"""Snapshots, steps and outcomes: the immutable facts of a history, and their canonical encoding.

A snapshot holds nothing that may differ between two equal runs: no clock, no host, no duration. Such facts are in the run
record, beside the log entry. Text of a program's output is a blob; a snapshot names it.
"""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

from store.errors import DecodeError
from store.ids import BlobId, Kind, SnapshotId, TreeId, object_id
from store.tree import EMPTY_TREE

VERSION = 1
DEPTH_MAX = 10_000_000


class Ending(enum.StrEnum):
    """How the first process of a stage ended. Every ending is a result; none is an error of psf."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"


class Limits(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one stage may use. `kept` bytes of each stream are stored; at `flood` bytes the program is killed."""

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


class Run(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="run"):
    """A step that ran a program. All that its result may depend on, besides the tree it started from."""

    runtime: str
    environment: bytes
    """Digest of the runtime row, the root file system, the sandbox kind and profile, and the architecture."""
    code: BlobId
    stdin: BlobId
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, BlobId], ...]
    fetch: tuple[str, ...]
    keep: Literal["all", "fetched"] | tuple[str, ...]
    limits: tuple[tuple[str, Limits], ...]
    """Effective limits of each stage, by its name."""


class Stream(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One output stream: its kept bytes (with a mark where some were cut) and how many there were in all."""

    blob: BlobId
    total_bytes: int
    truncated: bool


class Stage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What was seen of one stage (compile or run). Exactly one of exit code and signal is set when known."""

    name: str
    ending: Ending
    exit_code: int | None
    signal: int | None
    stdout: Stream
    stderr: Stream
    hit: tuple[str, ...]
    """Limits reached on the way, whatever the ending: memory, processes, output, ..."""


class LeftOut(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A path that was there after the run and could not be kept, with the reason."""

    path: bytes
    reason: str


class Outcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    stages: tuple[Stage, ...]
    left_out: tuple[LeftOut, ...]


class Snapshot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One state of a work directory and how it came to be. `depth` is its distance from the base of its history."""

    version: int
    depth: int
    parents: tuple[SnapshotId, ...]
    tree: TreeId
    step: Run | None
    outcome: Outcome | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    """Canonical bytes of a snapshot."""
    # There and back, since Python takes 5 for 5.0 and the two have different bytes.
    return _encoder.encode(_decoder.decode(_encoder.encode(snapshot)))


def decode(data: bytes) -> Snapshot:
    """The snapshot that `data` encodes. Raises DecodeError unless `data` is exactly what `encode` gives for it."""
    try:
        snapshot = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"not a snapshot: {error}") from None
    if snapshot.version != VERSION:
        raise DecodeError(f"snapshot format {snapshot.version} is not known; this psf reads {VERSION}")
    if len(snapshot.parents) > 2 or not 0 <= snapshot.depth <= DEPTH_MAX:
        raise DecodeError("not a snapshot: it has more than two parents or an impossible depth")
    if _encoder.encode(snapshot) != data:
        raise DecodeError("not a snapshot: its encoding is not the canonical one")
    return snapshot


def snapshot_id(data: bytes) -> SnapshotId:
    return SnapshotId(object_id(Kind.SNAPSHOT, data))


EMPTY_SNAPSHOT = Snapshot(VERSION, 0, (), EMPTY_TREE, None, None)
"""Where a new session starts: an empty work directory."""
EMPTY_SNAPSHOT_BYTES = encode(EMPTY_SNAPSHOT)
EMPTY_SNAPSHOT_ID = snapshot_id(EMPTY_SNAPSHOT_BYTES)
