"""A run's processes: how many, how long, and that none outlives it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from executors.interfaces import Job, Sandbox
from executors.testing.trial import LIMITS, Trial, python
from store.snapshot import Ending

BEAT = "import time\nwhile True:\n    open('beat', 'a').write('x'); time.sleep(0.005)"
"""A process that can be seen to live, from the host: its file in the work directory grows."""
DAEMON = f"""
import os, signal, sys
if os.fork() == 0:
    os.setsid()
    for number in set(range(1, 65)) - {{9, 19, 32, 33}}:
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        exec({BEAT!r})
    os._exit(0)
while not os.path.exists('beat'):
    pass
"""
STUBBORN = """
import os, signal, time
for number in set(range(1, 65)) - {9, 19, 32, 33}:
    signal.signal(number, signal.SIG_IGN)
while True:
    time.sleep(1)
"""
FORKS = """
import os, time
count = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(600)
        count += 1
except OSError as error:
    print(count, error.strerror)
"""
IN_FLIGHT = """
import array, os, socket
ours, theirs = socket.socketpair()
outputs = array.array('i', [1, 2, ours.fileno(), theirs.fileno()])
ours.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, outputs)])
os.write(1, b'said')
os._exit(3)
"""
"""Leaves its outputs in a socket that only itself keeps open: the kernel frees them when it next looks for such."""
FIRST_TO_GO = """
import os, time
open('/proc/1/oom_score_adj', 'w').write('1000')
for _ in range(4):
    if os.fork() == 0:
        data = []
        while True:
            data.append(bytearray(1 << 19)); time.sleep(0.002)
time.sleep(10)
"""
"""Makes its pid 1 the one that the kernel kills for memory."""
THREADS = """
import threading
count, stop = 0, threading.Event()
try:
    while True:
        threading.Thread(target=stop.wait, daemon=True).start()
        count += 1
except RuntimeError:
    print(count)
