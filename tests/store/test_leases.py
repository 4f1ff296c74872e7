"""File leases and epochs: who takes a turn is in an epoch, and whoever asks sees whether anybody is still in an earlier one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from store.leases import FileLeases


class Ages:
    """An epoch that a test moves, and what the leases told of it."""

    def __init__(self) -> None:
        self.now = 0
        self.entered: list[int] = []

    def epoch(self) -> int:
        return self.now


def test_a_turn_belongs_to_the_epoch_it_began_in(tmp_path: Path) -> None:
    ages = Ages()
    leases = FileLeases(tmp_path / "lock", epoch=ages.epoch, entered=ages.entered.append)
    first = leases.try_acquire("a")
    ages.now = 5
    second = leases.try_acquire("b")
    assert first is not None
    assert second is not None
    assert (first.epoch, second.epoch, ages.entered) == (0, 5, [0, 5])
    assert not leases.any_before(0)
    assert leases.any_before(1)
    assert leases.any_before(5)
    first.release()
    assert not leases.any_before(5)
    assert leases.any_before(6)
    second.release()
    assert not leases.any_before(1 << 40)


def test_any_number_of_turns_share_an_epoch(tmp_path: Path) -> None:
    leases = FileLeases(tmp_path / "lock", epoch=lambda: 3)
    held = [leases.try_acquire(f"session {number}") for number in range(50)]
    assert leases.any_before(4)
    for lease in held[:-1]:
        assert lease is not None
        lease.release()
    assert leases.any_before(4)
    assert held[-1] is not None
    held[-1].release()
    assert not leases.any_before(4)


def test_an_epoch_that_begins_while_a_turn_is_taken_is_entered(tmp_path: Path) -> None:
    """Else gc, which looked before the old epoch was held, would go on without the writer."""
    asked = iter([0, 1, 1, 1, 2, 2])
    entered: list[int] = []
    leases = FileLeases(tmp_path / "lock", epoch=lambda: next(asked), entered=entered.append)
    lease = leases.try_acquire("a")
    assert lease is not None
    assert (lease.epoch, entered) == (1, [1])
    assert not leases.any_before(1)
    again = leases.try_acquire("b")
    assert again is not None
    assert again.epoch == 2


def test_a_turn_that_is_refused_holds_no_epoch(tmp_path: Path) -> None:
    leases = FileLeases(tmp_path / "lock")
    held = leases.try_acquire("a")
    assert held is not None
    later = FileLeases(tmp_path / "lock", epoch=lambda: 7)
    assert later.try_acquire("a") is None
    held.release()
    assert not later.any_before(100)


_HOLDER = """
import sys
from pathlib import Path
from store.leases import FileLeases
lease = FileLeases(Path(sys.argv[1]), epoch=lambda: 4).try_acquire("a")
print("held", flush=True)
sys.stdin.read()
"""


def test_the_turns_of_other_processes_count_until_they_end(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    leases = FileLeases(path)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert leases.any_before(5)
        assert not leases.any_before(4)
        holder.kill()
        holder.wait()
    assert not leases.any_before(5)
