"""What happens before a crash, and what must hold after it. A scenario is one function in SCENARIOS; it gets a `Scene`."""

from __future__ import annotations

import errno
import os
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from store import recording
from store import snapshot as snapshots
from store.capture import put_tree
from store.errors import SessionMissing, StoreError
from store.files import Files
from store.ids import Kind, SnapshotId
from store.large import LARGE_BYTES
from store.local import LocalStore
from store.packs import PackObjects
from store.recording import DiskLog, Event, Note, RecordingFiles, SyncFailed
from store.snapshot import EMPTY_SNAPSHOT_ID, Snapshot
from store.testing import file_of, move, nobody, session
from store.tree import Entry, EntryKind
from tests.faults.recorded_sqlite import RecordedVfs, connector

SEAL_BYTES = 1200
PLACE = Path("some", "store")
"""Where the store lies in the folder that is recorded: below a folder that is not there either."""
_STORE = Path(recording.__file__).parent
_DISKS = ("files.py", "recording.py")


class Killed(BaseException):
    """The process ended here, as by kill -9."""


@dataclass(frozen=True)
class Attempted:
    """From now on the session may be at `head`."""

    session_id: str
    head: SnapshotId


@dataclass(frozen=True)
class Acknowledged:
    """The session was said to be at `head`."""

    session_id: str
    head: SnapshotId


@dataclass(frozen=True)
class Dropped:
    """From now on the session may be gone."""

    session_id: str


@dataclass(frozen=True)
class Damaged:
    """From now on something is not as it was written; whoever comes mends it first."""


@dataclass(frozen=True)
class Mended:
    """The store was said to be whole again, and so many files to be put aside."""

    aside: int


@dataclass(frozen=True)
class Stored:
    """The object was said to be durable, whether or not a head needs it."""

    kind: Kind
    name: bytes


