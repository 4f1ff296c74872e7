"""House-keeping beside a running server: expired sessions are dropped, and from time to time what nothing needs is removed."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from store.errors import StoreError
from store.gc import GcReport
from store.local import LocalStore

_log = logging.getLogger("psf")
PERIOD_S = 60.0
PAUSE_S = 0.2
CLOCK_SLACK_S = 60.0
"""How much further than ours the clock may be set at a time."""


class SweepStopped(Exception):
    """The server ends. A sweep may be given up anywhere; the next one goes on with its work."""


class Sweeper:
    """`gc_period_s` 0 leaves garbage to `psf store gc`. `patience_s`: how long a sweep waits for steps that began before it."""

    def __init__(self, store: LocalStore, *, retention_s: float, gc_period_s: float, patience_s: float) -> None:
        self._store, self._retention_s, self._gc_period_s = store, retention_s, gc_period_s
        self._patience_s = patience_s
        self._stopping = threading.Event()
        self._began_s, self._began_monotonic_s = time.time(), time.monotonic()

    async def run(self) -> None:
        """Goes on until cancelled, and then ends only when nothing of it is under way any more."""
        due_s = time.monotonic() + self._gc_period_s
        while True:
            await self._guarded(self._drop_expired, "dropping expired sessions")
            if self._gc_period_s and time.monotonic() >= due_s:
                await self._guarded(self._collect, "removing garbage")
                due_s = time.monotonic() + self._gc_period_s
            await asyncio.sleep(min(PERIOD_S, self._gc_period_s or PERIOD_S))

    async def _guarded(self, act: Callable[[], None], what: str) -> None:
        thread = asyncio.ensure_future(asyncio.to_thread(act))
        try:
            await asyncio.shield(thread)
        except asyncio.CancelledError:
            self._stopping.set()
            await asyncio.wait([thread])
            thread.exception()  # it is known that it ends early; the server's own end is what counts now
            raise
        except Exception as error:  # noqa: BLE001 - a sweeper must outlive a full disk
            detail = None if isinstance(error, StoreError) else error
            _log.error("%s failed, trying again later: %s", what, error, exc_info=detail)

    def _drop_expired(self) -> None:
        horizon_s = self._time_s() - self._retention_s
        dropped = self._store.heads.drop_unused_since(horizon_s, is_running=self._store.leases.is_held)
        if dropped:
            _log.info("%d expired sessions dropped", dropped)

    def _time_s(self) -> float:
        """The time, but never later than as much as has passed since we began: a clock that is set forward drops nobody's sessions."""
        passed_s = time.monotonic() - self._began_monotonic_s
        return min(time.time(), self._began_s + passed_s + CLOCK_SLACK_S)

    def _collect(self) -> None:
        report = self._store.sweep(dry=False, pause=patience(self._patience_s, self._tick), progress=self._progress)
        if report.packs or report.large_dropped:
            _log.info("%s", describe(report))

    def _progress(self, _what: str, _done: int, _total: int) -> None:
        self._tick()

    def _tick(self) -> None:
        if self._stopping.is_set():
            raise SweepStopped


def patience(patience_s: float, tick: Callable[[], None] = lambda: None) -> Callable[[], bool]:
    """A pause for `LocalStore.sweep`: a moment each time, until `patience_s` are over. `tick` is called each time."""
    end_s = time.monotonic() + patience_s

    def pause() -> bool:
        tick()
        time.sleep(PAUSE_S)
        return time.monotonic() < end_s

    return pause


def describe(report: GcReport, freed: str | None = None) -> str:
    """One line about a sweep; `freed` says how much, instead of bytes."""
    verb = "would free" if report.dry else "freed"
    return (
        f"{verb} {freed or f'{report.freed_bytes} bytes'}: {len(report.packs)} packs written anew or removed,"
        f" {report.large_dropped} large files removed; {report.live} of {report.objects} objects are in use"
    )
