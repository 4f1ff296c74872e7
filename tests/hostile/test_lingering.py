"""Programs that go on when they should have ended: nothing may change while psf looks."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from executors.interfaces import StageRequest
from executors.testing.history import SHELL, History, contents, said
from executors.testing.processes import DAEMON
from executors.testing.trial import LIMITS
from tests.hostile.conftest import House

RESTLESS = """
import os, signal, sys, time
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        number = 0
        while True:
            number += 1
            with open(f'file-{os.getpid()}', 'a') as file:
                file.write(f'{number}\\n')
            try:
                os.makedirs('a/b', exist_ok=True)
                os.rename('a', 'c')
                os.symlink(f'target-{number}', 'link')
                os.unlink('link')
                os.rename('c', 'a')
            except OSError:
                pass
while not os.path.exists('file-3'):
    time.sleep(0.01)
"""
DIGESTS = """
import hashlib, os
for folder, folders, files in sorted(os.walk('.')):
    for name in sorted(files):
        path = os.path.join(folder, name)[2:]
        if not path.startswith('_psf') and not os.path.islink(path):
            print(path, hashlib.sha256(open(path, 'rb').read()).hexdigest())
"""


@pytest.mark.parametrize("keep", ["all", "fetched"])
async def test_what_is_captured_is_what_the_next_step_finds(session: History, keep: str) -> None:
    """Four processes write, rename and link without a pause when the first one ends."""
    for _ in range(3):
        result = await session.python(RESTLESS, keep=keep, fetch=("file-3", "file-4"))
        captured = contents(session.objects, result.tree)
        if keep == "fetched":
            assert captured == result.fetched
        digests = [f"{path} {hashlib.sha256(data).hexdigest()}" for path, data in captured.items() if is_file(data)]
        assert digests
        assert sorted(said(await session.python(DIGESTS)).splitlines()) == sorted(digests)


def is_file(data: bytes | None) -> bool:
    return data is not None and not data.startswith(b"-> ")


async def test_nothing_of_a_compiler_runs_on_beside_the_program(session: History) -> None:
    stages = (
        StageRequest("compile", ("python3", "-I", "-S", "-c", DAEMON), LIMITS),
        StageRequest("run", SHELL[1], LIMITS),
    )
    script = "a=$(wc -c < beat); sleep 0.2; b=$(wc -c < beat); test $a = $b && echo still; set -- /proc/[0-9]*; echo $#"
    alone = await session.says(
        "true; set -- /proc/[0-9]*; echo $#"
    )  # by the shell itself: no process comes or goes meanwhile
    assert said(await session.shell(script, stages=stages)).split() == ["still", alone]


async def test_nothing_goes_on_in_the_house_after_a_step(house: House, session: History) -> None:
    await session.python(RESTLESS, keep="nothing")
    while house.executor._releasing:  # the workspace is made ready after the answer, by us
        await asyncio.sleep(0.01)
    house.pool.wait_for_removal()
    workspaces = house.workspaces()
    before = {path: path.lstat().st_mtime_ns for path in workspaces.rglob("*")}
    await asyncio.sleep(0.2)
    assert {path: path.lstat().st_mtime_ns for path in workspaces.rglob("*")} == before


async def test_many_restless_sessions_do_not_disturb_each_other(house: House) -> None:
    async def run(number: int) -> str:
        history = house.session()
        await history.shell(f"echo {number} > mine")
        await history.python(RESTLESS)
        return await history.says("cat mine; rm -r file-* a c 2> /dev/null; ls | grep -v _psf | grep -v link")

    assert await asyncio.gather(*(run(number) for number in range(4))) == [f"{number}\nmine" for number in range(4)]
