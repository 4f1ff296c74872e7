"""Session heads, their logs, pins and epochs in Redis, or Valkey, where several servers share them. What is acknowledged is as durable as
Redis promises, which is looked at with each connection (store.redis_server).

Each change is one script, which nothing else comes between; the objects it is about are synced before Redis hears of it. Whoever asks
again after a connection was lost is told what became of the first attempt. Every script looks whether this is the Redis that holds the
heads of this store, and whether it knows at least as much as it has ever told us: one that was emptied, exchanged or set back
in time is an error, not an empty store. How things stand there: store.redis_values.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from store import redis_values as values
from store.errors import HeadMoved, SessionExists, SessionMissing, StoreError, StoreUnusable, WriterFenced
from store.ids import SnapshotId
from store.interfaces import UNKEYED, Journal, Keyed, Move, Moved, Pin, Session, SessionSettings
from store.moves import first_move, left_by, refuse_other_end
from store.redis_journal import NoJournal
from store.redis_server import Argument, RedisServer

_PAGE = 500
_SESSIONS, _ENTRIES = 100, 64
"""Of one look at many sessions: it must be short, since Redis does nothing else meanwhile."""
_SCANS_MAX = 100


class HeadsLost(StoreUnusable):
    """This Redis has not what it should have of this store."""

    mendable = True


class _Reply(NamedTuple):
    status: bytes
    epoch: int
    removals: int
    rest: list[Any]


def _nothing() -> None:
    return None


class RedisHeads:
    """`Heads`, `HeadLister`, `Repeats`, `HeadSweeper`, `HeadRestorer`, `Pins` and `Epochs`. Any number of threads, processes and machines.

    `identity` is the store's, as `claim` has settled it. `sync` makes durable what was put into the store's objects. Raises StoreUnusable,
    from any method, when Redis is not there, refuses, or has lost something.
    """

    def __init__(
        self,
        server: RedisServer,
        identity: str,
        *,
        sync: Callable[[], None] = _nothing,
        journal: Journal | None = None,
    ) -> None:
        self._server, self._identity = server, identity
        self._sync, self._journal = sync, journal or NoJournal()
        self._knowing = threading.Lock()
        self._changes = self._epoch = 0
        self._closing = threading.Event()
        self.epoch()
        self._listener = threading.Thread(target=self._listen, name="heads in redis", daemon=True)
        self._listener.start()

    def create(
        self, sessions: Collection[Session], kind: str, *, keyed: Keyed = UNKEYED, epoch: int | None = None
    ) -> None:
        self._add("new", [(session, [first_move(session, kind, keyed)]) for session in sessions], epoch)

    def get(self, session_id: str, tenant: str) -> Session:
        ((name, flat, _),) = self._read(None, 0, [session_id.encode()])
        session = values.session(name, values.mapping(flat)) if flat else None
        if session is None or session.tenant != tenant:
            raise SessionMissing(session_id)
        return session

    def advance(
        self,
        session_id: str,
        expected: SnapshotId,
        move: Move,
        *,
        runtime: str | None = None,
        settings: SessionSettings | None = None,
        epoch: int | None = None,
    ) -> None:
        changed: dict[str, object] = {"head": move.to_snapshot, "used_at_s": move.at_s}
        changed |= {"runtime": runtime} if runtime is not None else {}
        changed |= msgspec.structs.asdict(settings) if settings is not None else {}
        made = msgspec.structs.replace(move, from_snapshot=expected)
        fields = [part for name, value in changed.items() for part in values.field(name, value)]
        reply = self._change(
            "advance", session_id, expected, made.key, values.entry(made), *fields, session=session_id, epoch=epoch
        )
        if reply.status == b"moved":
            raise HeadMoved(session_id, expected.hex(), reply.rest[0].hex())
        sequence, flat = reply.rest
        with self._written_down():
            after = values.session(session_id.encode(), values.mapping(flat))
            after = msgspec.structs.replace(after, head=move.to_snapshot, used_at_s=move.at_s)
            self._journal.moved(Moved(after, msgspec.structs.replace(made, sequence=sequence)))

    def log(self, session_id: str, *, before: int | None, limit: int) -> list[Move]:
        found: list[Move] = []
        name = session_id.encode()
        while len(found) < limit:
            asked = min(limit - len(found), _PAGE)
            ((_, _, written),) = self._read(before, asked, [name])
            page = values.moves(name, written)
            found += page
            if len(page) < asked:
                break
            before = page[-1].sequence
        return found

    def made_under(self, key: bytes) -> list[Moved]:
        return [values.moved(found) for found in self._ask("made_under", key).rest[0]] if key else []

    def sessions(self, tenant: str, *, before: tuple[float, str] | None = None, limit: int) -> list[Session]:
        start = values.place(before[0]) + before[1] if before is not None else ""
        found = self._ask("sessions", tenant, start, limit).rest[0]
        return [values.session(name, values.mapping(flat)) for name, flat in found]

    def count(self, tenant: str) -> int:
        return int(self._ask("tenant", tenant, "").rest[0])

    def led_to(self, tenant: str, snapshot: SnapshotId) -> bool:
        return bool(self._ask("tenant", tenant, snapshot).rest[1])

    # -- HeadRestorer ---------------------------------------------------------------------------------------------------

    def restore(self, session: Session, log: Sequence[Move], *, epoch: int | None = None) -> None:
        self._add("new", [(session, log)], epoch)

    def extend(
        self,
        session_id: str,
        expected_sequence: int,
        moves: Sequence[Move],
        *,
        runtime: str,
        used_at_s: float,
        epoch: int | None = None,
    ) -> None:
        changed = {"head": moves[-1].to_snapshot, "runtime": runtime, "used_at_s": used_at_s}
        fields = [part for name, value in changed.items() for part in values.field(name, value)]
        fields += ["sequence", str(moves[-1].sequence)]
        where = (session_id, expected_sequence, moves[0].from_snapshot or b"")
        reply = self._change(
            "extend", *where, len(fields), *fields, *values.entries(moves), session=session_id, epoch=epoch
        )
        found = values.mapping(reply.rest[0])
        session = values.session(session_id.encode(), found)
        if reply.status == b"moved":
            last = first_move(session, "")
            last = msgspec.structs.replace(last, sequence=values.sequence(session_id.encode(), found))
            refuse_other_end(Moved(session, last), expected_sequence, moves[0])
        self._write_down(left_by(session, moves))

    # -- HeadSweeper ----------------------------------------------------------------------------------------------------

    def drop_unused_since(self, horizon_s: float, *, is_running: Callable[[str], bool]) -> int:
        expired: list[bytes] = []
        while page := self._ask("expired", repr(float(horizon_s)), len(expired), _PAGE).rest[0]:
            expired += page
        dropped = 0
        for batch in _batches(expired, _SESSIONS):
            last = [values.moved(found) for found in self._read(None, 1, batch) if found[1]]
            unused = [moved for moved in last if not is_running(moved.session.session_id)]
            if unused:
                dropped += self._drop(horizon_s, unused)
        return dropped

    def roots(self) -> Iterator[tuple[str, SnapshotId]]:
        return iter(self._roots())

    def last_moves(self) -> Iterator[Moved]:
        for batch in self._scan():
            yield from (values.moved(found) for found in self._read(None, 1, batch) if found[1])

    # -- Pins -----------------------------------------------------------------------------------------------------------

    def pin(self, pin: Pin, *, epoch: int | None = None) -> None:
        for before in self.pins():
            if before.name == pin.name and before != pin:
                self._journal.unpinned(before)
        self._change("pin", pin.name, values.pin(pin), epoch=epoch)
        with self._written_down():
            self._journal.pinned(pin)

    def unpin(self, name: str) -> bool:
        found = [pin for pin in self.pins() if pin.name == name]
        for pin in found:
            self._journal.unpinned(pin)
        return bool(found) and bool(self._change("unpin", name).rest[0])

    def pins(self) -> list[Pin]:
        flat = self._ask("pins").rest[0]
        return [values.pin_of(name, written) for name, written in sorted(values.mapping(flat).items())]

    # -- Epochs ---------------------------------------------------------------------------------------------------------

    def epoch(self) -> int:
        return self._ask("look").epoch

    def known_epoch(self) -> int:
        """The last one we heard of, without asking. Whoever takes a turn by it while gc begins another is at worst refused."""
        return self._epoch

    def begin_epoch(self) -> int:
        epoch = self._change("epochs", "begin").epoch
        time.sleep(2 * self._server.told_s)  # so that the other servers' turns begin in it
        return epoch

    def refuse_before(self, epoch: int) -> None:
        self._change("epochs", "refuse", epoch)

    # -- mending --------------------------------------------------------------------------------------------------------

    def rebuild(self, session: Session, log: Collection[Move]) -> None:
        """Put a session and its whole log in place of what there is of it. The journal is not told: it has told us."""
        self._change("add", "instead", 1, *values.added(session, list(log)))

    def rebuild_pin(self, pin: Pin) -> None:
        """Set a pin. The journal is not told: it has told us."""
        self._change("pin", pin.name, values.pin(pin))

    def followed_bytes(self) -> dict[int, int]:
        """No record in the packs waits for Redis to follow: it is put when Redis has accepted what it says (store.redis_journal)."""
        return _Everything()

    def problems(self) -> list[str]:
        """What is wrong with what Redis holds of this store. Raises StoreUnusable when it cannot be asked."""
        found: list[str] = []
        for batch in self._scan():
            for name in batch:
                try:
                    found += self._problems_of(name)
                except HeadsLost:
                    raise
                except StoreUnusable as error:
                    found.append(str(error))
        return found

    def close(self) -> None:
        """Close it. What the journal was told is durable then, if that can be."""
        self._closing.set()
        self._listener.join()
        with contextlib.suppress(OSError):
            self._sync()
        self._server.close()

    # -- parts ----------------------------------------------------------------------------------------------------------

    def _add(self, mode: str, sessions: list[tuple[Session, Sequence[Move]]], epoch: int | None) -> None:
        parts = [part for session, log in sessions for part in values.added(session, log)]
        self._change("add", mode, len(sessions), *parts, epoch=epoch)
        self._write_down([moved for session, log in sessions for moved in left_by(session, log)])

    def _drop(self, horizon_s: float, unused: list[Moved]) -> int:
        for last in unused:
            self._journal.dropped(last)
        whom = [part for last in unused for part in (last.session.session_id, str(last.move.sequence))]
        return len(self._change("drop", repr(float(horizon_s)), *whom).rest[0])

    def _roots(self) -> list[tuple[str, SnapshotId]]:
        """A scan sees all that stays. Were something dropped meanwhile, what began at it might be seen at neither end: then again."""
        for _ in range(_SCANS_MAX):
            removals = self._ask("look").removals
            found = [(f"pin {pin.name}", pin.snapshot) for pin in self.pins()]
            for batch in self._scan():
                for name, _, written in self._read(None, _ENTRIES, batch):
                    log = values.moves(name, written)
                    if len(log) == _ENTRIES:
                        log += self.log(name.decode(), before=log[-1].sequence, limit=values.SEQUENCE_MAX)
                    found += [(name.decode(), move.to_snapshot) for move in log]
            if self._ask("look").removals == removals:
                return found
        raise StoreUnusable("sessions are dropped faster than the heads in Redis can be read; try again")

    def _scan(self) -> Iterator[list[bytes]]:
        """The ids of all sessions, some at a time, each once."""
        seen: set[bytes] = set()
        cursor: Argument = 0
        while True:
            cursor, flat = self._ask("scan", cursor, _SESSIONS).rest
            new = dict.fromkeys(name for name in flat[::2] if name not in seen)
            seen.update(new)
            yield from _batches(list(new), _SESSIONS)
            if cursor == b"0":
                return

    def _problems_of(self, name: bytes) -> list[str]:
        ((_, flat, written),) = self._read(None, 1, [name])
        if not flat:
            return []  # dropped just now
        last = values.moved((name, flat, written))
        if last.move.sequence != values.sequence(name, values.mapping(flat)):
            values.damaged(name, "its last move is not in its log")
        if last.move.to_snapshot != last.session.head:
            values.damaged(name, "its head is not where its last move led")
        self.log(name.decode(), before=None, limit=values.SEQUENCE_MAX)
        return []

    def _read(self, before: int | None, limit: int, names: list[bytes]) -> list[Any]:
        """Of each session its id, fields and newest entries, as `store/lua/read.lua` gives them."""
        found: list[Any] = self._ask("read", "" if before is None else before, limit, *names).rest[0]
        return found

    def _change(self, script: str, *arguments: Argument, session: str = "", epoch: int | None = None) -> _Reply:
        """Carry a change out, once. `session` is what may be missing of it."""
        self._sync()  # nothing in Redis may name what a power cut can take
        reply = self._ask(script, *arguments, epoch=epoch)
        if reply.status == b"fenced":
            raise WriterFenced
        if reply.status == b"missing":
            raise SessionMissing(session)
        if reply.status == b"exists":
            raise SessionExists(reply.rest[0].decode())
        return reply

    def _ask(
        self, script: str, *arguments: Argument, epoch: int | None = None, patience_s: float | None = None
    ) -> _Reply:
        call = secrets.token_bytes(values.CALL_BYTES)
        lease: Argument = "" if epoch is None else epoch

        def attempted(attempt: int) -> Sequence[Argument]:
            return (self._identity, self._changes, call, attempt, lease, *arguments)

        status, changes, present, removals, *rest = self._server.run(script, attempted, patience_s=patience_s)
        if status == b"other":
            self._lost(rest[0].decode(errors="replace"))
        if status == b"older":
            self._set_back(int(changes))
        if status == b"void":
            raise StoreUnusable(f"{self._server.name} was asked for one change twice")
        with self._knowing:
            self._changes = max(self._changes, int(changes))
            self._epoch = max(self._epoch, int(present))
        return _Reply(status, int(present), int(removals), rest)

    def _lost(self, found: str) -> None:
        holds = "the heads of another store, and nothing" if found else "nothing"
        raise HeadsLost(
            f"{self._server.name} holds {holds} of this store: it was emptied, or is not the one it was. Put back its"
            " append-only file, or name the right Redis in redis_url; `psf store check --repair` makes the heads again from"
            " what the packs know of them"
        )

    def _set_back(self, changes: int) -> None:
        raise HeadsLost(
            f"{self._server.name} has lost changes that it had acknowledged: it knows {changes}, and this psf has seen"
            f" {self._changes}. Put back its append-only file; or stop the servers on this store, and `psf store check --repair`"
            " brings back what the packs know of them"
        )

    def _write_down(self, moved: list[Moved]) -> None:
        with self._written_down():
            for each in moved:
                self._journal.moved(each)

    def _written_down(self) -> contextlib.suppress:
        # Redis has accepted it: what the packs do not take now is missing there, and nowhere else.
        return contextlib.suppress(OSError, StoreError)

    def _listen(self) -> None:
        while not self._closing.wait(self._server.told_s):
            with contextlib.suppress(StoreError, OSError):
                self._sync()  # what the journal was told last
                self._ask("look", patience_s=0.0)


class _Everything(dict[int, int]):
    """Every pack is followed to its end."""

    def get(self, _: int, __: object = None) -> int:
        return values.SEQUENCE_MAX


def claim(server: RedisServer, identity: str) -> str:
    """Have a Redis that holds no heads hold those of a store; returns whose it holds then."""
    found: bytes = server.run("claim", lambda _: (identity,))
    return found.decode(errors="replace")


def _batches(names: list[bytes], size: int) -> Iterator[list[bytes]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
