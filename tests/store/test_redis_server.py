"""The seam to Redis: what it must promise, how it is called, and what becomes of an attempt that was not answered."""

from __future__ import annotations

import logging
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import redis

from store import redis_scripts, redis_values
from store.errors import HeadMoved, HeadsUnreachable, SessionExists, StoreUnusable
from store.interfaces import Pin
from store.redis_address import RedisSettings, shown
from store.redis_heads import HeadsLost, RedisHeads, claim
from store.redis_server import RedisServer
from store.testing import move, nobody, session, snapshot_name
from tests.redisd import server as redisd
from tests.redisd.server import TestRedis
from tests.store.redis_workbench import IDENTITY, claimed, heads_in, settings

SECRET = "hunter2"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (f"redis://user:{SECRET}@heads.example:6380/2?password={SECRET}", "redis://heads.example:6380/2"),
        (f"rediss://:{SECRET}@[::1]:6379", "rediss://[::1]:6379"),
        (f"unix://:{SECRET}@/run/{SECRET}/redis.sock?db=1", "unix socket redis.sock"),
        (f"redis://:{SECRET}@host:{SECRET}/0", "its address"),
        ("redis://", "redis://localhost"),
    ],
)
def test_an_address_is_shown_without_what_is_secret_in_it(url: str, text: str) -> None:
    assert shown(url) == text
    assert SECRET not in repr(RedisSettings(url))


@pytest.mark.parametrize("url", [f"http://:{SECRET}@host", f"redis://:{SECRET}/x@host:6379/0", SECRET, "redis://h:x/0"])
def test_what_is_no_address_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(StoreUnusable) as caught:
        claimed(RedisSettings(url, patience_s=0.1))
    assert SECRET not in str(caught.value)


def test_a_wrong_password_is_refused_at_once_and_not_shown(redis_server: TestRedis) -> None:
    redis_server.command("ACL", "SETUSER", "psf", "on", ">right", "~*", "+@all")
    given = msgspec.structs.replace(settings(redis_server), url=redis_server.url.replace("://", f"://psf:{SECRET}@"))
    started = time.monotonic()
    with pytest.raises(StoreUnusable, match="invalid username-password") as caught:
        claimed(given)
    assert SECRET not in str(caught.value)
    assert time.monotonic() - started < given.patience_s / 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--appendonly", "no"), "`redis-cli CONFIG SET appendonly yes`"),
        (("--appendfsync", "everysec"), "`redis-cli CONFIG SET appendfsync always`"),
        (("--no-appendfsync-on-rewrite", "yes"), "`redis-cli CONFIG SET no-appendfsync-on-rewrite no`"),
        (("--maxmemory-policy", "allkeys-lru"), "`redis-cli CONFIG SET maxmemory-policy noeviction`"),
    ],
)
def test_a_redis_that_promises_less_is_refused_with_what_to_type(options: tuple[str, ...], named: str) -> None:
    with redisd.running(*options) as running:
        with pytest.raises(StoreUnusable) as caught:
            claimed(settings(running))
        assert named in str(caught.value)
        assert ("redis_durability" in str(caught.value)) == ("maxmemory" not in named)
        _, *words = named.strip("`").split()
        running.command(*words)
        assert claimed(settings(running)) == IDENTITY


def test_what_a_redis_does_can_be_accepted_and_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with redisd.running("--appendonly", "no") as running, caplog.at_level(logging.WARNING):
        with heads_in(settings(running, durability="server")) as heads:
            heads.create([session("a")], "create")
        assert "appendonly no" in caplog.text
        running.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreUnusable, match="noeviction"):
            claimed(settings(running, durability="server"))


def test_a_redis_that_does_not_tell_promises_nothing(redis_server: TestRedis) -> None:
    redis_server.command("ACL", "SETUSER", "psf", "on", ">pw", "~*", "+@all", "-config")
    url = redis_server.url.replace("://", "://psf:pw@")
    with pytest.raises(StoreUnusable, match="CONFIG GET is not allowed"):
        claimed(settings(redis_server, url=url))
    with heads_in(settings(redis_server, url=url, durability="server")) as heads:
        heads.create([session("a")], "create")


def test_what_it_promises_is_looked_at_again_when_it_comes_back(redis_server: TestRedis) -> None:
    with heads_in(settings(redis_server)) as heads:
        redis_server.stop()
        redis_server._options = ("--appendfsync", "no")
        redis_server.start()
        with pytest.raises(StoreUnusable, match="appendfsync no"):
            heads.create([session("a")], "create")


