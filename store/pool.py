"""The pool of live workspaces: which one a step gets, what is kept, and what goes when there is too much.

workspaces/<instance>/bases     whole trees (store.bases)
workspaces/<instance>/<n>       workspaces (store.workspace)
workspaces/<instance>/removed   what was given up, until it is gone (store.remover)

A step gets, in this order: an idle workspace that holds its tree; a new one on the base that is its tree; whatever is nearest,
brought to the tree by what differs (docs/adr/0008); a new base.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter, OrderedDict
from pathlib import Path
from typing import NamedTuple

from store.bases import Base, Bases
from store.capture import Captured
from store.distance import Distances, weight
from store.errors import StoreError
from store.files import Files
from store.ids import TreeId
from store.instances import REMOVED, make_instance, remove_instance
from store.interfaces import Objects
from store.known import KnownTrees
from store.remover import Remover
from store.usage import Usage
from store.workspace import CopiedWorkspace, OverlayWorkspace, Workspace, WorkspaceSettings

KNOWN_ENTRIES_MAX = 200_000
NEAR_MAX = 4
"""How many workspaces, and how many bases, are looked at for the nearest."""
NEAR_SHARE = 8
"""What is further than one in so many of what is there is not near: then all is made anew, and can be shared."""
TAKEN_COST = 16
"""What taking a workspace counts beside a base that is shared: whoever brought it where it is may come back."""

ARRIVAL_PATIENCE_S = 1.0
"""How long a step waits for a workspace that holds its tree and is being made ready; then it gets another one."""

_log = logging.getLogger(__name__)


class _Idle(NamedTuple):
    workspace: Workspace
    usage: Usage
    used_at: int


class Workspaces:
    """The pool of one process. What is idle is bounded (`WorkspaceSettings.idle`); the least recently used goes first."""

    def __init__(self, root: Path, objects: Objects, files: Files, settings: WorkspaceSettings) -> None:
        self._known = KnownTrees(objects, KNOWN_ENTRIES_MAX)
        self._files, self._settings = files, settings
        self._root, self._lock_descriptor = make_instance(root, files)
        self._remover = Remover(self._root / REMOVED, files)
        self._bases = Bases(self._root / "bases", self._known, files, settings, self._remover)
        self._state = threading.Lock()
        self._idle: OrderedDict[str, _Idle] = OrderedDict()
        self._idle_usage = Usage()
        self._base_of: dict[str, Base] = {}
        self._numbers = itertools.count(1)
        self._arrivals = threading.Condition()
        self._coming: Counter[TreeId] = Counter()

    def acquire(self, tree: TreeId) -> Workspace:
        """A prepared workspace that holds `tree`, the caller's alone until `release` or `discard`.

        Raises ObjectMissing or ObjectDamaged when the tree cannot be read, OSError when it cannot be written.
        """
        with self._arrivals:
            self._arrivals.wait_for(lambda: not self._coming[tree], ARRIVAL_PATIENCE_S)
        workspace = self._take_holding(tree) or self._make(tree)
        try:
            workspace.prepare()
        except BaseException:
            self.discard(workspace)
            raise
        return workspace

    def expect(self, tree: TreeId) -> None:
        """Say that a workspace will be given back at once that holds `tree`: whoever wants that tree now waits for it."""
        with self._arrivals:
            self._coming[tree] += 1

    def release(self, workspace: Workspace, tree: TreeId, captured: Captured | None) -> None:
        """Give back a workspace after its run, to be found again under `tree`."""
        try:
            self._take_back(workspace, tree, captured)
        finally:
            with self._arrivals:
                self._coming[tree] -= 1
                if self._coming[tree] <= 0:
                    del self._coming[tree]
                self._arrivals.notify_all()

    def _take_back(self, workspace: Workspace, tree: TreeId, captured: Captured | None) -> None:
        try:
            kept = workspace.settle(tree, captured)
        except (OSError, StoreError) as error:
            _log.warning("a workspace cannot be kept, and its tree will be made anew: %s", error)
            kept = False
        if not kept:
            self.discard(workspace)
            return
        with self._state:
            usage = workspace.usage
            self._idle[workspace.folder.name] = _Idle(workspace, usage, next(self._numbers))
            self._idle_usage += usage
            self._drop_surplus()

    def discard(self, workspace: Workspace) -> None:
        """Give up a workspace whose state is not known or not wanted."""
        with self._state:
            self._give_up(workspace.folder)
            self._drop_surplus()

    def usage(self) -> Usage:
        """What idle workspaces and all bases take up on disk, about."""
        with self._state:
            return self._idle_usage + self._bases.usage

    def wait_for_removal(self) -> None:
        """Return when all that was given up before the call is gone from the disk."""
        self._remover.wait()

    def close(self) -> None:
        """Remove everything. Workspaces that are held are gone with it."""
        self._remover.close()
        remove_instance(self._root, self._lock_descriptor, self._files)

    # -- finding one ------------------------------------------------------------------------------------------------

    def _take_holding(self, tree: TreeId) -> Workspace | None:
        with self._state:
            for idle in reversed(self._idle.values()):
                if idle.workspace.tree == tree:
                    return self._take(idle.workspace)
        return None

    def _take(self, workspace: Workspace) -> Workspace | None:
        """An idle workspace out of the pool, None when it is no longer there; the caller holds the lock."""
        found = self._idle.pop(workspace.folder.name, None)
        if found is None:
            return None
        self._idle_usage -= found.usage
        workspace.warm = True
        return workspace

    def _make(self, tree: TreeId) -> Workspace:
        base = self._bases.hold_known(tree, next(self._numbers)) if self._settings.kind == "overlay" else None
        if base is None:
            near = self._nearest(tree)
            if near is not None:
                return near
            if self._settings.kind == "overlay":
                base = self._bases.hold(tree, next(self._numbers))
        return self._new(tree, base)

    def _nearest(self, tree: TreeId) -> Workspace | None:
        """A workspace brought to `tree` from what is nearest, a base or an idle workspace that once held it; None when
        nothing is near.
        """
        with self._state:
            idle = [idle for idle in reversed(self._idle.values()) if tree in idle.workspace.held][:NEAR_MAX]
            wholes = [item.usage + self._base_usage(item.workspace) for item in idle]
        distances, starts = Distances(self._known, tree), list[tuple[int, Workspace | Base]]()
        for item, whole in zip(idle, wholes, strict=True):
            distance = distances.measure(item.workspace.tree, weight(whole) // NEAR_SHARE)
            if distance is not None:
                starts.append((distance + TAKEN_COST, item.workspace))
        for base in self._bases.recent(NEAR_MAX):
            distance = distances.measure(base.tree, weight(base.usage) // NEAR_SHARE)
            if distance is not None:
                starts.append((distance, base))
        for _, start in sorted(starts, key=lambda item: item[0]):
            moved = self._moved(start, tree)
            if moved is not None:
                return moved
        return None

    def _moved(self, start: Workspace | Base, tree: TreeId) -> Workspace | None:
        """A workspace that holds `tree`, made from `start`; None when that is gone meanwhile, or cannot be done."""
        workspace: Workspace | None = None
        moved = False
        try:
            workspace = self._started(start)
            moved = workspace is not None and workspace.move(tree)
        except (OSError, StoreError) as error:
            _log.warning("a workspace cannot be brought to another tree, which will be made anew: %s", error)
        finally:
            if workspace is not None and not moved:
                self.discard(workspace)
        return workspace if moved else None

    def _started(self, start: Workspace | Base) -> Workspace | None:
        if isinstance(start, Base):
            base = self._bases.hold_known(start.tree, next(self._numbers))
            return self._new(start.tree, base) if base is not None else None
        with self._state:
            return self._take(start)

    def _base_usage(self, workspace: Workspace) -> Usage:
        base = self._base_of.get(workspace.folder.name)
        return base.usage if base is not None else Usage()

    def _new(self, tree: TreeId, base: Base | None) -> Workspace:
        """A new workspace: on `base`, which is held for it, or a copy."""
        folder = self._root / f"{next(self._numbers)}"
        if base is not None:
            with self._state:
                self._base_of[folder.name] = base
        try:
            self._files.make_directory(str(folder))
            if base is None:
                return CopiedWorkspace(folder, tree, self._known, self._files, self._settings)
            return OverlayWorkspace(
                folder, base.folder, base.tree, self._known, self._files, self._settings, self._remover
            )
        except BaseException:
            with self._state:
                self._give_up(folder)
            raise

    # -- giving up; the caller holds the lock -----------------------------------------------------------------------

    def _give_up(self, folder: Path) -> None:
        if folder.exists():
            self._remover.remove(folder)
        base = self._base_of.pop(folder.name, None)
        if base is not None:
            self._bases.let_go(base)

    def _drop_surplus(self) -> None:
        """Drop what was used longest ago until what is kept fits, or nothing idle is left."""
        limits = self._settings.idle
        while len(self._idle) > limits.workspaces:
            self._drop_oldest()
        unused = self._bases.unused()
        for base in unused[: max(0, len(unused) - limits.bases)]:
            self._bases.drop(base)
        while self._is_too_much():
            unused = self._bases.unused()
            oldest = next(iter(self._idle.values()), None)
            if unused and (oldest is None or unused[0].used_at < oldest.used_at):
                if not self._bases.drop(unused[0]):
                    return
            elif oldest is not None:
                self._drop_oldest()
            else:
                return

    def _is_too_much(self) -> bool:
        kept, limits = self._idle_usage + self._bases.usage, self._settings.idle
        return kept.disk_bytes > limits.disk_bytes or kept.inodes > limits.inodes

    def _drop_oldest(self) -> None:
        workspace = next(iter(self._idle.values())).workspace
        self._take(workspace)
        self._give_up(workspace.folder)
