"""The store's vocabulary: what any object store and any head store promise.

Three kinds of truth, three Protocols: objects are immutable and named by their content; heads are the only thing that
changes; workspaces are a cache of both and may be lost at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

import msgspec

from store.asked import NOTHING_ASKED, AskedLimits
from store.ids import BlobId, Kind, SnapshotId


class BlobFiles(Protocol):
    """Blobs out of files and into files, however large: none is held in memory that need not be."""

    def put_file(self, descriptor: int, size_bytes: int) -> BlobId:
        """Store `size_bytes` read from a regular file's start as a blob. Readable at once; durable after `sync`.

        Raises OSError when the file is shorter. What was read is what was hashed, even if the file changes meanwhile.
        """
        ...

    def write_file(self, blob: BlobId, descriptor: int) -> None:
        """Write a blob into an empty file that is open for reading and writing, sharing its blocks where that can be.

        Raises ObjectMissing; ObjectDamaged or OSError, and then what the file holds is not the blob.
        """
        ...


class Objects(BlobFiles, Protocol):
    """Immutable objects. Safe to call from many threads."""

    def put(self, kind: Kind, data: bytes) -> bytes:
        """Store an object and return its id. Idempotent. Readable at once; durable after the next `sync`."""
        ...

    def get(self, kind: Kind, object_id: bytes) -> bytes:
        """The object's bytes. Raises ObjectMissing, or ObjectDamaged when what is stored does not match its name."""
        ...

    def sync(self) -> None:
        """Return when every object put before the call is durable. Raises OSError; then none of them may be relied on."""
        ...


class ObjectLister(Protocol):
    """The dangerous view of an object store: only check, sweep, export and import receive it."""

    def __iter__(self) -> Iterator[tuple[Kind, bytes]]:
        """Every object, in no order."""
        ...

    def find_missing(self, objects: Collection[tuple[Kind, bytes]]) -> set[tuple[Kind, bytes]]:
        """Those of `objects` that are not stored."""
        ...


class ListedObjects(Objects, ObjectLister, Protocol):
    """An object store that can also be listed."""


class Session(msgspec.Struct, frozen=True):
    """A named, mutable head over immutable snapshots, and its settings. Times are seconds since 1970.

    `limits` are what its steps get when a call asks for nothing else; `image` and `work_dir`, of the system that its programs see, are '' when
    they are the server's.
    """

    session_id: str
    tenant: str
    name: str | None
    head: SnapshotId
    runtime: str
    sandbox: str
    ttl_s: float
    created_at_s: float
    used_at_s: float
    limits: AskedLimits = NOTHING_ASKED
    image: str = ""
    work_dir: str = ""

    def expires_at_s(self) -> float:
        return self.used_at_s + self.ttl_s


class SessionSettings(msgspec.Struct, frozen=True):
    """What may be changed of a session at any time; as in `Session`."""

    name: str | None
    ttl_s: float
    limits: AskedLimits


class Keyed(msgspec.Struct, frozen=True):
    """A request that may be repeated: the digest of its key, and of all that it asks for, of 16 bytes each."""

    key: bytes = b""
    asked: bytes = b""


UNKEYED = Keyed()
KEY_BYTES = 16


class Move(msgspec.Struct, frozen=True):
    """One entry of a session's log: how its head moved. `run_record` holds what may differ between equal runs (JSON).

    `key` and `asked` are of the request that made it (`Keyed`), empty when it had no key.
    """

    sequence: int
    kind: str
    from_snapshot: SnapshotId | None
    to_snapshot: SnapshotId
    at_s: float
    run_record: bytes
    key: bytes = b""
    asked: bytes = b""


class Moved(msgspec.Struct, frozen=True):
    """A session as a move has left it, and that move."""

    session: Session
    move: Move


class Pin(msgspec.Struct, frozen=True):
    """A name that keeps a snapshot, and all it needs, from being swept."""

    name: str
    snapshot: SnapshotId
    at_s: float


class Heads(Protocol):
    """Session heads and their logs: the only mutable thing. Every change is durable when the call returns, and with it all that was
    put into the objects of the same store before: nobody need sync them for a head.

    `epoch` is that of the lease under which the objects were put that the change makes reachable. When gc has gone on without
    the holder of that lease (see store.gc), both raise WriterFenced, and nothing has changed.
    """

    def create(
        self, sessions: Collection[Session], kind: str, *, keyed: Keyed = UNKEYED, epoch: int | None = None
    ) -> None:
        """Add sessions and the first entry of their logs (`kind`: create or fork), all or none.

        Raises SessionExists when an id is taken.
        """
        ...

    def get(self, session_id: str, tenant: str) -> Session:
        """The session, expired or not. Raises SessionMissing, also for another tenant's."""
        ...

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
        """Compare-and-set the head to `move.to_snapshot`, append `move` to the log, mark the session used; None changes nothing.

        The stored sequence is the next of the log, whatever `move` says. Raises HeadMoved or SessionMissing; then nothing has changed.
        """
        ...

    def log(self, session_id: str, *, before: int | None, limit: int) -> list[Move]:
        """Moves, newest first, with a sequence below `before`."""
        ...


