"""When a request is made again, and after how long. Pure, but for the dice."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import msgspec

AGAIN = frozenset({429, 502, 503, 504})
"""Statuses of a server, or of what stands before it, that will soon be able to do what it cannot do now."""


class Retries(msgspec.Struct, frozen=True):
    """How often a request is made in all, and the pauses between: doubled each time, up to a most, and then shortened by dice.

    A server that asks for a longer pause gets it, up to `retry_after_s_max`; one that asks for more is not asked again.
    """

    attempts: int = 8
    pause_s: float = 0.1
    pause_s_max: float = 5.0
    retry_after_s_max: float = 60.0

    def pause_before(
        self, attempt: int, retry_after_s: float | None = None, dice: Callable[[], float] = random.random
    ) -> float | None:
        """Seconds until attempt number `attempt` (the first is 0); None when there is to be none."""
        if attempt >= self.attempts:
            return None
        asked_s = retry_after_s or 0.0
        if asked_s > self.retry_after_s_max:
            return None
        longest_s = min(self.pause_s_max, self.pause_s * 2.0 ** min(attempt - 1, 50))
        # Half of it at least: many who were thrown out at once come back one by one, and none at once.
        return asked_s + longest_s * (0.5 + dice() / 2)


NO_RETRIES = Retries(attempts=1)


def retry_after_s(header: str | None, now_s: Callable[[], float] = time.time) -> float | None:
    """What a Retry-After says, in seconds from now; None for none, or one that cannot be read."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s())
    except ValueError:
        return None
