"""Snapshots: one canonical form, and nothing else is read."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest

from store import snapshot as snapshots
from store.errors import DecodeError
from store.ids import SnapshotId, blob_id
from store.snapshot import (
    EMPTY_SNAPSHOT,
    EMPTY_SNAPSHOT_BYTES,
    EMPTY_SNAPSHOT_ID,
    Ending,
    LeftOut,
    Limits,
    Outcome,
    Run,
    Snapshot,
    Stage,
    Stream,
)
from store.tree import EMPTY_TREE

BLOB = blob_id(b"content")


LIMITS = Limits()


def full_snapshot(limits: Limits = LIMITS, depth: int = 1) -> Snapshot:
    """One with every field set."""
    run = Run(
        runtime="python",
        environment=b"\x01" * 32,
        code=BLOB,
        stdin=BLOB,
        args=("-v", "é"),
        env=(("A", "1"),),
        files=(("in.txt", BLOB),),
        fetch=("out.txt",),
        keep=("*.txt",),
        limits=(("run", limits),),
        secrets=("TOKEN",),
        deterministic=True,
    )
    stream = Stream(BLOB, 7, truncated=False)
    stages = (
        Stage("compile", Ending.EXITED, 0, None, stream, stream, ()),
        Stage("run", Ending.SIGNALLED, None, 9, stream, stream, ("memory",)),
    )
    outcome = Outcome(stages, (LeftOut(b"\xff/pipe", "a FIFO"),))
    return Snapshot(1, depth, (EMPTY_SNAPSHOT_ID,), EMPTY_TREE, run, outcome)


def test_a_full_snapshot_round_trips() -> None:
    assert snapshots.decode(snapshots.encode(full_snapshot())) == full_snapshot()


@pytest.mark.parametrize("ending", list(Ending))
@pytest.mark.parametrize("keep", ["all", "fetched", ()])
def test_every_ending_and_keep_round_trips(ending: Ending, keep: str | tuple[str, ...]) -> None:
    snapshot = full_snapshot()
    assert isinstance(snapshot.step, Run)
    assert snapshot.outcome is not None
    stage = msgspec.structs.replace(snapshot.outcome.stages[1], ending=ending)
    changed = msgspec.structs.replace(
        snapshot,
        step=msgspec.structs.replace(snapshot.step, keep=keep),
        outcome=Outcome((stage,), ()),
    )
    assert snapshots.decode(snapshots.encode(changed)) == changed


def test_what_is_encoded_can_always_be_read_back() -> None:
    """Python takes 5 for a float; the format does not: an encoding that decoding refuses would be a lost step."""
    whole = full_snapshot(Limits(wall_time_s=5))
    assert snapshots.encode(whole) == snapshots.encode(full_snapshot(Limits(wall_time_s=5.0)))
    assert snapshots.decode(snapshots.encode(whole)) == whole


def test_the_empty_snapshot_is_the_base_of_every_session() -> None:
    assert snapshots.decode(EMPTY_SNAPSHOT_BYTES) == EMPTY_SNAPSHOT
    assert snapshots.snapshot_id(EMPTY_SNAPSHOT_BYTES) == EMPTY_SNAPSHOT_ID
    assert EMPTY_SNAPSHOT.depth == 0
    assert EMPTY_SNAPSHOT.parents == ()
    assert EMPTY_SNAPSHOT.tree == EMPTY_TREE


def test_equal_snapshots_have_one_name_and_others_another() -> None:
    one, same, other = (snapshots.encode(full_snapshot(depth=depth)) for depth in (1, 1, 2))
    assert snapshots.snapshot_id(one) == snapshots.snapshot_id(same) != snapshots.snapshot_id(other)


@pytest.mark.parametrize(
    "data", [b"", b"\xc0", EMPTY_SNAPSHOT_BYTES + b"\0", EMPTY_SNAPSHOT_BYTES[:-1], b"\x91" * 9999]
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        snapshots.decode(data)


def test_a_text_that_is_not_utf_8_is_refused() -> None:
    data = snapshots.encode(full_snapshot())
    assert b"\xa6python" in data
    with pytest.raises(DecodeError, match="not a snapshot"):
        snapshots.decode(data.replace(b"\xa6python", b"\xa6\xffython"))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"depth": -1},
        {"depth": snapshots.DEPTH_MAX + 1},
        {"parents": (SnapshotId(b"1" * 32), SnapshotId(b"2" * 32), SnapshotId(b"3" * 32))},
    ],
)
def test_impossible_snapshots_are_refused(change: dict[str, object]) -> None:
    data = msgspec.msgpack.encode(msgspec.structs.replace(EMPTY_SNAPSHOT, **change))
    with pytest.raises(DecodeError):
        snapshots.decode(data)


def packed(**fields: object) -> bytes:
    """A snapshot's encoding with these fields of its step instead."""
    step = full_snapshot(Limits(network="none")).step
    assert step is not None
    values = dict(zip(step.__struct_fields__, msgspec.structs.astuple(step), strict=True)) | fields
    return msgspec.msgpack.encode([1, 0, [], EMPTY_TREE, ["run", *values.values()], None])


