"""Workspaces: live directories that hold a tree. A cache: losing all of them loses nothing.

    bases/<tree>  a whole tree, read-only, shared by every workspace that began with it
    <n>/delta     what turns the base into the workspace's tree; written only by us
    <n>/upper     what one run wrote: read by capture, then emptied, or made anew (store.upper)
    <n>/work      the kernel's own
    <n>/copy      in a copied workspace: the whole tree, writable

An overlay workspace shows delta over base and takes writes in upper, so a run's changes are exactly what lies in upper, however
large the tree and however long the session. After capture the differences between the old and the new tree are brought into
delta: files move in, the rest of what the run left goes away. A workspace is used by one step at a time and goes back to
the pool (store.pool) under its new tree. The executor mounts it: the store mounts nothing.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from store import tree as trees
from store.capture import CTIME_NS, RESERVED_PREFIX, Capture, Captured, CaptureLimits, StatKey, stat_key
from store.delta import DIRECTORY, DIRECTORY_MODE, Delta, Written
from store.files import Files, Owner, open_directory
from store.ids import TreeId
from store.known import KnownTrees
from store.remover import Remover
from store.tree import EntryKind
from store.upper import Upper, make_owned
from store.usage import Usage, usage_of
from store.view import DirectoryView, Found, OverlayView, View

Kind = Literal["overlay", "copy"]
HELD_MAX = 64
FEW_ENTRIES = 100
"""So many entries of a run are removed at once; more go by way of the remover."""
CLOCK_TICK_S, CLOCK_TICKS_MAX = 0.001, 100
_FOREIGN_ATTRIBUTES = ("user.", "system.posix_acl", "security.capability")


class OverlayMount(msgspec.Struct, frozen=True):
    """How to mount a workspace: an overlay, all names relative to `folder` so that no host path shows in a mount table."""

    folder: str
    lowers: tuple[str, ...]
    upper: str
    work: str


class BindMount(msgspec.Struct, frozen=True):
    """How to mount a workspace: its directory as it is."""

    folder: str


class IdleLimits(msgspec.Struct, frozen=True):
    """What is kept between steps, at most. The least recently used goes first; what a running step needs stays."""

    workspaces: int = 256
    bases: int = 32
    """Whole trees that no workspace stands on."""
    disk_bytes: int = 16 << 30
    inodes: int = 2_000_000
    """Of workspaces and bases together, as are the bytes."""


class WorkspaceSettings(msgspec.Struct, frozen=True):
    """`privileged` says which of the overlay's attribute names the kernel will use: trusted.* (real root) or user.*."""

    kind: Kind
    privileged: bool
    owner: Owner | None
    limits: CaptureLimits = CaptureLimits()
    idle: IdleLimits = IdleLimits()

    @property
    def attribute_prefix(self) -> str:
        return "trusted.overlay." if self.privileged else "user.overlay."


class Workspace(ABC):
    """One live directory, held by one step. Made by `store.pool.Workspaces.acquire`."""

    def __init__(
        self, folder: Path, tree: TreeId, known: KnownTrees, files: Files, settings: WorkspaceSettings
    ) -> None:
        self.folder, self.tree = folder, tree
        self.warm = False
        """Whether it was kept from an earlier step."""
        self.held: dict[TreeId, None] = {}
        """The trees that it held last, the latest at the end: where a session may go back to."""
        self._known, self._files, self._settings = known, files, settings
        self._delta = Delta(known, files, settings.owner, settings.attribute_prefix)
        self._hold(tree)

    mount: OverlayMount | BindMount
    writable: Path
    """Where files may be placed before a run."""

    @property
    @abstractmethod
    def usage(self) -> Usage:
        """What it takes up on disk between runs, without its base."""
        ...

    @abstractmethod
    def prepare(self) -> None:
        """Make ready for a run: an empty upper directory with the time of the tree's root."""
        ...

    @abstractmethod
    def view(self) -> View:
        """For looking into what the run left, before `settle`."""
        ...

    @abstractmethod
    def capture(self, number: int) -> Captured:
        """The tree that the run left. Puts what is new into the store; changes nothing here."""
        ...

    @abstractmethod
    def settle(self, tree: TreeId, captured: Captured | None) -> bool:
        """Make the workspace hold `tree`; False when that is not worth it and the workspace must be discarded."""
        ...

    @abstractmethod
    def move(self, tree: TreeId) -> bool:
        """Make a workspace in which nothing ran hold another tree, O(what differs); False as for `settle`."""
        ...

    def _hold(self, tree: TreeId) -> None:
        self.tree = tree
        self._time_s = trees.tree_time_s(tuple(self._known.entries(tree).values()))
        self.held.pop(tree, None)
        self.held[tree] = None
        if len(self.held) > HELD_MAX:
            del self.held[next(iter(self.held))]

    def _make(self, name: str) -> None:
        make_owned(self.folder / name, self._files, self._settings.owner)

    def _set_root_time(self) -> None:
        self._files.set_time(os.fsencode(self.writable), self._time_s, directory=None)


