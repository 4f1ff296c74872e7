"""Files that are written or deleted without a program, and histories that are merged."""

from __future__ import annotations

import pytest

from psf.errors import MergeConflicts, NoCommonStep, PathMissing, SessionExpired
from psf.lineage import blame
from store import snapshot as snapshots
from store.capture import Path
from store.check import check
from store.diff import diff
from store.edit import FileEdit
from store.errors import NotInHistory, SessionMissing
from store.ids import Kind, SnapshotId
from store.interfaces import Move
from store.known import KnownTrees
from store.merging import OnConflict
from store.snapshot import Merge, Snapshot, Write
from store.tree import EMPTY_TREE
from tests.psf.service import TENANT, Bench


def path(text: str) -> Path:
    return tuple(text.encode().split(b"/"))


async def write(bench: Bench, session: str, *deleted: str, **files: str) -> SnapshotId:
    edits = {path(name.replace("__", "/")): FileEdit(text.encode()) for name, text in files.items()}
    return await bench.changes.write(session, TENANT, edits, [path(name) for name in deleted])


def get(bench: Bench, identity: SnapshotId) -> Snapshot:
    return snapshots.decode(bench.store.objects.get(Kind.SNAPSHOT, identity))


async def files(bench: Bench, session: str) -> dict[str, str]:
    objects, tree = bench.store.objects, get(bench, bytes.fromhex(await bench.head(session))).tree  # type: ignore[arg-type]
    found = {}
    for change in diff(objects, EMPTY_TREE, tree):
        if change.after is not None and change.after.is_file:
            found[b"/".join(change.path).decode()] = objects.get(Kind.BLOB, change.after.content).decode()
    return found


async def test_files_are_written_and_deleted_as_one_step_that_a_program_finds(bench: Bench) -> None:
    session = await bench.session()
    await bench.step(session, "old=1")
    head = await write(bench, session, "old", a="1", d__b="2")
    assert await files(bench, session) == {"a": "1", "d/b": "2"}
    snapshot = get(bench, head)
    assert isinstance(snapshot.step, Write)
    assert ([file.path for file in snapshot.step.files], snapshot.step.deleted) == ([b"a", b"d/b"], (b"old",))
    assert (snapshot.depth, snapshot.outcome) == (2, None)
    assert await bench.moves(session) == ["create", "execute", "write"]
    await bench.step(session, "c=3")
    assert bench.fake.requests[-1].tree == snapshot.tree
    assert bench.fake.requests[-1].number == 3


async def test_a_write_is_gone_back_from_like_any_step(bench: Bench) -> None:
    session = await bench.session()
    await write(bench, session, a="1")
    await bench.service.rollback(session, TENANT, 0)
    assert await files(bench, session) == {}
    await bench.service.rollback(session, TENANT, 1)
    assert await files(bench, session) == {"a": "1"}


async def test_equal_writes_give_equal_snapshots(bench: Bench) -> None:
    one, other = await bench.session(), await bench.session()
    assert await write(bench, one, a="1", b="2") == await write(bench, other, b="2", a="1")


async def test_deleting_what_is_not_there_is_refused_and_changes_nothing(bench: Bench) -> None:
    session = await bench.session()
    head = await write(bench, session, a="1")
    with pytest.raises(PathMissing, match="'d/x'"):
        await write(bench, session, "a", "d/x", b="2")
    assert await bench.head(session) == head.hex()


async def test_sessions_that_are_gone_or_anothers_are_not_changed(bench: Bench) -> None:
    session = await bench.session(ttl_s=10)
    with pytest.raises(SessionMissing):
        await bench.changes.write(session, "somebody", {path("a"): FileEdit(b"1")})
    bench.clock.now_s += 20
    with pytest.raises(SessionExpired):
        await write(bench, session, a="1")
    with pytest.raises(SessionExpired):
        await bench.changes.merge(session, TENANT, session)


async def forked(bench: Bench, session: str) -> str:
    (fork,) = await bench.service.fork(session, TENANT)
    return fork.session_id


