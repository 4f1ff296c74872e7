"""Histories: what a reference means, with a fork and a line that was rolled back from."""

from __future__ import annotations

import msgspec
import pytest

from psf.history import LOG_PAGE, ancestors, find_snapshot
from store import snapshot as snapshots
from store.errors import NotInHistory, ObjectMissing
from store.ids import Kind, SnapshotId
from store.interfaces import Move, Session
from store.memory import MemoryHeads, MemoryObjects
from store.snapshot import EMPTY_SNAPSHOT_BYTES, EMPTY_SNAPSHOT_ID, Outcome, Snapshot
from store.testing import session as new_session
from store.tree import EMPTY_TREE


class History:
    """One session's history, made move by move."""

    def __init__(self, start: SnapshotId = EMPTY_SNAPSHOT_ID, objects: MemoryObjects | None = None) -> None:
        self.objects, self.heads = objects or MemoryObjects(), MemoryHeads()
        self.objects.put(Kind.SNAPSHOT, EMPTY_SNAPSHOT_BYTES)
        self.heads.create([msgspec.structs.replace(new_session("s"), head=start)], "create")

    @property
    def session(self) -> Session:
        return self.heads.get("s", "alice")

    def put(self, parent: SnapshotId, name: str = "") -> SnapshotId:
        """A snapshot after `parent`; `name` makes it another one than its siblings."""
        depth = snapshots.decode(self.objects.get(Kind.SNAPSHOT, parent)).depth + 1
        outcome = Outcome((), (snapshots.LeftOut(name.encode(), ""),))
        after = Snapshot(snapshots.VERSION, depth, (parent,), EMPTY_TREE, None, outcome)
        return SnapshotId(self.objects.put(Kind.SNAPSHOT, snapshots.encode(after)))

    def go(self, to: SnapshotId) -> SnapshotId:
        self.heads.advance("s", self.session.head, Move(0, "execute", None, to, 0.0, b""))
        return to

    def step(self, name: str = "") -> SnapshotId:
        return self.go(self.put(self.session.head, name))

    def find(self, reference: str | int) -> SnapshotId:
        return find_snapshot(self.objects, self.heads, self.session, reference)

    def refusal(self, reference: str | int) -> str:
        with pytest.raises(NotInHistory) as caught:
            self.find(reference)
        return str(caught.value)


def test_a_step_number_may_be_a_number_or_its_digits() -> None:
    history = History()
    chain = [EMPTY_SNAPSHOT_ID, history.step(), history.step(), history.step()]
    assert [history.find(number) for number in range(4)] == chain
    assert [history.find(str(number)) for number in range(4)] == chain
    assert history.find("003") == chain[3]
    assert "is not a step" in history.refusal(4)


def test_minus_n_goes_back_from_the_head_and_not_from_the_newest_step() -> None:
    history = History()
    chain = [EMPTY_SNAPSHOT_ID, history.step(), history.step()]
    assert [history.find(f"-{count}") for count in range(3)] == chain[::-1]
    assert history.find(-1) == chain[1]
    history.go(chain[1])
    assert history.find("-1") == chain[0]
    assert "further than" in history.refusal("-2")


def test_a_number_means_the_heads_own_line_before_one_that_was_left() -> None:
    history = History()
    first, left = history.step(), history.step("left")
    history.go(first)
    kept = history.step("kept")
    assert history.find(2) == kept
    history.go(left)
    assert history.find(2) == left


def test_a_line_that_was_rolled_back_from_stays_in_the_history() -> None:
    history = History()
    first, left, end = history.step(), history.step("left"), history.step("end")
    history.go(first)
    assert history.find(3) == end
    assert history.find(left.hex()) == left


def test_a_snapshot_is_found_by_its_digits_or_enough_of_them() -> None:
    history = History()
    chain = [EMPTY_SNAPSHOT_ID, *(history.step() for _ in range(5))]
    for identity in chain:
        assert history.find(identity.hex()) == identity
        assert history.find(identity.hex()[:6]) == identity
    assert "at least 6 hexadecimal digits" in history.refusal("abcde")


def test_too_few_digits_for_one_snapshot_are_refused() -> None:
    """Snapshots are tried until two begin alike: some thousands."""
    history = History()
    seen: dict[str, SnapshotId] = {}
    for number in range(100_000):
        identity = history.put(EMPTY_SNAPSHOT_ID, str(number))
        other = seen.setdefault(identity.hex()[:6], identity)
        if other != identity:
            break
    history.go(other)
    assert history.find(other.hex()[:6]) == other
    history.go(identity)
    assert "more than one" in history.refusal(identity.hex()[:6])
    assert history.find(identity.hex()) == identity


