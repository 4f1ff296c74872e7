"""Clients go away at any moment of a step: nothing of it is left, nobody else notices."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from executors.completion import completed
from executors.local import LocalExecutor
from executors.testing.history import SHELL, History, contents, make_request, said
from store.memory import MemoryObjects
from store.tree import EMPTY_TREE
from tests.e2e.conftest import descendants, eventually, is_alive
from tests.executors import bench
from tests.executors.test_launcher import control_groups

CANCELLED = 150
AT_ONCE = 4


def launcher_pid(executor: LocalExecutor) -> int:
    return executor._systems._own.sandbox._launcher._process.pid  # type: ignore[attr-defined]


async def abandon(executor: LocalExecutor, after_s: float) -> None:
    """Begin a step and go away."""
    program = "echo x > written; sleep 5"
    step = asyncio.create_task(
        executor.execute(make_request(EMPTY_TREE, 1, SHELL, program, files=(("a/b/sent", b"x" * 4000),)))
    )
    await asyncio.sleep(after_s)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step


@pytest.mark.parametrize("kind", ["overlay", "copy"])
async def test_steps_that_are_cancelled_at_any_moment_leave_nothing_and_harm_nobody(
    tmp_path: Path, kind: bench.Kind
) -> None:
    objects = MemoryObjects()
    async with bench.local_executor(tmp_path, objects, kind) as executor:
        other = History(executor, objects)
        await other.shell("echo 0 > n")
        executor._workspaces.wait_for_removal()
        gc.collect()  # what other tests have left open
        launcher, descriptors = launcher_pid(executor), len(os.listdir("/proc/self/fd"))

        async def go_on() -> None:
            for number in range(20):
                assert await other.says(f"cat n; echo {number + 1} > n") == str(number)

        async def cancel_some() -> None:
            for _ in range(CANCELLED // AT_ONCE):
                await abandon(executor, random.choice([0, random.uniform(0, 0.08)]))

        await asyncio.gather(go_on(), *(cancel_some() for _ in range(AT_ONCE)))
        assert launcher_pid(executor) == launcher, "the launcher died"
        assert eventually(lambda: not [process for process in descendants(launcher) if is_alive(process)])
        assert "/cell-" not in Path(f"/proc/{launcher}/mountinfo").read_text()
        mine = [group for group in control_groups() if f"-{launcher}-" in group.name]
        assert not [folder for group in mine for folder in group.iterdir() if folder.is_dir()]
        pool = executor._workspaces
        pool.wait_for_removal()
        assert len(os.listdir("/proc/self/fd")) == descriptors
        live = {folder.name for folder in pool._root.iterdir() if folder.name.isdecimal()}
        assert live == set(pool._idle), "a workspace was lost, or one that is gone is still offered"
        assert said(await other.shell("cat n")) == "20"


async def test_a_step_that_is_cancelled_while_it_is_captured_gives_its_workspace_back_once(tmp_path: Path) -> None:
    """The next taker of that tree gets a whole one."""
    objects = MemoryObjects()
    async with bench.local_executor(tmp_path, objects, "overlay") as executor:
        for wait_s in (0.0, 0.002, 0.005, 0.01, 0.02, 0.04):
            program = "i=0; while [ $i -lt 300 ]; do echo $i > f$i; i=$((i+1)); done; echo done > done"
            fields = {"keep": "nothing", "fetch": tuple(f"f{number}" for number in range(300))}
            step = asyncio.create_task(executor.execute(make_request(EMPTY_TREE, 1, SHELL, program, **fields)))
            pool = executor._workspaces
            while not step.done() and not list(pool._root.glob("*/upper/done")):
                await asyncio.sleep(0.001)
            await asyncio.sleep(wait_s)
            step.cancel()
            await asyncio.wait([step])
            results = [await executor.execute(make_request(EMPTY_TREE, 1, SHELL, "ls")) for _ in range(2)]
            assert [said(result) for result in results] == ["_psf_main.sh"] * 2


async def test_a_step_that_is_captured_while_its_executor_is_closed_comes_to_its_end(tmp_path: Path) -> None:
    objects = MemoryObjects()
    async with bench.local_executor(tmp_path, objects, "copy") as executor:
        read, captured = executor._read, threading.Event()

        def slowly(*arguments: Any) -> Any:
            captured.set()
            time.sleep(0.3)
            return read(*arguments)

        executor._read = slowly  # type: ignore[method-assign]
        step = asyncio.create_task(executor.execute(make_request(EMPTY_TREE, 1, SHELL, "echo 1 > kept")))
        await asyncio.to_thread(captured.wait)
    assert step.done()
    assert contents(objects, (await step).tree) == {"kept": b"1\n"}


async def test_work_is_completed_and_undone_however_often_its_caller_is_cancelled() -> None:
    told: list[str] = []

    async def work() -> str:
        await asyncio.sleep(0.05)
        told.append("made")
        return "it"

    async def undo(made: str) -> None:
        await asyncio.sleep(0.05)
        told.append(f"undid {made}")

    task = asyncio.create_task(completed(work(), undo))
    for _ in range(8):
        await asyncio.sleep(0.01)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["made", "undid it"]
    assert await completed(work(), undo) == "it"
    assert told == ["made", "undid it", "made"]


async def test_work_that_fails_when_its_caller_is_gone_is_told_with_the_cancellation() -> None:
    """And to nobody else: asyncio would complain that nobody heard of it."""
    unheard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))

    async def work() -> None:
        await asyncio.sleep(0.01)
        raise OSError("broken")

    task = asyncio.create_task(completed(work()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await task
    assert isinstance(raised.value.__cause__, OSError)
    del task
    gc.collect()
    assert unheard == []


async def test_work_that_fails_fails_its_caller_and_nothing_is_undone() -> None:
    async def work() -> str:
        raise OSError("broken")

    async def undo(made: str) -> None:
        raise AssertionError(made)

    with pytest.raises(OSError, match="broken"):
        await completed(work(), undo)
