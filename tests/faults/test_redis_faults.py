"""A Redis that is killed, paused, cut off or emptied while heads move: what was acknowledged is there, and nothing is half done."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from store.errors import HeadMoved, HeadsUnreachable
from store.gc import GcRefused
from store.ids import Kind, SnapshotId, object_id
from store.local import LocalStore
from store.redis_address import RedisSettings
from store.redis_heads import HeadsLost, RedisHeads
from store.testing import move, session, snapshot_name
from tests.faults import crowd
from tests.faults.hammering import SESSIONS, chain, read_history
from tests.faults.linear import Read, Swap, violations
from tests.redisd.server import TestRedis
from tests.store.history import begin
from tests.store.redis_workbench import heads_in, settings

TENANT = "alice"
WRITERS = 4


class Seen(NamedTuple):
    """What writers saw: their reads and swaps, and errors of other kinds."""

    history: list[Read | Swap]
    errors: list[Exception]

    def acknowledged(self) -> int:
        return sum(isinstance(each, Swap) and each.accepted for each in self.history)


@contextmanager
def writing(heads: RedisHeads) -> Iterator[Seen]:
    """Threads that move the head of the session `a` as fast as they can, until the context ends."""
    seen, stop, numbers = Seen([], []), threading.Event(), itertools.count()

    def swap(expected: SnapshotId, value: SnapshotId) -> None:
        called = time.monotonic()

        def tell(accepted: bool, actual: str | None) -> None:
            seen.history.append(Swap(expected.hex(), value.hex(), accepted, actual, called, time.monotonic()))

        try:
            heads.advance("a", expected, msgspec.structs.replace(move(1), to_snapshot=value))
        except HeadMoved as error:
            tell(False, error.actual)
        except BaseException:
            tell(False, None)  # nobody knows
            raise
        else:
            tell(True, None)

    def work() -> None:
        while not stop.is_set():
            try:
                called = time.monotonic()
                head = heads.get("a", TENANT).head
                seen.history.append(Read(head.hex(), called, time.monotonic()))
                swap(head, SnapshotId(object_id(Kind.SNAPSHOT, b"value %d" % next(numbers))))
            except Exception as error:
                seen.errors.append(error)
                time.sleep(0.05)

    with ThreadPoolExecutor(WRITERS) as pool:
        workers = [pool.submit(work) for _ in range(WRITERS)]
        try:
            yield seen
        finally:
            stop.set()
        for worker in workers:
            worker.result()


def wait_for(seen: Seen, more: int) -> None:
    """Until so many further moves are acknowledged."""
    goal, deadline_s = seen.acknowledged() + more, time.monotonic() + 60
    while seen.acknowledged() < goal:
        assert time.monotonic() < deadline_s, seen.errors[-3:]
        time.sleep(0.01)


def contradictions(heads: RedisHeads, seen: Seen) -> list[str]:
    return violations(seen.history, chain(heads, "a"))


@pytest.fixture
def given(redis_server: TestRedis) -> RedisSettings:
    return settings(redis_server)


@pytest.fixture
def heads(given: RedisSettings) -> Iterator[RedisHeads]:
    with heads_in(given) as opened:
        opened.create([session("a")], "create")
        yield opened


def test_two_processes_race_and_see_one_order_of_moves(redis_server: TestRedis, given: RedisSettings) -> None:
    with heads_in(given) as heads:
        heads.create([session(name) for name in SESSIONS], "create")
        command = [sys.executable, "-m", "tests.faults.redis_hammering", given.url, given.prefix]
        workers = [
            subprocess.Popen([*command, name, "4", "100"], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
            for name in ("one", "other")
        ]  # fmt: skip
        histories = [read_history(worker.communicate(timeout=100)[0]) for worker in workers]
        for name in SESSIONS:
            both = [each for history in histories for each in history[name]]
            assert violations(both, chain(heads, name)) == []
        swaps = [each for history in histories for seen in history.values() for each in seen if isinstance(each, Swap)]
        assert len(swaps) == 2 * 4 * 100
        assert any(swap.refused for swap in swaps), "they never met"
        assert heads.problems() == []


def test_a_redis_that_is_killed_and_begins_again_has_all_that_it_acknowledged(
    redis_server: TestRedis, heads: RedisHeads
) -> None:
    with writing(heads) as seen:
        for _ in range(4):
            wait_for(seen, 50)
            redis_server.kill()
            time.sleep(0.2)
            redis_server.start()
        wait_for(seen, 50)
    assert seen.errors == []
    assert contradictions(heads, seen) == []
    assert heads.problems() == []
    assert seen.acknowledged() == len(chain(heads, "a")) - 1


def test_a_redis_that_is_paused_is_waited_for(redis_server: TestRedis, heads: RedisHeads) -> None:
    with writing(heads) as seen:
        wait_for(seen, 20)
        with redis_server.paused():
            time.sleep(5)  # twice as long as an answer is waited for
        wait_for(seen, 20)
    assert seen.errors == []
    assert contradictions(heads, seen) == []
    assert seen.acknowledged() == len(chain(heads, "a")) - 1


def test_a_redis_that_is_paused_for_longer_than_anybody_waits_is_an_error_and_nothing_is_half_done(
    redis_server: TestRedis, given: RedisSettings
) -> None:
    with heads_in(msgspec.structs.replace(given, patience_s=1.0, answer_s=0.4)) as heads:
        heads.create([session("a")], "create")
        with writing(heads) as seen:
            wait_for(seen, 20)
            with redis_server.paused():
                time.sleep(4)
            wait_for(seen, 20)
        assert seen.errors
        assert all(isinstance(error, HeadsUnreachable) for error in seen.errors), seen.errors
        assert any("takes too long" in str(error) for error in seen.errors)
        assert contradictions(heads, seen) == []
        assert heads.problems() == []


def test_connections_that_are_cut_lose_and_repeat_nothing(redis_server: TestRedis, heads: RedisHeads) -> None:
    with writing(heads) as seen:
        for _ in range(20):
            wait_for(seen, 5)
            redis_server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert seen.errors == []
    assert contradictions(heads, seen) == []
    assert seen.acknowledged() == len(chain(heads, "a")) - 1


def test_a_redis_that_is_emptied_says_so_and_takes_nothing_more(redis_server: TestRedis, heads: RedisHeads) -> None:
    with writing(heads) as seen:
        wait_for(seen, 20)
        redis_server.command("FLUSHALL")
        emptied = time.monotonic()
        deadline_s = emptied + 20
        while len(seen.errors) < 2 * WRITERS and time.monotonic() < deadline_s:
            time.sleep(0.01)
    assert seen.errors
    assert {type(error) for error in seen.errors} == {HeadsLost}
    assert all("holds nothing of this store" in str(error) for error in seen.errors)
    assert not [each for each in seen.history if each.called > emptied and not isinstance(each, Swap)]
    assert not [each for each in seen.history if isinstance(each, Swap) and each.called > emptied and each.accepted]
    assert redis_server.command("DBSIZE") == 0


def test_a_redis_whose_memory_is_full_takes_whole_moves_or_none(redis_server: TestRedis, heads: RedisHeads) -> None:
    redis_server.command("CONFIG", "SET", "maxmemory", 3_000_000)
    large = msgspec.structs.replace(move(1), run_record=b"x" * 100_000)
    with pytest.raises(Exception, match=r"refuses: .*maxmemory"):  # noqa: PT012
        for number in range(100):
            made = number
            heads.advance(
                "a", snapshot_name(number), msgspec.structs.replace(large, to_snapshot=snapshot_name(number + 1))
            )
    assert heads.get("a", TENANT).head == snapshot_name(made)
    assert heads.problems() == []
    redis_server.command("CONFIG", "SET", "maxmemory", 0)
    heads.advance("a", snapshot_name(made), move(made + 1))


def test_one_that_forgets_what_it_acknowledged_is_found_out(given: RedisSettings, redis_server: TestRedis) -> None:
    redis_server.command("CONFIG", "SET", "appendonly", "no")
    accepting = msgspec.structs.replace(given, durability="server")
    redis_server._options = ("--appendonly", "no")
    with heads_in(accepting) as heads:
        heads.create([session("a")], "create")
        redis_server.kill()
        redis_server.start()
        uses: list[Callable[[], object]] = [
            lambda: heads.get("a", TENANT),
            lambda: heads.create([session("b")], "create"),
        ]
        for use in uses:
            with pytest.raises(HeadsLost):
                use()


def test_a_crowd_on_one_store_keeps_all_that_it_needs_while_garbage_is_removed(
    tmp_path: Path, given: RedisSettings
) -> None:
    root = tmp_path / "store"
    stores = [LocalStore(root, seal_bytes=crowd.SEAL_BYTES, redis=given) for _ in range(3)]
    for name in crowd.SESSIONS:
        begin(stores[0], name, used_at_s=1e9)
    stop, swept = threading.Event(), []

    def sweep() -> None:
        while not stop.is_set():
            deadline_s = time.monotonic() + crowd.PATIENCE_S
            with contextlib.suppress(GcRefused):
                swept.append(stores[2].sweep(dry=False, pause=lambda end=deadline_s: time.monotonic() < end))

    with ThreadPoolExecutor(3) as pool:
        sweeping = pool.submit(sweep)
        working = [pool.submit(crowd.make_steps, stores[number], str(number), 3, 40) for number in range(2)]
        histories = [work.result() for work in working]
        stop.set()
        sweeping.result()
    for name in crowd.SESSIONS:
        both = [each for history in histories for each in history.get(name, [])]
        assert violations(both, chain(stores[0].heads, name)) == []
    assert sum(len(report.packs) for report in swept) > 10
    report, _ = stores[0].check(full=True)
    assert report.clean, report
    for store in stores:
        store.close()