def test_a_snapshot_elsewhere_in_the_store_is_not_in_the_history() -> None:
    history = History()
    history.step()
    elsewhere = history.put(EMPTY_SNAPSHOT_ID, "of another session")
    assert "names no snapshot" in history.refusal(elsewhere.hex())


def test_what_a_fork_began_with_is_its_history_too() -> None:
    origin = History()
    first, second = origin.step(), origin.step()
    fork = History(second, origin.objects)
    own = fork.step("own")
    assert [fork.find(number) for number in range(4)] == [EMPTY_SNAPSHOT_ID, first, second, own]
    assert fork.find(first.hex()[:8]) == first


def test_six_decimal_digits_are_a_snapshot_before_they_are_a_step() -> None:
    history = History()
    for _ in range(400):
        identity = history.step()
        if identity.hex()[:6].isdecimal():
            break
    assert identity.hex()[:6].isdecimal()
    assert history.find(identity.hex()[:6]) == identity
    assert "is not a step" in history.refusal(int("9" + identity.hex()[:5]))


@pytest.mark.parametrize(
    "reference",
    ["", "-", "--1", "-x", "1.0", " 1", "1\n", "+1", "HEAD", "ABCDEF", "x" * 9, "\u0663", "-\u0663", "\0", "1" * 10, "-" + "9" * 5000, "9" * 5000],
    ids=lambda value: ascii(value)[:12],
)  # fmt: skip
def test_what_is_no_reference_is_refused_in_few_words(reference: str) -> None:
    history = History()
    history.step()
    assert len(history.refusal(reference)) < 250


def test_numbers_that_python_does_not_print_are_refused() -> None:
    history = History()
    for reference in (10**4000, -(10**4000)):
        assert len(history.refusal(reference)) < 250


def test_a_long_log_is_read_to_its_beginning() -> None:
    history = History()
    left = history.step("left")
    history.go(EMPTY_SNAPSHOT_ID)
    first = history.step("first")
    for _ in range(LOG_PAGE):
        history.go(EMPTY_SNAPSHOT_ID)
        history.go(first)
    assert history.find(left.hex()) == left


def test_ancestors_are_told_newest_first_and_go_by_first_parents() -> None:
    history = History()
    first, second = history.step(), history.step()
    merged = Snapshot(snapshots.VERSION, 3, (second, first), EMPTY_TREE, None, None)
    head = SnapshotId(history.objects.put(Kind.SNAPSHOT, snapshots.encode(merged)))
    found = list(ancestors(history.objects, head))
    assert [identity for identity, _ in found] == [head, second, first, EMPTY_SNAPSHOT_ID]
    assert [snapshot.depth for _, snapshot in found] == [3, 2, 1, 0]


def test_a_history_with_a_hole_is_an_error_and_not_a_shorter_history() -> None:
    whole = History()
    first = whole.step()
    torn = History(first, MemoryObjects())
    with pytest.raises(ObjectMissing):
        torn.find(0)


def test_a_whole_id_where_the_head_has_stood_is_found_without_reading_snapshots() -> None:
    """However long the history is."""
    history = History()
    chain = [history.step() for _ in range(30)]
    gets = 0

    class Counting(MemoryObjects):
        def get(self, kind: Kind, object_id: bytes) -> bytes:
            nonlocal gets
            gets += 1
            return super().get(kind, object_id)

    counting = Counting()
    counting._objects = history.objects._objects  # type: ignore[attr-defined]
    history.objects = counting
    assert [history.find(identity.hex()) for identity in chain] == chain
    assert gets == 0


def test_a_number_that_a_merge_passed_over_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    history = History()
    merged = Snapshot(snapshots.VERSION, 500, (history.step(),), EMPTY_TREE, None, Outcome((), ()))
    history.go(SnapshotId(history.objects.put(Kind.SNAPSHOT, snapshots.encode(merged))))
    for _ in range(100):
        history.step()
    reads: list[bytes] = []
    get = history.objects.get
    monkeypatch.setattr(history.objects, "get", lambda kind, name: reads.append(name) or get(kind, name))
    history.refusal(50)
    assert len(reads) < 500
