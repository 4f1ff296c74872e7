"""The launcher may die at any moment, and be asked for too much: runs fail honestly, nothing is left, the next run works."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from executors.bubblewrap import BubblewrapSandbox
from executors.errors import SandboxBroken, SandboxUnavailable
from executors.interfaces import Job, RunResult
from executors.launcher import REQUEST_BYTES_MAX, Launcher
from executors.testing.history import History, said
from executors.testing.processes import BEAT, assert_still
from executors.testing.streaming import Witness
from executors.testing.trial import LIMITS, Trial, python
from executors.watching import PAUSE_S
from store.memory import MemoryObjects
from store.snapshot import Ending
from store.workspace import BindMount
from tests.e2e.conftest import descendants, eventually, is_alive
from tests.executors import bench

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
async def trial(tmp_path: Path) -> AsyncIterator[Trial]:
    work = tmp_path / "work"
    work.mkdir()
    owner = bench.owner()
    if owner is not None:
        os.chown(work, owner.uid, owner.gid)
    async with bench.bubblewrap(tmp_path, "copy") as sandbox:
        yield Trial(sandbox, work)


def launcher_pid(trial: Trial) -> int:
    assert isinstance(trial.sandbox, BubblewrapSandbox)
    return trial.sandbox._launcher._process.pid


def launcher(trial: Trial) -> tuple[int, str]:
    (process,) = (process for process in descendants(os.getpid()) if process[0] == launcher_pid(trial))
    return process


def control_groups() -> set[Path]:
    """Groups of launchers, of any that runs on this machine now."""
    folders = (folder for parent in ("memory", "pids", "") for folder in Path("/sys/fs/cgroup", parent).rglob("psf-*"))
    return {folder for folder in folders if folder.is_dir()}


async def begun(trial: Trial, source: str = BEAT) -> asyncio.Task[RunResult]:
    """A run whose program has begun."""
    running = asyncio.create_task(trial.python(source))
    while not (trial.work / "beat").exists():
        await asyncio.sleep(0.01)
    return running


async def test_when_the_launcher_is_killed_its_runs_fail_and_die_and_the_next_one_works(trial: Trial) -> None:
    running = await begun(trial)
    started = descendants(launcher_pid(trial))
    assert len(started) >= 3
    os.kill(launcher_pid(trial), signal.SIGKILL)
    with pytest.raises(SandboxBroken):
        await running
    assert eventually(lambda: not any(is_alive(process) for process in started))
    await assert_still(trial.work / "beat")
    assert await trial.says("print('works')") == "works"


async def test_a_launcher_killed_between_runs_is_not_missed(trial: Trial) -> None:
    await trial.says("print(1)")
    killed = launcher(trial)
    os.kill(launcher_pid(trial), signal.SIGKILL)
    assert eventually(lambda: not is_alive(killed))
    results = await asyncio.gather(*(trial.shell(f"echo {number}") for number in range(5)))
    assert [result.stdout.data for result in results] == [b"%d\n" % number for number in range(5)]


async def test_a_killed_launchers_groups_are_swept_by_the_next_one(trial: Trial) -> None:
    before = control_groups()
    killed = {folder for folder in before if f"-{launcher_pid(trial)}-" in folder.name}
    if not killed:
        pytest.skip("no control group can be made here")
    running = await begun(trial)
    os.kill(launcher_pid(trial), signal.SIGKILL)
    await asyncio.wait([running])
    assert running.exception() is not None
    await trial.says("print(1)")
    assert not killed & control_groups()


async def test_after_close_no_process_no_mount_and_no_group_is_left(trial: Trial) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    running = await begun(trial)
    started = descendants(launcher_pid(trial)) | {launcher(trial)}
    mine = {folder for folder in control_groups() if f"-{launcher_pid(trial)}-" in folder.name}
    await trial.sandbox.close()
    await asyncio.wait([running], timeout=30)
    assert isinstance(running.exception(), SandboxBroken)
    assert not any(is_alive(process) for process in started)
    assert not mine & control_groups()
    assert Path("/proc/self/mountinfo").read_text() == mounts


async def test_a_sandbox_closed_while_its_launcher_is_started_anew_leaves_none(trial: Trial) -> None:
    killed = launcher(trial)
    os.kill(killed[0], signal.SIGKILL)
    assert eventually(lambda: not is_alive(killed))
    opening = asyncio.create_task(trial.shell("true"))
    before = descendants(os.getpid())
    while not descendants(os.getpid()) - before:
        await asyncio.sleep(0.001)
    await trial.sandbox.close()
    with pytest.raises(SandboxBroken):
        await opening
    assert launcher_pid(trial) not in {pid for pid, _ in descendants(os.getpid())}


async def test_a_run_that_is_cancelled_when_its_launcher_has_died_is_cancelled(trial: Trial) -> None:
    running = await begun(trial)
    killed = launcher(trial)
    os.kill(killed[0], signal.SIGSTOP)
    running.cancel()
    await asyncio.sleep(0.05)
    os.kill(killed[0], signal.SIGKILL)
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_what_has_ended_stands_when_the_launcher_dies_before_its_cell_is_closed(trial: Trial) -> None:
    async with trial.sandbox.open(trial.mount, LIMITS) as cell:
        result = await cell.run(Job(("echo", "done"), (), b"", LIMITS))
        killed = launcher(trial)
        os.kill(killed[0], signal.SIGKILL)
        assert eventually(lambda: not is_alive(killed))
    assert result.stdout.data == b"done\n"


async def test_requests_that_wait_for_a_launcher_end_when_it_is_closed(tmp_path: Path) -> None:
    """More than its socket holds, to one that takes in nothing and must be killed."""
    deaf = tmp_path / "deaf.py"
    deaf.write_text(
        "import json, socket, sys, time\n"
        "server = socket.socket(fileno=int(sys.argv[1]))\n"
        "server.send(json.dumps({'id': json.loads(server.recv(1 << 18))['id']}).encode())\n"
        "server.recv(1 << 18)\n"
        "time.sleep(600)\n"
    )
    one, _ = await Launcher.start({}, None, deaf)
    asked = [asyncio.create_task(one.ask("open", [], text="x" * (REQUEST_BYTES_MAX // 2))) for _ in range(40)]
    await asyncio.sleep(0.1)
    one._process.kill()
    await one.close()
    done, waiting = await asyncio.wait(asked, timeout=5)
    assert not waiting
    assert all(isinstance(task.exception(), SandboxBroken) for task in done)


async def test_an_executor_survives_its_launcher(tmp_path: Path) -> None:
    """The step fails and its tree stands; the next step works on it."""
    objects = MemoryObjects()
    async with bench.maker(tmp_path, "copy")(objects) as executor:
        history = History(executor, objects)
        await history.shell("echo 1 > a")
        stepping = asyncio.create_task(history.shell("echo lost > a; sleep 600"))
        await asyncio.sleep(0.3)
        os.kill(executor._systems._own.sandbox._launcher._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        with pytest.raises(SandboxBroken):
            await stepping
        assert said(await history.shell("cat a; ls")) == "1\n_psf_main.sh\na"


def test_when_the_server_is_killed_its_launcher_and_programs_die(tmp_path: Path) -> None:
    """The work directory is the test's own, so that what lives on could be seen."""
    source = textwrap.dedent(f"""
        import asyncio, sys
        from pathlib import Path
        from executors.testing.processes import BEAT
        from executors.testing.trial import Trial
        from tests.executors import bench
        async def main():
            async with bench.bubblewrap(Path({str(tmp_path)!r}), "copy") as sandbox:
                await Trial(sandbox, Path({str(tmp_path)!r}, "work")).python(BEAT)
        asyncio.run(main())
    """)
    work = tmp_path / "work"
    work.mkdir(mode=0o777)
    work.chmod(0o777)
    with subprocess.Popen([sys.executable, "-c", source], cwd=ROOT) as server:
        assert eventually((work / "beat").exists, 30)
        started = descendants(server.pid)
        assert len(started) >= 4
        server.kill()
    assert eventually(lambda: not any(is_alive(process) for process in started))