class OverlayWorkspace(Workspace):
    """`base` holds `tree`. What a run left beyond what is kept goes by way of `remover`."""

    def __init__(
        self,
        folder: Path,
        base: Path,
        tree: TreeId,
        known: KnownTrees,
        files: Files,
        settings: WorkspaceSettings,
        remover: Remover,
    ) -> None:
        super().__init__(folder, tree, known, files, settings)
        self._base, self._remover = base, remover
        self._upper = Upper(folder, files, settings.owner, settings.attribute_prefix, remover)
        self.writable = self._upper.path
        self.mount = OverlayMount(str(folder), ("delta", os.path.relpath(base, folder)), "upper", "work")
        self._make("delta")

    @property
    def usage(self) -> Usage:
        return self._delta.usage + DIRECTORY + DIRECTORY + self._upper.usage

    def prepare(self) -> None:
        self._upper.prepare()
        self._set_root_time()

    def view(self) -> View:
        return _Opened(
            self.writable, lambda upper: OverlayView(self._known, self.tree, upper, self._settings.attribute_prefix)
        )

    def capture(self, number: int) -> Captured:
        upper = open_directory(str(self.writable))
        try:
            reading = Capture(self._known, self.tree, number, self._settings.limits)
            return reading.read_overlay(upper, self._settings.attribute_prefix)
        finally:
            os.close(upper)

    def settle(self, tree: TreeId, captured: Captured | None) -> bool:
        upper = open_directory(str(self.writable))
        try:
            if tree != self.tree:
                self._advance(tree, Written(upper, captured.read) if captured is not None else None)
            few = captured is not None and len(captured.read) <= FEW_ENTRIES and not captured.left_out
            kept = few and self._upper.clear(upper)
        finally:
            os.close(upper)
        if not kept:
            self._upper.give_up(few=few)
        return True

    def move(self, tree: TreeId) -> bool:
        self._advance(tree, None)
        return True

    def _advance(self, tree: TreeId, written: Written | None) -> None:
        delta, base = open_directory(str(self.folder / "delta")), open_directory(str(self._base))
        try:
            self._delta.advance(self.tree, tree, delta, base=base, written=written)
        finally:
            os.close(delta)
            os.close(base)
        self._hold(tree)


