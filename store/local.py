"""A store folder on this machine: one place that knows what lies where.

FORMAT       the format's name and number
marker       what the store's records begin with (store.marker)
packs/ large/   objects (store.packs)
heads.sqlite    sessions and logs (store.heads); or
heads.redis     which they are, of those in a Redis (store.redis_place)
leases.lock     turns (store.leases)
gc.lock         held by the one who sweeps or repairs
condemned/      large blobs that gc is about to remove
damaged/        what repair has put aside; may be removed
workspaces/     live directories (store.pool); may be removed whenever no psf runs
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from store import files as files_module
from store.check import CheckReport, Progress, no_progress
from store.errors import StoreUnusable
from store.files import PRIVATE_DIRECTORY_MODE, Files
from store.gc import GcReport, Sweep, alone
from store.heads import SqliteHeads, connect
from store.ids import Kind
from store.journal import PackJournal
from store.journalled import KeptHeads
from store.layout import HEADS, REDIS, is_file, refuse_strangers
from store.leases import FileLeases
from store.packs import SEAL_BYTES, PackObjects
from store.pool import Workspaces
from store.recovery import recover
from store.redis_address import RedisSettings
from store.repair import (
    put_damaged_heads_aside,
    put_strangers_aside,
    refuse_lost_format,
    refuse_running,
    repair_heads,
    repair_objects,
    restore_format,
)
from store.snapshot import EMPTY_SNAPSHOT_BYTES, EMPTY_SNAPSHOT_ID
from store.tree import EMPTY_TREE, EMPTY_TREE_BYTES
from store.verify import Findings, check_store
from store.workspace import WorkspaceSettings

FORMAT = b"psf store 2\n"


class Mended(NamedTuple):
    """What a mended store is like now, and what was done."""

    report: CheckReport
    done: tuple[str, ...]


class LocalStore:
    """Opens, or makes, the store at `root`. Several processes may have it open at once. With `redis` its heads are there.

    Raises StoreUnusable when `root` is something else, of another format, or cannot be written.
    """

    def __init__(
        self,
        root: Path,
        files: Files | None = None,
        *,
        connect: Callable[[Path], sqlite3.Connection] = connect,
        seal_bytes: int = SEAL_BYTES,
        redis: RedisSettings | None = None,
        mending: bool = False,
    ) -> None:
        self.root, self._files = root, files or Files()
        self._connect, self._seal_bytes = connect, seal_bytes
        self._redis, self._mending = redis, mending
        try:
            self._make_root()
            with _turn(root):
                self._open()
        except OSError as error:
            raise StoreUnusable(f"the store folder {root} cannot be used: {error.strerror}") from None

    def workspaces(self, settings: WorkspaceSettings) -> Workspaces:
        return Workspaces(self.root / "workspaces", self.objects, self._files, settings)

    def sweep(self, *, dry: bool, pause: Callable[[], bool], progress: Progress = no_progress) -> GcReport:
        """Remove what nothing needs (see store.gc). Raises GcRunning, GcRefused, OSError."""
        sweep = Sweep(self.root, self.objects, self.heads, self.leases, self._files, pause=pause, progress=progress)
        return sweep.run(dry=dry)

    def check(self, *, full: bool, progress: Progress = no_progress) -> tuple[CheckReport, Findings]:
        """Check everything (see store.verify). Changes nothing."""
        return check_store(self.objects, self.heads, full=full, progress=progress)

    @classmethod
    def mend(
        cls,
        root: Path,
        files: Files | None = None,
        *,
        progress: Progress = no_progress,
        connect: Callable[[Path], sqlite3.Connection] = connect,
        seal_bytes: int = SEAL_BYTES,
        redis: RedisSettings | None = None,
    ) -> Mended:
        """Check every byte, mend what can be mended (see store.repair), check again. No psf may be running on the store.

        Raises StoreUnusable, GcRunning, OSError.
        """
        files = files or Files()
        refuse_running(root)
        done = put_strangers_aside(root, files) + restore_format(root, FORMAT, files)
        if not is_file(root / "FORMAT"):
            cls(root, files, connect=connect, redis=redis).close()  # makes the store, or refuses what is none
        with alone(root):
            done += put_damaged_heads_aside(root, files, connect)
            store = cls(root, files, connect=connect, seal_bytes=seal_bytes, redis=redis, mending=True)
            try:
                report, findings = store.check(full=True, progress=progress)
                if not report.clean or report.harmless:
                    done += repair_objects(root, store.objects, findings, files, progress)
                    store._put_empty()  # what everybody knows is not lost
                    done += repair_heads(store.objects, store.heads)
                    done += [f"made again: {text}" for text in store.objects.folder.rebuilt]
                    store.objects.folder.rebuilt.clear()
                    report, _ = store.check(full=True, progress=progress)
            finally:
                store.close()
        return Mended(report, tuple(done))

    def close(self) -> None:
        """Close it. What was put and not synced is gone, as after a crash."""
        self.heads.close()
        self.objects.close()

    def _make_root(self) -> None:
        missing = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        for folder in reversed(missing[1:]):
            self._files.ensure_directory(str(folder))
            self._files.sync_directory(str(folder.parent))
        if missing:
            self._files.ensure_directory(str(self.root), PRIVATE_DIRECTORY_MODE)

    def _open(self) -> None:
        self._check_format()
        self.root.chmod(PRIVATE_DIRECTORY_MODE)
        with contextlib.ExitStack() as opened:
            self.objects = PackObjects(self.root, self._files, seal_bytes=self._seal_bytes)
            opened.callback(self.objects.close)
            heads, epoch = self._open_redis() if self._redis is not None else self._open_sqlite()
            self.heads: KeptHeads = heads
            opened.callback(self.heads.close)
            self.leases = FileLeases(self.root / "leases.lock", epoch=epoch, entered=self.objects.enter_epoch)
            self._put_empty()
            opened.pop_all()

    def _open_sqlite(self) -> tuple[KeptHeads, Callable[[], int]]:
        if os.path.lexists(self.root / REDIS):
            raise StoreUnusable(
                f"the heads of the store {self.root} are in Redis: name it, as redis_url or in PSF_REDIS_URL, such as"
                " redis://localhost:6379/0"
            )
        journal = PackJournal(self.objects, self._files.tick)
        heads = SqliteHeads(self.root / HEADS, journal, connect=self._connect)
        try:
            self.objects.settle = heads.settle
            recover(self.objects, heads, journal)
        except BaseException:
            heads.close()
            raise
        return heads, heads.epoch

    def _open_redis(self) -> tuple[KeptHeads, Callable[[], int]]:
        try:
            from store import redis_place  # noqa: PLC0415 - the extra `redis` may not be installed
        except ModuleNotFoundError as error:
            if error.name != "redis":
                raise
            raise StoreUnusable(
                "heads in Redis need its client: pip install 'persistent-sandbox-fusion[redis]'"
            ) from None
        assert self._redis is not None
        heads = redis_place.open_heads(self.root, self.objects, self._redis, self._files, mending=self._mending)
        # Turns are taken where nobody may wait for a network.
        return heads, heads.known_epoch

    def _put_empty(self) -> None:
        """Every session begins at the empty snapshot, so it is there before the first one. One who opened before us has synced it."""
        if self.objects.find_missing([(Kind.TREE, EMPTY_TREE), (Kind.SNAPSHOT, EMPTY_SNAPSHOT_ID)]):
            self.objects.put(Kind.TREE, EMPTY_TREE_BYTES)
            self.objects.put(Kind.SNAPSHOT, EMPTY_SNAPSHOT_BYTES)
            self.objects.sync()

    def _check_format(self) -> None:
        path = self.root / "FORMAT"
        if os.path.lexists(path):
            refuse_strangers(self.root)
            with path.open("rb") as file:
                found = file.read(len(FORMAT) + 1)
            if found != FORMAT:
                refuse_lost_format(self.root)
                ours = FORMAT.decode().strip()
                raise StoreUnusable(
                    f"{self.root} holds a store of another format; this psf reads {ours}"
                    f" (if no other version of psf has made it, FORMAT is damaged: write {ours!r} and a newline into it)"
                )
            return
        if any(self.root.iterdir()):
            refuse_lost_format(self.root)
            raise StoreUnusable(f"{self.root} is neither a psf store nor empty; choose another folder with --store")
        # Whoever made the folder, perhaps we before we were killed, may not have made its name last.
        with contextlib.suppress(PermissionError):  # who may not read where it lies did not make it
            self._files.sync_directory(str(self.root.parent))
        descriptor = self._files.unnamed(str(self.root))
        try:
            self._files.write(descriptor, FORMAT)
            self._files.sync(descriptor)
            self._files.link(descriptor, str(path))
        finally:
            os.close(descriptor)
        self._files.sync_directory(str(self.root))


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One opens at a time: one that makes a store must not be taken for a folder with something else in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files_module.lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)
