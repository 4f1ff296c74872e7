"""Sweeping: what nothing needs any more is removed, beside writers that go on.

Objects that a head, a log entry or a pin reaches are live, and so is what a step in flight has put. Packs that are mostly garbage
are condemned, what is live in them is copied to new packs, compressed, and then they go; large blobs go one by one. Nobody waits
for a sweep, and it may be killed at any moment: what it has condemned is read until it is gone, and the next one finishes the work.

The danger is a writer that does not write an object since it is stored already, while the sweep takes that object for garbage.
So, in this order:

1. Mark from all roots; choose packs and large blobs.
2. Condemn them: give them names under which they are read, but not counted on by whoever puts the same object (store.packs).
3. Begin an epoch. Turns (store.leases) that are taken from now on look at the names again before anything is put.
4. Wait for the turns of earlier epochs. After a while go on without them: from then on heads refuse what they bring.
5. Mark again from all roots. What is not reached now, nobody can reach any more: whoever puts it writes it anew.
6. Copy what is live out of condemned packs, durably; bring live large blobs back; remove the rest.

A snapshot may become a root only while it is one already, or under a turn in which all it needs was put.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from store import files as files_module
from store import journalled, moves
from store.errors import ObjectDamaged, ObjectMissing, StoreError
from store.files import Files
from store.ids import Kind
from store.interfaces import Epochs
from store.journalled import FollowingHeads
from store.layout import is_file
from store.leases import FileLeases
from store.pack_folder import CONDEMNED, INDEX, Place, SealedPack, number_of
from store.pack_writer import PackCopy, Stored
from store.packs import PackObjects, read_record
from store.reachable import is_implied, mark
from store.records import RECORD, Name, compress
from store.snapshot import EMPTY_SNAPSHOT_ID

GARBAGE_SHARE = 0.5
"""A pack with at least this share of garbage is emptied."""
SMALL_SHARE = 0.125
"""Packs below this share of a full one are put together, when there are several."""
OWN_BYTES_MIN = 64 << 10
BATCH_BYTES = 4 << 20

Progress = Callable[[str, int, int], None]
"""Told of each stage: its name, how much is done, how much there is (0 when that is not known)."""


class GcRunning(StoreError):
    """Another sweep of this store is under way. Nothing was done."""

    code = "gc_running"

    def __init__(self) -> None:
        super().__init__("another sweep of this store is under way; wait for it to end")


class GcRefused(StoreError):
    """What is live is not whole, or not known: removing anything now could make it worse. Nothing was done."""

    code = "gc_refused"

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; nothing was removed. `psf store check` says more")


class SweptHeads(FollowingHeads, Epochs, Protocol):
    """What a sweep needs of the heads."""


class PackPlan(msgspec.Struct, frozen=True):
    """What is to happen with one pack, and why. Sizes in bytes."""

    number: int
    size_bytes: int
    live_bytes: int
    reason: str

    @property
    def garbage_bytes(self) -> int:
        return self.size_bytes - self.live_bytes


class GcReport(msgspec.Struct, frozen=True):
    """What a sweep found and did, or, when dry, would do."""

    dry: bool
    objects: int
    live: int
    packs: tuple[PackPlan, ...]
    large_dropped: int
    large_dropped_bytes: int
    packs_bytes_before: int
    packs_bytes_after: int
    fenced: bool
    """Whether a writer took longer than the sweep would wait: heads refuse what it brings."""

    @property
    def freed_bytes(self) -> int:
        return self.packs_bytes_before - self.packs_bytes_after + self.large_dropped_bytes


class Sweep:
    """One sweep of a store folder. `pause` is called while writers of an earlier epoch are at work; False ends the patience."""

    def __init__(
        self,
        root: Path,
        objects: PackObjects,
        heads: SweptHeads,
        leases: FileLeases,
        files: Files,
        *,
        pause: Callable[[], bool],
        progress: Progress,
    ) -> None:
        self._root, self._objects, self._heads, self._leases, self._files = root, objects, heads, leases, files
        self._pause, self._progress, self._seal_bytes = pause, progress, objects.seal_bytes
        self._live: set[Name] = set()

    def run(self, *, dry: bool) -> GcReport:
        """Raises GcRunning, GcRefused, OSError. After an error all that is live can still be read."""
        with alone(self._root):
            return self._run(dry=dry)

    def _run(self, *, dry: bool) -> GcReport:
        stored = self._mark()
        plans = self._choose_packs()
        large = [
            name
            for name in set(self._objects.large) - self._objects.large.condemned()
            if (Kind.BLOB, name) not in self._live
        ]
        large_bytes = sum(map(self._objects.large.size_bytes, large))
        before = self._packs_bytes()
        chosen = tuple(plan for plan in plans if plan.reason)
        fenced, after = False, before - sum(plan.garbage_bytes for plan in chosen)
        if not dry and (chosen or large or self._objects.large.condemned()):
            fenced = self._condemn({plan.number for plan in chosen}, large)
            self._mark()
            self._empty_packs()
            large_bytes, large = self._drop_large()
            after = self._packs_bytes()
        if not dry:
            self._remove_stray_indexes()
        return GcReport(
            dry, len(stored), len(self._live & stored), chosen, len(large), large_bytes, before, after, fenced
        )

    # -- marking --------------------------------------------------------------------------------------------------------

    def _mark(self) -> set[Name]:
        """Add to what is live all that roots reach now; returns all that is stored."""
        # Roots first: what they need was there before them.
        roots = {(Kind.SNAPSHOT, bytes(snapshot)) for _, snapshot in self._heads.roots()}
        roots.add((Kind.SNAPSHOT, EMPTY_SNAPSHOT_ID))
        stored = set(self._objects)
        unreadable = mark(self._objects, roots, self._live, lambda found: self._progress("marking", found, len(stored)))
        if unreadable:
            raise GcRefused(
                f"{len(unreadable)} objects that heads need cannot be read: {next(iter(unreadable.values()))}"
            )
        missing = [name for name in self._live - stored if not is_implied(name) and name[0] is not Kind.MOVE]
        if missing and (gone := self._objects.find_missing(missing)):
            kind, identity = next(iter(gone))
            raise GcRefused(f"{len(gone)} objects that heads need are missing, one is {kind.word} {identity.hex()}")
        self._live |= self._live_moves()
        return stored

    def _live_moves(self) -> set[Name]:
        """The records of moves and pins that are needed. Raises GcRefused when they know more than the heads do."""
        records, missing = journalled.compare(self._heads, lambda: journalled.read_followed(self._objects, self._heads))
        if behind := missing.texts():
            raise GcRefused(f"the heads database is older than the packs, in {len(behind)} places: {behind[0]}")
        lost = {name for name in set(self._objects) if name[0] is Kind.MOVE} - records.keys()
        lost -= self._objects.unfollowed({})
        if lost:
            self._refuse_lost_moves(len(lost))
        return journalled.needed(self._heads, records)

    def _refuse_lost_moves(self, unreadable: int) -> None:
        """Raise GcRefused unless the moves of all sessions that are there can be read: then what cannot be is of none of them."""
        # Heads first: what they say was stored before.
        logs = [
            (
                last.session,
                self._heads.log(last.session.session_id, before=last.move.sequence + 1, limit=last.move.sequence),
            )
            for last in self._heads.last_moves()
        ]
        known = moves.lives(journalled.moves_of(journalled.read_all(self._objects).values()))
        for session, log in logs:
            life = known.get(moves.life_of(session))
            if not {(move.sequence, move.to_snapshot) for move in log} <= (life.seen if life is not None else set()):
                raise GcRefused(
                    f"{unreadable} records of moves are damaged, and session {session.session_id} lacks some of its own"
                )

    # -- choosing -------------------------------------------------------------------------------------------------------

    def _choose_packs(self) -> list[PackPlan]:
        plans = [self._plan(pack) for pack in self._objects.folder.sealed()]
        small = [plan for plan in plans if plan.size_bytes < SMALL_SHARE * self._seal_bytes and not plan.reason]
        if len(small) > 1:
            plans = [msgspec.structs.replace(plan, reason="small") if plan in small else plan for plan in plans]
        own = self._objects.own_pack()
        if own is not None:
            live = sum(RECORD.size + record.length for name, record in own.records.items() if name in self._live)
            wasteful = own.end >= OWN_BYTES_MIN and own.end - live >= GARBAGE_SHARE * own.end
            plans.append(PackPlan(own.number, own.end, live, "garbage" if wasteful else ""))
        return plans

    def _plan(self, pack: SealedPack) -> PackPlan:
        size = pack.size_bytes
        live = sum(RECORD.size + length for name, _, length in pack.index if name in self._live)
        reason = ""
        if pack.condemned:
            reason = "condemned earlier"
        elif size - live >= GARBAGE_SHARE * size:
            reason = "garbage"
        elif not pack.file.compacted:
            reason = "not compressed"
        return PackPlan(pack.number, size, live, reason)

    def _packs_bytes(self) -> int:
        own = self._objects.own_pack()
        return sum(pack.size_bytes for pack in self._objects.folder.sealed()) + (own.end if own is not None else 0)

    # -- removing -------------------------------------------------------------------------------------------------------

    def _condemn(self, numbers: Collection[int], large: Collection[bytes]) -> bool:
        """Steps 2 to 4 of the module's list; whether somebody was left behind."""
        own = self._objects.own_pack()
        if own is not None and own.number in numbers:
            self._objects.seal()
        folder = self._objects.folder
        for pack in folder.sealed():
            if pack.number in numbers and not pack.condemned:
                condemned = pack.path.with_suffix(CONDEMNED)
                # Not synced: after a crash no writer is left whom it would concern.
                self._files.rename(str(pack.path), str(condemned), source_directory=None, target_directory=None)
        self._objects.large.condemn(large)
        epoch = self._heads.begin_epoch()
        self._objects.enter_epoch(epoch)
        folder.refresh()
        late = self._wait_for_writers(epoch)
        self._heads.refuse_before(epoch)
        return late

    def _wait_for_writers(self, epoch: int) -> bool:
        while self._leases.any_before(epoch):
            self._progress("waiting for steps in flight", 0, 0)
            if not self._pause():
                return True
        return False

    def _empty_packs(self) -> None:
        folder = self._objects.folder
        condemned = [pack for pack in folder.sealed() if pack.condemned]
        total, done = sum(pack.size_bytes for pack in condemned), 0
        copy = PackCopy(folder, self._files, self._seal_bytes)
        for pack in condemned:
            for batch in self._live_records(pack, copy):
                copy.append(batch)
            done += pack.size_bytes
            self._progress("copying", done, total)
        copy.seal()
        # The highest number must stay, since no number may be used twice.
        if condemned and condemned[-1].number == max(folder.numbers()):
            self._objects.open_highest_pack()
        for pack in condemned:
            self._files.unlink(str(pack.path))
            self._remove_index(pack.path.with_suffix(INDEX))
        folder.refresh()

    def _remove_stray_indexes(self) -> None:
        """Those whose pack is gone: of a sweep that ended in between, or of somebody who made one of a pack that was about to go."""
        # Indexes first: each came after its pack.
        indexes = [path for path in self._objects.folder.path.iterdir() if path.suffix == INDEX and is_file(path)]
        numbers = self._objects.folder.numbers()
        for path in indexes:
            if path.stem.isdecimal() and number_of(path) not in numbers:
                self._remove_index(path)

    def _remove_index(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):  # there may have been no room for it
            self._files.unlink(str(path))

    def _live_records(self, pack: SealedPack, copy: PackCopy) -> Iterator[list[Stored]]:
        """What is live in a condemned pack and whole in none that stays, in batches. Raises GcRefused for what is whole nowhere."""
        batch: list[Stored] = []
        size = 0
        places = sorted((offset, length, name) for name, offset, length in pack.index if name in self._live)
        for offset, length, name in places:
            if copy.holds(name) or self._stays(name):
                continue
            data = read_record(name, Place(pack.file, offset, length))
            if data is None:
                data = self._read_elsewhere(name)
            batch.append((name, *compress(data)))
            size += len(data)
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _stays(self, name: Name) -> bool:
        """Whether a pack that stays has the object whole. Indexes alone do not say so: what they name may be damaged."""
        folder = self._objects.folder
        if not folder.durable(name):
            return False
        places = (pack.find(name) for pack in folder.sealed() if not pack.condemned)
        return any(place is not None and read_record(name, place) is not None for place in places)

    def _read_elsewhere(self, name: Name) -> bytes:
        """What is damaged in a condemned pack, from wherever else it is whole."""
        try:
            return self._objects.get(*name)
        except (ObjectDamaged, ObjectMissing):
            raise GcRefused(f"{name[0].word} {name[1].hex()} is damaged") from None

    def _drop_large(self) -> tuple[int, list[bytes]]:
        large = self._objects.large
        condemned = large.condemned()
        spared = {name for name in condemned if (Kind.BLOB, name) in self._live}
        large.spare(spared)
        dropped = sorted(condemned - spared)
        freed = 0
        for number, name in enumerate(dropped, 1):
            freed += large.drop(name)
            self._progress("removing large files", number, len(dropped))
        return freed, dropped


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Nobody else sweeps or repairs this store meanwhile. Raises GcRunning."""
    descriptor = os.open(root / "gc.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not files_module.lock(descriptor, wait=False):
            raise GcRunning
        yield
    finally:
        os.close(descriptor)
