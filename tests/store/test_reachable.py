"""Every kind of step keeps what it names, and a check says of each part what it is to a person."""

from __future__ import annotations

import msgspec
import pytest

from store import snapshot as snapshots
from store.check import _labelled_needs
from store.ids import BlobId, Kind, SnapshotId, blob_id
from store.memory import MemoryObjects
from store.reachable import mark, snapshot_needs
from store.snapshot import EMPTY_SNAPSHOT_ID, Ending, Merge, Outcome, Run, Snapshot, Stage, Step, Stream, Write, Written
from store.tree import EMPTY_TREE


def blob(text: str) -> BlobId:
    return blob_id(text.encode())


RUN = Run("python", b"", blob("code"), blob("stdin"), (), (), (("in.txt", blob("sent")),), (), "all", ())
WRITE = Write((Written(b"d/\xff", blob("written"), 7, executable=False),), (b"old",))
MERGE = Merge(EMPTY_SNAPSHOT_ID, "report")
OUTCOME = Outcome(
    (Stage("run", Ending.EXITED, 0, None, Stream(blob("out"), 3, False), Stream(blob("err"), 3, False), ()),), ()
)


def after(step: Step, outcome: Outcome | None, parents: tuple[SnapshotId, ...] = (EMPTY_SNAPSHOT_ID,)) -> Snapshot:
    return Snapshot(snapshots.VERSION, 1, parents, EMPTY_TREE, step, outcome)


@pytest.mark.parametrize(
    ("snapshot", "texts"),
    [
        (after(RUN, OUTCOME), ["code", "stdin", "sent", "out", "err"]),
        (after(WRITE, None), ["written"]),
        (after(MERGE, None, (SnapshotId(b"\x01" * 32), SnapshotId(b"\x02" * 32))), []),
    ],
    ids=["run", "write", "merge"],
)
def test_a_snapshot_needs_all_that_it_names(snapshot: Snapshot, texts: list[str]) -> None:
    needs = set(snapshot_needs(snapshot))
    assert {name for name in needs if name[0] is Kind.BLOB} == {(Kind.BLOB, blob(text)) for text in texts}
    assert needs >= {(Kind.SNAPSHOT, parent) for parent in snapshot.parents} | {(Kind.TREE, EMPTY_TREE)}
    objects = MemoryObjects()
    name = (Kind.SNAPSHOT, objects.put(Kind.SNAPSHOT, snapshots.encode(snapshot)))
    assert {part for part, _ in _labelled_needs(objects, name, "")} == needs


def test_a_written_file_is_called_by_its_path() -> None:
    objects = MemoryObjects()
    name = (Kind.SNAPSHOT, objects.put(Kind.SNAPSHOT, snapshots.encode(after(WRITE, None))))
    assert ((Kind.BLOB, blob("written")), "step 1, written file d/\\xff") in _labelled_needs(objects, name, "")


def test_what_a_write_names_is_marked() -> None:
    objects, reachable = MemoryObjects(), set[tuple[Kind, bytes]]()
    snapshot = msgspec.structs.replace(after(WRITE, None), parents=())
    mark(objects, [(Kind.SNAPSHOT, objects.put(Kind.SNAPSHOT, snapshots.encode(snapshot)))], reachable)
    assert (Kind.BLOB, blob("written")) in reachable
