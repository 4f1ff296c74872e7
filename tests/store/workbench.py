"""A pool of workspaces together with the helper that mounts them: what tests of workspaces stand on."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from store import tree as trees
from store.capture import Captured, load_tree
from store.files import Files, Owner
from store.ids import Kind, TreeId
from store.interfaces import Objects
from store.packs import PackObjects
from store.pool import Workspaces
from store.tree import EMPTY_TREE, EntryKind
from store.workspace import OverlayMount, Workspace, WorkspaceSettings
from tests.store.live import Live, Mounted, Operation, Visible

Flavour = Literal["overlay", "overlay-user", "copy"]
"""Overlays with trusted attributes and redirects, overlays as unprivileged users have them, and copies."""


class Bench:
    """One pool, and steps done in its workspaces."""

    def __init__(self, root: Path, objects: Objects, live: Live, flavour: Flavour, owner: Owner | None = None) -> None:
        kind: Literal["overlay", "copy"] = "copy" if flavour == "copy" else "overlay"
        settings = WorkspaceSettings(kind, flavour != "overlay-user", owner)
        root.mkdir(exist_ok=True)
        self.objects, self._live = objects, live
        self._attributes = "user" if flavour == "overlay-user" else "trusted"
        self.pool = Workspaces(root / "workspaces", objects, Files(), settings)
        self._target = root / "mnt"
        self._target.mkdir(exist_ok=True)

    def step(self, tree: TreeId, number: int, operations: Iterable[Operation]) -> tuple[Captured, list[int]]:
        """Run the operations on a workspace that holds `tree`, capture, give it back."""
        workspace = self.pool.acquire(tree)
        results = self.run(workspace, operations)
        captured = workspace.capture(number)
        self.pool.release(workspace, captured.tree, captured)
        return captured, results

    def run(self, workspace: Workspace, operations: Iterable[Operation]) -> list[int]:
        return self._live.run(self._mounted(workspace), list(operations))

    def visible(self, tree: TreeId) -> dict[bytes, Visible]:
        """What a program would see that starts on `tree` now."""
        workspace = self.pool.acquire(tree)
        seen = self._live.walk(self._mounted(workspace))
        self.pool.release(workspace, tree, workspace.capture(0))
        return seen

    def forget(self, tree: TreeId) -> None:
        """Throw the live workspace of `tree` away: the next one is made from the store."""
        self.pool.discard(self.pool.acquire(tree))

    def _mounted(self, workspace: Workspace) -> Mounted:
        mount = workspace.mount
        lowers = mount.lowers if isinstance(mount, OverlayMount) else ()
        return Mounted(mount.folder, lowers, str(self._target), self._attributes)


def expected(objects: Objects, tree: TreeId, owner: int = 0) -> dict[bytes, Visible]:
    """What must be visible of `tree`: names, contents, modes, times."""
    time_s = trees.tree_time_s(load_tree(objects, tree))
    return {b"": Visible(stat.S_IFDIR, None, 0o755, time_s * 10**9, owner)} | _below(objects, tree, b"", owner)


def _below(objects: Objects, tree: TreeId, prefix: bytes, owner: int) -> dict[bytes, Visible]:
    found: dict[bytes, Visible] = {}
    for entry in load_tree(objects, tree):
        path, time_ns = prefix + entry.name, (946_684_800 + entry.changed) * 10**9
        if entry.kind is EntryKind.DIRECTORY:
            found[path] = Visible(stat.S_IFDIR, None, 0o755, time_ns, owner)
            found |= _below(objects, trees.entry_tree(entry), path + b"/", owner)
        elif entry.kind is EntryKind.SYMLINK:
            found[path] = Visible(stat.S_IFLNK, entry.content, 0, time_ns, owner)
        else:
            mode = 0o755 if entry.kind is EntryKind.EXECUTABLE else 0o644
            found[path] = Visible(stat.S_IFREG, objects.get(Kind.BLOB, entry.content), mode, time_ns, owner)
    return found


def contents(objects: Objects, tree: TreeId = EMPTY_TREE) -> dict[bytes, bytes | None]:
    """Paths and contents only: short to write down in a test. Directories are None, symlinks b'-> target'."""
    return {
        path: b"-> " + seen.content if seen.kind == stat.S_IFLNK and seen.content is not None else seen.content
        for path, seen in _below(objects, tree, b"", 0).items()
    }


def filled(root: Path, *contents: bytes, seal_bytes: int = 1 << 20) -> list[bytes]:
    """A closed store with one sync for each content."""
    store = PackObjects(root, Files(), seal_bytes=seal_bytes)
    names = []
    for content in contents:
        names.append(store.put(Kind.BLOB, content))
        store.sync()
    store.close()
    return names


Seen = dict[bytes, tuple[int, bytes | None, int, int]]
"""Kind, content, mode and time in nanoseconds of what is seen, by path."""


def wanted(objects: Objects, tree: TreeId) -> Seen:
    """What a workspace that holds `tree` must show."""
    return {path: seen[:4] for path, seen in _below(objects, tree, b"", 0).items()}


def shown(workspace: Workspace) -> Seen:
    """What a workspace with attributes for plain users shows, by the rules of overlays: nothing is mounted."""
    mount = workspace.mount
    if not isinstance(mount, OverlayMount):
        return _layered([os.fsencode(mount.folder)], b"")
    return _layered([os.fsencode(f"{mount.folder}/{lower}") for lower in mount.lowers], b"")


def _layered(layers: list[bytes], prefix: bytes) -> Seen:
    found: Seen = {}
    for name in {name for layer in layers for name in os.listdir(layer)}:
        places = [layer + b"/" + name for layer in layers if os.path.lexists(layer + b"/" + name)]
        status, path = os.lstat(places[0]), prefix + name
        kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
        if stat.S_ISCHR(status.st_mode):
            continue
        if stat.S_ISDIR(status.st_mode):
            merged = places[:1]
            if "user.overlay.opaque" not in os.listxattr(places[0]):
                merged += [place for place in places[1:] if stat.S_ISDIR(os.lstat(place).st_mode)]
            found[path] = (kind, None, mode, status.st_mtime_ns)
            found |= _layered(merged, path + b"/")
        elif stat.S_ISLNK(status.st_mode):
            found[path] = (kind, os.readlink(places[0]), 0, status.st_mtime_ns)
        else:
            found[path] = (kind, Path(os.fsdecode(places[0])).read_bytes(), mode, status.st_mtime_ns)
    return found
