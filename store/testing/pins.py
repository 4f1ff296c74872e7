"""The contract of pins and epochs: what a sweep needs of a head store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import pytest

from store.errors import WriterFenced
from store.interfaces import Epochs, Move, Moved, Pin, Pins
from store.testing import SweptHeads, move, session, snapshot_name


class PinnedHeads(SweptHeads, Pins, Epochs, Protocol):
    """A head store with everything that a sweep needs of it."""


class PinsContract:
    """What every head store promises as `Pins` and `Epochs`. Give a fixture `heads`."""

    def test_pins_are_listed_moved_and_removed(self, heads: PinnedHeads) -> None:
        assert heads.pins() == []
        heads.pin(Pin("b", snapshot_name(1), 5.0))
        heads.pin(Pin("a", snapshot_name(2), 6.0))
        heads.pin(Pin("b", snapshot_name(3), 7.0))
        assert heads.pins() == [Pin("a", snapshot_name(2), 6.0), Pin("b", snapshot_name(3), 7.0)]
        assert heads.unpin("a")
        assert not heads.unpin("a")
        assert heads.pins() == [Pin("b", snapshot_name(3), 7.0)]

    def test_pins_are_roots(self, heads: PinnedHeads) -> None:
        heads.create([session("a")], "create")
        heads.pin(Pin("mine", snapshot_name(9), 5.0))
        assert set(heads.roots()) == {("a", snapshot_name(0)), ("pin mine", snapshot_name(9))}

    def test_the_last_move_of_each_session_is_told_with_it(self, heads: PinnedHeads) -> None:
        heads.create([session("a"), session("b")], "create")
        heads.advance("a", snapshot_name(0), move(1, at_s=2000.0), runtime="bash")
        last = {moved.session.session_id: moved for moved in heads.last_moves()}
        assert last["b"] == Moved(session("b"), Move(1, "create", None, snapshot_name(0), 500.0, b""))
        assert last["a"].session == heads.get("a", "alice")
        assert last["a"].move == heads.log("a", before=None, limit=1)[0]

    def test_epochs_begin_one_after_the_other(self, heads: PinnedHeads) -> None:
        assert heads.epoch() == 0
        assert [heads.begin_epoch(), heads.begin_epoch()] == [1, 2]
        assert heads.epoch() == 2

    def test_who_comes_from_a_refused_epoch_changes_nothing(self, heads: PinnedHeads) -> None:
        heads.create([session("a")], "create", epoch=0)
        heads.refuse_before(heads.begin_epoch())
        late: list[Callable[[], object]] = [
            lambda: heads.advance("a", snapshot_name(0), move(1), epoch=0),
            lambda: heads.create([session("b")], "create", epoch=0),
            lambda: heads.pin(Pin("late", snapshot_name(1), 5.0), epoch=0),
        ]
        for change in late:
            with pytest.raises(WriterFenced):
                change()
        assert list(heads.roots()) == [("a", snapshot_name(0))]
        heads.advance("a", snapshot_name(0), move(1), epoch=1)
        heads.advance("a", snapshot_name(1), move(2))
        assert heads.get("a", "alice").head == snapshot_name(2)
