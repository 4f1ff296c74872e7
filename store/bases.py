"""Whole trees, read-only, that overlay workspaces stand on. Each is materialized once and shared.

bases/<tree>        a whole tree
bases/.building-N   one that is not whole yet: built aside and renamed in, so that it is never seen half-made
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path

from store.delta import DIRECTORY, Delta
from store.files import Files, open_directory
from store.ids import TreeId
from store.known import KnownTrees
from store.remover import Remover
from store.usage import Usage
from store.workspace import WorkspaceSettings


class Base:
    """One whole tree. `users` workspaces stand on it, and while any does it stays."""

    def __init__(self, tree: TreeId, folder: Path, usage: Usage) -> None:
        self.tree, self.folder, self.usage = tree, folder, usage
        self.users = self.used_at = 0


class Bases:
    """The bases of one process. Any number of threads."""

    def __init__(
        self, folder: Path, known: KnownTrees, files: Files, settings: WorkspaceSettings, remover: Remover
    ) -> None:
        self._folder, self._known, self._files, self._settings = folder, known, files, settings
        self._remover = remover
        folder.mkdir()
        self._state = threading.Condition()
        self._building: dict[TreeId, int] = {}
        self._bases: OrderedDict[TreeId, Base] = OrderedDict()
        self._count = 0
        self.usage = Usage()
        """Of all of them together."""

    def hold(self, tree: TreeId, now: int) -> Base:
        """The base of a tree, made when it is not there, for one more workspace that stands on it. `now` numbers uses.

        Raises ObjectMissing or ObjectDamaged when the tree cannot be read, OSError when it cannot be written.
        """
        with self._state:
            while tree in self._building:
                self._state.wait()
            known = self._held(tree, now)
            if known is not None:
                return known
            self._count += 1
            self._building[tree] = self._count
        try:
            base = self._build(tree, self._folder / f".building-{self._building[tree]}")
            with self._state:
                self._bases[tree] = base
                self.usage += base.usage
                self._held(tree, now)
        finally:
            with self._state:
                del self._building[tree]
                self._state.notify_all()
        return base

    def hold_known(self, tree: TreeId, now: int) -> Base | None:
        """The same, but None when it is not there already."""
        with self._state:
            return self._held(tree, now)

    def let_go(self, base: Base) -> None:
        """One workspace fewer stands on it."""
        with self._state:
            base.users -= 1

    def recent(self, count: int) -> list[Base]:
        """Those used last, the latest first."""
        with self._state:
            return [base for base, _ in zip(reversed(self._bases.values()), range(count), strict=False)]

    def unused(self) -> list[Base]:
        """Those that no workspace stands on, the least recently used first."""
        with self._state:
            return [base for base in self._bases.values() if not base.users]

    def drop(self, base: Base) -> bool:
        """Remove one that nobody stands on; False when somebody does again, or it cannot be moved out of the way."""
        with self._state:
            if base.users or self._bases.get(base.tree) is not base or not self._remover.remove(base.folder):
                return False
            del self._bases[base.tree]
            self.usage -= base.usage
            return True

    def _held(self, tree: TreeId, now: int) -> Base | None:
        base = self._bases.get(tree)
        if base is not None:
            base.users += 1
            base.used_at = now
            self._bases.move_to_end(tree)
        return base

    def _build(self, tree: TreeId, aside: Path) -> Base:
        self._files.make_directory(str(aside))
        try:
            delta = Delta(self._known, self._files, self._settings.owner, self._settings.attribute_prefix)
            directory = open_directory(str(aside))
            try:
                delta.materialize(tree, directory)
            finally:
                os.close(directory)
            path = self._folder / tree.hex()
            self._files.rename(str(aside), str(path), source_directory=None, target_directory=None)
        except BaseException:
            self._remover.remove(aside)
            raise
        return Base(tree, path, delta.usage + DIRECTORY)
