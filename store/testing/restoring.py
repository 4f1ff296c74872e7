"""The contract of writing logs as they were elsewhere, for every backend of heads."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import msgspec
import pytest

from store.errors import HeadMoved, SessionExists, SessionMissing, WriterFenced
from store.interfaces import Epochs, HeadRestorer, Heads, HeadSweeper, Move, Session
from store.testing import THREADS, in_threads, move, session, snapshot_name


class RestoredHeads(Heads, HeadSweeper, HeadRestorer, Epochs, Protocol):
    """A head store whose logs can be written."""


def chain(first: int, last: int) -> list[Move]:
    """Moves `first` to `last` of a log; move n leads to `snapshot_name(n)`."""
    return [
        Move(n, "execute", snapshot_name(n - 1) if n > 1 else None, snapshot_name(n), 1000.0 + n, b'{"n":%d}' % n)
        for n in range(first, last + 1)
    ]


def at(number: int, session_id: str = "a") -> Session:
    """A session whose head is where move `number` of a chain leads."""
    return msgspec.structs.replace(session(session_id), head=snapshot_name(number))


class RestorerContract:
    """What every `HeadRestorer` promises. Give a fixture `heads` with a fresh RestoredHeads."""

    def test_a_restored_session_and_its_log_are_what_was_given(self, heads: RestoredHeads) -> None:
        heads.restore(at(3), chain(1, 3))
        assert heads.get("a", "alice") == at(3)
        assert heads.log("a", before=None, limit=10) == chain(1, 3)[::-1]
        assert {snapshot for _, snapshot in heads.roots()} == {snapshot_name(n) for n in (1, 2, 3)}

    def test_a_restored_session_goes_on(self, heads: RestoredHeads) -> None:
        heads.restore(at(3), chain(1, 3))
        heads.advance("a", snapshot_name(3), move(7))
        assert [entry.sequence for entry in heads.log("a", before=None, limit=10)] == [4, 3, 2, 1]
        assert heads.get("a", "alice").head == snapshot_name(7)

    def test_a_session_that_is_there_is_not_restored_over(self, heads: RestoredHeads) -> None:
        heads.create([session("a", tenant="bob")], "create")
        with pytest.raises(SessionExists):
            heads.restore(at(3), chain(1, 3))
        assert heads.get("a", "bob") == session("a", tenant="bob")
        assert len(heads.log("a", before=None, limit=10)) == 1

    def test_a_log_is_extended_and_the_head_moves_along(self, heads: RestoredHeads) -> None:
        heads.restore(at(2), chain(1, 2))
        heads.extend("a", 2, chain(3, 5), runtime="bash", used_at_s=5000.0)
        assert heads.get("a", "alice") == msgspec.structs.replace(at(5), runtime="bash", used_at_s=5000.0)
        assert heads.log("a", before=None, limit=10) == chain(1, 5)[::-1]

    def test_a_log_that_ends_elsewhere_is_not_extended(self, heads: RestoredHeads) -> None:
        heads.restore(at(4), chain(1, 4))
        with pytest.raises(HeadMoved):
            heads.extend("a", 3, chain(4, 5), runtime="bash", used_at_s=5000.0)
        with pytest.raises(HeadMoved):
            heads.extend("a", 5, chain(6, 6), runtime="bash", used_at_s=5000.0)
        assert heads.get("a", "alice") == at(4)
        assert heads.log("a", before=None, limit=10) == chain(1, 4)[::-1]

    def test_moves_that_begin_elsewhere_are_not_appended(self, heads: RestoredHeads) -> None:
        """As many moves, and another history."""
        heads.restore(at(2), chain(1, 2))
        with pytest.raises(HeadMoved) as caught:
            heads.extend("a", 2, chain(4, 5), runtime="bash", used_at_s=5000.0)
        assert (caught.value.expected, caught.value.actual) == (snapshot_name(3).hex(), snapshot_name(2).hex())
        assert heads.get("a", "alice") == at(2)
        assert len(heads.log("a", before=None, limit=10)) == 2

    def test_a_log_that_came_back_to_where_it_was_is_not_extended_there(self, heads: RestoredHeads) -> None:
        """The head is the expected one, and the log has gone on meanwhile."""
        log = [*chain(1, 2), Move(3, "rollback", snapshot_name(2), snapshot_name(1), 1003.0, b"")]
        heads.restore(at(1), log)
        with pytest.raises(HeadMoved) as caught:
            heads.extend("a", 1, chain(2, 2), runtime="bash", used_at_s=5000.0)
        assert str(caught.value) == "the head is at move 3, not at move 1"
        assert heads.log("a", before=None, limit=10) == log[::-1]

    def test_a_session_that_is_not_there_is_not_extended(self, heads: RestoredHeads) -> None:
        with pytest.raises(SessionMissing):
            heads.extend("ghost", 2, chain(3, 3), runtime="bash", used_at_s=5000.0)
        assert heads.log("ghost", before=None, limit=10) == []

    def test_a_fenced_writer_restores_and_extends_nothing(self, heads: RestoredHeads) -> None:
        heads.restore(at(2), chain(1, 2))
        heads.refuse_before(heads.begin_epoch())
        with pytest.raises(WriterFenced):
            heads.restore(at(2, "b"), chain(1, 2), epoch=0)
        with pytest.raises(WriterFenced):
            heads.extend("a", 2, chain(3, 3), runtime="bash", used_at_s=5000.0, epoch=0)
        with pytest.raises(SessionMissing):
            heads.get("b", "alice")
        assert heads.get("a", "alice") == at(2)

    def test_of_many_threads_one_restores_and_one_extends(self, heads: RestoredHeads) -> None:
        restored = in_threads(lambda _: heads.restore(at(2), chain(1, 2)))
        assert restored.count(None) == 1
        assert sum(isinstance(result, SessionExists) for result in restored) == THREADS - 1
        extended = in_threads(lambda _: heads.extend("a", 2, chain(3, 4), runtime="bash", used_at_s=5000.0))
        assert extended.count(None) == 1
        assert sum(isinstance(result, HeadMoved) for result in extended) == THREADS - 1
        log = heads.log("a", before=None, limit=10)
        assert len(log) == 4
        assert all(later.from_snapshot == earlier.to_snapshot for later, earlier in pairwise(log))