class HeadLister(Protocol):
    """What a tenant has."""

    def sessions(self, tenant: str, *, before: tuple[float, str] | None = None, limit: int) -> list[Session]:
        """The tenant's sessions, expired or not, those created last first; those before (creation, id)."""
        ...

    def count(self, tenant: str) -> int:
        """How many sessions the tenant has, expired ones too."""
        ...

    def led_to(self, tenant: str, snapshot: SnapshotId) -> bool:
        """Whether a move of one of the tenant's sessions led to this snapshot."""
        ...


class Repeats(Protocol):
    """What requests that may be repeated have done."""

    def made_under(self, key: bytes) -> list[Moved]:
        """Every move that a request of this key made, with its session as it is now, by session id. None is lost while its log is kept."""
        ...


class HeadSweeper(Protocol):
    """The dangerous view of a head store: only the sweeper, check and import receive it."""

    def drop_unused_since(self, horizon_s: float, *, is_running: Callable[[str], bool]) -> int:
        """Drop the sessions, with their logs, that expired before `horizon_s` and are not running; returns how many."""
        ...

    def roots(self) -> Iterator[tuple[str, SnapshotId]]:
        """Every (session id, snapshot) that a head or a log entry names, and every pin as (`pin NAME`, snapshot)."""
        ...

    def last_moves(self) -> Iterator[Moved]:
        """Every session with the last entry of its log."""
        ...


class HeadRestorer(Protocol):
    """The dangerous view that writes logs as they were elsewhere: only import receives it. Durable on return.

    The caller answers for it that moves are a chain, numbered without gaps, and that all they need is stored. `epoch` as in `Heads`;
    raises WriterFenced.
    """

    def restore(self, session: Session, log: Sequence[Move], *, epoch: int | None = None) -> None:
        """Add a session with its whole log, oldest first; the last move leads to its head. Raises SessionExists."""
        ...

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
        """Append moves to a log that ends with the move `expected_sequence`, and set the head to where the last one leads.

        Raises HeadMoved when the log ends elsewhere, or the head is not where the first move begins; SessionMissing. Then nothing has
        changed.
        """
        ...


class Pins(Protocol):
    """Names that keep snapshots which no session reaches. Every change is durable when the call returns."""

    def pin(self, pin: Pin, *, epoch: int | None = None) -> None:
        """Add or move a pin. `epoch` as in `Heads`. Raises WriterFenced."""
        ...

    def unpin(self, name: str) -> bool:
        """Remove a pin; False when there is none of this name."""
        ...

    def pins(self) -> list[Pin]:
        """All pins, by name."""
        ...


class Epochs(Protocol):
    """The ages of a store, which gc begins: what was put in an earlier one may rest on what gc is about to remove."""

    def epoch(self) -> int:
        """The present one. Starts at 0."""
        ...

    def begin_epoch(self) -> int:
        """Begin the next one, durably; returns it."""
        ...

    def refuse_before(self, epoch: int) -> None:
        """From now on refuse changes to heads and pins under leases of earlier epochs. Durable on return."""
        ...


class Journal(Protocol):
    """Writes moves and pins down a second time, where they outlast a lost database of heads. Told inside of their transaction."""

    def moved(self, moved: Moved) -> None:
        """A session was created, or its head moved."""
        ...

    def dropped(self, last: Moved) -> None:
        """A session was dropped, with what was said of it until its last move."""
        ...

    def pinned(self, pin: Pin) -> None:
        """A pin was set."""
        ...

    def unpinned(self, pin: Pin) -> None:
        """A pin was taken away, or moved from here."""
        ...


class Lease(Protocol):
    """A turn that is held, and the epoch in which it began."""

    @property
    def epoch(self) -> int: ...

    def release(self) -> None:
        """Give the turn up. Once."""
        ...


class Leases(Protocol):
    """Turns: a step holds its session's lease from reading the head to advancing it, across processes too.

    Whoever puts objects for something that is no session yet takes a turn under a name of its own.
    """

    def try_acquire(self, session_id: str) -> Lease | None:
        """Take the turn if it is free, without waiting. It ends with the process, however that ends."""
        ...

    def is_held(self, session_id: str) -> bool:
        """Whether somebody has the turn now: a step is running. Takes nothing."""
        ...
