"""What moves a head without running a program: files that are written or deleted, and another history that is merged in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from executors.completion import completed
from psf.errors import MergeConflicts, NoCommonStep, PathMissing
from psf.history import find_snapshot
from psf.lineage import merge_base
from psf.sessions import SessionService
from psf.turns import Turns, to_thread
from store import snapshot as snapshots
from store.capture import Path
from store.edit import FileEdit, put_entries, write_edits
from store.ids import BlobId, Kind, SnapshotId, TreeId
from store.interfaces import Heads, Move, Objects, Session
from store.known import KnownTrees
from store.merging import OnConflict, merge
from store.snapshot import Merge, Snapshot, Step, Write, Written


class Changes:
    """Write and merge, each a step and a snapshot like any other. `clock` gives seconds since 1970."""

    def __init__(
        self, objects: Objects, heads: Heads, turns: Turns, sessions: SessionService, clock: Callable[[], float]
    ) -> None:
        self._objects, self._heads, self._turns = objects, heads, turns
        self._sessions, self._clock = sessions, clock
        self._known = KnownTrees(objects)

    async def write(
        self, session_id: str, tenant: str, files: Mapping[Path, FileEdit], deleted: Collection[Path] = ()
    ) -> SnapshotId:
        """Delete `deleted`, with all below them, and then put `files`; returns the new head.

        Raises PathMissing for what is to be deleted and is not there, SessionMissing, SessionExpired; then the head has not moved.
        """
        await self._sessions.get(session_id, tenant)
        async with self._turns.take(session_id) as epoch:
            session = await self._sessions.get(session_id, tenant, retained=True)

            def act() -> SnapshotId:
                parent = self._snapshot(session.head)
                for path in sorted(deleted):
                    if self._known.find(parent.tree, path) is None:
                        raise PathMissing(b"/".join(path))
                step = Write(tuple(self._written(path, files[path]) for path in sorted(files)), _joined(deleted))
                number = parent.depth + 1
                tree = put_entries(self._objects, parent.tree, write_edits(step, number), number)
                return self._advance(session, (session.head,), number, tree, step, "write", epoch)

            return await completed(to_thread(act))

    async def merge(
        self,
        session_id: str,
        tenant: str,
        other_id: str,
        *,
        at: str | int | None = None,
        on_conflict: OnConflict = "report",
    ) -> SnapshotId:
        """Bring in what another session changed since both were one, up to its head or to `at`; returns the new head.

        What is in our history already changes nothing. Raises MergeConflicts, with all of them, when sides must be chosen and none is
        preferred; NoCommonStep; NotInHistory for `at`; SessionMissing, SessionExpired. Then the head has not moved.
        """
        await self._sessions.get(session_id, tenant)
        async with self._turns.take(session_id) as epoch:
            session = await self._sessions.get(session_id, tenant, retained=True)
            other = await self._sessions.get(other_id, tenant, retained=True)

            def act() -> SnapshotId:
                theirs = other.head if at is None else find_snapshot(self._objects, self._heads, other, at)
                return self._merge(session, theirs, on_conflict, epoch)

            return await completed(to_thread(act))

    def _merge(self, session: Session, theirs: SnapshotId, on_conflict: OnConflict, epoch: int) -> SnapshotId:
        base = merge_base(self._objects, session.head, theirs)
        if base is None:
            raise NoCommonStep(session.session_id)
        if base == theirs:
            return session.head
        old, left, right = (self._snapshot(identity) for identity in (base, session.head, theirs))
        number = max(left.depth, right.depth) + 1
        merged = merge(self._known, old.tree, left.tree, right.tree, number=number, on_conflict=on_conflict)
        if merged.conflicts and on_conflict == "report":
            raise MergeConflicts(session.head.hex(), theirs.hex(), merged.conflicts)
        step = Merge(base, on_conflict)
        return self._advance(session, (session.head, theirs), number, merged.tree, step, "merge", epoch)

    def _advance(
        self,
        session: Session,
        parents: tuple[SnapshotId, ...],
        number: int,
        tree: TreeId,
        step: Step,
        kind: str,
        epoch: int,
    ) -> SnapshotId:
        after = Snapshot(snapshots.VERSION, number, parents, tree, step, None)
        identity = SnapshotId(self._objects.put(Kind.SNAPSHOT, snapshots.encode(after)))
        move = Move(0, kind, session.head, identity, self._clock(), b"")
        self._heads.advance(session.session_id, session.head, move, epoch=epoch)
        return identity

    def _written(self, path: Path, file: FileEdit) -> Written:
        blob = BlobId(self._objects.put(Kind.BLOB, file.data))
        return Written(b"/".join(path), blob, len(file.data), file.executable)

    def _snapshot(self, identity: SnapshotId) -> Snapshot:
        return snapshots.decode(self._objects.get(Kind.SNAPSHOT, identity))


def _joined(paths: Collection[Path]) -> tuple[bytes, ...]:
    return tuple(b"/".join(path) for path in sorted(paths))
