"""Bundles: a session comes over whole, from any store to any other, as often as one likes, and only what is lacking."""

from __future__ import annotations

import io
import os
from pathlib import Path

import msgspec
import pytest

from store import bundle
from store.bundle_export import export_bundle
from store.bundle_import import Imported, import_bundle
from store.bundle_verify import verify_bundle
from store.capture import put_tree
from store.check import check
from store.errors import BundleRefused, NotInHistory
from store.ids import BlobId, Kind, SnapshotId
from store.memory import MemoryHeads, MemoryObjects
from store.snapshot import EMPTY_SNAPSHOT_ID, Snapshot
from store.testing import in_threads
from store.tree import EMPTY_TREE, Entry, EntryKind
from tests.store.bundles import NOW_S, Place, filled


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


def test_a_session_comes_from_a_local_store_too(local_place: Place) -> None:
    sender, receiver = filled(lambda: local_place), Place.in_memory()
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


@pytest.mark.parametrize(
    "size", [bundle.PART_BYTES, bundle.PART_BYTES + 1, 2 * bundle.PART_BYTES, 2 * bundle.PART_BYTES + 7]
)
def test_large_blobs_come_over_in_parts(local_place: Place, size: int) -> None:
    sender = Place.in_memory()
    sender.begin()
    content = os.urandom(1024) * (size // 1024) + b"." * (size % 1024)
    sender.step({b"large": content})
    data = sender.export()
    parts = -(-size // bundle.PART_BYTES)
    assert data.count(b"psf1\x01\x80\x00\x00") == parts - 1
    local_place.take(data)
    assert local_place.objects.get(Kind.BLOB, sender.blob(content)) == content


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
    header = verify_bundle(io.BytesIO(data), receiver.objects, receiver.heads, "alice").header
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
