"""The rows that are asked of one tree: each a function from a scene to answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.measure import Answer, Arm, Context, Phases, in_turn
from benchmarks.subject import Floor, Subject, allocated_bytes, mount_overlay, rewrite
from benchmarks.tools import SLOW, TOOLS, Git, PyGit2, Tool
from benchmarks.trees import ROOT, SourceTree
from executors import kernel
from store import diff as differences
from store import reachable
from store.edit import FileEdit, put_files
from store.ids import Kind
from store.pool import Workspaces
from store.workspace import OverlayMount, Workspace

FORKS = 100
FORKS_ON_DISK = 1000


class Scene:
    """One source tree, and for each side a store that holds it."""

    def __init__(self, tree: SourceTree, context: Context) -> None:
        self.tree, self.context = tree, context
        self.folder = context.folder / f"scene-{tree.name}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.floor = Floor(self.folder / "floor")
        self.tools = [kind(self.folder, tree) for kind in TOOLS if kind.missing() is None]
        self.subject = Subject(self.folder / "psf")
        self.change: Callable[[Path], object] = rewrite(tree.changed)

    def close(self) -> None:
        self.subject.close()
        self.floor.close()
        (self.tree.path / self.tree.changed).unlink(missing_ok=True)
        shutil.rmtree(self.folder)

    def ask(self, question: str, what: str, arms: list[Arm], rounds: int, patience_s: float, note: str = "") -> Answer:
        tell = self.context.tell
        tell(f"{question} ({self.tree.name})")
        series = in_turn(
            arms,
            rounds,
            patience_s=self.context.patience_s(patience_s),
            tell=lambda text: tell(f"{question} ({self.tree.name}), {text}"),
        )
        return Answer(question, self.tree.name, what, series, note=note)

    def restart(self) -> None:
        """A new, empty store of ours."""
        self.subject.close()
        shutil.rmtree(self.subject.folder)
        self.subject = Subject(self.subject.folder)

    def tool_arms(self, act: Callable[[Tool], Callable[[], object]], *, once: bool = True) -> list[Arm]:
        """An arm for each tool; with `once` pygit2 is left out, whose programs are git's."""
        return [Arm(tool.name, act(tool)) for tool in self.tools if not (once and isinstance(tool, PyGit2))]


def initial(scene: Scene) -> list[Answer]:
    archive, path = scene.folder / "source.tar", scene.tree.path
    arms = [
        Arm("tar", lambda: subprocess.run(["tar", "cf", archive, "-C", path, "."], check=True)),
        Arm("psf", lambda: scene.subject.take(path), before=scene.restart),
    ]
    arms += [Arm(tool.name, tool.snapshot, before=tool.reset) for tool in scene.tools if not isinstance(tool, PyGit2)]
    rounds = scene.context.rounds(3, 1)
    answer = scene.ask("initial", "snapshot of a directory that no store has seen", arms, rounds, 90)
    for tool in scene.tools:
        if isinstance(tool, PyGit2):  # git's own programs made its first snapshot
            tool.reset()
            tool.snapshot()
    sizes = {tool.name: float(allocated_bytes(tool.store)) for tool in scene.tools if not isinstance(tool, PyGit2)}
    sizes |= {"tar": float(archive.stat().st_blocks * 512)}
    sizes |= {"psf": float(scene.subject.stored_bytes())}
    return [answer, Answer("disk-initial", scene.tree.name, "on disk after the first snapshot", {}, sizes, "bytes")]


def step(scene: Scene) -> list[Answer]:
    loose = Subject(scene.folder / "psf-loose")
    loose.take(scene.tree.path)
    subject = scene.subject
    arms = [
        Arm("floor", scene.floor.both),
        Arm("psf", lambda: subject.step(scene.change, counted=frozenset())),
        Arm("psf, ready again", lambda: subject.step(scene.change)),
        Arm("psf, not synced", lambda: loose.step(scene.change, durable=False, counted=frozenset())),
        Arm("psf with its mount", lambda: subject.step(scene.change, counted=frozenset({"mount"}))),
    ]
    change = partial(scene.change, scene.tree.path)
    arms += [Arm(tool.name, tool.snapshot, before=change, every=SLOW.get(tool.name, 1)) for tool in scene.tools]
    for arm in arms:  # the first step makes the base, the file, and what each tool makes once
        arm.before()
        arm.act()
    before = {tool.name: (allocated_bytes(tool.store), tool.number) for tool in scene.tools}
    ours = subject.stored_bytes(), subject.snapshot().depth
    rounds = scene.context.rounds(60, 10)
    what = "one file of 4 KiB rewritten: from reading the head to the durable answer; ready again: until the workspace is, too"
    answer = scene.ask("step", what, arms, rounds, 90)
    loose.close()
    growth = {
        tool.name: (allocated_bytes(tool.store) - before[tool.name][0]) / (tool.number - before[tool.name][1])
        for tool in scene.tools
    }
    growth["psf"] = (subject.stored_bytes() - ours[0]) / (subject.snapshot().depth - ours[1])
    return [answer, Answer("disk-step", scene.tree.name, "on disk for each step", {}, growth, "bytes")]


