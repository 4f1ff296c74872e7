"""The pool of live workspaces and of whole trees they stand on.

workspaces/.lock             held while a process sweeps and makes its own folder
workspaces/<instance>/lock   flocked as long as its process lives; without that the folder is swept at the next start
workspaces/<instance>/...    bases and workspaces (store.workspace)
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import OrderedDict
from pathlib import Path

from store import files as files_module
from store.capture import Captured
from store.delta import Delta
from store.errors import StoreError
from store.files import Files, open_directory
from store.ids import TreeId
from store.interfaces import Objects
from store.tree import EMPTY_TREE
from store.workspace import CopiedWorkspace, OverlayWorkspace, Workspace, WorkspaceSettings

IDLE_WORKSPACES_MAX = 256
IDLE_BASES_MAX = 32


class Workspaces:
    """The pool of one process. Idle workspaces and bases are bounded; the least recently used go first."""

    def __init__(self, root: Path, objects: Objects, files: Files, settings: WorkspaceSettings) -> None:
        self._objects, self._files, self._settings = objects, files, settings
        self._root, self._lock_descriptor = _make_instance(root, files)
        self._bases = self._root / "bases"
        self._bases.mkdir()
        self._state = threading.Lock()
        self._building: dict[TreeId, threading.Lock] = {}
        self._idle: OrderedDict[str, Workspace] = OrderedDict()
        self._base_users: OrderedDict[TreeId, int] = OrderedDict()
        self._base_of: dict[str, TreeId] = {}
        self._count = 0

    def acquire(self, tree: TreeId) -> Workspace:
        """A prepared workspace that holds `tree`, the caller's alone until `release` or `discard`.

        Raises ObjectMissing or ObjectDamaged when the tree cannot be read, OSError when it cannot be written.
        """
        workspace = self._take(tree) or self._build(tree)
        try:
            workspace.prepare()
        except BaseException:
            self.discard(workspace)
            raise
        return workspace

    def release(self, workspace: Workspace, tree: TreeId, captured: Captured | None) -> None:
        """Give back a workspace after its run, to be found again under `tree`."""
        try:
            kept = workspace.settle(tree, captured)
        except (OSError, StoreError):
            kept = False
        if not kept:
            self.discard(workspace)
            return
        with self._state:
            self._idle[workspace.folder.name] = workspace
            surplus = [self._idle.popitem(last=False)[1] for _ in range(len(self._idle) - IDLE_WORKSPACES_MAX)]
        for old in surplus:
            self.discard(old)

    def discard(self, workspace: Workspace) -> None:
        """Remove a workspace whose state is not known or not wanted."""
        self._discard_folder(workspace.folder)

    def _discard_folder(self, folder: Path) -> None:
        self._remove(folder)
        with self._state:
            base = self._base_of.pop(folder.name, None)
            if base is not None:
                self._base_users[base] -= 1
            unused = [tree for tree, users in self._base_users.items() if not users]
            surplus = unused[: max(0, len(unused) - IDLE_BASES_MAX)]
            for tree in surplus:
                del self._base_users[tree]
                aside = self._bases / f".removed-{tree.hex()}-{self._next()}"
                os.rename(self._bases / tree.hex(), aside)
        for tree in surplus:
            for aside in self._bases.glob(f".removed-{tree.hex()}-*"):
                self._remove(aside)

    def close(self) -> None:
        self._remove(self._root)
        os.close(self._lock_descriptor)

    def _take(self, tree: TreeId) -> Workspace | None:
        with self._state:
            for name in reversed(self._idle):
                if self._idle[name].tree == tree:
                    workspace = self._idle.pop(name)
                    workspace.warm = True
                    return workspace
        return None

    def _build(self, tree: TreeId) -> Workspace:
        with self._state:
            folder = self._root / f"{self._next()}"
        self._files.make_directory(str(folder))
        try:
            if self._settings.kind == "copy":
                return CopiedWorkspace(folder, tree, self._objects, self._files, self._settings)
            base = self._hold_base(tree, folder.name)
            return OverlayWorkspace(folder, base, tree, self._objects, self._files, self._settings)
        except BaseException:
            self._discard_folder(folder)
            raise

    def _hold_base(self, tree: TreeId, user: str) -> Path:
        """The folder of a whole tree, materialized once: built aside and renamed in, so that it is never seen half-made."""
        path = self._bases / tree.hex()
        while True:
            with self._state:
                building = self._building.setdefault(tree, threading.Lock())
            with building:
                with self._state:
                    if self._building.get(tree) is not building:
                        continue  # whoever built it has ended; it may be gone again
                    known = tree in self._base_users
                    if known:
                        self._count_user(tree, user)
                try:
                    if not known:
                        self._build_base(tree, path)
                        with self._state:
                            self._count_user(tree, user)
                finally:
                    with self._state:
                        del self._building[tree]
            return path

    def _count_user(self, tree: TreeId, user: str) -> None:
        self._base_users[tree] = self._base_users.get(tree, 0) + 1
        self._base_users.move_to_end(tree)
        self._base_of[user] = tree

    def _build_base(self, tree: TreeId, path: Path) -> None:
        with self._state:
            aside = self._bases / f".building-{self._next()}"
        aside.mkdir(mode=0o755)
        try:
            if tree != EMPTY_TREE:
                directory = open_directory(str(aside))
                try:
                    settings = self._settings
                    Delta(self._objects, self._files, settings.owner, settings.attribute_prefix).materialize(
                        tree, directory
                    )
                finally:
                    os.close(directory)
            os.rename(aside, path)
        except BaseException:
            self._remove(aside)
            raise

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _remove(self, path: Path) -> None:
        if path.exists():
            self._files.remove_tree(os.fsencode(path))


def _make_instance(root: Path, files: Files) -> tuple[Path, int]:
    """A new folder of this process, and the descriptor whose lock says that the process lives."""
    root.mkdir(parents=True, exist_ok=True)
    turn = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        files_module.lock(turn, wait=True)
        _sweep(root, files)
        path = root / secrets.token_hex(8)
        path.mkdir(mode=0o700)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        files_module.lock(descriptor, wait=False)
    finally:
        os.close(turn)
    return path, descriptor


def _sweep(root: Path, files: Files) -> None:
    """Remove what processes that are gone have left; the caller has the turn."""
    for folder in root.iterdir():
        if folder.name == ".lock" or _is_alive(folder / "lock"):
            continue
        files.remove_tree(os.fsencode(folder))


def _is_alive(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not files_module.lock(descriptor, wait=False)
    finally:
        os.close(descriptor)
