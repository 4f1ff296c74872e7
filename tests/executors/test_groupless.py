"""Where no control group can be had: what is limited for each process still ends as what it is."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from executors.launcher import Launcher
from executors.testing.trial import LIMITS, Trial
from store.snapshot import Ending
from tests.executors import bench

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
async def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Trial]:
    program = tmp_path / "groupless.py"
    program.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom executors import cgroups, launcher_process\n"
        "cgroups.find = lambda: (None, 'not to be had')\nlauncher_process.main()\n"
    )
    monkeypatch.setattr(Launcher, "start", functools.partial(Launcher.start, program=program))
    work = tmp_path / "work"
    work.mkdir()
    if (owner := bench.owner()) is not None:
        os.chown(work, owner.uid, owner.gid)
    async with bench.bubblewrap(tmp_path, "copy") as sandbox:
        assert any(lack.startswith("memory: no control group (not to be had)") for lack in sandbox.capabilities.missing)
        yield Trial(sandbox, work)


@pytest.mark.parametrize("handler", ["SIG_DFL", "SIG_IGN"])
async def test_whoever_spins_beyond_its_time_is_timed_out_whatever_it_does_with_the_signal(
    trial: Trial, handler: str
) -> None:
    spin = f"import signal\nsignal.signal(signal.SIGXCPU, signal.{handler})\nwhile True: pass"
    result = await trial.python(spin, limits=msgspec.structs.replace(LIMITS, cpu_time_s=1))
    assert (result.ending, result.exit_code, result.signal) == (Ending.TIMED_OUT, None, None)


async def test_a_process_gets_no_more_memory_than_its_limit(trial: Trial) -> None:
    result = await trial.python("bytearray(1 << 30)")
    assert (result.ending, result.exit_code) == (Ending.EXITED, 1)
    assert b"MemoryError" in result.stderr.data
