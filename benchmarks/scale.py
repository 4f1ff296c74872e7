"""Rows that are not about one tree: steps against the size of the tree, commits of many sessions, a change of a large file."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import blake3

from benchmarks import trees
from benchmarks.measure import Answer, Arm, Context, in_turn
from benchmarks.subject import Floor, Subject, rewrite
from benchmarks.tools import Borg, Git, PyGit2, Restic, Tool
from executors import kernel
from store.ids import Kind, SnapshotId
from store.interfaces import Move

SESSIONS = (1, 4, 16, 64)
SECONDS_EACH = 1.0
PATCH_BYTES = 4096


def step_size(context: Context) -> list[Answer]:
    """One-file steps on trees of many sizes, in turn."""
    folder = context.folder / "sizes"
    shutil.rmtree(folder, ignore_errors=True)
    sizes = (1_000, 10_000) if context.quick else (1_000, 10_000, 100_000)
    sources = [trees.made(context.folder, size) for size in sizes]
    sources += [trees.flat(context.folder, size) for size in sizes if size >= 10_000]
    floor = Floor(folder / "floor")
    arms, subjects = [Arm("floor", floor.both)], []
    for source in sources:
        context.tell(f"step-size: taking in {source.name}")
        subject, change = Subject(folder / f"psf-{source.name}"), rewrite(source.changed)
        subject.take(source.path)
        subjects.append(subject)
        arms.append(Arm(f"psf {source.name}", partial(subject.step, change)))
        for kind in _compared(source):
            if kind.missing() is None:
                tool = kind(folder / source.name, source)
                tool.reset()
                tool.snapshot()
                arms.append(Arm(f"{tool.name} {source.name}", tool.snapshot, partial(change, source.path), every=3))
    for arm in arms:
        context.tell(f"step-size: first step, {arm.name}")
        arm.before()
        arm.act()
    series = in_turn(
        arms,
        context.rounds(30, 12),
        patience_s=context.patience_s(45),
        tell=lambda text: context.tell(f"step-size, {text}"),
    )
    context.tell("step-size: removing")
    for subject in subjects:
        subject.close()
    for source in sources:
        (source.path / source.changed).unlink(missing_ok=True)
    floor.close()
    shutil.rmtree(folder)
    what = "one-file steps on trees of 300-byte files, at most 200 entries in a directory, or all in one (flat)"
    note = "pygit2 is not asked of 100k, nor git of flat directories: taking so many files in once more would cost the run its time"
    return [Answer("step-size", "made", what, series, note=note)]


def _compared(source: trees.SourceTree) -> tuple[type[Tool], ...]:
    if "flat" in source.name:
        return ()
    return (Git, PyGit2) if source.files < 100_000 else (Git,)


def commits(context: Context) -> list[Answer]:
    """Durable commits of many sessions at once, a thread each: blob, snapshot, sync, head."""
    folder = context.folder / "commits"
    shutil.rmtree(folder, ignore_errors=True)
    subject, floor = Subject(folder / "psf"), Floor(folder / "floor")
    for number in range(max(SESSIONS)):
        subject.new_session(f"{number}")
    heads = {f"{number}": subject.store.heads.get(f"{number}", "local").head for number in range(max(SESSIONS))}
    turn = threading.Lock()

    def ours(session: str) -> None:
        head = heads[session]
        depth = subject.snapshot(head).depth + 1
        subject.store.objects.put(Kind.BLOB, os.urandom(200))
        new = subject.put_snapshot(head, depth, subject.snapshot(head).tree)
        subject.store.heads.advance(session, head, Move(0, "execute", head, SnapshotId(new), time.time(), b"{}"))
        heads[session] = new

    def one_by_one(_: str) -> None:
        with turn:
            floor.both()

    found: dict[str, list[float]] = {}
    for number in range(context.rounds(4, 1)):
        for sessions in SESSIONS:
            for name, act in (("floor, one by one", one_by_one), ("psf", ours)):
                context.tell(f"commits: {sessions} sessions, round {number + 1}, {name}")
                found.setdefault(f"{name} {sessions}", []).append(_rate(sessions, act))
    subject.close()
    floor.close()
    shutil.rmtree(folder)
    values = {name: statistics.median(rates) for name, rates in found.items()}
    what = "durable commits per second: a blob, a snapshot, a moved head, each answered before its session's next"
    return [Answer("commits", "none", what, {}, values, "/s")]


def _rate(sessions: int, act: Callable[[str], None]) -> float:
    counts, stop = [0] * sessions, time.perf_counter() + SECONDS_EACH
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            while time.perf_counter() < stop:
                act(f"{number}")
                counts[number] += 1
        except BaseException as problem:  # noqa: BLE001 - handed on below
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(sessions)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return sum(counts) / (time.perf_counter() - started)


def large(context: Context) -> list[Answer]:
    """4 KiB in the middle of a large file, on this file system and on XFS, which can share blocks between files."""
    answers = [_large_on(context, context.folder / "large", "here", tools=True)]
    try:
        with _xfs(context.folder) as folder:
            answers.append(_large_on(context, folder / "large", "XFS", tools=False))
    except (OSError, subprocess.CalledProcessError) as error:
        context.left_out.append(f"large file on XFS: {error}")
    return answers


def _large_on(context: Context, folder: Path, where: str, *, tools: bool) -> Answer:
    size_bytes = (64 if context.quick else 1024) << 20
    shutil.rmtree(folder, ignore_errors=True)
    path = folder / "tree" / "large.bin"
    path.parent.mkdir(parents=True)
    context.tell(f"large ({where}): writing the file")
    with path.open("wb") as file:
        for _ in range(size_bytes >> 20):
            file.write(os.urandom(1 << 20))
    source = trees.SourceTree("large", path.parent, path.name, 1, 0, size_bytes)
    subject = Subject(folder / "psf")
    context.tell(f"large ({where}): taking it in")
    subject.take(source.path)
    subject.pool.discard(subject.pool.acquire(subject.snapshot().tree))
    before = subject.stored_bytes()
    middle = size_bytes // 2

    def change(work: Path) -> None:
        with (work / source.changed).open("r+b") as file:
            file.seek(middle)
            file.write(os.urandom(PATCH_BYTES))

    arms = [
        Arm("read and hash", lambda: _hash(path)),
        Arm("psf", lambda: subject.step(change, counted=frozenset({"mount", "change"}))),
    ]
    if tools and not context.quick:
        arms += [
            Arm(tool.name, tool.snapshot, partial(change, source.path), every=3)
            for tool in _prepared(context, folder, source)
        ]
    tell = context.tell
    series = in_turn(arms, 3, patience_s=60, tell=lambda text: tell(f"large ({where}), {text}"))
    grown = (subject.stored_bytes() - before) / 3
    subject.close()
    shutil.rmtree(folder)
    what = f"4 KiB changed in a file of {size_bytes >> 20} MiB, copying it up included ({where})"
    note = f"psf's store grew by {grown / (1 << 20):.0f} MiB a step, as counted in blocks (shared ones count each time)"
    return Answer("large", where, what, series, note=note)


def _prepared(context: Context, folder: Path, source: trees.SourceTree) -> list[Tool]:
    """Every tool that is there, with the file taken in."""
    kinds = [kind for kind in (Git, Restic, Borg) if kind.missing() is None]
    made: list[Tool] = [kind(folder, source) for kind in kinds]
    for tool in made:
        context.tell(f"large: {tool.name} takes it in")
        tool.reset()
        tool.snapshot()
    return made


def _hash(path: Path) -> None:
    digest = blake3.blake3()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)


@contextmanager
def _xfs(folder: Path) -> Iterator[Path]:
    """An XFS in a file, mounted in this process's own namespace: gone with it, however it ends."""
    if os.geteuid():
        raise OSError("mounting a file system needs root")
    if shutil.which("mkfs.xfs") is None:
        raise OSError("`apt-get install xfsprogs`")
    image, target = folder / "xfs.img", folder / "xfs"
    target.mkdir(exist_ok=True)
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(12 << 30)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, target], check=True)
    try:
        yield target
    finally:
        kernel.unmount(str(target))
        target.rmdir()
        image.unlink()


SCALE_ROWS: dict[str, Callable[[Context], list[Answer]]] = {
    "step-size": step_size,
    "commits": commits,
    "large": large,
}