def restore(scene: Scene) -> list[Answer]:
    """Nothing is removed before the end: ext4 searches long for a new inode where many were freed in the last minute."""
    subject, folder = scene.subject, scene.folder / "restored"
    folder.mkdir()
    archive = scene.folder / "source.tar"
    subprocess.run(["tar", "cf", archive, "-C", scene.tree.path, "."], check=True)
    targets = (folder / f"{number}" for number in count())
    pools: list[Workspaces] = []

    def unpack() -> None:
        target = next(targets)
        target.mkdir()
        subprocess.run(["tar", "xf", archive, "-C", target], check=True)

    arms = [
        Arm("tar", unpack),
        Arm("psf", lambda: pools[-1].acquire(subject.snapshot().tree), lambda: pools.append(subject.further_pool())),
    ]
    whole = [tool for tool in scene.tools if not isinstance(tool, PyGit2) and tool.name != "git, synced"]
    arms += [Arm(tool.name, lambda tool=tool: tool.restore(next(targets))) for tool in whole]  # type: ignore[misc]
    what = "the whole tree into an empty directory (what is read lies in the page cache)"
    answer = scene.ask("restore", what, arms, scene.context.rounds(3, 1), 60)
    scene.context.tell("restore: removing")
    for pool in pools:
        pool.close()
    for tool in scene.tools:
        tool.forget(folder)
    subject.cold_pool()
    return [answer]


def restore_cached(scene: Scene) -> list[Answer]:
    subject, bare = scene.subject, scene.folder / "bare"
    tree = subject.snapshot().tree
    subject.pool.discard(subject.pool.acquire(tree))
    for name in ("lower", "merged"):
        (bare / name).mkdir(parents=True)
    taken: list[Workspace] = []

    def fresh() -> None:
        # The kernel refuses what a volatile overlay has used.
        for name in ("upper", "work"):
            shutil.rmtree(bare / name, ignore_errors=True)
            (bare / name).mkdir()

    def ours() -> Phases:
        phases = Phases()
        with phases("acquire"):
            taken.append(subject.pool.acquire(tree))
        with phases("mount"):
            subject.mount(taken[-1])
        return phases

    def give_back() -> None:
        subject.unmount()
        subject.pool.discard(taken.pop())

    merged = str(bare / "merged")
    layers = OverlayMount(str(bare), ("lower",), "upper", "work")
    arms = [
        Arm("bare mount", lambda: mount_overlay(layers, merged), fresh, lambda: kernel.unmount(merged)),
        Arm("psf", ours, after=give_back),
    ]
    what = "a further workspace on a tree that is live already, mounted"
    return [scene.ask("restore-cached", what, arms, scene.context.rounds(60, 20), 20)]


def restore_delta(scene: Scene) -> list[Answer]:
    subject, target = scene.subject, scene.folder / "delta"
    for _ in range(2):
        subject.step(scene.change)
    trees = [subject.snapshot().tree, subject.snapshot(subject.snapshot().parents[0]).tree]
    back = dict.fromkeys([tool.name for tool in scene.tools], 0)

    def ours() -> None:
        subject.pool.release(subject.pool.acquire(trees[0]), trees[1], None)
        trees.reverse()

    def theirs(tool: Tool) -> None:
        back[tool.name] = 1 - back[tool.name]
        tool.restore(target, back[tool.name])

    arms = [Arm("psf", ours)]
    for tool in scene.tools:
        if tool.name == "git":
            tool.restore(target)
            arms.append(Arm(tool.name, partial(theirs, tool)))
    what = "a live directory brought to the snapshot before, one file away, and forth"
    answer = scene.ask("restore-delta", what, arms, scene.context.rounds(30, 10), 10)
    for tool in scene.tools:
        if tool.name == "git":
            tool.forget(target)
        if not isinstance(tool, Git):  # it restores all of it, so there is time for one only
            tool.restore(target)
            answer.series |= scene.ask("restore-delta", what, [Arm(tool.name, partial(theirs, tool))], 1, 1).series
            tool.forget(target)
    return [answer]


def rollback(scene: Scene) -> list[Answer]:
    subject = scene.subject
    taken: list[Workspace] = []

    def there() -> None:
        subject.step(scene.change)
        subject.step(scene.change)

    def roll_back() -> Phases:
        phases = Phases()
        with phases("advance"):
            subject.roll_back()
        with phases("acquire"):
            taken.append(subject.pool.acquire(subject.snapshot().tree))
        return phases

    def give_back() -> None:
        subject.pool.release(taken[-1], taken.pop().tree, None)

    arms = [
        Arm("floor", scene.floor.commit),
        Arm("psf", roll_back, before=there, after=give_back),
    ]
    what = "the head moved one step back, and a workspace for what it names; no live one holds it"
    return [scene.ask("rollback", what, arms, scene.context.rounds(5, 2), 20)]


