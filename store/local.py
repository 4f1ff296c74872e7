"""A store folder on this machine: one place that knows what lies where.

FORMAT       the format's name and number
packs/ large/   objects (store.packs)
heads.sqlite    sessions and logs (store.heads)
leases.lock     turns (store.heads)
workspaces/     live directories (store.pool); may be removed whenever no psf runs
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store import files as files_module
from store.errors import StoreUnusable
from store.files import PRIVATE_DIRECTORY_MODE, Files
from store.heads import FileLeases, SqliteHeads
from store.ids import Kind
from store.packs import PackObjects
from store.pool import Workspaces
from store.snapshot import EMPTY_SNAPSHOT_BYTES
from store.tree import EMPTY_TREE_BYTES
from store.workspace import WorkspaceSettings

FORMAT = b"psf store 1\n"


class LocalStore:
    """Opens, or makes, the store at `root`. Several processes may have it open at once.

    Raises StoreUnusable when `root` is something else, of another format, or cannot be written.
    """

    def __init__(self, root: Path, files: Files | None = None) -> None:
        self.root, self._files = root, files or Files()
        try:
            self._make_root()
            with _turn(root):
                self._open()
        except OSError as error:
            raise StoreUnusable(f"the store folder {root} cannot be used: {error.strerror}") from None

    def workspaces(self, settings: WorkspaceSettings) -> Workspaces:
        return Workspaces(self.root / "workspaces", self.objects, self._files, settings)

    def close(self) -> None:
        self.heads.close()
        self.objects.close()

    def _make_root(self) -> None:
        if not self.root.exists():
            self.root.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY_MODE)
            self._files.sync_directory(str(self.root.parent))

    def _open(self) -> None:
        self._check_format()
        self.root.chmod(PRIVATE_DIRECTORY_MODE)
        self.objects = PackObjects(self.root, self._files)
        self.heads = SqliteHeads(self.root / "heads.sqlite")
        self.leases = FileLeases(self.root / "leases.lock")
        # Every session begins at the empty snapshot, so it is there before the first one.
        self.objects.put(Kind.TREE, EMPTY_TREE_BYTES)
        self.objects.put(Kind.SNAPSHOT, EMPTY_SNAPSHOT_BYTES)
        self.objects.sync()

    def _check_format(self) -> None:
        path = self.root / "FORMAT"
        if path.exists():
            if path.read_bytes() != FORMAT:
                raise StoreUnusable(
                    f"{self.root} holds a store of another format; this psf reads {FORMAT.decode().strip()}"
                )
            return
        if any(self.root.iterdir()):
            raise StoreUnusable(f"{self.root} is neither a psf store nor empty; choose another folder with --store")
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
