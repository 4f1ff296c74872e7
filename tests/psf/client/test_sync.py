"""The client without `await`: all of the other one, in scripts and where a loop is running."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from psf.client import Client, Misused, NotFound, Session, Stream, SyncClient, SyncSession, SyncStream
from psf.client.portal import Portal

_NOT_NEEDED = {"make"}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")} - _NOT_NEEDED


@pytest.mark.parametrize(
    ("asynchronous", "plain"), [(Client, SyncClient), (Session, SyncSession), (Stream, SyncStream)]
)
def test_nothing_is_missing_and_everything_is_called_alike(asynchronous: type, plain: type) -> None:
    assert public(asynchronous) <= public(plain)
    for name in public(asynchronous):
        one, other = getattr(asynchronous, name), getattr(plain, name)
        if callable(one):
            parameters = [list(inspect.signature(method).parameters.values())[1:] for method in (one, other)]
            assert parameters[0] == parameters[1], name


def scenario(url: str) -> list[Any]:
    with SyncClient(url) as client:
        session = client.session("bash", name="plain")
        assert session.run("a=1").ok
        stream = session.stream("hello")
        assert [event.text for event in stream] == ["hello"]
        assert stream.result.ok
        fork = session.fork()
        fork.write({"b": "2"})
        session.merge(fork)
        client.tag("here", session=session)
        assert session.read_file("b") == b"2"
        assert len(session.fork_many(2)) == 2
        with pytest.raises(NotFound):
            client.attach("nobody's").info()
        assert len(list(client.sessions(page=2))) == 4
        return [move.kind for move in session.log(page=1)]


async def test_it_works_from_any_thread_while_a_loop_runs(url: str) -> None:
    assert await asyncio.to_thread(scenario, url) == ["merge", "execute", "execute", "create"]


async def test_a_session_of_one_line_leaves_no_thread_behind(url: str) -> None:
    def act() -> str:
        with SyncClient(url).session("bash", delete=True) as session:
            return session.run("hello").stdout

    assert await asyncio.to_thread(act) == "hello"
    assert "psf-client" not in [thread.name for thread in threading.enumerate()]


async def test_in_a_thread_whose_own_loop_runs_it_waits_all_the_same() -> None:
    async def answer() -> int:
        return 7

    portal = Portal()
    assert portal.wait(answer()) == 7  # this very thread's loop is running
    portal.close()
    portal.close()
    with pytest.raises(Misused):
        portal.wait(answer())


def test_from_its_own_thread_it_refuses_rather_than_wait_for_itself() -> None:
    portal = Portal()

    async def wait() -> None:
        portal.wait(asyncio.sleep(0))

    with pytest.raises(Misused):
        portal.wait(wait())
    portal.close()


def test_who_is_interrupted_cancels_what_he_waits_for() -> None:
    portal = Portal()
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    def interrupt() -> None:
        time.sleep(0.1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        portal.wait(work())
    portal.close()
    assert seen == ["cancelled"]


def test_a_client_that_nobody_holds_any_more_ends_its_thread() -> None:
    def threads() -> int:
        return sum(thread.name == "psf-client" for thread in threading.enumerate())

    portal = Portal()
    assert threads() == 1
    del portal
    gc.collect()
    _eventually(lambda: threads() == 0)


def _eventually(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
