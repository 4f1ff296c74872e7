"""Containers of one run: chosen where they must be, gone after it, ended with their server however it goes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from executors import sandboxes
from executors.docker import DockerSandbox, start
from executors.docker_exec import DockerExecSandbox
from executors.errors import OptionRefused, SandboxBroken, SandboxUnavailable
from executors.interfaces import Job, Sandbox
from executors.sandboxes import Options
from executors.testing.trial import LIMITS, Trial, TrialFixtures
from store.files import Owner
from store.snapshot import Ending
from store.workspace import OverlayMount
from tests.dockerd import image
from tests.dockerd.daemon import TestDaemon, with_client
from tests.executors import bench, docker_bench
from tests.executors.docker_bench import containers, gone

SERVER = """
import asyncio, sys
from pathlib import Path
from executors.docker_container import DockerSettings
from executors.docker_exec import DockerExecSandbox
from executors.interfaces import Job
from executors.testing.trial import LIMITS
from store.workspace import BindMount
from tests.executors import bench

async def serve(url, folder):
    settings = DockerSettings("psf-test:machine", Path(folder) / "probes", base_url=url, runtime="runc")
    sandbox = await DockerExecSandbox.start(bench.profile(), settings)
    async with sandbox.open(BindMount(folder + "/work"), LIMITS) as cell:
        print("ready", flush=True)
        await cell.run(Job(("sh", "-c", "while :; do echo x >> beat; sleep 0.02; done"), (), b"", LIMITS))

