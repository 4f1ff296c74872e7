"""What happens before a crash: stores in a folder, the steps they make, the accidents of their disk."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from store import recording
from store.errors import SessionMissing
from store.ids import Kind, SnapshotId
from store.large import LARGE_BYTES
from store.local import LocalStore
from store.recording import DiskLog, RecordingFiles, SyncFailed
from store.snapshot import EMPTY_SNAPSHOT_ID
from store.testing import session
from tests.faults.promises import SEAL_BYTES, TENANT, Acknowledged, Attempted, Moment, advance, put_step
from tests.faults.recorded_sqlite import RecordedVfs, connector

PLACE = Path("some", "store")
"""Where the store lies in the folder of a scene: below a folder that is not there either."""
EVERYWHERE = "everywhere"
"""Instead of one site: no sync at all."""
_STORE = Path(recording.__file__).parent
_DISKS = ("files.py", "recording.py")


class Killed(BaseException):
    """The process ended here, as by kill -9."""


class SceneFiles(RecordingFiles):
    """A recorded disk with accidents. `sites` collects where in the store syncs are asked for; the one `without` is left out."""

    def __init__(self, log: DiskLog, without: str | None, generator: random.Random) -> None:
        super().__init__(log)
        self._generator, self._ticks = generator, itertools.count(1)
        self.sites: set[str] = set()
        self.accident: str | None = None
        self._without = without

    def random(self, length: int) -> bytes:
        return self._generator.randbytes(length)

    def tick(self) -> int:
        return next(self._ticks)

    def append(self, descriptor: int, buffers: Sequence[bytes]) -> int:
        if self._strikes("torn append"):
            joined = b"".join(buffers)
            super().append(descriptor, [joined[: len(joined) // 2]])
            raise OSError(errno.ENOSPC, "no space in this scene")
        return super().append(descriptor, buffers)

    def sync(self, descriptor: int) -> None:
        if self._strikes("killed at a sync"):
            raise Killed
        if self._strikes("failed sync"):
            file = self.log.file(descriptor)
            assert file is not None
            self.log.record(SyncFailed(file))
            raise OSError(errno.EIO, "a broken disk in this scene")
        if self._is_wanted():
            super().sync(descriptor)

    def sync_directory(self, path: str | bytes) -> None:
        if self._is_wanted():
            super().sync_directory(path)

    def _strikes(self, accident: str) -> bool:
        if self.accident != accident:
            return False
        self.accident = None
        return True

    def _is_wanted(self) -> bool:
        site = _site()
        self.sites.add(site)
        return self._without not in (site, EVERYWHERE)


def _site() -> str:
    """The line of the store that asks: module, function, number."""
    frame = sys._getframe(2)
    while not _is_of_the_store(path := Path(frame.f_code.co_filename)):
        assert frame.f_back is not None, "only the store syncs"
        frame = frame.f_back
    return f"{path.name}:{frame.f_lineno} {frame.f_code.co_name}"


def _is_of_the_store(path: Path) -> bool:
    return path.parent == _STORE and path.name not in _DISKS


@dataclass
class Carelessness:
    """What is left out of the code on purpose, to see that it is noticed."""

    site: str | None = None
    statements: Mapping[str, str] = field(default_factory=dict)
    head_before_objects: bool = False


class Scene:
    """A recorded folder with stores in it, and what was said to their callers."""

    def __init__(
        self,
        folder: Path,
        log: DiskLog,
        connect: Callable[[Path], sqlite3.Connection],
        generator: random.Random,
        carelessness: Carelessness,
    ) -> None:
        self.log, self.generator = log, generator
        self.files = SceneFiles(log, carelessness.site, generator)
        self.root = folder / PLACE
        self.heads: dict[str, SnapshotId] = {}
        self.connect, self._carelessness = connect, carelessness
        self._open: list[LocalStore] = []
        self._numbers = itertools.count(1)

    def open(self) -> LocalStore:
        store = LocalStore(self.root, self.files, connect=self.connect, seal_bytes=SEAL_BYTES)
        if self._carelessness.head_before_objects:
            journal = store.heads._journal
            assert journal is not None
            journal.write = lambda database: None  # type: ignore[method-assign]
        self._open.append(store)
        for name, known in self.heads.items():
            with contextlib.suppress(SessionMissing):
                head = store.heads.get(name, TENANT).head
                if head != known:  # that of a step whose process ended before it could say so
                    self.log.note(Acknowledged(name, head))
                    self.heads[name] = head
        return store

    def close(self, store: LocalStore) -> None:
        store.close()
        self._open.remove(store)

    def kill(self, store: LocalStore) -> None:
        """End its process: locks are free, nothing is finished. SQLite's descriptors stay until the end of the scene."""
        store.objects.close()

    def end(self) -> None:
        for store in self._open:
            store.close()

    def create(self, store: LocalStore, *session_ids: str) -> None:
        sessions = [msgspec.structs.replace(session(name), head=EMPTY_SNAPSHOT_ID) for name in session_ids]
        for name in session_ids:
            self.log.note(Attempted(name, EMPTY_SNAPSHOT_ID))
        store.heads.create(sessions, "create")
        for name in session_ids:
            self.log.note(Acknowledged(name, EMPTY_SNAPSHOT_ID))
            self.heads[name] = EMPTY_SNAPSHOT_ID

    def damage(self, pattern: str, *, useless: bool = False) -> None:
        """Change a byte of a file and make that durable; `useless`: in a record that says what became of a dropped session."""
        path = sorted(self.root.glob(pattern))[0]
        data = path.read_bytes()
        position = data.index(bytes([Kind.MOVE, 0, 0, 0])) + 60 if useless else len(data) // 2
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.lseek(descriptor, position, os.SEEK_SET)
            self.files.write(descriptor, bytes([data[position] ^ 1]))
            RecordingFiles.sync(self.files, descriptor)
        finally:
            os.close(descriptor)

    def tear(self, pack: Path, offset: int) -> None:
        """Change a byte of what has been appended and not synced: as if the disk had kept what stands behind it and not this."""
        descriptor = os.open(pack, os.O_RDWR)
        try:
            byte = os.pread(descriptor, 1, offset)[0]
            os.lseek(descriptor, offset, os.SEEK_SET)
            self.files.write(descriptor, bytes([byte ^ 1]))
        finally:
            os.close(descriptor)

    def moment(self) -> None:
        """Stay here for a while: a crash may well come now, before anything else is made durable by chance."""
        for _ in range(30):
            self.log.note(Moment())

    def found(self, session_id: str, head: SnapshotId) -> None:
        """A session that was there before."""
        self.log.note(Attempted(session_id, head))
        self.log.note(Acknowledged(session_id, head))
        self.heads[session_id] = head

    def commit(self, store: LocalStore, session_id: str, *contents: bytes) -> None:
        """One step of a session, from put to answer."""
        expected = self.heads[session_id]
        snapshot = put_step(store, expected, next(self._numbers), contents)
        self.log.note(Attempted(session_id, snapshot))
        advance(store, session_id, expected, snapshot)
        self.log.note(Acknowledged(session_id, snapshot))
        self.heads[session_id] = snapshot

    def small(self) -> bytes:
        """A small file; one in three is one that may be there already."""
        if self.generator.random() < 0.3:
            return b"one of few %d" % self.generator.randrange(3)
        return self.generator.randbytes(self.generator.choice((0, 10, 100, 700)))

    def large(self) -> bytes:
        return self.generator.randbytes(16) * (LARGE_BYTES // 16)


@contextmanager
def played(
    scenario: Callable[[Scene], None], folder: Path, generator: random.Random, carelessness: Carelessness
) -> Iterator[Scene]:
    """The scene after its scenario, on a recorded disk."""
    log = DiskLog(folder)
    vfs = RecordedVfs("recorded", log)
    scene = Scene(folder, log, connector("recorded", carelessness.statements), generator, carelessness)
    try:
        scenario(scene)
        yield scene
    finally:
        scene.end()
        vfs.unregister()
