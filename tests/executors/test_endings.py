"""What the end of a first process means, where more or less of it can be seen."""

from __future__ import annotations

from typing import Any

import pytest

from executors.launched import _ending
from store.snapshot import Ending


def answered(**facts: Any) -> dict[str, Any]:
    plain = {"started": True, "status": 0, "exact": True, "timed_out": False, "overrun": None, "usage": None}
    return {**plain, **facts}


@pytest.mark.parametrize("code", [0, 1, 127, 128, 193, 254, 255])
def test_an_exit_code_that_can_be_no_signal_is_one_where_the_kernel_cannot_tell(code: int) -> None:
    """There are 64 signals; 255 is what -1 becomes, and many programs end with it."""
    assert _ending(answered(status=code << 8, exact=False), False) == (Ending.EXITED, code, None)


@pytest.mark.parametrize("number", [1, 9, 64])
def test_an_exit_code_that_can_be_a_signal_is_one_only_where_the_kernel_cannot_tell(number: int) -> None:
    status = (128 + number) << 8
    assert _ending(answered(status=status, exact=False), False) == (Ending.SIGNALLED, None, number)
    assert _ending(answered(status=status), False) == (Ending.EXITED, 128 + number, None)
