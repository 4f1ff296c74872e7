"""The readable reference: objects and heads in dictionaries. Documents the contract and is the model in property tests."""

from __future__ import annotations

import errno
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec

from store.errors import HeadMoved, ObjectMissing, SessionExists, SessionMissing, WriterFenced
from store.files import Files, read_exactly
from store.ids import BlobId, Kind, SnapshotId, object_id
from store.interfaces import UNKEYED, Keyed, Lease, Move, Moved, Pin, Session, SessionSettings
from store.moves import first_move, refuse_other_end


class MemoryObjects:
    """`Objects` and `ObjectLister` that last as long as the process."""

    def __init__(self) -> None:
        self._objects: dict[tuple[Kind, bytes], bytes] = {}

    def put(self, kind: Kind, data: bytes) -> bytes:
        name = object_id(kind, data)
        self._objects[kind, name] = bytes(data)
        return name

    def put_file(self, descriptor: int, size_bytes: int) -> BlobId:
        data = read_exactly(descriptor, size_bytes, 0)
        if len(data) < size_bytes:
            raise OSError(errno.EIO, "a file is shorter than said")
        return BlobId(self.put(Kind.BLOB, data))

    def write_file(self, blob: BlobId, descriptor: int) -> None:
        Files().write(descriptor, self.get(Kind.BLOB, blob))

    def get(self, kind: Kind, object_id: bytes) -> bytes:
        try:
            return self._objects[kind, object_id]
        except KeyError:
            raise ObjectMissing(kind.word, object_id.hex()) from None

    def sync(self) -> None:
        return None

    def __iter__(self) -> Iterator[tuple[Kind, bytes]]:
        return iter(list(self._objects))

    def find_missing(self, objects: Collection[tuple[Kind, bytes]]) -> set[tuple[Kind, bytes]]:
        return {name for name in objects if name not in self._objects}


class MemoryHeads:
    """`Heads`, `HeadSweeper`, `HeadRestorer`, `Pins` and `Epochs` that last as long as the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._logs: dict[str, list[Move]] = defaultdict(list)
        self._pins: dict[str, Pin] = {}
        self._epoch = self._refused_before = 0

    def create(
        self, sessions: Collection[Session], kind: str, *, keyed: Keyed = UNKEYED, epoch: int | None = None
    ) -> None:
        with self._lock:
            self._refuse_late(epoch)
            taken = set(self._sessions)
            for session in sessions:
                if session.session_id in taken:
                    raise SessionExists(session.session_id)
                taken.add(session.session_id)
            for session in sessions:
                self._sessions[session.session_id] = session
                self._logs[session.session_id] = [first_move(session, kind, keyed)]

    def get(self, session_id: str, tenant: str) -> Session:
        session = self._sessions.get(session_id)
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
        with self._lock:
            self._refuse_late(epoch)
            session = self._sessions.get(session_id)
            if session is None:
                raise SessionMissing(session_id)
            if session.head != expected:
                raise HeadMoved(session_id, expected.hex(), session.head.hex())
            changed = msgspec.structs.asdict(settings) if settings is not None else {}
            self._sessions[session_id] = msgspec.structs.replace(
                session, head=move.to_snapshot, used_at_s=move.at_s, runtime=runtime or session.runtime, **changed
            )
            log = self._logs[session_id]
            log.append(msgspec.structs.replace(move, sequence=len(log) + 1, from_snapshot=expected))

    def restore(self, session: Session, log: Sequence[Move], *, epoch: int | None = None) -> None:
        with self._lock:
            self._refuse_late(epoch)
            if session.session_id in self._sessions:
                raise SessionExists(session.session_id)
            self._sessions[session.session_id] = session
            self._logs[session.session_id] = list(log)

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
        with self._lock:
            self._refuse_late(epoch)
            session = self._sessions.get(session_id)
            if session is None:
                raise SessionMissing(session_id)
            refuse_other_end(Moved(session, self._logs[session_id][-1]), expected_sequence, moves[0])
            self._sessions[session_id] = msgspec.structs.replace(
                session, head=moves[-1].to_snapshot, runtime=runtime, used_at_s=used_at_s
            )
            self._logs[session_id] += moves

    def log(self, session_id: str, *, before: int | None, limit: int) -> list[Move]:
        moves = [move for move in self._logs.get(session_id, ()) if before is None or move.sequence < before]
        return moves[::-1][:limit]

    def made_under(self, key: bytes) -> list[Moved]:
        logs = sorted(self._logs.items())
        return [Moved(self._sessions[name], move) for name, moves in logs for move in moves if key and move.key == key]

    def sessions(self, tenant: str, *, before: tuple[float, str] | None = None, limit: int) -> list[Session]:
        places = {(session.created_at_s, name): session for name, session in self._sessions.items()}
        older = [place for place in sorted(places, reverse=True) if before is None or place < before]
        return [places[place] for place in older if places[place].tenant == tenant][:limit]

    def count(self, tenant: str) -> int:
        return sum(session.tenant == tenant for session in self._sessions.values())

    def led_to(self, tenant: str, snapshot: SnapshotId) -> bool:
        own = [name for name, session in self._sessions.items() if session.tenant == tenant]
        return any(move.to_snapshot == snapshot for name in own for move in self._logs[name])

    def drop_unused_since(self, horizon_s: float, *, is_running: Callable[[str], bool]) -> int:
        with self._lock:
            expired = [name for name, session in self._sessions.items() if session.expires_at_s() < horizon_s]
            gone = [name for name in expired if not is_running(name)]
            for name in gone:
                del self._sessions[name], self._logs[name]
            return len(gone)

    def roots(self) -> Iterator[tuple[str, SnapshotId]]:
        for name, moves in list(self._logs.items()):
            for move in moves:
                yield name, move.to_snapshot
        for pin in self.pins():
            yield f"pin {pin.name}", pin.snapshot

    def last_moves(self) -> Iterator[Moved]:
        for name, moves in list(self._logs.items()):
            yield Moved(self._sessions[name], moves[-1])

    def pin(self, pin: Pin, *, epoch: int | None = None) -> None:
        with self._lock:
            self._refuse_late(epoch)
            self._pins[pin.name] = pin

    def unpin(self, name: str) -> bool:
        return self._pins.pop(name, None) is not None

    def pins(self) -> list[Pin]:
        return [pin for _, pin in sorted(self._pins.items())]

    def epoch(self) -> int:
        return self._epoch

    def begin_epoch(self) -> int:
        with self._lock:
            self._epoch += 1
            return self._epoch

    def refuse_before(self, epoch: int) -> None:
        with self._lock:
            self._refused_before = epoch

    def _refuse_late(self, epoch: int | None) -> None:
        if epoch is not None and epoch < self._refused_before:
            raise WriterFenced


class MemoryLeases:
    """`Leases` among the threads of one process."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def try_acquire(self, session_id: str) -> Lease | None:
        lock = self._locks[session_id]
        return _MemoryLease(lock) if lock.acquire(blocking=False) else None

    def is_held(self, session_id: str) -> bool:
        return self._locks[session_id].locked()


class _MemoryLease:
    epoch = 0

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def release(self) -> None:
        self._lock.release()
