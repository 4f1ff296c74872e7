"""A session that is there goes on by a bundle only when that is asked for, and only as it could have gone on itself."""

from __future__ import annotations

import io

import msgspec
import pytest

from store import tree as trees
from store.bundle_header import Header
from store.bundle_plan import make_plan
from store.bundle_verify import verify_bundle
from store.ids import Kind, SnapshotId
from store.interfaces import Move
from store.memory import MemoryObjects
from store.snapshot import EMPTY_SNAPSHOT_ID, Snapshot
from store.tree import EMPTY_TREE, Entry, EntryKind
from tests.store.bundles import Place, Records, filled, put_together, refused


def leading(place: Place, *snapshots: SnapshotId, records: Records, kind: str = "execute") -> bytes:
    """A bundle with moves of session `a` from where its head is there to each of the snapshots, one after the other."""
    moves, before, number = [], place.head(), len(place.log())
    for after in snapshots:
        number += 1
        moves.append(Move(number, kind, before, after, 9.0, b""))
        before = after
    session = msgspec.structs.replace(place.heads.get("a", "alice"), head=before)
    return put_together(Header(session, tuple(moves), (), 0), records)


def made(snapshot: Snapshot) -> tuple[SnapshotId, Records]:
    elsewhere = Place.in_memory()
    name = elsewhere.put_snapshot(snapshot)
    return name, [((Kind.SNAPSHOT, bytes(name)), elsewhere.objects.get(Kind.SNAPSHOT, name))]


def test_a_session_that_is_there_goes_on_only_when_that_is_asked_for(receiver: Place) -> None:
    sender = filled()
    receiver.take(sender.export(until=4), extend=False)
    for data in (sender.export(), sender.export(since=4)):
        message = refused(data, "has 2 moves more than session a here", receiver, extend=False)
        assert "`--extend`" in message
        assert "`--as ID`" in message
    assert receiver.take(sender.export(since=4), extend=True).moves == 2
    assert receiver.log() == sender.log()


def test_what_is_there_already_needs_no_asking(receiver: Place) -> None:
    data = filled().export()
    assert receiver.take(data, extend=False).change == "created"
    before = receiver.everything()
    assert receiver.take(data, extend=False).change == "unchanged"
    assert receiver.everything() == before


def test_the_copy_of_a_session_is_not_extended_without_asking_either(receiver: Place) -> None:
    sender = filled()
    receiver.take(sender.export(until=4), as_session="b", extend=False)
    refused(sender.export(), "more than session b here", receiver, as_session="b", extend=False)


@pytest.mark.parametrize("parents", [(), (EMPTY_SNAPSHOT_ID,)])
def test_a_stranger_cannot_take_a_session_over(receiver: Place, parents: tuple[SnapshotId, ...]) -> None:
    """Whoever has seen its ids knows where its head stands: not enough to lead it to what never came from there."""
    receiver.take(filled().export())
    data = trees.encode([Entry(b"run.sh", EntryKind.SYMLINK, b"evil", 4, 1)])
    tree = trees.tree_id(data)
    name, records = made(Snapshot(1, len(parents), parents, tree, None, None))
    message = refused(leading(receiver, name, records=[((Kind.TREE, tree), data), *records]), "move 7", receiver)
    assert "neither made from the one before it nor is of the history of session a; `--as ID`" in message


def test_a_stranger_after_a_good_move_is_refused_too(receiver: Place) -> None:
    receiver.take(filled().export())
    good, brought = made(Snapshot(1, 3, (receiver.head(),), EMPTY_TREE, None, None))
    bad, more = made(Snapshot(1, 1, (EMPTY_SNAPSHOT_ID,), EMPTY_TREE, None, None))
    refused(leading(receiver, good, bad, records=brought + more), "has a move 8 which leads", receiver)
    assert receiver.take(leading(receiver, good, records=brought)).change == "extended"


def test_a_session_goes_back_by_a_bundle_as_it_could_itself(receiver: Place) -> None:
    """Also to what it was forked from, which no move of its own names, and to where an earlier move of the bundle led."""
    sender = filled()
    receiver.take(sender.export(), as_session="origin")
    fork = msgspec.structs.replace(receiver.heads.get("origin", "alice"), session_id="a")
    receiver.heads.create([fork], "fork")
    child, brought = made(Snapshot(1, 3, (receiver.head(),), EMPTY_TREE, None, None))
    origin = receiver.log("origin")[-2].to_snapshot
    assert origin not in {move.to_snapshot for move in receiver.log()}
    assert receiver.take(leading(receiver, child, origin, child, EMPTY_SNAPSHOT_ID, records=brought)).moves == 4
    other = receiver.log("origin")[3].to_snapshot
    refused(leading(receiver, other, records=[], kind="rollback"), "nor is of the history of session a", receiver)


def test_the_history_is_not_read_when_every_move_goes_on() -> None:
    sender, receiver = filled(), filled()
    sender.step({b"six": b"6"})
    verified = verify_bundle(io.BytesIO(sender.export(since=6)), receiver.objects, receiver.heads, "alice")
    there = receiver.heads.get("a", "alice")
    plan = make_plan(MemoryObjects(), receiver.heads, there, verified, extend=True)
    assert [move.sequence for move in plan.moves] == [7]


def test_a_bundle_of_an_extension_is_harmless_twice(receiver: Place) -> None:
    sender = filled()
    receiver.take(sender.export(until=4))
    rest = sender.export(since=4)
    receiver.take(rest)
    assert receiver.take(rest, extend=False).change == "unchanged"
