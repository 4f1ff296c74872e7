"""Looking at snapshots: which a tenant may see, what they hold, and how two differ. Changes nothing; all of it in threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from psf.errors import PathMissing, SnapshotUnknown
from psf.history import LOG_PAGE, ancestors
from psf.tags import Tags
from store import snapshot as snapshots
from store import tree as trees
from store.capture import Path
from store.diff import Change, diff
from store.errors import ObjectMissing
from store.ids import ID_BYTES, Kind, SnapshotId, TreeId, is_prefix
from store.interfaces import HeadLister, Heads, Objects
from store.known import KnownTrees
from store.snapshot import EMPTY_SNAPSHOT_ID, Snapshot
from store.tree import Entry, EntryKind


class ListedHeads(Heads, HeadLister, Protocol):
    """Heads that know what a tenant has."""


class Reading:
    """What a tenant may see: the snapshots of its sessions' histories and of its tags, and the empty one."""

    def __init__(self, objects: Objects, heads: ListedHeads, tags: Tags) -> None:
        self._objects, self._heads, self._tags = objects, heads, tags
        self.known = KnownTrees(objects)

    def find(self, tenant: str, reference: str) -> SnapshotId:
        """The snapshot of a whole id, or of a tag's name. Raises SnapshotUnknown, also for those of others."""
        if len(reference) == 2 * ID_BYTES and is_prefix(reference):
            identity = SnapshotId(bytes.fromhex(reference))
            if self._is_visible(tenant, identity):
                return identity
        elif (tagged := self._tags.find(tenant, reference)) is not None:
            return tagged
        raise SnapshotUnknown(reference)

    def snapshot(self, identity: SnapshotId) -> Snapshot:
        """Raises ObjectMissing, ObjectDamaged."""
        return snapshots.decode(self._objects.get(Kind.SNAPSHOT, identity))

    def entry(self, snapshot: Snapshot, path: Path) -> Entry:
        """What stands at a path. Raises PathMissing."""
        entry = self.known.find(snapshot.tree, path)
        if entry is None:
            raise PathMissing(b"/".join(path))
        return entry

    def manifest(self, snapshot: Snapshot, *, after: Path = (), limit: int) -> list[tuple[Path, Entry]]:
        """Entries of the whole tree, directories too, in the order of their paths, from behind `after` on."""
        found: list[tuple[Path, Entry]] = []
        levels: list[tuple[Path, Iterator[Entry]]] = [((), self._entries(snapshot.tree, after[:1]))]
        while levels and len(found) < limit:
            above, entries = levels[-1]
            entry = next(entries, None)
            if entry is None:
                levels.pop()
                continue
            path = (*above, entry.name)
            if path > after:
                found.append((path, entry))
            if entry.kind is EntryKind.DIRECTORY:
                start = after[len(path) : len(path) + 1] if after[: len(path)] == path else ()
                levels.append((path, self._entries(trees.entry_tree(entry), start)))
        return found

    def changes(self, before: Snapshot, after: Snapshot) -> Iterator[Change]:
        """What differs, in the order of paths (store.diff)."""
        return diff(self._objects, before.tree, after.tree)

    def _entries(self, tree: TreeId, start: Path) -> Iterator[Entry]:
        entries = sorted(self.known.entries(tree).values(), key=lambda entry: entry.name)
        return iter([entry for entry in entries if not start or entry.name >= start[0]])

    def _is_visible(self, tenant: str, identity: SnapshotId) -> bool:
        if identity == EMPTY_SNAPSHOT_ID or self._heads.led_to(tenant, identity):
            return True
        try:
            depth = self.snapshot(identity).depth
        except ObjectMissing:
            return False
        return any(self._descends_from(start, identity, depth) for start in self._beginnings(tenant))

    def _beginnings(self, tenant: str) -> Iterator[SnapshotId]:
        """Where what a tenant has goes back further than its sessions' logs: what forks and imports begin with, and tags."""
        yield from dict.fromkeys(pin.snapshot for pin in self._tags.all(tenant).values())
        seen: set[SnapshotId] = {EMPTY_SNAPSHOT_ID}
        before: tuple[float, str] | None = None
        while page := self._heads.sessions(tenant, before=before, limit=LOG_PAGE):
            for session in page:
                first = self._heads.log(session.session_id, before=2, limit=1)
                for move in first:
                    if move.to_snapshot not in seen:
                        seen.add(move.to_snapshot)
                        yield move.to_snapshot
            before = (page[-1].created_at_s, page[-1].session_id)

    def _descends_from(self, start: SnapshotId, wanted: SnapshotId, depth: int) -> bool:
        for identity, snapshot in ancestors(self._objects, start):
            if snapshot.depth <= depth:
                return identity == wanted
        return False
