"""What the end of a first process means, where more or less of it can be seen."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from executors.endings import ending_of, limits_hit, told_code
from store.snapshot import Ending

ENDED: dict[str, Any] = {"timed_out": False, "overrun": None, "flooded": False, "out_of_memory": False}
KILLED = -signal.SIGKILL


@pytest.mark.parametrize("code", [0, 1, 127, 128, 193, 254, 255])
def test_an_exit_code_that_can_be_no_signal_is_an_exit_code(code: int) -> None:
    """There are 64 signals; 255 is what -1 becomes, and many programs end with it."""
    assert told_code(code) == code


@pytest.mark.parametrize("number", [1, 9, 64])
def test_an_exit_code_that_can_be_a_signal_is_one(number: int) -> None:
    assert told_code(128 + number) == -number


@pytest.mark.parametrize(
    ("code", "facts", "expected"),
    [
        (3, {}, (Ending.EXITED, 3, None)),
        (3, {"out_of_memory": True}, (Ending.EXITED, 3, None)),
        (-11, {"out_of_memory": True}, (Ending.SIGNALLED, None, 11)),
        (KILLED, {}, (Ending.SIGNALLED, None, 9)),
        (KILLED, {"out_of_memory": True}, (Ending.OUT_OF_MEMORY, None, 9)),
        (None, {"out_of_memory": True}, (Ending.OUT_OF_MEMORY, None, 9)),
        (KILLED, {"flooded": True, "out_of_memory": True}, (Ending.OUTPUT_LIMIT, None, None)),
        (KILLED, {"overrun": "inodes", "flooded": True}, (Ending.DISK_LIMIT, None, None)),
        (KILLED, {"overrun": "disk", "timed_out": True}, (Ending.TIMED_OUT, None, None)),
        (KILLED, {"overrun": "cpu"}, (Ending.TIMED_OUT, None, None)),
        (-signal.SIGXCPU, {}, (Ending.TIMED_OUT, None, None)),
        (None, {"timed_out": True}, (Ending.TIMED_OUT, None, None)),
    ],
)
def test_the_limit_that_ended_a_run_is_its_ending(code: int | None, facts: dict[str, Any], expected: Any) -> None:
    assert ending_of(code, **{**ENDED, **facts}) == expected


def test_limits_that_were_reached_are_told_whatever_the_ending() -> None:
    reached = {"memory": True, "processes": True, "output": True}
    assert limits_hit(Ending.EXITED, None, **reached) == ("memory", "output", "processes")
    assert limits_hit(Ending.DISK_LIMIT, "inodes", **reached) == ("inodes", "memory", "output", "processes")
    assert limits_hit(Ending.TIMED_OUT, "cpu", **dict.fromkeys(reached, False)) == ()
