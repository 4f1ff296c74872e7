"""What moves a head without running a program: files that are written or deleted, and another history that is merged in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from psf.errors import MergeConflicts, NoCommonStep, PathMissing
from psf.history import find_snapshot
from psf.lineage import merge_base
from psf.once import Once
from store import snapshot as snapshots
from store.capture import Path
from store.edit import FileEdit, put_entries, write_edits
from store.ids import BlobId, Kind, SnapshotId
from store.interfaces import UNKEYED, Heads, Keyed, Move, Objects, Session
from store.known import KnownTrees
from store.merging import OnConflict, merge
from store.snapshot import Merge, Snapshot, Write, Written


class Changes:
    """Write and merge, each a step and a snapshot like any other. `clock` gives seconds since 1970."""

    def __init__(
        self,
        objects: Objects,
        heads: Heads,
        once: Once,
        clock: Callable[[], float],
    ) -> None:
        self._objects, self._heads, self._once, self._clock = objects, heads, once, clock
        self._known = KnownTrees(objects)

    async def write(
        self,
        session_id: str,
        tenant: str,
        files: Mapping[Path, FileEdit],
        deleted: Collection[Path] = (),
        *,
        keyed: Keyed = UNKEYED,
        expected: SnapshotId | None = None,
    ) -> SnapshotId:
        """Delete `deleted`, with all below them, and then put `files`; returns the new head.

        Raises PathMissing for what is to be deleted and is not there, HeadMoved, KeyReused, SessionMissing, SessionExpired; then the head has
        not moved.
        """

        def act(session: Session, epoch: int) -> Move:
            after = self.written(session.head, files, deleted)
            return self._advance(session, after, "write", keyed, epoch)

        return (await self._once.move(session_id, tenant, act, keyed=keyed, expected=expected)).to_snapshot

    def written(self, start: SnapshotId, files: Mapping[Path, FileEdit], deleted: Collection[Path] = ()) -> Snapshot:
        """The snapshot after `start` that writing leads to; only what it holds is put into the store. In a thread."""
        parent = self._snapshot(start)
        for path in sorted(deleted):
            if self._known.find(parent.tree, path) is None:
                raise PathMissing(b"/".join(path))
        step = Write(tuple(self._put(path, files[path]) for path in sorted(files)), _joined(deleted))
        number = parent.depth + 1
        tree = put_entries(self._objects, parent.tree, write_edits(step, number), number)
        return Snapshot(snapshots.VERSION, number, (start,), tree, step, None)

    async def merge(
        self,
        session_id: str,
        tenant: str,
        other_id: str,
        *,
        at: str | int | None = None,
        on_conflict: OnConflict = "report",
        keyed: Keyed = UNKEYED,
        expected: SnapshotId | None = None,
    ) -> SnapshotId:
        """Bring in what another session changed since both were one, up to its head or to `at`; returns the new head.

        What is in our history already changes nothing. Raises MergeConflicts, with all of them, when sides must be chosen and none is
        preferred; NoCommonStep; NotInHistory for `at`; SessionMissing, SessionExpired. Then the head has not moved.
        """

        def act(session: Session, epoch: int) -> Move:
            other = self._heads.get(other_id, tenant)
            theirs = other.head if at is None else find_snapshot(self._objects, self._heads, other, at)
            return self._merge(session, theirs, on_conflict, keyed, epoch)

        return (await self._once.move(session_id, tenant, act, keyed=keyed, expected=expected)).to_snapshot

    def _merge(self, session: Session, theirs: SnapshotId, on_conflict: OnConflict, keyed: Keyed, epoch: int) -> Move:
        base = merge_base(self._objects, session.head, theirs)
        if base is None:
            raise NoCommonStep(session.session_id)
        if base == theirs:
            return Move(0, "merge", session.head, session.head, self._clock(), b"")  # which nobody makes
        old, left, right = (self._snapshot(identity) for identity in (base, session.head, theirs))
        number = max(left.depth, right.depth) + 1
        merged = merge(self._known, old.tree, left.tree, right.tree, number=number, on_conflict=on_conflict)
        if merged.conflicts and on_conflict == "report":
            raise MergeConflicts(session.head.hex(), theirs.hex(), merged.conflicts)
        step = Merge(base, on_conflict)
        after = Snapshot(snapshots.VERSION, number, (session.head, theirs), merged.tree, step, None)
        return self._advance(session, after, "merge", keyed, epoch)

    def _advance(self, session: Session, after: Snapshot, kind: str, keyed: Keyed, epoch: int) -> Move:
        identity = SnapshotId(self._objects.put(Kind.SNAPSHOT, snapshots.encode(after)))
        move = Move(0, kind, session.head, identity, self._clock(), b"", keyed.key, keyed.asked)
        self._heads.advance(session.session_id, session.head, move, epoch=epoch)
        return move

    def _put(self, path: Path, file: FileEdit) -> Written:
        blob = BlobId(self._objects.put(Kind.BLOB, file.data))
        return Written(b"/".join(path), blob, len(file.data), file.executable)

    def _snapshot(self, identity: SnapshotId) -> Snapshot:
        return snapshots.decode(self._objects.get(Kind.SNAPSHOT, identity))


def _joined(paths: Collection[Path]) -> tuple[bytes, ...]:
    return tuple(b"/".join(path) for path in sorted(paths))
