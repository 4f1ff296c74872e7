"""What may have happened before a crash: one function each, which gets a `Scene`. A new one is added to SCENARIOS."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from store.ids import Kind
from store.local import LocalStore
from store.packs import PackObjects
from store.recording import RecordingFiles
from store.records import RECORD
from store.testing import nobody
from tests.faults.promises import (
    SEAL_BYTES,
    TENANT,
    Acknowledged,
    Attempted,
    Damaged,
    Dropped,
    Mended,
    Promises,
    Stored,
    advance,
    lost_objects,
    problems,
    put_step,
)
from tests.faults.scenes import Killed, Scene


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


def an_append_tore_inside(scene: Scene) -> None:
    """The power fails while a step is appended, and of it the move is there and something that it needs is not."""
    store = scene.open()
    scene.create(store, "a")
    scene.commit(store, "a", b"first")
    (pack,) = scene.root.glob("packs/*.open")
    whole_bytes = pack.stat().st_size
    scene.files.accident = "killed at a sync"
    try:
        scene.commit(store, "a", scene.generator.randbytes(300))
    except Killed:
        scene.kill(store)
    scene.files.accident = None
    scene.tear(pack, whole_bytes + RECORD.size + scene.generator.randrange(300))
    for _ in range(2):
        store = scene.open()
        scene.commit(store, "a", scene.small())
        scene.moment()
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


def a_sync_failed_in_a_sweep(scene: Scene) -> None:
    """A disk that says once that what was copied is not durable. The next process sweeps again."""
    store = scene.open()
    scene.create(store, "a", "b")
    for _ in range(6):
        scene.commit(store, "a", scene.generator.randbytes(300))
        scene.commit(store, "b", scene.generator.randbytes(300))
    scene.log.note(Dropped("a"))
    store.heads.drop_unused_since(5000.0, is_running=lambda name: name == "b")

    def strike(stage: str, done: int, total: int) -> None:
        if stage == "copying" and done == total:
            scene.files.accident = "failed sync"

    with contextlib.suppress(OSError):
        store.sweep(dry=False, pause=lambda: False, progress=strike)
    assert scene.files.accident is None, "it struck"
    scene.close(store)
    store = scene.open()
    store.sweep(dry=False, pause=lambda: False)
    scene.moment()
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
        scene.found(name, store.heads.get(name, TENANT).head)
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
    an_append_tore_inside,
    sessions_are_dropped,
    swept,
    swept_beside_a_slow_step,
    a_sync_failed_in_a_sweep,
    mended,
    objects_alone,
)


def look(scenario: str, root: Path, promises: Promises) -> list[str]:
    """What does not hold after a crash of the scenario of this name."""
    return (lost_objects if scenario == objects_alone.__name__ else problems)(root, promises)
