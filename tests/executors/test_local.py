"""The local executor answers as soon as a step is captured; its workspace is made ready meanwhile, for whoever goes on from there."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from executors.testing.history import SHELL, make_request
from store import pool
from store.capture import Captured
from store.ids import TreeId
from store.memory import MemoryObjects
from store.tree import EMPTY_TREE
from store.workspace import Workspace
from tests.executors import bench


class Held:
    """Holds workspaces back while they are given back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate, self.waiting = threading.Event(), threading.Event()
        release = pool.Workspaces.release

        def held(workspaces: Any, workspace: Workspace, tree: TreeId, captured: Captured | None) -> None:
            self.waiting.set()
            assert self.gate.wait(30)
            release(workspaces, workspace, tree, captured)

        monkeypatch.setattr(pool.Workspaces, "release", held)


async def test_an_answer_waits_for_no_workspace_and_the_next_step_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ARRIVAL_PATIENCE_S", 30.0)
    held = Held(monkeypatch)
    async with bench.local_executor(tmp_path, MemoryObjects(), "copy") as executor:
        first = await executor.execute(make_request(EMPTY_TREE, 1, SHELL, "echo 1 > a"))
        assert await asyncio.to_thread(held.waiting.wait, 30)
        following = asyncio.create_task(executor.execute(make_request(first.tree, 2, SHELL, "cat a")))
        other = await executor.execute(make_request(EMPTY_TREE, 1, SHELL, "echo other"))
        assert (other.stages[-1][1].stdout.data, other.warm) == (b"other\n", False)
        assert not following.done()
        held.gate.set()
        second = await following
        assert (second.stages[-1][1].stdout.data, second.warm) == (b"1\n", True)


async def test_who_waits_in_vain_gets_another_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "ARRIVAL_PATIENCE_S", 0.05)
    held = Held(monkeypatch)
    async with bench.local_executor(tmp_path, MemoryObjects(), "copy") as executor:
        first = await executor.execute(make_request(EMPTY_TREE, 1, SHELL, "echo 1 > a"))
        second = await executor.execute(make_request(first.tree, 2, SHELL, "cat a"))
        assert (second.stages[-1][1].stdout.data, second.warm) == (b"1\n", False)
        held.gate.set()


async def test_an_executor_that_closes_waits_for_workspaces_that_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)

    async def use_and_close() -> None:
        async with bench.local_executor(tmp_path, MemoryObjects(), "copy") as executor:
            await executor.execute(make_request(EMPTY_TREE, 1, SHELL, "true"))

    closing = asyncio.create_task(use_and_close())
    assert await asyncio.to_thread(held.waiting.wait, 30)
    await asyncio.sleep(0.2)
    assert not closing.done()
    held.gate.set()
    await closing


async def test_a_workspace_that_cannot_be_given_back_costs_nobody_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no")

    async with bench.local_executor(tmp_path, MemoryObjects(), "copy") as executor:
        with monkeypatch.context() as patched:
            patched.setattr(pool.Workspaces, "_take_back", broken)
            first = await executor.execute(make_request(EMPTY_TREE, 1, SHELL, "echo 1 > a"))
            while executor._releasing:
                await asyncio.sleep(0.01)
        assert "a workspace could not be given back" in caplog.text
        second = await executor.execute(make_request(first.tree, 2, SHELL, "cat a"))
        assert (second.stages[-1][1].stdout.data, second.warm) == (b"1\n", False)
