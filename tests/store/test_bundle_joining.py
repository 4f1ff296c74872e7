"""Where a bundle meets what is there: sessions that go on, that diverged, that are another's, and what may be built on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest

from store.bundle_import import Imported, import_bundle
from store.errors import BundleRefused, WriterFenced
from store.ids import Kind
from store.local import LocalStore
from store.memory import MemoryHeads, MemoryObjects
from store.snapshot import EMPTY_SNAPSHOT_ID
from store.testing import nobody
from tests.store.bundles import NOW_S, Place, filled


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
            io.BytesIO(sender.export()),
            receiver.objects,
            receiver.heads,
            tenant="alice",
            now_s=NOW_S,
            epoch=0,
            extend=True,
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