class CopiedWorkspace(Workspace):
    """The fallback where no overlay can be mounted: every capture looks at every file's stat."""

    def __init__(
        self, folder: Path, tree: TreeId, known: KnownTrees, files: Files, settings: WorkspaceSettings
    ) -> None:
        super().__init__(folder, tree, known, files, settings)
        self.writable = folder / "copy"
        self.mount = BindMount(str(self.writable))
        self._stats: dict[tuple[bytes, ...], StatKey] = {}
        self._usage = Usage()
        self._make("copy")
        directory = open_directory(str(self.writable))
        try:
            self._delta.materialize(tree, directory)
        finally:
            os.close(directory)
        self._normalise()

    @property
    def usage(self) -> Usage:
        return self._usage + DIRECTORY + DIRECTORY

    def prepare(self) -> None:
        return None

    def view(self) -> View:
        return _Opened(self.writable, DirectoryView)

    def capture(self, number: int) -> Captured:
        directory = open_directory(str(self.writable))
        try:
            reading = Capture(self._known, self.tree, number, self._settings.limits)
            return reading.read_copy(directory, self._stats)
        finally:
            os.close(directory)

    def settle(self, tree: TreeId, captured: Captured | None) -> bool:
        # Only when all that is there was kept is the directory already the new tree, but for modes, times and links.
        if captured is None or captured.tree != tree or captured.left_out:
            return False
        directory = open_directory(str(self.writable))
        try:
            for name in os.listdir(directory):
                if os.fsencode(name).startswith(RESERVED_PREFIX):
                    self._files.remove_tree(os.fsencode(name), directory=directory)
        finally:
            os.close(directory)
        self._hold(tree)
        return self._normalise()

    def move(self, tree: TreeId) -> bool:
        directory = open_directory(str(self.writable))
        try:
            self._delta.advance(self.tree, tree, directory, base=None, written=None)
        finally:
            os.close(directory)
        self._hold(tree)
        return self._normalise()

    def _normalise(self) -> bool:
        """Give every entry the mode and time of the tree and note its stat; False when something is there that is not in it."""
        self._stats, self._usage = {}, Usage()
        directory = open_directory(str(self.writable))
        try:
            self._files.set_mode(directory, DIRECTORY_MODE)
            fits = not _has_attributes(directory) and self._normalise_directory(directory, self.tree, ())
        finally:
            os.close(directory)
        self._set_root_time()
        if fits and not self._is_past(max((key[CTIME_NS] for key in self._stats.values()), default=0)):
            self._stats = {}  # nothing is known then: the next capture reads every file
        return fits

    def _normalise_directory(self, directory: int, tree: TreeId, path: tuple[bytes, ...]) -> bool:
        entries = self._known.entries(tree)
        if {os.fsencode(name) for name in os.listdir(directory)} != entries.keys():
            return False
        for entry in entries.values():
            if entry.kind is EntryKind.DIRECTORY:
                child = open_directory(entry.name, directory)
                try:
                    if not self._normalise_directory(child, trees.entry_tree(entry), (*path, entry.name)):
                        return False
                finally:
                    os.close(child)
            if _has_attributes(b"/proc/self/fd/%d/%b" % (directory, entry.name)):
                return False
            self._usage += usage_of(self._delta.dress(entry, directory))
            if entry.kind is not EntryKind.DIRECTORY:
                status = os.stat(entry.name, dir_fd=directory, follow_symlinks=False)
                if status.st_nlink != 1:  # of symlinks too: two names would have one time
                    return False
                if entry.is_file:
                    self._stats[*path, entry.name] = stat_key(status)
        return True

    def _is_past(self, time_ns: int) -> bool:
        """Wait until a change would get a later time than `time_ns`; False when the file system's clock does not move on.

        Its clock ticks every few milliseconds. A file that is written in the tick in which its stat was noted might not show it.
        """
        for _ in range(CLOCK_TICKS_MAX):
            os.utime(self.folder)
            if self.folder.stat().st_ctime_ns > time_ns:
                return True
            time.sleep(CLOCK_TICK_S)
        return False


def _has_attributes(path: int | bytes) -> bool:
    """Whether a program could see an attribute that no tree keeps. A label that the system gives every file is none."""
    names = os.listxattr(path, follow_symlinks=False) if isinstance(path, bytes) else os.listxattr(path)
    return any(name.startswith(_FOREIGN_ATTRIBUTES) for name in names)


class _Opened:
    """A view that opens its directory for each look: it may be asked for only while the workspace is held."""

    def __init__(self, folder: Path, make: Callable[[int], View]) -> None:
        self._folder, self._make = folder, make

    def look(self, path: tuple[bytes, ...], size_bytes_max: int) -> Found:
        directory = open_directory(str(self._folder))
        try:
            return self._make(directory).look(path, size_bytes_max)
        finally:
            os.close(directory)