class SceneFiles(RecordingFiles):
    """A recorded disk with accidents. `sites` collects where in the store syncs are asked for; the one `without` is left out."""

    def __init__(self, log: DiskLog, without: str | None) -> None:
        super().__init__(log)
        self.sites: set[str] = set()
        self.accident: str | None = None
        self._without = without

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
        return site != self._without


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

    def __init__(self, folder: Path, generator: random.Random, carelessness: Carelessness) -> None:
        self.log = DiskLog(folder)
        self.began = len(self.log.events)
        self.generator = generator
        self.files = SceneFiles(self.log, carelessness.site)
        self.root = folder / PLACE
        self.heads: dict[str, SnapshotId] = {}
        self.look: Callable[[Path, Promises], list[str]] = problems
        self._carelessness = carelessness
        self._vfs = RecordedVfs(f"recorded-{id(self)}", self.log)
        self.connect = connector(f"recorded-{id(self)}", carelessness.statements)
        self._open: list[LocalStore] = []
        self._number = 0

    def open(self) -> LocalStore:
        store = LocalStore(self.root, self.files, connect=self.connect, seal_bytes=SEAL_BYTES)
        self._open.append(store)
        return store

    def close(self, store: LocalStore) -> None:
        store.close()
        self._open.remove(store)

    def kill(self, store: LocalStore) -> None:
        """End its process: locks are free, nothing is finished. SQLite's descriptors stay until the end of the scene."""
        store.objects.close()

    def end(self) -> list[Event]:
        events = list(self.log.events)
        for store in self._open:
            store.close()
        self._vfs.unregister()
        return events

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

    def moment(self) -> None:
        """Stay here for a while: a crash may well come now, before anything else is made durable by chance."""
        for _ in range(30):
            self.log.note(None)

    def found(self, session_id: str, head: SnapshotId) -> None:
        """A session that was there before."""
        self.log.note(Attempted(session_id, head))
        self.log.note(Acknowledged(session_id, head))
        self.heads[session_id] = head

    def commit(self, store: LocalStore, session_id: str, *contents: bytes) -> None:
        """One step of a session, from put to answer."""
        self._number += 1
        expected = self.heads[session_id]
        snapshot = put_step(store, expected, self._number, contents)
        if not self._carelessness.head_before_objects:
            store.objects.sync()
        self.log.note(Attempted(session_id, snapshot))
        advance(store, session_id, expected, snapshot)
        if self._carelessness.head_before_objects:
            store.objects.sync()
        self.log.note(Acknowledged(session_id, snapshot))
        self.heads[session_id] = snapshot

    def small(self) -> bytes:
        """A small file; one in three is one that may be there already."""
        if self.generator.random() < 0.3:
            return b"one of few %d" % self.generator.randrange(3)
        return self.generator.randbytes(self.generator.choice((0, 10, 100, 700)))

    def large(self) -> bytes:
        return self.generator.randbytes(16) * (LARGE_BYTES // 16)


def put_step(store: LocalStore, parent: SnapshotId, number: int, contents: Iterable[bytes]) -> SnapshotId:
    """Put a snapshot whose tree holds the contents, large ones by descriptor. Not synced."""
    entries = []
    for position, data in enumerate(contents):
        if len(data) > LARGE_BYTES:
            with file_of(data) as descriptor:
                blob = store.objects.put_file(descriptor, len(data))
        else:
            blob = store.objects.put(Kind.BLOB, data)
        entries.append(Entry(b"%d" % position, EntryKind.FILE, blob, len(data), number))
    tree = put_tree(store.objects, entries)
    return SnapshotId(
        store.objects.put(Kind.SNAPSHOT, snapshots.encode(Snapshot(1, number, (parent,), tree, None, None)))
    )


def advance(store: LocalStore, session_id: str, expected: SnapshotId, snapshot: SnapshotId) -> None:
    store.heads.advance(session_id, expected, msgspec.structs.replace(move(1), to_snapshot=snapshot))


# -- scenarios ----------------------------------------------------------------------------------------------------------


def several_sessions(scene: Scene) -> None:
    """Steps of three sessions, small and large files, packs that fill."""
    store = scene.open()
    scene.create(store, "a", "b")
    for number in range(8):
        if number == 3:
            scene.create(store, "c")
        contents = [scene.small() for _ in range(scene.generator.randrange(3))]
        if number in (2, 5):
            contents.append(scene.large() + b"y" * (number == 5))
        scene.commit(store, scene.generator.choice(list(scene.heads)), *contents)
    scene.close(store)


def two_processes(scene: Scene) -> None:
    """Two stores on one folder, which put equal things, and a third that comes when both are gone."""
    one, other = scene.open(), scene.open()
    scene.create(one, "a")
    scene.create(other, "b")
    shared = scene.large()
    for number in range(3):
        content = scene.small()
        scene.commit(one, "a", content, *[shared][number:])
        scene.commit(other, "b", content, *[shared][number:])
    scene.kill(one)
    scene.close(other)
    third = scene.open()
    scene.commit(third, "a", scene.small(), b"at last")
    scene.close(third)


def killed_before_a_sync(scene: Scene) -> None:
    """A process is killed when it has appended and not synced. The next one takes its pack over, and puts the same."""
    store = scene.open()
    scene.create(store, "a")
    scene.commit(store, "a", scene.small())
    content = scene.small()
    scene.files.accident = "killed at a sync"
    try:
        scene.commit(store, "a", content)
    except Killed:
        scene.kill(store)
    scene.files.accident = None
    for _ in range(2):
        store = scene.open()
        scene.commit(store, "a", content)
        scene.close(store)


def killed_before_a_large_blob_is_durable(scene: Scene) -> None:
    store = scene.open()
    scene.create(store, "a")
    content = scene.large()
    scene.files.accident = "killed at a sync"
    try:
        scene.commit(store, "a", content)
    except Killed:
        scene.kill(store)
    store = scene.open()
    scene.commit(store, "a", content)
    scene.close(store)


def a_sync_failed(scene: Scene) -> None:
    """A disk that says so once. The step is tried again, by the same process or by the next."""
    store = scene.open()
    scene.create(store, "a")
    scene.commit(store, "a", scene.small())
    content = scene.generator.randbytes(300)
    for again_at_once in scene.generator.choice(((True, False), (False, True))):
        scene.files.accident = "failed sync"
        try:
            scene.commit(store, "a", content, scene.small())
        except OSError:
            if not again_at_once:
                scene.close(store)
                store = scene.open()
        scene.commit(store, "a", content, scene.small())
    scene.close(store)


def an_append_tore(scene: Scene) -> None:
    """The disk is full for a moment."""
    store = scene.open()
    scene.create(store, "a")
    for _ in range(3):
        scene.commit(store, "a", scene.small())
        scene.files.accident = "torn append"
        try:
            scene.commit(store, "a", scene.small())
        except OSError:
            scene.commit(store, "a", scene.small())
    scene.close(store)


def sessions_are_dropped(scene: Scene) -> None:
    store = scene.open()
    scene.create(store, "a", "b")
    scene.commit(store, "a", scene.small())
    for name in ("a", "b"):
        scene.log.note(Dropped(name))
    store.heads.drop_unused_since(5000.0, is_running=nobody)
    scene.create(store, "c")
    scene.commit(store, "c", scene.small())
    scene.close(store)


def swept(scene: Scene) -> None:
    """Sessions end, what they held is removed, and the others go on with what looks the same."""
    store = scene.open()
    scene.create(store, "a", "b")
    gone = [scene.small() + b"%d" % number for number in range(6)] + [scene.large()]
    for name in ("a", "b"):
        for content in gone[: 7 if name == "a" else 2]:
            scene.commit(store, name, content)
    scene.log.note(Dropped("a"))
    store.heads.drop_unused_since(5000.0, is_running=lambda name: name == "b")
    if scene.generator.random() < 0.5:
        scene.commit(store, "b", gone[3])
    store.sweep(dry=False, pause=lambda: False)
    scene.commit(store, "b", *gone[4:])
    store.sweep(dry=False, pause=lambda: False)
    scene.close(store)


def swept_beside_a_slow_step(scene: Scene) -> None:
    """A step has put what is stored already, and moves its head when that has been condemned."""
    store, other = scene.open(), scene.open()
    scene.create(store, "a", "b", "c")
    useless, wanted = scene.large(), scene.large()
    scene.commit(store, "a", useless, wanted, scene.small())
    scene.log.note(Dropped("a"))
    store.heads.drop_unused_since(5000.0, is_running=lambda name: name != "a")
    lease = other.leases.try_acquire("b")
    assert lease is not None
    parent = scene.heads["b"]
    snapshot = put_step(other, parent, 1, [wanted])
    other.objects.sync()

    def pause() -> bool:
        scene.moment()
        scene.log.note(Attempted("b", snapshot))
        advance(other, "b", parent, snapshot)
        scene.log.note(Acknowledged("b", snapshot))
        scene.heads["b"] = snapshot
        lease.release()
        scene.moment()
        return True

    store.sweep(dry=False, pause=pause)
    scene.moment()
    scene.commit(store, "c", scene.small(), useless)
    scene.close(other)
    scene.close(store)


def mended(scene: Scene) -> None:
    """Something is lost or damaged, but nothing that is needed and cannot be made again."""
    store = scene.open()
    scene.create(store, "a", "b")
    useless = scene.large()
    scene.commit(store, "b", useless)
    for _ in range(4):
        scene.commit(store, "a", scene.generator.randbytes(500))
    scene.log.note(Dropped("b"))
    store.heads.drop_unused_since(5000.0, is_running=lambda name: name == "a")
    scene.close(store)
    scene.log.note(Damaged())
    damages = ["large/*/*", "packs/*.idx", "packs/*.pack", "FORMAT"]
    for pattern in scene.generator.sample(damages, scene.generator.randint(1, 4)):
        scene.damage(pattern, useless=pattern.endswith(".pack"))
    report = LocalStore.mend(scene.root, scene.files, connect=scene.connect, seal_bytes=SEAL_BYTES).report
    assert report.clean
    scene.log.note(Mended(len(list(scene.root.glob("damaged/*")))))
    scene.moment()
    store = scene.open()
    scene.commit(store, "a", scene.small())
    scene.close(store)


def objects_alone(scene: Scene) -> None:
    """An object store without heads, whose syncs SQLite does not help."""
    for folder in (scene.root.parent, scene.root):
        scene.files.make_directory(str(folder))
        RecordingFiles.sync_directory(scene.files, str(folder.parent))
    scene.look = lost_objects
    objects = PackObjects(scene.root, scene.files, seal_bytes=300)
    for number in range(6):
        name = objects.put(Kind.BLOB, scene.large() if number in (0, 4) else scene.small())
        objects.sync()
        scene.log.note(Stored(Kind.BLOB, name))
    objects.close()


def going_on(scene: Scene) -> None:
    """What the next process does with what a crash left; and what a crash of that one leaves."""
    store = scene.open()
    for name in sorted({name for name, _ in store.heads.roots()}):
        scene.found(name, store.heads.get(name, "alice").head)
    scene.create(store, "next")
    for _ in range(3):
        contents = [scene.small(), *([scene.large()] if scene.generator.random() < 0.2 else [])]
        scene.commit(store, scene.generator.choice(list(scene.heads)), *contents)
    scene.close(store)


NOT_CRASHED_TWICE = (mended, objects_alone)
"""What goes on after a crash would have to mend first, or needs heads."""
Scenario = Callable[[Scene], None]
SCENARIOS: tuple[Scenario, ...] = (
    several_sessions,
    two_processes,
    killed_before_a_sync,
    killed_before_a_large_blob_is_durable,
    a_sync_failed,
    an_append_tore,
    sessions_are_dropped,
    swept,
    swept_beside_a_slow_step,
    mended,
    objects_alone,
)


@contextmanager
def played(scenario: Scenario, folder: Path, generator: random.Random, carelessness: Carelessness) -> Iterator[Scene]:
    """The scene after its scenario."""
    scene = Scene(folder, generator, carelessness)
    try:
        scenario(scene)
        yield scene
    finally:
        scene.end()


# -- what must hold -----------------------------------------------------------------------------------------------------


class Promises:
    """What was promised by the end of some events."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.heads: defaultdict[str, list[SnapshotId]] = defaultdict(list)
        self.acknowledged: dict[str, int] = {}
        self.stored: list[Stored] = []
        self.damaged = self.just_mended = False
        self.aside = 0
        for event in events:
            if isinstance(event, Note):
                self._take(event.fact)

    def _take(self, fact: object) -> None:
        match fact:
            case Attempted(session_id, head):
                self.just_mended = False
                self.heads[session_id].append(head)
            case Acknowledged(session_id, head):
                self.acknowledged[session_id] = self.heads[session_id].index(head)
            case Dropped(session_id):
                self.acknowledged.pop(session_id, None)
            case Stored():
                self.stored.append(fact)
            case Damaged() | Mended():
                self.damaged = isinstance(fact, Damaged)
                self.just_mended = not self.damaged
                self.aside = fact.aside if isinstance(fact, Mended) else 0


def problems(root: Path, promises: Promises) -> list[str]:
    """What does not hold in a store after a crash. Opens it, looks, makes one more step, and checks everything."""
    try:
        if promises.damaged:
            LocalStore.mend(root, seal_bytes=SEAL_BYTES)
        store = LocalStore(root, seal_bytes=SEAL_BYTES)
    except Exception as error:
        return [f"it cannot be opened: {error!r}"]
    try:
        return _not_mended(store, promises) + _wrong_heads(store, promises) + _one_more_step(store) + _unclean(store)
    except Exception as error:
        return [f"it cannot be used: {error!r}"]
    finally:
        store.close()


def lost_objects(root: Path, promises: Promises) -> list[str]:
    """The same for an object store alone."""
    try:
        objects = PackObjects(root, Files(), seal_bytes=SEAL_BYTES)
    except Exception as error:
        return [f"it cannot be opened: {error!r}"]
    try:
        for promise in promises.stored:
            objects.get(promise.kind, promise.name)
    except StoreError as error:
        return [str(error)]
    finally:
        objects.close()
    return []


def _wrong_heads(store: LocalStore, promises: Promises) -> list[str]:
    found = []
    for session_id, heads in promises.heads.items():
        oldest = promises.acknowledged.get(session_id)
        try:
            head = store.heads.get(session_id, "alice").head
        except SessionMissing:
            if oldest is not None:
                found.append(f"session {session_id} is gone")
            continue
        if head not in heads[oldest or 0 :]:
            found.append(f"the head of {session_id} is none of those after what was acknowledged")
    return found


def _not_mended(store: LocalStore, promises: Promises) -> list[str]:
    """Right after mending nothing is damaged, not even what nobody needs, and what was is put aside."""
    if not promises.just_mended:
        return []
    aside = [path.stat().st_size for path in (store.root / "damaged").glob("*")]
    lost = [f"{size} bytes were put aside" for size in aside if not size]
    return [*store.check(full=True)[0].harmless, *lost, *([] if promises.aside == len(aside) else ["not put aside"])]


def _one_more_step(store: LocalStore) -> list[str]:
    store.heads.create([msgspec.structs.replace(session("after"), head=EMPTY_SNAPSHOT_ID)], "create")
    snapshot = put_step(store, EMPTY_SNAPSHOT_ID, 1, [b"after the crash"])
    store.objects.sync()
    advance(store, "after", EMPTY_SNAPSHOT_ID, snapshot)
    return []


def _unclean(store: LocalStore) -> list[str]:
    report, _ = store.check(full=True)
    broken = (f"{name}: {lacks}" for name, lacks in report.broken.items())
    return [*report.damaged, *broken, *report.behind, *report.derived]