async def test_what_a_fork_changed_is_brought_back(bench: Bench) -> None:
    session = await bench.session()
    base = await write(bench, session, a="1", b="1", c="1")
    fork = await forked(bench, session)
    ours, theirs = await write(bench, session, a="2"), await write(bench, fork, "c", b="2")
    head = await bench.changes.merge(session, TENANT, fork)
    assert await files(bench, session) == {"a": "2", "b": "2"}
    snapshot = get(bench, head)
    assert (snapshot.parents, snapshot.step, snapshot.depth) == ((ours, theirs), Merge(base, "report"), 3)
    assert await files(bench, fork) == {"a": "1", "b": "2"}
    found = blame(KnownTrees(bench.store.objects), head, path("b"))
    assert found is not None
    assert found.identity == theirs
    assert check(bench.store.objects, bench.store.heads).clean


async def test_what_is_in_our_history_already_is_not_merged_again(bench: Bench) -> None:
    session = await bench.session()
    await write(bench, session, a="1")
    fork = await forked(bench, session)
    head = await write(bench, session, a="2")
    assert await bench.changes.merge(session, TENANT, fork) == head
    assert await bench.moves(session) == ["create", "write", "write"]
    await write(bench, fork, b="1")
    merged = await bench.changes.merge(session, TENANT, fork)
    assert await bench.changes.merge(session, TENANT, fork) == merged


async def test_conflicts_are_told_with_both_sides_and_nothing_is_merged(bench: Bench) -> None:
    session = await bench.session()
    await write(bench, session, a="1")
    fork = await forked(bench, session)
    head = await write(bench, session, a="22", b="1")
    theirs = await write(bench, fork, "a", c="1")
    with pytest.raises(MergeConflicts, match="both sides changed a;") as caught:
        await bench.changes.merge(session, TENANT, fork)
    (conflict,) = caught.value.conflicts
    assert (caught.value.ours, caught.value.theirs) == (head.hex(), theirs.hex())
    assert conflict.ours is not None
    assert (conflict.path, conflict.ours.size_bytes, conflict.theirs) == ((b"a",), 2, None)
    assert await bench.head(session) == head.hex()


@pytest.mark.parametrize(("on_conflict", "merged"), [("ours", {"a": "2", "b": "1"}), ("theirs", {"a": "3", "b": "1"})])
async def test_a_side_may_be_preferred(bench: Bench, on_conflict: OnConflict, merged: dict[str, str]) -> None:
    session = await bench.session()
    await write(bench, session, a="1")
    fork = await forked(bench, session)
    await write(bench, session, a="2")
    await write(bench, fork, a="3", b="1")
    await bench.changes.merge(session, TENANT, fork, on_conflict=on_conflict)
    assert await files(bench, session) == merged


async def test_an_earlier_step_of_the_other_may_be_merged(bench: Bench) -> None:
    session = await bench.session()
    fork = await forked(bench, session)
    await write(bench, fork, a="1")
    await write(bench, fork, b="1")
    await bench.changes.merge(session, TENANT, fork, at=1)
    assert await files(bench, session) == {"a": "1"}
    with pytest.raises(NotInHistory):
        await bench.changes.merge(session, TENANT, fork, at=9)
    with pytest.raises(SessionMissing):
        await bench.changes.merge(session, TENANT, "nobody")


async def test_histories_that_never_were_one_are_not_merged(bench: Bench) -> None:
    session = await bench.session()
    other = snapshots.encode(Snapshot(1, 0, (), EMPTY_TREE, Write((), ()), None))
    base = SnapshotId(bench.store.objects.put(Kind.SNAPSHOT, other))
    service = bench.service
    stranger = await service.get(await bench.session(), TENANT)
    bench.store.heads.advance(stranger.session_id, stranger.head, Move(0, "import", stranger.head, base, 1.0, b""))
    with pytest.raises(NoCommonStep):
        await bench.changes.merge(session, TENANT, stranger.session_id)