async def test_what_is_too_large_is_refused_and_harms_nobody_else(trial: Trial) -> None:
    """However it is made up: one long text, many short ones, characters that JSON writes long."""
    running = await begun(trial)
    pid = launcher_pid(trial)
    for arguments in (["x" * REQUEST_BYTES_MAX], ["x"] * 60_000, ["\x01" * 40_000], ["\u4e2d" * 65_000]):
        with pytest.raises(SandboxBroken, match="bytes; at most"):
            await trial.run("true", *arguments)
    assert not running.done()
    assert launcher_pid(trial) == pid
    running.cancel()
    await asyncio.wait([running])


async def test_what_is_large_but_allowed_arrives(trial: Trial) -> None:
    arguments = ["\u4e2d" * 10_000] * 5 + ["y"] * 1000
    source = "import sys; print(len(sys.argv) - 1, sum(map(len, sys.argv[1:])))"
    result = await trial.run(*python(source), *arguments)
    assert result.stdout.data == b"1005 51000\n"


@pytest.mark.parametrize(
    ("argv", "env"),
    [(("true", "a\0b"), ()), (("true",), (("A", "x\0--bind\0/\0/mnt"),)), (("true",), (("A\0--cap-add\0ALL", "x"),))],
)
async def test_a_nul_character_cannot_give_bwrap_orders(
    trial: Trial, argv: tuple[str, ...], env: tuple[tuple[str, str], ...]
) -> None:
    with pytest.raises(SandboxBroken, match="NUL"):
        await trial.run(*argv, env=env)
    assert await trial.says("print('works')") == "works"


