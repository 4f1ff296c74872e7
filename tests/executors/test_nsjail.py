"""The nsjail sandbox keeps the contract that bubblewrap's keeps, and leaves nothing where nsjail would."""

from __future__ import annotations

import asyncio
import glob
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from executors import nsjail
from executors.errors import SandboxBroken, SandboxUnavailable
from executors.interfaces import Sandbox
from executors.launched import LaunchedSandbox
from executors.sandboxes import Options
from executors.testing import SandboxContract
from executors.testing.processes import BEAT
from executors.testing.trial import Trial, TrialFixtures
from store.files import Owner
from tests.e2e.conftest import descendants, eventually, is_alive
from tests.executors import bench


class _Nsjail(TrialFixtures):
    @pytest.fixture
    async def sandbox(self, tmp_path: Path) -> AsyncIterator[Sandbox]:
        async with bench.nsjail(tmp_path) as sandbox:
            yield sandbox

    @pytest.fixture
    def owner(self) -> Owner | None:
        return bench.owner()


class TestSandbox(_Nsjail, SandboxContract):
    pass


class TestWhatIsNsjailsOwn(_Nsjail):
    async def test_it_leaves_no_folder_of_its_own_on_the_host(self, trial: Trial) -> None:
        places = ("/run/user/nsjail*", "/run/nsjail*", "/tmp/nsjail*", "/dev/shm/nsjail*")
        before = {name for place in places for name in glob.glob(place)}
        await trial.shell("true")
        assert {name for place in places for name in glob.glob(place)} <= before

    async def test_nothing_but_the_program_speaks_on_its_streams(self, trial: Trial) -> None:
        for script in ("kill -9 $$", "kill -11 $$", "exit 3", "sh -c 'kill -9 $$' > /dev/null 2>&1"):
            result = await trial.shell(script)
            assert (result.stdout.data, result.stderr.data) == (b"", b""), script

    async def test_a_program_is_not_the_first_process_whom_few_signals_reach(self, trial: Trial) -> None:
        assert await trial.says("import os; print(os.getpid() > 1)") == "True"

    async def test_when_the_launcher_is_killed_what_nsjail_runs_dies_too(self, trial: Trial) -> None:
        assert isinstance(trial.sandbox, LaunchedSandbox)
        launcher = trial.sandbox._launcher._process.pid
        running = asyncio.create_task(trial.python(BEAT))
        assert await asyncio.to_thread(eventually, (trial.work / "beat").exists)
        started = descendants(launcher)
        assert len(started) >= 3  # nsjail, the first process inside, the program
        os.kill(launcher, signal.SIGKILL)
        with pytest.raises(SandboxBroken):
            await running
        assert await asyncio.to_thread(eventually, lambda: not any(is_alive(process) for process in started))

    async def test_its_variables_are_the_profiles_and_the_jobs_and_no_others(self, trial: Trial) -> None:
        result = await trial.run("env", "-0", env=(("LANG", "chosen"), ("ODD", 'a="\\\n\té')))
        found = dict(line.split("=", 1) for line in result.stdout.data.decode().split("\0") if line)
        found.pop("PWD")  # the shell's
        assert found == dict(bench.profile().environment) | {"LANG": "chosen", "ODD": 'a="\\\n\té'}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/usr/bin", '"/usr/bin"'),
        ('a"b', '"a\\042b"'),
        ("a\\n\n", '"a\\134n\\012"'),
        ("é", '"\\303\\251"'),
        ("}", '"\\175"'),
    ],
)
def test_no_text_can_be_taken_for_an_order_to_nsjail(text: str, expected: str) -> None:
    assert nsjail._text(text) == expected


async def test_a_store_where_nsjail_makes_its_folders_is_refused() -> None:
    with pytest.raises(SandboxUnavailable, match="/run"):
        await nsjail.start(bench.profile(), Options(Path("/run/user/7/psf")))


@pytest.mark.parametrize("program", ["/no/nsjail", "/etc/passwd", "/usr"])
def test_a_configured_nsjail_that_is_none_is_refused_by_name(program: str) -> None:
    with pytest.raises(SandboxUnavailable, match=f"`nsjail`: {program}"):
        nsjail.find_nsjail(program)


def test_without_the_wheel_the_systems_is_used_and_without_both_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "nsjail", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=r"persistent-sandbox-fusion\[nsjail\]"):
        nsjail.find_nsjail(None)
    shutil.copy("/bin/true", tmp_path / "nsjail")
    assert nsjail.find_nsjail(None) == (str(tmp_path / "nsjail"), ())