asyncio.run(serve(*sys.argv[1:]))
"""


class TestContainers(TrialFixtures):
    @pytest.fixture
    async def sandbox(self, docker_daemon: TestDaemon, tmp_path: Path) -> AsyncIterator[Sandbox]:
        settings = docker_bench.settings(docker_daemon, tmp_path, runtime="runc")
        sandbox = await DockerExecSandbox.start(bench.profile(), settings)
        yield sandbox
        await sandbox.close()
        assert containers(docker_daemon) == []
        assert list((tmp_path / "probes").iterdir()) == []

    @pytest.fixture
    def owner(self) -> Owner | None:
        return bench.owner()

    async def test_a_container_is_gone_after_its_run(self, trial: Trial, docker_daemon: TestDaemon) -> None:
        assert (await trial.shell("sleep 600 & exit 4")).exit_code == 4
        assert containers(docker_daemon) == []

    async def test_a_run_has_the_same_process_number_each_time(self, trial: Trial) -> None:
        """Else a program that prints it would have another outcome each time."""
        assert len({(await trial.run("sh", "-c", "echo $$")).stdout.data for _ in range(3)}) == 1

    async def test_a_container_that_is_ended_from_outside_is_breakage_and_the_next_run_works(
        self, trial: Trial, docker_daemon: TestDaemon
    ) -> None:
        running = asyncio.ensure_future(trial.shell("touch begun; sleep 600"))
        while not (trial.work / "begun").exists():
            await asyncio.sleep(0.01)
        (identity,) = containers(docker_daemon)
        with_client(docker_daemon.url, lambda api: api.kill(identity))
        with pytest.raises(SandboxBroken, match="ended from outside"):
            await running
        assert await trial.says("print('works')") == "works"

    async def test_without_its_control_group_in_sight_a_death_for_memory_is_asked_of_the_daemon(
        self, trial: Trial, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("executors.docker_groups._ROOT", Path("/no/such/folder"))
        limits = msgspec.structs.replace(LIMITS, memory_bytes=64 << 20)
        result = await trial.python("x = bytearray(b'x') * (512 << 20)", limits=limits)
        assert (result.ending, result.hit) == (Ending.OUT_OF_MEMORY, ("memory",))
        assert (result.usage.cpu_time_s, result.usage.memory_peak_bytes) == (None, None)
        assert (await trial.shell("kill -9 $$", limits=limits)).ending is Ending.SIGNALLED

    async def test_processor_time_of_all_processes_together_is_limited(self, trial: Trial) -> None:
        source = "import os\nfor _ in range(2): os.fork()\nwhile True: pass"
        limits = msgspec.structs.replace(LIMITS, cpu_time_s=2, cpus=1.0)
        result = await trial.python(source, limits=limits)
        assert result.ending is Ending.TIMED_OUT
        assert result.usage.cpu_time_s is not None
        assert 2 <= result.usage.cpu_time_s < 4

    async def test_a_full_work_directory_ends_a_run(self, trial: Trial) -> None:
        limits = msgspec.structs.replace(LIMITS, disk_bytes=1 << 20)
        result = await trial.shell("sleep 1; head -c 3000000 /dev/zero > big; sleep 15", limits=limits)
        assert (result.ending, result.hit) == (Ending.DISK_LIMIT, ("disk",))

    @pytest.mark.parametrize("place", ["/work", "/tmp", "/home/sandbox"])
    async def test_a_place_full_of_files_without_a_name_ends_a_run(self, trial: Trial, place: str) -> None:
        limits = msgspec.structs.replace(LIMITS, disk_bytes=2 << 20, scratch_bytes=2 << 20)
        script = f"sleep 1; cd {place}; exec 3> x; rm x; head -c 3000000 /dev/zero >&3; sleep 15"
        result = await trial.shell(script, limits=limits)
        assert (result.ending, result.hit) == (Ending.DISK_LIMIT, ("disk",))

    async def test_two_runs_of_a_cell_share_an_overlay(self, trial: Trial, sandbox: Sandbox) -> None:
        if sandbox.capabilities.workspace != "overlay":
            pytest.skip("no overlay can be mounted here")
        for name in ("lower", "upper", "work"):
            (trial.work / name).mkdir()
            os.chown(trial.work / name, bench.profile().user.uid, bench.profile().user.gid)
        (trial.work / "lower" / "given").write_text("below")
        mount = OverlayMount(str(trial.work), ("lower",), "upper", "work")
        async with sandbox.open(mount, LIMITS) as cell:
            await cell.run(Job(("sh", "-c", "echo above > made"), (), b"", LIMITS))
            result = await cell.run(Job(("cat", "given", "made"), (), b"", LIMITS))
        assert result.stdout.data == b"belowabove\n"
        assert sorted(os.listdir(trial.work / "upper")) == ["made"]


async def test_containers_end_with_a_server_that_is_killed(docker_daemon: TestDaemon, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    os.chown(work, bench.profile().user.uid, bench.profile().user.gid)
    command = [sys.executable, "-c", SERVER, docker_daemon.url, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout.readline() == b"ready\n"
            while not (work / "beat").exists():
                await asyncio.sleep(0.02)
        finally:
            server.send_signal(signal.SIGKILL)
    await gone(docker_daemon)
    size_bytes = (work / "beat").stat().st_size
    await asyncio.sleep(0.1)
    assert (work / "beat").stat().st_size == size_bytes
    assert len(list((tmp_path / "probes").iterdir())) == 1
    sandbox = await start(bench.profile(), options(docker_daemon, tmp_path, runtime="runc"))
    try:
        assert len(list((tmp_path / "probes").iterdir())) == 1
    finally:
        await sandbox.close()
    assert list((tmp_path / "probes").iterdir()) == []


def options(daemon: TestDaemon, folder: Path, **settings: str) -> Options:
    return Options(folder / "probes", "copy", {"image": image.NAME, "base_url": daemon.url, **settings})


@pytest.mark.parametrize(
    ("settings", "kind"), [({}, DockerSandbox), ({"runtime": "runc"}, DockerExecSandbox)], ids=["root", "a runtime"]
)
async def test_containers_are_entered_unless_a_runtime_is_chosen(
    docker_daemon: TestDaemon, tmp_path: Path, settings: dict[str, str], kind: type
) -> None:
    sandbox = await start(bench.profile(), options(docker_daemon, tmp_path, **settings))
    await sandbox.close()
    assert type(sandbox) is kind


async def refusal(settings: Options) -> str:
    with pytest.raises(SandboxUnavailable) as raised:
        await start(bench.profile(), settings)
    assert isinstance(raised.value, OptionRefused) == bool({"runtime", "color"} & set(settings.settings))
    return str(raised.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"runtime": "runsc"}, "no runtime 'runsc' (it has "),
        ({"runtime": "runsc"}, "`sudo runsc install && sudo systemctl restart docker`"),
        ({"runtime": "kata"}, '{"runtimes": {"kata": {"path": "/usr/bin/kata"}}}'),
        ({"color": "red"}, "docker has no option 'color'; there is image, base_url, work_dir, runtime"),
    ],
)
async def test_a_runtime_or_option_that_is_not_there_is_refused_and_nothing_else_taken(
    docker_daemon: TestDaemon, tmp_path: Path, settings: dict[str, str], words: str
) -> None:
    assert words in await refusal(options(docker_daemon, tmp_path, **settings))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"SecurityOptions": ["name=rootless"]}, r"maps users \(rootless\)"),
        ({"SecurityOptions": ["name=seccomp,profile=default", "name=userns"]}, r"maps users \(userns\)"),
    ],
)
async def test_a_daemon_that_maps_users_is_refused(
    docker_daemon: TestDaemon, tmp_path: Path, facts: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docker.APIClient.info", lambda _: {"Runtimes": {"runc": {}}, **facts})
    settings = docker_bench.settings(docker_daemon, tmp_path, runtime="runc")
    with pytest.raises(SandboxUnavailable, match=words):
        await DockerExecSandbox.start(bench.profile(), settings)


async def test_a_daemon_that_does_not_see_our_folders_is_refused(
    docker_daemon: TestDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one in another container: it shows programs folders of its own, by the same names."""
    monkeypatch.setattr(
        "executors.docker_exec_container.mounts", lambda settings, work, scratch, texts: elsewhere(scratch)
    )
    settings = docker_bench.settings(docker_daemon, tmp_path, runtime="runc")
    with pytest.raises(SandboxUnavailable, match="must be on one machine"):
        await DockerExecSandbox.start(bench.profile(), settings)
    assert containers(docker_daemon) == []


def elsewhere(scratch: str) -> list[dict[str, Any]]:
    return [{"Type": "bind", "Source": f"{scratch}/tmp", "Target": "/work"}]


async def test_the_identity_tells_runtimes_and_users_apart(docker_daemon: TestDaemon, tmp_path: Path) -> None:
    identities = []
    for runtime in ("runc", "runc", "io.containerd.runc.v2"):
        sandbox = await DockerExecSandbox.start(
            bench.profile(), docker_bench.settings(docker_daemon, tmp_path, runtime=runtime)
        )
        identities.append(sandboxes.system_identity(sandbox, bench.profile()))
        await sandbox.close()
    assert identities[0] == identities[1] != identities[2]
    async with docker_bench.docker(docker_daemon, tmp_path) as entered:
        assert sandboxes.system_identity(entered, bench.profile()) == entered.identity() not in identities
