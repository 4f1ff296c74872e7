"""Equal steps are equal: on a live workspace, on one restored from the store, on another kind of executor."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from executors.errors import DeterminismUnavailable
from executors.interfaces import Request, Result, StageRequest, StageWatch, System
from executors.testing.determinism import ADDRESSES
from executors.testing.history import PYTHON, History, MakeExecutor, make_request, said, snapshot_of
from executors.testing.steps import START
from executors.testing.trial import LIMITS
from store.interfaces import Objects
from store.tree import EMPTY_TREE

LISTING = """
import os, random, shutil, stat
for folder, folders, files in sorted(os.walk('.')):
    for name in ('.', *sorted(folders + files)):
        path = os.path.join(folder, name)
        status = os.lstat(path)
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        print(path, oct(status.st_mode), status.st_uid, status.st_mtime_ns, size, status.st_nlink * (not size == 0))
"""
"""All of the work directory that a program can see, but for inode numbers and the sizes of directories."""
CHANGES = """
choose = random.Random({seed})
names = ['a', 'b', 'd', 'd/a', 'd/b', 'd/e', 'd/e/a', 'd/e/f', 'b/a', 'b/d']
def write(path): open(path, choose.choice('wa')).write(choose.choice(['', '1', 'two', 'x' * 5000]))
def link(path): os.link(path, choose.choice(names))
def move(path): shutil.move(path, choose.choice(names)) if not os.path.islink(path) else os.unlink(path)
acts = [write, write, os.makedirs, os.unlink, shutil.rmtree, move, move, link, os.mkfifo,
        lambda path: os.symlink('d/e', path), lambda path: os.chmod(path, choose.choice([0o755, 0o600, 0o000])),
        lambda path: os.utime(path, (5, 5), follow_symlinks=False)]
for _ in range(12):
    act, path = choose.choice(acts), choose.choice(names)
    try:
        act(path)
        print('done')
    except OSError as error:
        print(type(error).__name__)
    except shutil.Error:
        print('shutil')
"""
MAKEFILE = "all: result\nresult: source\n\tcat source source > result\n"


class EqualityContract:
    @pytest.fixture
    def other_executors(self) -> list[MakeExecutor]:
        """Executors of other kinds that must agree with this one."""
        return []

    async def test_the_same_request_gives_the_same_snapshot(
        self, make_executor: MakeExecutor, objects: Objects
    ) -> None:
        wanted = make_request(
            EMPTY_TREE, 1, PYTHON, f"{LISTING}\nprint(hash('a'), os.getpid(), os.environ); os.mkfifo('p')"
        )
        found = set()
        for _ in range(2):
            async with make_executor(objects) as executor:
                for _ in range(2):
                    found.add(snapshot_of(objects, 1, await executor.execute(wanted)))
        assert len(found) == 1

    @pytest.fixture
    def repeats(self) -> bool:
        """Whether this kind can give the profile that makes programs repeat."""
        return True

    async def test_a_step_under_the_profile_that_makes_programs_repeat_does(
        self, make_executor: MakeExecutor, objects: Objects, repeats: bool
    ) -> None:
        """In all its stages. Where it cannot be had nothing runs."""
        stages = (StageRequest("compile", PYTHON[1], LIMITS), StageRequest("run", PYTHON[1], LIMITS))
        program = f"{ADDRESSES}\nimport os; print(len(os.sched_getaffinity(0)), os.environ)"
        wanted = make_request(EMPTY_TREE, 1, PYTHON, program, stages=stages, deterministic=True)
        found = set()
        for _ in range(2):
            async with make_executor(objects) as executor:
                if not repeats:
                    with pytest.raises(DeterminismUnavailable):
                        await executor.execute(wanted)
                    return
                for _ in range(2):
                    result = await executor.execute(wanted)
                    assert [run.exit_code for _, run in result.stages] == [0, 0]
                    found.add(snapshot_of(objects, 1, result))
        assert len(found) == 1

    async def test_writing_what_was_there_gives_the_same_tree(
        self, make_executor: MakeExecutor, objects: Objects
    ) -> None:
        async with make_executor(objects) as executor:
            history = History(executor, objects)
            before = (await history.shell(START)).tree
            assert (await history.shell(f"{START.replace('ln -s', 'true')}; touch a d; chmod 600 a")).tree == before

    @pytest.mark.parametrize("seed", range(4))
    async def test_no_step_tells_a_live_workspace_from_a_restored_or_another_kind(
        self, make_executor: MakeExecutor, other_executors: list[MakeExecutor], objects: Objects, seed: int
    ) -> None:
        """Each step lists all it sees, then does random things. Snapshots hold the listing, so one differing mode shows."""
        choose = random.Random(seed)
        async with AsyncExitStack() as stack:
            executors = [await stack.enter_async_context(make(objects)) for make in (make_executor, *other_executors)]
            histories = [History(executor, objects) for executor in executors]
            for number in range(6):
                program = (
                    LISTING + CHANGES.format(seed=choose.random()) if number else "import os; os.makedirs('d/e/f')"
                )
                async with make_executor(objects) as restoring:
                    restored = History(restoring, objects)
                    restored.tree, restored.number = histories[0].tree, number
                    results = [await history.python(program) for history in (*histories, restored)]
                assert results[0].stages[0][1].exit_code == 0, results[0].stages[0][1].stderr
                assert len({snapshot_of(objects, number, result) for result in results}) == 1

    @pytest.fixture(params=["live", "restored"])
    async def session(
        self, request: pytest.FixtureRequest, make_executor: MakeExecutor, objects: Objects
    ) -> AsyncIterator[History]:
        """A history on one executor; and one where every step is done by an executor that was started for it."""
        async with make_executor(objects) as executor:
            yield History(executor if request.param == "live" else Restoring(make_executor, objects), objects)

    async def test_make_sees_edits_of_later_steps_and_nothing_else(self, session: History) -> None:
        """Files carry the number of the step that changed them as their time, also after a restore."""
        if await session.says("command -v make || echo missing") == "missing":
            pytest.skip("make is not in this sandbox")
        await session.shell(f"printf '{MAKEFILE}' > Makefile; echo 1 > source; make -s")
        assert "up to date" in await session.says("make result")
        await session.shell("echo 2 > source")
        assert (await session.says("make result; cat result")).endswith("2\n2")
        assert "up to date" in await session.says("make result")

    async def test_import_sees_edits_of_later_steps(self, session: History) -> None:
        """Even one of the same length right after: nothing compiled is stale."""
        for number in range(4):
            await session.shell(f"echo 'VALUE = {number}' > module.py; mkdir -p package")
            await session.shell(f"echo 'from module import VALUE; MORE = {number}' > package/__init__.py")
            result = await session.python("import module, package; print(module.VALUE, package.VALUE, package.MORE)")
            assert said(result) == f"{number} {number} {number}"
            assert not any("pycache" in path for path in session.contents())


class Restoring:
    """`Executor` that begins each step with nothing but the store."""

    def __init__(self, make_executor: MakeExecutor, objects: Objects) -> None:
        self._make, self._objects = make_executor, objects

    async def execute(self, request: Request, watch: StageWatch | None = None) -> Result:
        async with self._make(self._objects) as executor:
            return await executor.execute(request, watch)

    async def prepare(self, system: System) -> bytes:
        async with self._make(self._objects) as executor:
            return await executor.prepare(system)

    async def close(self) -> None:
        return None