def test_a_redis_that_is_not_there_is_waited_for_and_then_named(tmp_path: Path) -> None:
    server = RedisServer(RedisSettings(f"unix://{tmp_path}/none.sock", patience_s=0.3))
    with pytest.raises(
        HeadsUnreachable,
        match=r"unix socket none\.sock cannot be reached \(No such file or directory\): tried for 0\.3 s",
    ) as caught:
        server.run("look", lambda _: ())
    assert "change" not in str(caught.value)
    with pytest.raises(HeadsUnreachable, match="made whole, or not at all"):
        server.run("advance", lambda _: ())
    server.close()


@contextmanager
def hanging_up(path: Path) -> Iterator[list[bytes]]:
    """Something that hangs up whenever it is to run a script, and refuses all else; the scripts that it was to run."""
    heard: list[bytes] = []

    class Hearing(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(100_000):
                if b"EVALSHA" in data:
                    heard.append(data)
                    return
                self.request.sendall(b"-ERR no\r\n" * data.count(b"*"))

    with socketserver.ThreadingUnixStreamServer(str(path), Hearing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield heard
        finally:
            server.shutdown()
            thread.join()


def test_every_time_it_is_asked_is_an_attempt_of_its_own(tmp_path: Path) -> None:
    """The library would ask again by itself, with what may have been carried out already."""
    with hanging_up(tmp_path / "s") as heard:
        server = RedisServer(RedisSettings(f"unix://{tmp_path}/s", durability="server", patience_s=0.3))
        attempts: list[int] = []

        def arguments(attempt: int) -> list[int]:
            attempts.append(attempt)
            return [attempt]

        with pytest.raises(HeadsUnreachable):
            server.run("advance", arguments)
        server.close()
    assert len(attempts) > 2
    assert attempts == list(range(len(heard)))


def test_every_script_is_carried_and_every_key_has_the_tag(shared_redis: TestRedis) -> None:
    assert {path.stem for path in (ROOT / "store/lua").glob("*.lua")} == {*redis_scripts.load(), "begin", "writing"}
    given = settings(shared_redis)
    with heads_in(given) as heads:
        keyed = msgspec.structs.replace(move(1), key=b"k" * 16, asked=b"a" * 16)
        heads.create([session("a")], "create")
        heads.advance("a", snapshot_name(0), keyed)
        heads.pin(Pin("p", snapshot_name(1), 1.0))
        keys = shared_redis.command("KEYS", f"*{given.prefix}*")
        assert isinstance(keys, list)
        assert len(keys) == 9
        assert all(key.startswith(b"{%s}:" % given.prefix.encode()) for key in keys)
        assert heads.problems() == []


# -- attempts that were not answered -----------------------------------------------------------------------------------


class Deaf(RedisServer):
    """A server whose answers to some attempts do not arrive. `late`: those attempts are carried out only when that is called."""

    def __init__(self, asked: RedisSettings) -> None:
        super().__init__(asked)
        self.lost = 0
        self.holds = False
        self.held: list[tuple[object, list[object]]] = []
        for name, script in self._scripts.items():
            self._scripts[name] = self._deafened(script)  # type: ignore[assignment]

    def _deafened(self, script):  # type: ignore[no-untyped-def]
        def call(keys: list[object], args: list[object]) -> object:
            if not self.lost:
                return script(keys=keys, args=args)
            self.lost -= 1
            if self.holds:
                self.held.append((script, args))
            else:
                script(keys=keys, args=args)
            raise redis.exceptions.TimeoutError("no answer")

        return call

    def late(self) -> list[object]:
        return [script(keys=[self._key], args=args) for script, args in self.held]  # type: ignore[operator]


@pytest.fixture
def deaf(shared_redis: TestRedis) -> Deaf:
    return Deaf(settings(shared_redis, told_s=3600.0))


@pytest.fixture
def heads(deaf: Deaf) -> Iterator[RedisHeads]:
    claim(deaf, IDENTITY)
    opened = RedisHeads(deaf, IDENTITY)
    opened.create([session("a")], "create")
    yield opened
    opened.close()


@pytest.mark.parametrize("holds", [False, True], ids=["carried out", "carried out late"])
@pytest.mark.parametrize("to", [0, 1], ids=["same snapshot", "another"])
def test_a_move_whose_answer_was_lost_is_made_once(deaf: Deaf, heads: RedisHeads, holds: bool, to: int) -> None:
    deaf.lost, deaf.holds = 2, holds
    heads.advance("a", snapshot_name(0), move(to))
    heads.advance("a", snapshot_name(to), move(2))
    heads.advance("a", snapshot_name(2), move(0))  # where the late attempt would fit again
    deaf.late()
    assert [entry.sequence for entry in heads.log("a", before=None, limit=9)] == [4, 3, 2, 1]
    assert heads.get("a", "alice").head == snapshot_name(0)


def test_a_move_whose_answer_was_lost_is_found_behind_later_ones(deaf: Deaf, heads: RedisHeads) -> None:
    other = RedisHeads(RedisServer(deaf._settings), IDENTITY)
    run = deaf.run

    def run_and_go_on(name, arguments, **more):  # type: ignore[no-untyped-def]
        def attempted(attempt: int) -> object:
            if name == "advance" and attempt == 1:
                for number in range(1, 5):
                    other.advance("a", snapshot_name(number), move(number + 1))
            return arguments(attempt)

        return run(name, attempted, **more)

    deaf.run, deaf.lost = run_and_go_on, 1  # type: ignore[method-assign, assignment]
    heads.advance("a", snapshot_name(0), move(1))
    assert len(heads.log("a", before=None, limit=9)) == 6
    other.close()


def test_a_move_that_was_refused_unheard_is_refused_again(deaf: Deaf, heads: RedisHeads) -> None:
    deaf.lost = 1
    with pytest.raises(HeadMoved):
        heads.advance("a", snapshot_name(5), move(1))
    assert len(heads.log("a", before=None, limit=9)) == 1


@pytest.mark.parametrize("holds", [False, True])
def test_every_other_change_whose_answer_was_lost_is_made_once(deaf: Deaf, heads: RedisHeads, holds: bool) -> None:
    deaf.holds = holds
    deaf.lost = 1
    heads.create([session("b", used_at_s=1.0), session("c")], "fork")
    with pytest.raises(SessionExists):
        heads.create([session("b")], "create")
    deaf.lost = 1
    heads.extend("c", 1, [msgspec.structs.replace(move(2), sequence=2, from_snapshot=snapshot_name(0))], runtime="bash", used_at_s=5000.0)  # fmt: skip
    heads.pin(Pin("p", snapshot_name(1), 1.0))
    found = heads.pins
    deaf.lost, heads.pins = 1, lambda: [Pin("p", snapshot_name(1), 1.0)]  # type: ignore[method-assign]
    assert heads.unpin("p")
    heads.pins = found  # type: ignore[method-assign]
    drop = heads._drop

    def dropping(horizon_s, unused):  # type: ignore[no-untyped-def]
        deaf.lost = 1
        return drop(horizon_s, unused)

    heads._drop = dropping  # type: ignore[method-assign]
    assert heads.drop_unused_since(1000.0, is_running=nobody) == 1
    deaf.late()
    assert {last.session.session_id: last.move.sequence for last in heads.last_moves()} == {"a": 1, "c": 2}
    assert heads.pins() == []
    assert heads.problems() == []


def test_a_session_that_moved_since_its_end_was_written_down_is_not_dropped_yet(deaf: Deaf, heads: RedisHeads) -> None:
    """Else the packs would know of a move after its end."""
    drop = heads._drop

    def moved_first(horizon_s, unused):  # type: ignore[no-untyped-def]
        heads.advance("a", snapshot_name(0), move(1, at_s=1.0))
        return drop(horizon_s, unused)

    heads._drop = moved_first  # type: ignore[method-assign]
    assert heads.drop_unused_since(5000.0, is_running=nobody) == 0
    heads._drop = drop  # type: ignore[method-assign]
    assert heads.drop_unused_since(5000.0, is_running=nobody) == 1


# -- values -------------------------------------------------------------------------------------------------------------


def test_damage_is_named_and_found_by_a_check(shared_redis: TestRedis) -> None:
    given = settings(shared_redis)
    with heads_in(given) as heads:
        heads.create([session("a"), session("b"), session("c"), session("d")], "create")
        heads.advance("d", snapshot_name(0), move(1))
        tag = "{" + given.prefix + "}"
        shared_redis.command("HSET", f"{tag}:session:a", "ttl_s", "long")
        shared_redis.command("HSET", f"{tag}:log:b", "1", b"x" * 40)
        shared_redis.command("HSET", f"{tag}:session:c", "sequence", "7")
        shared_redis.command("HDEL", f"{tag}:log:d", "2")
        problems = heads.problems()
        assert len(problems) == 4
        assert all("are damaged: session '" in problem for problem in problems)
        with pytest.raises(StoreUnusable, match="session 'a'"):
            heads.get("a", "alice")


def test_a_long_log_is_read_by_pages_and_all_of_it_is_roots(shared_redis: TestRedis) -> None:
    with heads_in(settings(shared_redis)) as heads:
        chain = [
            msgspec.structs.replace(move(n), sequence=n, from_snapshot=snapshot_name(n - 1)) for n in range(1, 1201)
        ]
        heads.restore(msgspec.structs.replace(session("a"), head=snapshot_name(1200)), chain)
        assert heads.log("a", before=None, limit=redis_values.SEQUENCE_MAX) == chain[::-1]
        assert [entry.sequence for entry in heads.log("a", before=601, limit=2)] == [600, 599]
        assert {snapshot for _, snapshot in heads.roots()} == {snapshot_name(n) for n in range(1, 1201)}


def test_many_sessions_are_scanned_each_once(shared_redis: TestRedis) -> None:
    with heads_in(settings(shared_redis)) as heads:
        heads.create([session(f"s{number}", used_at_s=10.0) for number in range(1000)], "create")
        assert sorted(last.session.session_id for last in heads.last_moves()) == sorted(f"s{n}" for n in range(1000))
        assert heads.drop_unused_since(1000.0, is_running=lambda name: name == "s7") == 999
        assert [last.session.session_id for last in heads.last_moves()] == ["s7"]


def test_what_is_dropped_while_roots_are_read_hides_nothing(shared_redis: TestRedis) -> None:
    """What another session has taken over meanwhile might be seen in neither."""
    with heads_in(settings(shared_redis)) as heads:
        heads.create([session("old", used_at_s=1.0)], "create")
        heads.advance("old", snapshot_name(0), move(7, at_s=2.0))
        scan, scans = heads._scan, []

        def scanning() -> Iterator[list[bytes]]:
            scans.append(list(scan()))
            if len(scans) == 1:
                heads.create([msgspec.structs.replace(session("new"), head=snapshot_name(7))], "fork")
                heads.drop_unused_since(500.0, is_running=nobody)
                scans[-1] = []  # as when the scan has passed by where "new" went, and comes to where "old" was
            yield from scans[-1]

        heads._scan = scanning  # type: ignore[method-assign]
        assert ("new", snapshot_name(7)) in set(heads.roots())
        assert len(scans) == 2


# -- another Redis than it was -------------------------------------------------------------------------------------------


def test_an_emptied_redis_is_told_from_an_empty_store(redis_server: TestRedis) -> None:
    with heads_in(settings(redis_server)) as heads:
        heads.create([session("a")], "create")
        redis_server.command("FLUSHALL")
        for use in (
            lambda: heads.get("a", "alice"),
            lambda: heads.advance("a", snapshot_name(0), move(1)),
            lambda: heads.create([session("b")], "create"),
            lambda: heads.log("a", before=None, limit=1),
            lambda: list(heads.roots()),
            lambda: heads.made_under(b"k" * 16),
            heads.epoch,
            heads.problems,
        ):
            with pytest.raises(HeadsLost, match=r"holds nothing of this store.*--repair"):
                use()
        assert redis_server.command("DBSIZE") == 0


def test_a_redis_that_was_set_back_in_time_is_noticed(redis_server: TestRedis) -> None:
    given = settings(redis_server)
    with heads_in(given) as heads:
        heads.create([session("a")], "create")
        heads.advance("a", snapshot_name(0), move(1))
        redis_server.command("HSET", "{" + given.prefix + "}:store", "changes", 1)
        with pytest.raises(HeadsLost, match="it knows 1, and this psf has seen 2"):
            heads.get("a", "alice")


def test_a_redis_with_another_stores_heads_is_not_taken_over(shared_redis: TestRedis) -> None:
    given = settings(shared_redis)
    with heads_in(given) as heads:
        assert claimed(given, "2" * 32) == "2" * 32  # nothing was ever changed there
        with pytest.raises(HeadsLost, match="holds the heads of another store"):
            heads.create([session("a")], "create")
        assert claimed(given) == IDENTITY
        heads.create([session("a")], "create")
        assert claimed(given, "2" * 32) == IDENTITY