stop.set()
"""


class ProcessesContract:
    """When a run returns, every process of it is dead."""

    @pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)", "time.sleep(600)"], ids=["exits", "dies", "stays"])
    async def test_what_a_program_leaves_running_is_dead_when_the_run_returns(self, trial: Trial, end: str) -> None:
        """Double fork, own session, signals ignored, output held open: the run ends with its first process all the same."""
        result = await trial.python(
            f"{DAEMON}\nimport time\n{end}", limits=msgspec.structs.replace(LIMITS, wall_time_s=2)
        )
        assert result.ending in (Ending.EXITED, Ending.SIGNALLED, Ending.TIMED_OUT)
        await assert_still(trial.work / "beat")

    async def test_a_program_that_ignores_signals_is_killed_in_time(self, trial: Trial) -> None:
        result = await trial.python(STUBBORN, limits=msgspec.structs.replace(LIMITS, wall_time_s=0.5))
        assert result.ending is Ending.TIMED_OUT

    async def test_a_program_that_stops_itself_is_killed_in_time(self, trial: Trial) -> None:
        result = await trial.shell("kill -STOP $$", limits=msgspec.structs.replace(LIMITS, wall_time_s=0.5))
        assert result.ending is Ending.TIMED_OUT

    async def test_the_sandboxs_own_processes_are_not_the_programs_to_kill(self, trial: Trial) -> None:
        """Killing all it can kill ends the program at most, and is never taken for breakage."""
        result = await trial.shell("kill -9 1; kill -9 -1; exit 3")
        assert (result.ending, result.exit_code) in ((Ending.EXITED, 3), (Ending.SIGNALLED, None))

    async def test_a_fork_bomb_meets_the_limit(self, trial: Trial) -> None:
        count, _, error = (await trial.says(FORKS)).partition(" ")
        assert LIMITS.processes // 2 < int(count) < LIMITS.processes
        assert error == "Resource temporarily unavailable"

    async def test_threads_count_as_processes(self, trial: Trial) -> None:
        assert LIMITS.processes // 2 < int(await trial.says(THREADS)) < LIMITS.processes

    async def test_as_many_processes_as_allowed_can_be_had(self, trial: Trial) -> None:
        limits = msgspec.structs.replace(LIMITS, processes=8)
        result = await trial.shell("for n in 1 2 3 4 5 6 7; do sleep 600 & done; echo all", limits=limits)
        assert (result.exit_code, result.stdout.data, result.hit) == (0, b"all\n", ())

    async def test_a_cancelled_run_is_killed(self, trial: Trial) -> None:
        async with trial.sandbox.open(trial.mount, LIMITS) as cell:
            running = asyncio.ensure_future(cell.run(Job(python(DAEMON + BEAT), (), b"", LIMITS)))
            while not (trial.work / "beat").exists():
                await asyncio.sleep(0.01)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await assert_still(trial.work / "beat")
        assert await trial.says("print('the next run works')") == "the next run works"

    async def test_a_run_may_be_cancelled_before_it_has_begun(self, trial: Trial) -> None:
        for pause_s in (0.0, 0.002, 0.01, 0.02):
            async with trial.sandbox.open(trial.mount, LIMITS) as cell:
                running = asyncio.ensure_future(cell.run(Job(python(BEAT), (), b"", LIMITS)))
                await asyncio.sleep(pause_s)
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
            await assert_still(trial.work / "beat")

    async def test_programs_of_one_cell_run_one_after_the_other_and_share_scratch(self, trial: Trial) -> None:
        async with trial.sandbox.open(trial.mount, LIMITS) as cell:
            await cell.run(Job(("sh", "-c", "echo kept > /tmp/note"), (), b"", LIMITS))
            result = await cell.run(Job(("cat", "/tmp/note"), (), b"", LIMITS))
        assert result.stdout.data == b"kept\n"

    async def test_many_cells_run_at_once(self, trial: Trial) -> None:
        results = await asyncio.gather(*(trial.shell(f"echo {number}; sleep 0.1") for number in range(12)))
        assert [result.stdout.data for result in results] == [b"%d\n" % number for number in range(12)]

    async def test_outputs_left_in_a_socket_delay_no_run(self, trial: Trial) -> None:
        """Whatever keeps the pipes open, nothing can come out of them when all processes are dead."""
        results = [await asyncio.wait_for(trial.python(IN_FLIGHT), 10) for _ in range(3)]
        assert [(result.exit_code, result.stdout.data) for result in results] == [(3, b"said")] * 3

    async def test_a_pid_1_that_dies_first_ends_its_own_run_only(self, trial: Trial) -> None:
        limits = msgspec.structs.replace(LIMITS, memory_bytes=64 << 20)
        other = asyncio.create_task(trial.shell("sleep 1; echo lives"))
        await asyncio.sleep(0.2)
        result = await trial.python(FIRST_TO_GO, limits=limits)
        assert (result.ending, result.exit_code) != (Ending.EXITED, 0) or trial.lacks("memory")
        assert (await other).stdout.data == b"lives\n"

    async def test_a_memory_limit_that_nothing_fits_in_is_an_ending(self, trial: Trial) -> None:
        sizes = () if trial.lacks("memory") else (4096, 256 << 10, 1 << 20, 2 << 20)
        for memory_bytes in sizes * 3:
            result = await trial.shell("echo hi", limits=msgspec.structs.replace(LIMITS, memory_bytes=memory_bytes))
            assert result.ending in (Ending.OUT_OF_MEMORY, Ending.EXITED, Ending.SIGNALLED), result
        assert await trial.says("print('works')") == "works"

    @pytest.fixture
    def hangup_ignored(self) -> Iterator[None]:
        """The server as `nohup` starts it."""
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        yield
        signal.signal(signal.SIGHUP, before)

    async def test_a_program_begins_with_every_signal_at_its_default(self, hangup_ignored: None, trial: Trial) -> None:
        """Else `yes | head` would complain, and a program could not be interrupted."""
        result = await trial.run("grep", "-E", "SigIgn|SigBlk", "/proc/self/status")
        # 32 and 33 belong to the C library, which lets nobody set them and sets them itself where it needs them.
        libc = 1 << 31 | 1 << 32
        assert {int(line.split()[1], 16) & ~libc for line in result.stdout.data.splitlines()} == {0}

    async def test_what_a_run_took_is_measured(self, trial: Trial) -> None:
        source = "import time; data = b'x' * (30 << 20)\nwhile time.process_time() < 0.3: pass"
        usage = (await trial.python(source)).usage
        assert usage.wall_time_s >= 0.29
        if usage.cpu_time_s is not None and usage.memory_peak_bytes is not None:
            assert 0.29 <= usage.cpu_time_s < 20
            assert 30 << 20 <= usage.memory_peak_bytes < LIMITS.memory_bytes

    async def test_what_a_run_wrote_is_counted_at_its_end_and_before(self, trial: Trial) -> None:
        write = "open('x', 'wb').write(bytes(3 << 20))"
        at_once = (await trial.python(write)).usage.disk_bytes
        assert at_once is None or 3 << 20 <= at_once < 4 << 20
        later = f"import os, time; time.sleep(0.5); {write.replace('x', 'y')}; time.sleep(0.5); os.remove('y')"
        taken_back = (await trial.python(later)).usage.disk_bytes
        assert taken_back is None or 3 << 20 <= taken_back < 4 << 20

    async def test_closing_a_sandbox_kills_what_runs_in_it(self, trial: Trial, sandbox: Sandbox) -> None:
        async def run() -> None:
            await trial.python(BEAT)

        running = asyncio.ensure_future(run())
        while not (trial.work / "beat").exists():
            await asyncio.sleep(0.01)
        await sandbox.close()
        await asyncio.wait([running], timeout=30)
        assert running.done()
        assert running.exception() is not None
        await assert_still(trial.work / "beat")
        await sandbox.close()


async def assert_still(path: Path) -> None:
    """Nobody writes to `path` any more."""
    size_bytes = path.stat().st_size if path.exists() else None
    await asyncio.sleep(0.1)
    assert (path.stat().st_size if path.exists() else None) == size_bytes
