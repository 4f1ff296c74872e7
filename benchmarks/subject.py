"""psf's side of each comparison: a store, its workspaces, one session, and steps as the server does them, without the program.

The order of a step is that of `LocalExecutor.execute` and `SessionService._commit`. What a program would do, the change itself, is
done through the mounted overlay and not counted, nor is the mounting, unless asked for: git and the others need none.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

from benchmarks.measure import Phases
from executors import kernel, profile, stage
from store import snapshot as snapshots
from store import tree as trees
from store.capture import Capture, CaptureLimits
from store.files import open_directory
from store.ids import BlobId, Kind, SnapshotId, TreeId
from store.interfaces import Move, Session
from store.known import KnownTrees
from store.local import LocalStore
from store.pool import Workspaces
from store.snapshot import EMPTY_SNAPSHOT_ID, Ending, Limits, Outcome, Run, Snapshot, Stage, Stream
from store.workspace import OverlayMount, Workspace, WorkspaceSettings

Change = Callable[[Path], object]
SESSION = "session"
DAY_S = 86400.0
CHANGED_BYTES = 4096
SETTLED = frozenset({"settle"})


def enter_namespace() -> str | None:
    """Give this process mounts of its own, gone with it; returns why overlays cannot be mounted here, None when they can."""
    try:
        stage.enter_namespaces(os.geteuid() == 0)
        kernel.mount("tmpfs", "/mnt", [("mode", "0755")])
        for name in ("lower", "upper", "work", "merged"):
            Path("/mnt", name).mkdir()
        mount_overlay(OverlayMount("/mnt", ("lower",), "upper", "work"), "/mnt/merged")
        kernel.unmount("/mnt/merged")
    except OSError as error:
        return f"no overlay can be mounted: {error}"
    return None


def mount_overlay(mount: OverlayMount, target: str) -> None:
    """As the launcher does it (`executors/launcher_process.py`)."""
    os.chdir(mount.folder)
    try:
        options: list[tuple[str, str | None]] = [("lowerdir+", lower) for lower in mount.lowers]
        options += [("upperdir", mount.upper), ("workdir", mount.work), ("volatile", None)]
        options += [("redirect_dir", "on"), ("metacopy", "off")] if os.geteuid() == 0 else [("userxattr", None)]
        kernel.mount("overlay", target, options)
    finally:
        os.chdir("/")


def settings() -> WorkspaceSettings:
    """As the server has them: as root, the files of workspaces belong to a user of psf's own."""
    made = profile.build()
    return WorkspaceSettings("overlay", made.privileged, made.user if made.privileged else None)