MANY = 3_000_000


@pytest.mark.parametrize(
    "data",
    [
        packed(args=[""] * MANY),
        packed(env=[[]] * MANY),
        packed(files=[[]] * MANY),
        packed(fetch=[""] * MANY),
        packed(keep=[""] * MANY),
        packed(limits=[[]] * MANY),
        msgspec.msgpack.encode([1, 0, [b""] * MANY, EMPTY_TREE, None, None]),
        msgspec.msgpack.encode([1, 0, [], EMPTY_TREE, None, [[[]] * MANY, []]]),
        msgspec.msgpack.encode([1, 0, [], EMPTY_TREE, None, [[], [[b"", ""]] * MANY]]),
    ],
    ids=["args", "env", "files", "fetch", "keep", "limits", "parents", "stages", "left out"],
)
def test_what_there_is_much_of_is_counted_before_any_of_it_is_built(data: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(DecodeError, match="`array` of length <= "):
        snapshots.decode(data)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "fields",
    [
        {"runtime": "x" * 201},
        {"environment": b"x" * 65},
        {"code": b"x" * 33},
        {"stdin": b""},
        {"args": ["x" * ((1 << 20) + 1)]},
        {"fetch": ["x" * ((1 << 20) + 1)]},
        {"files": [["x", b"short"]]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_texts_and_ids_have_a_length(fields: dict[str, object]) -> None:
    snapshots.decode(packed())
    with pytest.raises(DecodeError, match="of length"):
        snapshots.decode(packed(**fields))


def test_the_longest_encoding_is_the_same_on_both_ways() -> None:
    """What could not be read again is not written."""
    step = full_snapshot().step
    assert step is not None
    longest = msgspec.structs.replace(step, args=("x" * (1 << 20),) * 32)
    snapshot = msgspec.structs.replace(full_snapshot(), step=longest)
    with pytest.raises(DecodeError, match="at most 33554432"):
        snapshots.encode(snapshot)
    with pytest.raises(DecodeError, match="at most 33554432"):
        snapshots.decode(msgspec.msgpack.encode(snapshot))
    shorter = msgspec.structs.replace(snapshot, step=msgspec.structs.replace(longest, args=longest.args[1:]))
    assert snapshots.decode(snapshots.encode(shorter)) == shorter


def test_a_long_encoding_of_a_number_is_refused() -> None:
    assert EMPTY_SNAPSHOT_BYTES[:2] == b"\x96\x01"
    with pytest.raises(DecodeError, match="canonical"):
        snapshots.decode(b"\x96\xcc\x01" + EMPTY_SNAPSHOT_BYTES[2:])
