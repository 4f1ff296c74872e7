"""The pool against a model: whatever was taken, given back, given up and dropped before, a workspace shows exactly its tree,
what is kept is within its bounds, and what the pool believes to be on disk is there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from store.capture import put_tree
from store.files import Files, open_directory
from store.ids import Kind, TreeId
from store.memory import MemoryObjects
from store.pool import Workspaces
from store.tree import EMPTY_TREE, Entry, EntryKind
from store.usage import Usage, usage_below
from store.workspace import IdleLimits, Workspace, WorkspaceSettings
from tests.store.workbench import shown, wanted

LIMITS = IdleLimits(workspaces=3, bases=2, disk_bytes=300 << 10, inodes=80)
NAMES = [b"a", b"b", b"c"]
WRITES = st.lists(
    st.tuples(st.sampled_from(["a/x", "b/x", "b/y", "c", "a"]), st.sampled_from([b"", b"1", b"x" * 20_000])), max_size=3
)


def trees(objects: MemoryObjects) -> list[TreeId]:
    """Some near each other, some far: a folder of twenty files, other files beside it, directories that turn into files."""
    small = objects.put(Kind.BLOB, b"content")
    many = put_tree(objects, [Entry(b"%d" % number, EntryKind.FILE, small, 7, 1) for number in range(20)])
    found = [EMPTY_TREE]
    for number in range(3):
        blob = objects.put(Kind.BLOB, b"%d" % number * 5000)
        inner = put_tree(objects, [Entry(b"x", EntryKind.EXECUTABLE, blob, 5000, number)])
        common = [Entry(b"many", EntryKind.DIRECTORY, many, 0, 1), Entry(b"link", EntryKind.SYMLINK, b"many", 4, 1)]
        for name in NAMES:
            found.append(put_tree(objects, [Entry(name, EntryKind.FILE, blob, 5000, number), *common]))
            found.append(put_tree(objects, [Entry(name, EntryKind.DIRECTORY, inner, 0, number), *common]))
        found.append(put_tree(objects, [Entry(b"c", EntryKind.DIRECTORY, inner, 0, number)]))
    return found


class Machine(RuleBasedStateMachine):
    kind: Literal["overlay", "copy"] = "overlay"
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.objects, self.number = MemoryObjects(), 10
        self.trees = trees(self.objects)
        self.running: list[Workspace] = []
        self.open()

    def open(self) -> None:
        self.pool = Workspaces(
            self.folder / "w", self.objects, Files(), WorkspaceSettings(self.kind, False, None, idle=LIMITS)
        )

    @rule(target=held, choice=st.integers(min_value=0))
    def acquire(self, choice: int) -> Workspace:
        tree = self.trees[choice % len(self.trees)]
        workspace = self.pool.acquire(tree)
        assert workspace not in self.running, "two steps have one workspace"
        assert workspace.tree == tree
        assert shown(workspace) == wanted(self.objects, tree)
        self.running.append(workspace)
        return workspace

    @rule(workspace=consumes(held), writes=WRITES)
    def step(self, workspace: Workspace, writes: list[tuple[str, bytes]]) -> None:
        self.number += 1
        for path, data in writes:
            place = workspace.writable / path
            if not place.parent.exists():
                place.parent.mkdir()
            if place.parent.is_dir() and not place.is_dir():
                place.write_bytes(data)
        captured = workspace.capture(self.number)
        self.trees = [*self.trees[-20:], captured.tree]
        self.give_back(workspace, captured.tree, captured)

    @rule(workspace=consumes(held), choice=st.integers(min_value=0))
    def keep_something_else(self, workspace: Workspace, choice: int) -> None:
        self.give_back(workspace, self.trees[choice % len(self.trees)], None)

    def give_back(self, workspace: Workspace, tree: TreeId, captured: object) -> None:
        self.running.remove(workspace)
        self.pool.release(workspace, tree, captured)  # type: ignore[arg-type]

    @rule(workspace=consumes(held))
    def discard(self, workspace: Workspace) -> None:
        self.running.remove(workspace)
        self.pool.discard(workspace)
        self.pool.wait_for_removal()
        assert not workspace.folder.exists()

    @rule()
    def nothing_is_kept_beyond_the_bounds_once_nobody_runs(self) -> None:
        if self.running:
            return
        usage = self.pool.usage()
        assert usage.disk_bytes <= LIMITS.disk_bytes
        assert usage.inodes <= LIMITS.inodes

    @invariant()
    def what_is_counted_is_what_is_there(self) -> None:
        (instance,) = (path for path in (self.folder / "w").iterdir() if path.name != ".lock")
        running = {workspace.folder.name for workspace in self.running}
        idle = [path.name for path in instance.iterdir() if path.name.isdigit() and path.name not in running]
        assert len(idle) <= LIMITS.workspaces
        root = open_directory(str(instance))
        bases = open_directory(str(instance / "bases"))
        found = [usage_below(name.encode(), root) for name in idle]
        found += [usage_below(os.fsencode(name), bases) for name in os.listdir(bases)]
        for descriptor in (root, bases):
            os.close(descriptor)
        assert self.pool.usage() == sum(found, Usage())

    def teardown(self) -> None:
        self.pool.close()
        assert [path.name for path in (self.folder / "w").iterdir()] == [".lock"]
        shutil.rmtree(self.folder)


class CopyMachine(Machine):
    kind = "copy"


for machine in (Machine, CopyMachine):
    machine.TestCase.settings = settings(stateful_step_count=25)
TestOverlays = Machine.TestCase
TestCopies = CopyMachine.TestCase