class Subject:
    """A store in `folder`, and one session in it. `folder` must not be there yet."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self._target = folder, folder / "merged"
        self._target.mkdir()
        self.store = LocalStore(folder / "store")
        self._settings = settings()
        self.pool = self.further_pool()
        self._promised: SnapshotId | None = None
        self.new_session(SESSION)

    def close(self) -> None:
        self.pool.close()
        self.store.close()

    def new_session(self, session_id: str) -> None:
        self.store.heads.create([self._session(session_id, EMPTY_SNAPSHOT_ID)], "create")

    def fork(self, names: list[str]) -> None:
        self.store.heads.create([self._session(name, self.head()) for name in names], "fork")

    def head(self) -> SnapshotId:
        """The session's head, or what a step that was not durable would have made it."""
        return self._promised or self.store.heads.get(SESSION, "local").head

    def snapshot(self, identity: SnapshotId | None = None) -> Snapshot:
        return snapshots.decode(self.store.objects.get(Kind.SNAPSHOT, identity or self.head()))

    def take(self, path: Path) -> TreeId:
        """The initial snapshot: a whole directory, durable, the session's head."""
        objects = self.store.objects
        directory = open_directory(str(path))
        try:
            captured = Capture(KnownTrees(objects), trees.EMPTY_TREE, 0, CaptureLimits()).read_copy(directory, {})
        finally:
            os.close(directory)
        if captured.left_out:
            raise RuntimeError(f"{path} cannot be kept whole: {captured.left_out[0]}")
        self.start_at(captured.tree)
        return captured.tree

    def start_at(self, tree: TreeId) -> None:
        """Move the session to a tree that is stored already."""
        objects, head = self.store.objects, self.head()
        after = Snapshot(snapshots.VERSION, self.snapshot(head).depth + 1, (head,), tree, None, None)
        identity = SnapshotId(objects.put(Kind.SNAPSHOT, snapshots.encode(after)))
        self.advance(head, identity, "import")

    def advance(self, head: SnapshotId, new: SnapshotId, kind: str) -> None:
        self.store.heads.advance(SESSION, head, Move(0, kind, head, new, time.time(), b"{}"))

    def roll_back(self) -> None:
        """Move the head to the snapshot before it."""
        head = self.head()
        self.advance(head, self.snapshot(head).parents[0], "rollback")

    def step(self, change: Change, *, durable: bool = True, counted: frozenset[str] = SETTLED) -> Phases:
        """One step: `change` is given the mounted work directory. `counted`: of "mount", "change" and "settle", what to count too.

        Settling comes after the answer: nobody waits for it but the next step on the same tree.
        """
        phases = Phases()

        def maybe(name: str) -> AbstractContextManager[None]:
            return phases(name) if name in counted else phases.outside()

        with phases("head"):
            lease = self.store.leases.try_acquire(SESSION)
            assert lease is not None
            head = self.head()
            parent = self.snapshot(head)
        with phases("acquire"):
            workspace = self.pool.acquire(parent.tree)
        with maybe("mount"):
            merged = self.mount(workspace)
        with maybe("change"):
            change(merged)
        with maybe("mount"):
            self.unmount()
        with phases("capture"):
            captured = workspace.capture(parent.depth + 1)
        with phases("put"):
            identity = self.put_snapshot(head, parent.depth + 1, captured.tree)
        if durable:
            with phases("advance"):
                self.advance(head, identity, "execute")
        else:
            self._promised = identity
        with maybe("settle"):
            self.pool.release(workspace, captured.tree, captured)
        with phases("head"):
            lease.release()
        return phases

    def put_snapshot(self, head: SnapshotId, number: int, tree: TreeId) -> SnapshotId:
        """Step, outcome and snapshot of a program that printed a line."""
        objects = self.store.objects

        def put(data: bytes) -> BlobId:
            return BlobId(objects.put(Kind.BLOB, data))

        code, empty = put(b"print(%d)\n" % number), put(b"")
        step = Run("python", bytes(32), code, empty, (), (), (), (), "all", (("run", Limits()),))
        streams = Stream(put(b"%d\n" % number), len(str(number)) + 1, False), Stream(empty, 0, False)
        outcome = Outcome((Stage("run", Ending.EXITED, 0, None, *streams, ()),), ())
        after = Snapshot(snapshots.VERSION, number, (head,), tree, step, outcome)
        return SnapshotId(objects.put(Kind.SNAPSHOT, snapshots.encode(after)))

    def stored_bytes(self) -> int:
        """What the store takes on disk, workspaces aside, with SQLite's log written back."""
        with closing(sqlite3.connect(self.store.root / "heads.sqlite")) as database:
            database.execute("pragma wal_checkpoint(truncate)")
        return allocated_bytes(self.store.root, without="workspaces")

    def mount(self, workspace: Workspace) -> Path:
        """Mount a workspace; where that is, until `unmount`."""
        assert isinstance(workspace.mount, OverlayMount)
        mount_overlay(workspace.mount, str(self._target))
        return self._target

    def unmount(self) -> None:
        kernel.unmount(str(self._target))

    def cold_pool(self) -> None:
        """Forget every live directory."""
        self.pool.close()
        self.pool = self.further_pool()

    def further_pool(self) -> Workspaces:
        """Another pool on the same store, with no live directory in it."""
        return self.store.workspaces(self._settings)

    @staticmethod
    def _session(session_id: str, head: SnapshotId) -> Session:
        now_s = time.time()
        return Session(session_id, "local", None, head, "python", "bubblewrap", DAY_S, now_s, now_s)


def allocated_bytes(folder: Path, *, without: str = "") -> int:
    """Blocks that the files below `folder` take, but for what lies in its directory `without`."""
    total = 0
    for place, directories, names in os.walk(folder):
        if without in directories:
            directories.remove(without)
        total += sum(os.lstat(os.path.join(place, name)).st_blocks * 512 for name in names)
    return total


class Floor:
    """What a durable step cannot do without: one append made to last, and one commit of SQLite with synchronous=FULL."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._descriptor = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self._database = sqlite3.connect(folder / "floor.sqlite", isolation_level=None, check_same_thread=False)
        for statement in ("pragma journal_mode=wal", "pragma synchronous=full", "create table moves (head blob)"):
            self._database.execute(statement)

    def fdatasync(self) -> None:
        os.write(self._descriptor, bytes(CHANGED_BYTES))
        os.fdatasync(self._descriptor)

    def commit(self) -> None:
        self._database.execute("begin immediate")
        self._database.execute("insert into moves values (?)", (bytes(32),))
        self._database.execute("commit")

    def both(self) -> None:
        self.fdatasync()
        self.commit()

    def close(self) -> None:
        os.close(self._descriptor)
        self._database.close()


def rewrite(name: str) -> Change:
    """A change of one file: new content each time."""
    return lambda folder: (folder / name).write_bytes(os.urandom(CHANGED_BYTES // 2).hex().encode())


def main() -> None:
    """The initial snapshot of argv[1] into argv[2], for the row of peak memory."""
    subject = Subject(Path(sys.argv[2]))
    subject.take(Path(sys.argv[1]))
    subject.close()


if __name__ == "__main__":
    main()
