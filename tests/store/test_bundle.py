"""Bundles: a session comes over whole, from any store to any other, as often as one likes, and only what is lacking."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from store import bundle
from store.bundle_export import export_bundle
from store.bundle_import import Imported, import_bundle
from store.bundle_verify import verify_bundle
from store.capture import put_tree
from store.check import check
from store.errors import BundleRefused, NotInHistory, WriterFenced
from store.ids import BlobId, Kind, SnapshotId
from store.local import LocalStore
from store.memory import MemoryHeads, MemoryObjects
from store.snapshot import EMPTY_SNAPSHOT_ID, Snapshot
from store.testing import in_threads, nobody
from store.tree import EMPTY_TREE, Entry, EntryKind
from tests.store.bundles import NOW_S, Place, filled


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Place]:
    store = LocalStore(tmp_path / "store")
    yield Place(store.objects, store.heads)
    store.close()


@pytest.fixture(params=["memory", "local"])
def receiver(request: pytest.FixtureRequest) -> Place:
    if request.param == "memory":
        return Place.in_memory()
    place: Place = request.getfixturevalue("local")
    return place


def test_a_session_comes_over_whole(receiver: Place) -> None:
    sender = filled()
    data, facts = sender.exported()
    assert receiver.take(data) == Imported("a", "created", 6, facts.objects)
    assert receiver.log() == sender.log()
    sent = sender.heads.get("a", "alice")
    assert receiver.heads.get("a", "alice") == msgspec.structs.replace(sent, created_at_s=NOW_S, used_at_s=NOW_S)
    report = check(receiver.objects, receiver.heads)
    assert report.clean, report
    assert len(data) == facts.size_bytes
    assert facts.prerequisites == ()


def test_a_session_comes_from_a_local_store_too(local: Place) -> None:
    sender, receiver = filled(lambda: local), Place.in_memory()
    receiver.take(sender.export())
    assert receiver.log() == sender.log()
    assert check(receiver.objects, receiver.heads).clean
    assert sender.export() == filled().export()


def test_a_session_that_came_over_goes_on_and_back(receiver: Place) -> None:
    sender = filled()
    receiver.take(sender.export())
    receiver.step({b"four": b"4"})
    assert sender.take(receiver.export(since=6)).change == "extended"
    assert sender.log() == receiver.log()
    assert sender.heads.get("a", "alice").head == receiver.head()
    assert check(sender.objects, sender.heads).clean


def test_importing_again_changes_nothing(receiver: Place) -> None:
    data = filled().export()
    receiver.take(data)
    before = receiver.everything()
    assert receiver.take(data) == Imported("a", "unchanged", 0, 0)
    assert receiver.everything() == before


def test_a_log_that_has_gone_on_contains_the_bundle(receiver: Place) -> None:
    data = filled().export()
    receiver.take(data)
    receiver.step({b"later": b"5"})
    assert receiver.take(data).change == "unchanged"
    assert len(receiver.log()) == 7


def test_a_longer_bundle_extends_a_shorter_log(receiver: Place) -> None:
    sender = filled()
    assert receiver.take(sender.export(until=3)).moves == 3
    assert receiver.heads.get("a", "alice").head == sender.log()[-3].to_snapshot
    assert receiver.take(sender.export()).moves == 3
    assert receiver.log() == sender.log()


def test_of_many_threads_with_one_bundle_one_brings_it(receiver: Place) -> None:
    sender = filled()
    shorter, longer = sender.export(until=3), sender.export()
    created = [result.change for result in in_threads(lambda _: receiver.take(shorter)) if isinstance(result, Imported)]
    assert sorted(created) == ["created"] + ["unchanged"] * 7
    extended = [result.change for result in in_threads(lambda _: receiver.take(longer)) if isinstance(result, Imported)]
    assert sorted(extended) == ["extended"] + ["unchanged"] * 7
    assert receiver.log() == sender.log()
    assert check(receiver.objects, receiver.heads).clean


def test_only_what_the_receiver_lacks_is_sent(receiver: Place) -> None:
    sender = filled()
    receiver.take(sender.export())
    sender.step({b"one": b"1", b"three": b"3", b"new": b"new"})
    whole, facts = sender.exported(have=[move.to_snapshot for move in receiver.log()])
    assert facts.prerequisites == tuple(sorted((sender.log()[1].to_snapshot, sender.log()[3].to_snapshot)))
    # A snapshot, two trees, a file: another third step had the same code and output.
    assert facts.objects == 4
    assert receiver.take(whole).change == "extended"
    assert check(receiver.objects, receiver.heads).clean


def test_a_range_that_continues_needs_no_have(receiver: Place) -> None:
    sender = filled()
    receiver.take(sender.export())
    sender.step({b"one": b"1", b"three": b"3", b"new": b"new"})
    data, facts = sender.exported(since=6)
    assert (facts.first_move, facts.last_move, facts.objects) == (7, 7, 4)
    assert receiver.take(data) == Imported("a", "extended", 1, 4)
    assert receiver.log() == sender.log()


def test_a_way_back_within_a_range_sends_nothing_again(receiver: Place) -> None:
    """Moves up to `since` have been everywhere that a later one goes back to."""
    sender = filled()
    receiver.take(sender.export(until=4))
    data, facts = sender.exported(since=4, until=5)
    assert facts.objects == 0
    receiver.take(data)
    assert receiver.head() == sender.log()[1].to_snapshot


def test_snapshots_that_the_sender_does_not_know_are_passed_over() -> None:
    sender = filled()
    assert sender.export(have=[SnapshotId(b"\x07" * 32)]) == sender.export()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"until": 7}, "'7' is no move"), ({"since": 6}, "'6' is no move"), ({"since": 0}, "'0' is no move"),
     ({"since": 3, "until": 3}, "'3' is no move"), ({"since": 99}, "'99' is no move"), ({"until": 0}, "'0' is no move")],
)  # fmt: skip
def test_a_range_that_is_none_is_an_error(options: dict[str, int], said: str) -> None:
    with pytest.raises(NotInHistory, match=said):
        filled().export(**options)


def test_a_continuation_needs_what_it_continues(receiver: Place) -> None:
    sender = filled()
    before = receiver.everything()
    with pytest.raises(BundleRefused, match="builds on snapshot"):
        receiver.take(sender.export(since=4))
    assert receiver.everything() == before
    receiver.take(sender.export(until=2))
    before = receiver.everything()
    with pytest.raises(BundleRefused, match="builds on snapshot"):
        receiver.take(sender.export(since=4))
    assert receiver.everything() == before


def test_a_continuation_of_a_session_that_is_not_there_is_refused() -> None:
    """All its objects are there, under another session."""
    sender, receiver = filled(), Place.in_memory()
    receiver.take(sender.export(until=4), as_session="b")
    with pytest.raises(BundleRefused, match="continues session a after move 4, and there is no such session"):
        receiver.take(sender.export(since=4))
    receiver.begin()
    with pytest.raises(BundleRefused, match="continues session a after move 4, which its log does not have"):
        receiver.take(sender.export(since=4))


def test_histories_that_diverged_are_not_joined(receiver: Place) -> None:
    sender = filled()
    receiver.take(sender.export(until=4))
    receiver.step({b"mine": b"mine"})
    before = receiver.everything()
    with pytest.raises(BundleRefused, match="session a have diverged: move 5 is another one here"):
        receiver.take(sender.export())
    with pytest.raises(BundleRefused, match="move 5 is another one here"):
        receiver.take(sender.export(since=4))
    assert receiver.everything() == before


def test_a_continuation_of_another_history_is_refused(receiver: Place) -> None:
    """All that it builds on is there, in another session."""
    sender = filled()
    receiver.take(sender.export(), as_session="b")
    receiver.take(sender.export(until=3))
    for number in range(3):
        receiver.step({b"mine": b"%d" % number})
    sender.step({b"six": b"6"})
    before = receiver.everything()
    with pytest.raises(BundleRefused, match="session a have diverged: move 6 is another one here"):
        receiver.take(sender.export(since=6))
    assert receiver.everything() == before


def test_the_same_state_by_another_way_has_diverged(receiver: Place) -> None:
    """The heads are equal; the logs are not: other times, other run records."""
    one, other = filled(), filled()
    one.step({b"x": b"x"})
    other.step({b"x": b"x"}, at_s=7000.0)
    receiver.take(one.export())
    with pytest.raises(BundleRefused, match="move 7 is another one"):
        receiver.take(other.export())


def test_a_bundle_can_be_imported_as_another_session_of_another_tenant(receiver: Place) -> None:
    sender = filled()
    data, facts = sender.exported()
    receiver.take(data)
    assert receiver.take(data, as_session="b", tenant="bob") == Imported("b", "created", 6, facts.objects)
    assert receiver.take(data, as_session="b", tenant="bob").change == "unchanged"
    assert receiver.heads.get("b", "bob").head == receiver.heads.get("a", "alice").head
    assert receiver.log("b") == sender.log()


def test_another_tenants_session_is_neither_made_nor_touched(receiver: Place) -> None:
    sender = filled()
    data = sender.export()
    before = receiver.everything()
    with pytest.raises(BundleRefused, match="tenant 'alice', not 'bob'"):
        receiver.take(data, tenant="bob")
    assert receiver.everything() == before
    receiver.begin(tenant="bob")
    seen = receiver.visible()
    with pytest.raises(BundleRefused, match="another tenant's"):
        receiver.take(data)
    assert receiver.visible() == seen


def test_an_imported_session_does_not_expire_at_once(receiver: Place) -> None:
    """Its last use elsewhere was long ago."""
    receiver.take(filled().export())
    assert receiver.heads.drop_unused_since(NOW_S, is_running=nobody) == 0


def test_a_dropped_session_that_is_imported_again_is_a_new_life(tmp_path: Path) -> None:
    """The journal knows that the old one was dropped: were it the same life, a lost database would lack it."""
    store = LocalStore(tmp_path)
    place = Place(store.objects, store.heads)
    sender = filled()
    place.take(sender.export())
    assert place.heads.drop_unused_since(NOW_S * 2, is_running=nobody) == 1
    with io.BytesIO(sender.export()) as file:
        import_bundle(file, place.objects, place.heads, tenant="alice", now_s=NOW_S * 3, epoch=None)
    store.close()
    for path in tmp_path.glob("heads.sqlite*"):
        path.unlink()
    LocalStore.mend(tmp_path)
    again = LocalStore(tmp_path)
    assert again.heads.log("a", before=None, limit=10) == sender.log()
    again.close()


def test_a_fenced_import_shows_nothing(receiver: Place) -> None:
    receiver.heads.refuse_before(receiver.heads.begin_epoch())
    with pytest.raises(WriterFenced):
        import_bundle(
            io.BytesIO(filled().export()), receiver.objects, receiver.heads, tenant="alice", now_s=NOW_S, epoch=0
        )
    assert receiver.visible() == {}


def test_a_fenced_import_extends_nothing(receiver: Place) -> None:
    sender = filled()
    receiver.take(sender.export(until=3))
    receiver.heads.refuse_before(receiver.heads.begin_epoch())
    with pytest.raises(WriterFenced):
        import_bundle(
            io.BytesIO(sender.export()), receiver.objects, receiver.heads, tenant="alice", now_s=NOW_S, epoch=0
        )
    assert len(receiver.log()) == 3


@pytest.mark.parametrize("known", [0, 3], ids=["created", "extended"])
def test_objects_are_durable_before_the_session_can_be_seen(known: int) -> None:
    sender, order = filled(), []

    class Objects(MemoryObjects):
        def put(self, kind: Kind, data: bytes) -> bytes:
            order.append("put")
            return super().put(kind, data)

        def sync(self) -> None:
            order.append("sync")

    class Heads(MemoryHeads):
        def restore(self, *arguments: Any, **options: Any) -> None:
            order.append("heads")
            super().restore(*arguments, **options)

        def extend(self, *arguments: Any, **options: Any) -> None:
            order.append("heads")
            super().extend(*arguments, **options)

    receiver = Place(Objects(), Heads())
    if known:
        receiver.take(sender.export(until=known))
    order.clear()
    receiver.take(sender.export())
    assert order[-3:] == ["put", "sync", "heads"]


def test_everybody_has_the_empty_snapshot() -> None:
    """Also a store without any session: no sweep removes it."""
    sender, receiver = filled(), Place.in_memory()
    data, facts = sender.exported(have=[EMPTY_SNAPSHOT_ID])
    assert facts.prerequisites == (EMPTY_SNAPSHOT_ID,)
    assert receiver.take(data).change == "created"


def test_nothing_may_build_on_garbage() -> None:
    """What no session keeps may be swept before the import is done."""
    sender, receiver = filled(), Place.in_memory()
    receiver.take(sender.export())
    data = sender.export("a", have=[sender.log()[-2].to_snapshot])
    receiver.heads.drop_unused_since(NOW_S * 2, is_running=nobody)
    with pytest.raises(BundleRefused, match="no session of this tenant keeps it"):
        receiver.take(data)
    assert receiver.take(sender.export()).change == "created"
    assert receiver.take(data, as_session="b").change == "created"


def test_what_a_sweep_has_condemned_is_brought_again(tmp_path: Path) -> None:
    """The session was here and was dropped; a sweep waits for a step in flight when its bundle is imported again."""
    store = LocalStore(tmp_path)
    place = Place(store.objects, store.heads)
    data = filled().export()
    place.take(data)
    place.heads.drop_unused_since(NOW_S * 2, is_running=nobody)
    store.objects.seal()
    in_flight = store.leases.try_acquire("step")
    assert in_flight is not None

    def import_meanwhile() -> bool:
        lease = store.leases.try_acquire("a")
        assert lease is not None
        import_bundle(io.BytesIO(data), place.objects, place.heads, tenant="alice", now_s=NOW_S, epoch=lease.epoch)
        lease.release()
        in_flight.release()
        return True

    report = store.sweep(dry=False, pause=import_meanwhile)
    assert report.packs
    assert place.log() == filled().log()
    assert store.check(full=True)[0].clean
    store.close()


def test_a_snapshot_that_a_fork_keeps_may_be_built_on() -> None:
    """It is no root itself: the only one is younger."""
    sender, receiver = filled(), Place.in_memory()
    receiver.take(sender.export())
    log = sender.log()
    fork = msgspec.structs.replace(receiver.heads.get("a", "alice"), session_id="fork", used_at_s=1e9)
    receiver.heads.create([fork], "fork")
    receiver.heads.drop_unused_since(NOW_S * 2, is_running=nobody)
    assert receiver.take(sender.export(have=[log[1].to_snapshot])).change == "created"


@pytest.mark.parametrize(
    "size", [bundle.PART_BYTES, bundle.PART_BYTES + 1, 2 * bundle.PART_BYTES, 2 * bundle.PART_BYTES + 7]
)
def test_large_blobs_come_over_in_parts(local: Place, size: int) -> None:
    sender = Place.in_memory()
    sender.begin()
    content = os.urandom(1024) * (size // 1024) + b"." * (size % 1024)
    sender.step({b"large": content})
    data = sender.export()
    parts = -(-size // bundle.PART_BYTES)
    assert data.count(b"psf1\x01\x80\x00\x00") == parts - 1
    local.take(data)
    assert local.objects.get(Kind.BLOB, sender.blob(content)) == content


def test_a_bundle_in_a_file_is_read_by_its_path(tmp_path: Path) -> None:
    sender, receiver = filled(), Place.in_memory()
    path = tmp_path / "session.psfbundle"
    with path.open("wb") as stream:
        export_bundle(sender.objects, sender.heads, sender.heads.get("a", "alice"), stream)
    import_bundle(path, receiver.objects, receiver.heads, tenant="alice", now_s=NOW_S, epoch=None)
    assert receiver.log() == sender.log()


def test_verifying_stores_nothing(receiver: Place) -> None:
    data, facts = filled().exported()
    before = receiver.everything()
    header, _ = verify_bundle(io.BytesIO(data), receiver.objects, receiver.heads, "alice")
    assert (header.session.session_id, len(header.moves), header.objects) == ("a", 6, facts.objects)
    assert receiver.everything() == before


def test_progress_is_told_of_each_object() -> None:
    sender, receiver = filled(), Place.in_memory()
    told: list[tuple[str, int, int]] = []
    data, facts = sender.exported(progress=lambda *stage: told.append(stage))
    receiver.take(data, progress=lambda *stage: told.append(stage))
    assert told == [
        (what, number, facts.objects)
        for what in ("writing", "verifying", "storing")
        for number in range(1, facts.objects + 1)
    ]


def test_a_long_history_needs_no_more_stack() -> None:
    sender, receiver = Place.in_memory(), Place.in_memory()
    sender.begin()
    head = EMPTY_SNAPSHOT_ID
    for depth in range(1, 3000):
        head = sender.put_snapshot(Snapshot(1, depth, (head,), EMPTY_TREE, None, None))
    sender.move_to(head)
    data, facts = sender.exported()
    assert facts.objects == 3000
    receiver.take(data)
    assert check(receiver.objects, receiver.heads).clean


@pytest.mark.parametrize("size", [0, 5, bundle.PART_BYTES])
def test_a_file_that_is_shorter_than_its_tree_says_is_sent_as_it_is(size: int) -> None:
    """Such a tree can have come from elsewhere. The receiver says what is wrong with it."""
    sender = Place.in_memory()
    sender.begin()
    blob = sender.blob(b"x" * size)
    tree = put_tree(sender.objects, [Entry(b"f", EntryKind.FILE, blob, bundle.PART_BYTES + 1, 1)])
    sender.move_to(sender.put_snapshot(Snapshot(1, 1, (EMPTY_SNAPSHOT_ID,), tree, None, None)))
    with pytest.raises(BundleRefused, match=f"and its blob has {size}"):
        Place.in_memory().take(sender.export())


def test_a_long_file_is_not_read_into_memory() -> None:
    class Careful(MemoryObjects):
        into_file = False

        def get(self, kind: Kind, object_id: bytes) -> bytes:
            data = super().get(kind, object_id)
            assert self.into_file or len(data) <= bundle.PART_BYTES, "a long blob was asked for as bytes"
            return data

        def write_file(self, blob: BlobId, descriptor: int) -> None:
            self.into_file = True
            super().write_file(blob, descriptor)
            self.into_file = False

    sender = Place(Careful(), MemoryHeads())
    sender.begin()
    sender.step({b"long": b"x" * (bundle.PART_BYTES + 1)})
    assert len(sender.export()) > bundle.PART_BYTES


def test_every_object_is_read_once_to_be_ordered_and_once_to_be_written() -> None:
    class Counting(MemoryObjects):
        blobs = 0

        def get(self, kind: Kind, object_id: bytes) -> bytes:
            self.blobs += kind is Kind.BLOB
            return super().get(kind, object_id)

    sender = filled()
    counting = Counting()
    for name, data in sender.everything()[0].items():
        counting.put(name[0], data)
    export_bundle(counting, sender.heads, sender.heads.get("a", "alice"), io.BytesIO())
    assert counting.blobs == sum(name[0] is Kind.BLOB for name in counting)