def fork(scene: Scene) -> list[Answer]:
    subject, serial = scene.subject, count()

    def forks(number: int) -> Callable[[], None]:
        def act() -> None:
            subject.fork([f"{next(serial):040d}" for _ in range(number)])

        return act

    arms = [Arm("floor", scene.floor.commit), Arm("psf", forks(1)), Arm(f"psf, {FORKS} in one call", forks(FORKS))]
    names = iter(range(1_000_000))

    def branch(tool: Tool) -> None:
        tool.run("branch", f"b{next(names)}")

    arms += [Arm("git", partial(branch, tool)) for tool in scene.tools if tool.name == "git"]
    answer = scene.ask("fork", "a second session on a snapshot; git: a branch", arms, scene.context.rounds(100, 30), 15)
    before = subject.stored_bytes()
    forks(FORKS_ON_DISK)()
    size = {"psf": (subject.stored_bytes() - before) / FORKS_ON_DISK}
    return [answer, Answer("disk-fork", scene.tree.name, "on disk for each fork", {}, size, "bytes")]


def diff(scene: Scene) -> list[Answer]:
    subject = scene.subject
    new = subject.snapshot()
    old = subject.snapshot(new.parents[0])
    arms = [Arm("psf", lambda: list(differences.diff(subject.store.objects, old.tree, new.tree)))]
    arms += scene.tool_arms(lambda tool: tool.diff)
    what = "what differs between two snapshots, one file apart"
    return [scene.ask("diff", what, arms, scene.context.rounds(10, 5), 15)]


def check_all(scene: Scene) -> list[Answer]:
    subject = scene.subject

    def ours() -> None:
        report, _ = subject.store.check(full=True)
        if not report.clean:
            raise RuntimeError(f"the store of the benchmark is damaged: {report.damaged or report.broken}")

    arms = [Arm("psf", ours), *scene.tool_arms(lambda tool: tool.check)]
    what = "every byte read and verified, every head followed"
    return [scene.ask("check", what, arms, scene.context.rounds(3, 1), 60)]


def mark(scene: Scene) -> list[Answer]:
    """The same history of so many one-file steps on both sides, and what of it is reachable."""
    subject, goal = scene.subject, scene.context.rounds(1000, 200)
    scene.context.tell(f"mark ({scene.tree.name}): making {goal} snapshots")
    path = tuple(part.encode() for part in scene.tree.changed.split("/"))
    for number in range(goal):
        head, parent = subject.head(), subject.snapshot()
        edit = {path: FileEdit(b"%d" % number * 500)}
        tree = put_files(subject.store.objects, parent.tree, edit, parent.depth + 1)
        identity = subject.put_snapshot(head, parent.depth + 1, tree)
        subject.advance(head, identity, "execute")

    def ours() -> Phases:
        phases = Phases()
        with phases("mark"):
            unreadable = reachable.mark(subject.store.objects, [(Kind.SNAPSHOT, subject.head())], set())
        if unreadable:
            raise RuntimeError(f"the store of the benchmark lacks something: {unreadable}")
        return phases

    arms = [Arm("psf", ours)]
    for tool in scene.tools:
        if tool.name == "pygit2":
            for _ in range(goal):
                scene.change(scene.tree.path)
                tool.snapshot()
            arms.append(Arm("git", tool.mark))
        if tool.name == "restic":
            arms.append(Arm("restic", tool.mark))
    what = f"what {goal} snapshots and their trees need; git: rev-list --objects, restic (fewer snapshots): prune --dry-run"
    return [scene.ask("mark", what, arms, scene.context.rounds(5, 2), 40)]


def memory(scene: Scene) -> list[Answer]:
    """Peak memory of an initial snapshot, each side in a process of its own."""
    scene.context.tell(f"memory ({scene.tree.name})")
    folder, path = scene.folder / "memory", scene.tree.path
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def peak(command: list[str], env: dict[str, str]) -> float:
        measuring = [sys.executable, "-I", "-S", str(ROOT / "benchmarks/peak.py"), *command]
        done = subprocess.run(measuring, env=env, cwd=path, check=True, capture_output=True, text=True)
        return float(done.stdout) * 1024

    values = {
        "psf": peak([sys.executable, "-m", "benchmarks.subject", str(path), str(folder)], environment),
        "tar": peak(["tar", "cf", str(scene.folder / "memory.tar"), "."], environment),
    }
    commands = {"git": ["add", "-A"], "restic": ["backup", "--quiet", "."], "borg": ["create", "::memory", "."]}
    for tool in scene.tools:
        if tool.name in commands:
            tool.reset()
            values[tool.name] = peak([tool.shown_by, *commands[tool.name]], tool.environment())
    return [Answer("memory", scene.tree.name, "peak memory of an initial snapshot (git: add)", {}, values, "bytes")]


ROWS: dict[str, Callable[[Scene], list[Answer]]] = {
    "initial": initial,
    "step": step,
    "restore": restore,
    "restore-cached": restore_cached,
    "restore-delta": restore_delta,
    "rollback": rollback,
    "fork": fork,
    "diff": diff,
    "check": check_all,
    "mark": mark,
    "memory": memory,
}
"""In this order: the first makes the stores that the others go on with, the last begins them anew."""
