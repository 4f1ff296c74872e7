"""What tests of an executor stand on: steps, each on the tree that the one before left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest

from executors.interfaces import Executor, Output, Request, Result, RunResult, StageRequest
from executors.testing.trial import LIMITS
from store import snapshot as snapshots
from store.capture import load_tree
from store.ids import BlobId, Kind, TreeId
from store.interfaces import Objects
from store.memory import MemoryObjects
from store.snapshot import Outcome, Snapshot, Stage, Stream
from store.tree import EMPTY_TREE, EntryKind, entry_tree

MakeExecutor = Callable[[Objects], AbstractAsyncContextManager[Executor]]
"""Gives a new executor on the objects; it knows nothing of what others on them keep alive."""
PYTHON = ("_psf_main.py", ("python3", "_psf_main.py"))
SHELL = ("_psf_main.sh", ("sh", "_psf_main.sh"))


def make_request(
    tree: TreeId, number: int, language: tuple[str, tuple[str, ...]], program: str, **fields: Any
) -> Request:
    """A step of one stage that keeps everything, changed by `fields`."""
    name, argv = language
    plain = Request(
        tree, number, name, program.encode(), (StageRequest("run", argv, LIMITS),), b"", (), (), (), (), "all"
    )
    return msgspec.structs.replace(plain, **fields)


class History:
    """One session's steps on one executor. `tree` is where it stands."""

    def __init__(self, executor: Executor, objects: Objects) -> None:
        self.executor, self.objects = executor, objects
        self.tree, self.number = EMPTY_TREE, 0

    async def shell(self, program: str, **fields: Any) -> Result:
        return await self.step(SHELL, program, **fields)

    async def python(self, program: str, **fields: Any) -> Result:
        return await self.step(PYTHON, program, **fields)

    async def step(self, language: tuple[str, tuple[str, ...]], program: str, **fields: Any) -> Result:
        result = await self.executor.execute(make_request(self.tree, self.number + 1, language, program, **fields))
        self.tree, self.number = result.tree, self.number + 1
        return result

    async def says(self, program: str, **fields: Any) -> str:
        """What a shell program prints that must end well."""
        return said(await self.shell(program, **fields))

    def contents(self) -> dict[str, bytes | None]:
        """What the tree holds: paths and contents. Directories are None, symlinks `-> target`."""
        return contents(self.objects, self.tree)


def said(result: Result) -> str:
    run = result.stages[-1][1]
    assert run.exit_code == 0, run
    return run.stdout.data.decode().strip()


def contents(objects: Objects, tree: TreeId, prefix: str = "") -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for entry in load_tree(objects, tree):
        path = prefix + entry.name.decode(errors="surrogateescape")
        if entry.kind is EntryKind.DIRECTORY:
            found[path] = None
            found |= contents(objects, entry_tree(entry), path + "/")
        elif entry.kind is EntryKind.SYMLINK:
            found[path] = b"-> " + entry.content
        else:
            found[path] = objects.get(Kind.BLOB, entry.content)
    return found


def snapshot_of(objects: Objects, number: int, result: Result) -> bytes:
    """The snapshot that a result makes: all of it that may not differ between two equal runs."""
    stages = tuple(_stage(objects, name, run) for name, run in result.stages)
    outcome = Outcome(stages, result.left_out)
    return snapshots.encode(Snapshot(snapshots.VERSION, number, (), result.tree, None, outcome))


def _stage(objects: Objects, name: str, run: RunResult) -> Stage:
    streams = (_stream(objects, run.stdout), _stream(objects, run.stderr))
    return Stage(name, run.ending, run.exit_code, run.signal, *streams, run.hit)


def _stream(objects: Objects, output: Output) -> Stream:
    return Stream(BlobId(objects.put(Kind.BLOB, output.data)), output.total_bytes, output.truncated)


class HistoryFixtures:
    """Give a fixture `make_executor`; and `objects`, when memory cannot be shared with it."""

    @pytest.fixture
    def objects(self) -> Objects:
        return MemoryObjects()