async def test_a_workspace_that_is_not_there_is_breakage_and_harms_nobody_else(trial: Trial) -> None:
    with pytest.raises(SandboxBroken):
        async with trial.sandbox.open(BindMount(str(trial.work / "missing")), LIMITS):
            pass
    assert await trial.says("print('works')") == "works"


async def test_a_cell_that_is_closed_runs_nothing_more_and_harms_nobody_else(trial: Trial) -> None:
    pid = launcher_pid(trial)
    async with trial.sandbox.open(trial.mount, LIMITS) as cell:
        pass
    with pytest.raises(SandboxBroken):
        await cell.run(Job(("true",), (), b"", LIMITS))
    assert await trial.says("print('works')") == "works"
    assert launcher_pid(trial) == pid


async def test_a_workspace_that_is_removed_under_a_run_harms_nobody_else(trial: Trial) -> None:
    pid = launcher_pid(trial)
    running = await begun(trial, "import time; open('beat', 'w').close(); time.sleep(600)")
    await asyncio.sleep(2 * PAUSE_S)  # what was there is known
    shutil.rmtree(trial.work)
    await asyncio.sleep(2 * PAUSE_S)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert launcher_pid(trial) == pid


async def test_what_a_confiner_says_of_its_failure_is_for_the_log_and_no_watcher(
    trial: Trial, caplog: pytest.LogCaptureFixture
) -> None:
    witness = Witness()
    async with trial.sandbox.open(trial.mount, LIMITS) as cell:
        orders = ["--ro-bind", "/no/such/folder", "/usr"]
        cell._confiner = msgspec.structs.replace(cell._confiner, compile=lambda *_: orders)  # type: ignore[attr-defined]
        with pytest.raises(SandboxBroken):
            await cell.run(Job(("true",), (), b"", LIMITS), witness)
    assert "/no/such/folder" in caplog.text
    assert witness.pieces == []


async def test_a_launcher_that_cannot_be_set_up_is_no_sandbox() -> None:
    with pytest.raises(SandboxUnavailable, match="could not be set up"):
        await Launcher.start({"uid": 0, "gid": 0, "bwrap": "/no/bwrap", "bwrap_libraries": ()}, None)


async def test_a_run_that_has_no_room_to_begin_leaves_no_process(trial: Trial) -> None:
    """What brings it up is killed for memory at one moment or another: the one that is killed may have begun a second."""
    endings, pid = set(), launcher_pid(trial)
    for memory_bytes in range(300 << 10, 1100 << 10, 25 << 10):
        result = await trial.run("true", limits=msgspec.structs.replace(LIMITS, memory_bytes=memory_bytes))
        endings.add(result.ending)
    if Ending.OUT_OF_MEMORY not in endings:
        pytest.skip("the memory of a run as a whole cannot be limited here")
    assert launcher_pid(trial) == pid
    assert descendants(pid) == set()


async def test_a_launcher_whose_start_is_cancelled_is_gone(tmp_path: Path) -> None:
    silent = tmp_path / "silent.py"
    silent.write_text("import time; time.sleep(600)")
    before, descriptors = descendants(os.getpid()), len(os.listdir("/proc/self/fd"))
    starting = asyncio.create_task(Launcher.start({}, None, silent))
    while not (started := descendants(os.getpid()) - before):
        await asyncio.sleep(0.01)
    starting.cancel()
    await asyncio.sleep(0.05)
    os.kill(next(iter(started))[0], signal.SIGKILL)  # it does not go by itself, as a launcher does
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not descendants(os.getpid()) - before
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_a_launcher_that_cannot_be_started_is_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(sys, "executable", "/no/python")
    with pytest.raises(SandboxUnavailable, match="could not be started"):
        await Launcher.start({}, None)
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_no_descriptor_is_left_open_in_the_server(trial: Trial) -> None:
    await trial.says("print(1)")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await trial.shell("exit 1")
        with pytest.raises(SandboxBroken):
            await trial.run("true", "\0")
        running = asyncio.create_task(trial.shell("sleep 600"))
        await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait([running])
    assert len(os.listdir("/proc/self/fd")) == before
