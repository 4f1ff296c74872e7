"""Heads from the packs: after a power cut that took SQLite's last transactions, and beside processes that go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from store.errors import HeadMoved, SessionExists, SessionMissing
from store.faulty import FaultyFiles
from store.files import Files
from store.ids import Kind
from store.local import LocalStore
from store.moves import MoveRecord
from store.recovery import continuation
from store.snapshot import EMPTY_SNAPSHOT_ID
from store.testing import move, nobody, session, snapshot_name
from tests.store.history import TENANT, begin, files_of, never, put_step, step, with_heads


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path / "store")
    yield store
    store.close()


def power_cut(store: LocalStore, *, kept: dict[str, bytes]) -> LocalStore:
    """A store as it is after one: of heads.sqlite only what was synced, that is `kept`. The packs lose nothing that was synced."""
    return LocalStore(with_heads(store, kept))


def synced(store: LocalStore) -> dict[str, bytes]:
    """What SQLite has made durable when everything is settled."""
    store.heads.settle()
    return {name: (store.root / name).read_bytes() for name in ("heads.sqlite", "heads.sqlite-wal")}


def test_what_sqlite_had_not_synced_is_in_the_packs(store: LocalStore) -> None:
    begin(store, "old")
    step(store, "old", {b"f": b"one"})
    kept = synced(store)
    last = step(store, "old", {b"f": b"two"})
    begin(store, "new")
    after = power_cut(store, kept=kept)
    assert after.heads.get("old", TENANT) == store.heads.get("old", TENANT)
    assert after.heads.log("old", before=None, limit=9) == store.heads.log("old", before=None, limit=9)
    assert after.heads.get("new", TENANT) == store.heads.get("new", TENANT)
    assert files_of(after, last) == {b"f": b"two"}
    report, _ = after.check(full=True)
    assert report.clean
    step(after, "old", {b"f": b"three"})
    after.close()


@pytest.mark.parametrize("used_again", [False, True])
def test_a_session_that_was_dropped_stays_dropped(store: LocalStore, used_again: bool) -> None:
    begin(store, "a")
    step(store, "a", {b"f": b"one"})
    kept = synced(store)
    assert store.heads.drop_unused_since(1e12, is_running=nobody) == 1
    if used_again:
        again = msgspec.structs.replace(session("a"), head=EMPTY_SNAPSHOT_ID, created_at_s=700.0)
        store.heads.create([again], "create")
    after = power_cut(store, kept=kept)
    assert len(after.heads.log("a", before=None, limit=9)) == used_again
    assert [last.session.created_at_s for last in after.heads.last_moves()] == [700.0] * used_again
    after.close()


def test_a_session_that_moves_while_it_is_dropped_is_dropped_after_that_move(store: LocalStore) -> None:
    begin(store, "a", used_at_s=10.0)

    def moves_on(_: str) -> bool:
        step(store, "a", {b"f": b"late"}, at_s=10.0)
        return False

    assert store.heads.drop_unused_since(1e6, is_running=moves_on) == 1
    assert store.check(full=True)[0].clean


def test_what_has_been_followed_is_not_followed_again(store: LocalStore) -> None:
    """Else a session whose end another process wrote down elsewhere would come back."""
    begin(store, "a")
    other = LocalStore(store.root)
    other.heads.drop_unused_since(1e12, is_running=nobody)
    other.objects.seal()
    other.close()
    store.close()
    again = LocalStore(store.root)
    with pytest.raises(SessionMissing):
        again.heads.get("a", TENANT)
    again.close()


def test_a_new_database_is_not_filled_by_itself(store: LocalStore) -> None:
    """What else was lost with it cannot be known: that is for `check --repair`, which reads all packs."""
    begin(store, "a")
    after = power_cut(store, kept={})
    with pytest.raises(SessionMissing):
        after.heads.get("a", TENANT)
    assert after.check(full=True)[0].behind
    after.close()
    assert LocalStore.mend(after.root).report.clean
    after = LocalStore(after.root)
    assert after.heads.get("a", TENANT) == store.heads.get("a", TENANT)
    after.close()


def test_a_move_is_durable_before_it_is_seen_and_not_told_when_it_cannot_be(tmp_path: Path) -> None:
    files = FaultyFiles()
    store = LocalStore(tmp_path, files)
    begin(store, "a")
    performed = len(files.performed)
    snapshot = put_step(store, EMPTY_SNAPSHOT_ID, 1, {b"f": b"content"})
    store.heads.advance("a", EMPTY_SNAPSHOT_ID, msgspec.structs.replace(move(1), to_snapshot=snapshot))
    assert files.performed[performed:] == ["append", "sync"] * 2  # one for put_step's own sync, one for the move
    files.fail_at = files.operations + 1
    with pytest.raises(OSError, match="injected"):
        store.heads.advance("a", snapshot, msgspec.structs.replace(move(2), to_snapshot=EMPTY_SNAPSHOT_ID))
    assert store.heads.get("a", TENANT).head == snapshot
    store.heads.advance("a", snapshot, msgspec.structs.replace(move(2), to_snapshot=EMPTY_SNAPSHOT_ID))
    store.close()
    store = LocalStore(tmp_path)
    assert store.heads.get("a", TENANT).head == EMPTY_SNAPSHOT_ID
    assert store.check(full=True)[0].clean
    store.close()


def test_what_is_refused_is_not_written_down(store: LocalStore) -> None:
    begin(store, "a")
    moves = {name for name in store.objects if name[0] is Kind.MOVE}
    with pytest.raises(SessionExists):
        store.heads.create([session("b"), session("a")], "create")
    with pytest.raises(HeadMoved):
        store.heads.advance("a", snapshot_name(9), move(1))
    store.objects.sync()
    assert {name for name in store.objects if name[0] is Kind.MOVE} == moves


def test_a_move_that_another_process_is_about_to_make_is_not_missed(store: LocalStore) -> None:
    """It is in a pack before it is in the database."""
    begin(store, "a")
    snapshot = put_step(store, EMPTY_SNAPSHOT_ID, 1, {b"f": b"content"})
    other = LocalStore(store.root)
    journal = store.heads._journal
    assert journal is not None
    made = store.heads.get("a", TENANT)
    ahead = msgspec.structs.replace(move(2), sequence=2, from_snapshot=EMPTY_SNAPSHOT_ID, to_snapshot=snapshot)
    journal.moved(type(other.heads.last_moves().__next__())(msgspec.structs.replace(made, head=snapshot), ahead))
    store.objects.sync()
    assert other.check(full=True)[0].clean
    other.sweep(dry=False, pause=never)
    other.close()


def test_packs_are_sealed_only_when_sqlite_is_durable(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store", Files(), seal_bytes=600)
    begin(store, "a")
    for number in range(6):
        step(store, "a", {b"f": b"%d" % number * 200})
    sealed = sorted(path.name for path in (store.root / "packs").glob("*.pack"))
    assert sealed
    newest = max(store.heads.followed_bytes())
    assert not (store.root / "packs" / f"{newest:08d}.pack").exists()
    store.close()


def made(sequence: int, start: int, end: int, group: int) -> MoveRecord:
    moved = msgspec.structs.replace(
        move(sequence), sequence=sequence, from_snapshot=snapshot_name(start), to_snapshot=snapshot_name(end)
    )
    left = msgspec.structs.replace(session("a"), head=snapshot_name(end))
    return MoveRecord(sequence, left, moved, group)


def test_a_chain_goes_on_as_far_as_it_has_no_gap() -> None:
    first = msgspec.structs.replace(made(1, 0, 1, 1), move=msgspec.structs.replace(move(1), from_snapshot=None))
    chain = [made(2, 1, 2, 2), made(3, 2, 3, 3)]
    start = msgspec.structs.replace(
        first, session=msgspec.structs.replace(session("a"), head=snapshot_name(1)), sequence=1
    )
    assert continuation(None, [*chain, made(5, 4, 5, 5), start]) == [start, *chain]


def test_of_two_moves_in_one_place_the_later_counts_whatever_the_clock_says() -> None:
    first = msgspec.structs.replace(made(1, 0, 1, 1), move=msgspec.structs.replace(move(1), from_snapshot=None))
    failed, retried = made(2, 1, 7, 2), made(2, 1, 2, 3)
    assert continuation(None, [first, failed, retried, made(3, 2, 3, 4)])[1] == retried
    assert continuation(None, [retried, failed, first])[1:] == [retried]
