"""House-keeping beside a server: it drops and removes, outlives failures, and ends when it is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from psf.sweeper import Sweeper
from store.errors import ObjectMissing, SessionMissing
from store.ids import Kind, SnapshotId
from store.local import LocalStore
from tests.store.history import begin, step

LONG_AGO_S, PATIENCE_S = 10.0, 60.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path)
    store.objects.seal_bytes = 3000
    yield store
    store.close()


def fill(store: LocalStore, session_id: str, used_at_s: float) -> SnapshotId:
    begin(store, session_id, used_at_s=used_at_s)
    head = None
    for _ in range(10):
        head = step(store, session_id, {b"data": os.urandom(600)}, at_s=used_at_s)
    assert head is not None
    return head


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def until(condition: object) -> None:
    """Wait for something that must happen; the test's own time-out ends it."""
    while not condition():  # type: ignore[operator]
        await asyncio.sleep(0.02)


def is_swept(store: LocalStore, head: SnapshotId) -> bool:
    try:
        store.objects.get(Kind.SNAPSHOT, head)
    except ObjectMissing:
        return True
    return False


async def test_expired_sessions_are_dropped_and_what_they_held_is_removed(store: LocalStore) -> None:
    gone, kept = fill(store, "gone", LONG_AGO_S), fill(store, "kept", time.time())
    sweeper = asyncio.create_task(Sweeper(store, retention_s=5.0, gc_period_s=0.05, patience_s=PATIENCE_S).run())
    await until(lambda: is_swept(store, gone))
    await stopped(sweeper)
    with pytest.raises(SessionMissing):
        store.heads.get("gone", "alice")
    assert store.objects.get(Kind.SNAPSHOT, kept)
    assert store.check(full=True)[0].clean


async def test_without_a_period_garbage_stays(store: LocalStore) -> None:
    gone = fill(store, "gone", LONG_AGO_S)
    sweeper = asyncio.create_task(Sweeper(store, retention_s=5.0, gc_period_s=0.0, patience_s=PATIENCE_S).run())
    await until(lambda: not list(store.heads.roots()))
    await asyncio.sleep(0.3)
    await stopped(sweeper)
    assert not is_swept(store, gone)


async def test_it_ends_while_it_waits_for_a_step(store: LocalStore) -> None:
    """A server that is stopped must not wait for the patience of its sweeper."""
    gone = fill(store, "gone", LONG_AGO_S)
    fill(store, "busy", time.time())
    lease = store.leases.try_acquire("busy")
    assert lease is not None
    sweeper = asyncio.create_task(Sweeper(store, retention_s=5.0, gc_period_s=0.05, patience_s=1e6).run())
    await until(lambda: store.heads.epoch() == 1)
    await stopped(sweeper)
    lease.release()
    assert store.check(full=True)[0].clean
    assert not is_swept(store, gone)
    again = asyncio.create_task(Sweeper(store, retention_s=5.0, gc_period_s=0.05, patience_s=PATIENCE_S).run())
    await until(lambda: is_swept(store, gone))
    await stopped(again)


async def test_it_outlives_a_failure_and_says_so(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone = fill(store, "gone", LONG_AGO_S)
    fill(store, "kept", time.time())
    sweep, failures = store.sweep, []

    def failing(*arguments: object, **named: object) -> object:
        if len(failures) < 2:
            failures.append(True)
            raise OSError(28, "No space left on device")
        return sweep(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "sweep", failing)
    with caplog.at_level(logging.ERROR, "psf"):
        sweeper = asyncio.create_task(Sweeper(store, retention_s=5.0, gc_period_s=0.05, patience_s=PATIENCE_S).run())
        await until(lambda: is_swept(store, gone))
        await stopped(sweeper)
    assert caplog.text.count("removing garbage failed") == 2
