"""Containers' lives: used again while clean, thrown away when not, gone with their server however it goes."""

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

from executors import instance
from executors.docker import DockerSandbox
from executors.docker_container import INIT_COMMAND, SERVER_LABEL
from executors.errors import SandboxBroken, SandboxUnavailable
from executors.interfaces import Job, Sandbox
from executors.paths import SCRATCH
from executors.testing.trial import LIMITS, Trial, TrialFixtures
from store.files import Owner
from store.snapshot import Ending
from store.workspace import BindMount
from tests.dockerd import image
from tests.dockerd.daemon import TestDaemon, with_client
from tests.executors import bench, docker_bench
from tests.executors.docker_bench import containers, gone

SERVER = """
import asyncio, sys
from pathlib import Path
from executors.docker import DockerSandbox, DockerSettings
from executors.interfaces import Job
from executors.testing.trial import LIMITS
from store.workspace import BindMount
from tests.executors import bench

async def serve(url, folder):
    settings = DockerSettings("psf-test:machine", Path(folder) / "probes", base_url=url)
    sandbox = await DockerSandbox.start(bench.profile(), settings)
    async with sandbox.open(BindMount(folder + "/work"), LIMITS) as cell:
        print("ready", flush=True)
        await cell.run(Job(("sh", "-c", "while :; do echo x >> beat; sleep 0.02; done"), (), b"", LIMITS))

asyncio.run(serve(*sys.argv[1:]))
"""


def command_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


class TestContainers(TrialFixtures):
    @pytest.fixture
    async def sandbox(self, docker_daemon: TestDaemon, tmp_path: Path) -> AsyncIterator[Sandbox]:
        async with docker_bench.docker(docker_daemon, tmp_path, warm_containers=1) as sandbox:
            yield sandbox
        await gone(docker_daemon)

    @pytest.fixture
    def owner(self) -> Owner | None:
        return bench.owner()

    async def test_a_container_serves_one_cell_after_the_other(self, trial: Trial, docker_daemon: TestDaemon) -> None:
        before = containers(docker_daemon)
        for code in (0, 1, 2):
            assert (await trial.shell(f"sleep 600 & exit {code}")).exit_code == code
        assert containers(docker_daemon) == before
        assert len(before) == 1

    async def test_no_more_stay_warm_than_was_asked_for(self, trial: Trial, docker_daemon: TestDaemon) -> None:
        await asyncio.gather(*(trial.shell("sleep 0.2") for _ in range(3)))
        assert len(containers(docker_daemon)) == 1

    async def test_a_run_finds_nothing_of_the_run_before(self, trial: Trial) -> None:
        """Not its files in any writable place, not its shared memory, queues and semaphores, not where it got to in numbers."""
        look = """
import glob, os
print(os.getpid(), os.getppid(), os.fork() or os._exit(0))
print(open('/proc/self/cgroup').read())
for name in ('shm', 'sem', 'msg'):
    print(len(open('/proc/sysvipc/' + name).readlines()))
print([os.listdir(folder) for folder in FOLDERS])
"""
        look = look.replace("FOLDERS", repr([*SCRATCH, "/dev/shm"]))
        leave = """
import ctypes, os
libc = ctypes.CDLL(None)
assert min(libc.shmget(7, 4096, 0o1666), libc.msgget(7, 0o1666), libc.semget(7, 1, 0o1666)) >= 0
for folder in FOLDERS:
    open(folder + '/left', 'w').close()
for _ in range(50):
    os.fork() or os._exit(0)
    os.wait()
""".replace("FOLDERS", repr([*SCRATCH, "/dev/shm"]))
        before = await trial.says(look)
        await trial.says(leave)
        assert await trial.says(look) == before
        assert before.startswith("2 ")

    async def test_nothing_is_told_of_the_init_and_the_supervisor(self, trial: Trial) -> None:
        """What /proc tells anybody of a process (command line, mounts, connections) would be the host's."""
        source = """
import os
print([name for name in os.listdir('/proc') if name.isdecimal()])
for pid in (1, os.getppid()):
    for name in ('cmdline', 'mountinfo', 'net/tcp', 'cgroup', 'status'):
        try:
            print(pid, name, open(f'/proc/{pid}/{name}').read())
        except PermissionError:
            pass
print(os.path.exists('/sys/kernel'), os.path.exists('/dev/mqueue'))
"""
        assert await trial.says(source) == "['1', '2', '30']\nFalse False"

    async def test_no_place_for_message_queues_is_shared(self, trial: Trial) -> None:
        result = await trial.shell("! test -e /dev/mqueue && ! grep mqueue /proc/self/mountinfo")
        assert (result.exit_code, result.stdout.data) == (0, b"")

    async def test_the_init_is_confined_by_docker_too(self, trial: Trial, docker_daemon: TestDaemon) -> None:
        (identity,) = containers(docker_daemon)
        pid = with_client(docker_daemon.url, lambda api: api.inspect_container(identity))["State"]["Pid"]
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert set(status["Uid"].split()) == {"65534"}

    async def test_dockers_limits_stay_above_those_of_a_run(self, trial: Trial, docker_daemon: TestDaemon) -> None:
        (identity,) = containers(docker_daemon)
        running = asyncio.ensure_future(trial.run("sleep", "611"))
        while not (pids := [pid for pid in os.listdir("/proc") if pid.isdecimal() and command_of(pid) == "sleep 611"]):
            await asyncio.sleep(0.01)
        lines = [line.split(":") for line in Path(f"/proc/{pids[0]}/cgroup").read_text().splitlines()]
        groups = {controller: path for _, controllers, path in lines for controller in controllers.split(",")}
        running.cancel()
        unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        for controller in [""] if unified else ["memory", "pids", "cpu", "devices"]:
            assert identity in groups[controller]

    async def test_a_container_that_is_ended_from_outside_is_breakage_and_the_next_run_works(
        self, trial: Trial, docker_daemon: TestDaemon
    ) -> None:
        (identity,) = containers(docker_daemon)
        running = asyncio.ensure_future(trial.shell("touch begun; sleep 600"))
        while not (trial.work / "begun").exists():
            await asyncio.sleep(0.01)
        with_client(docker_daemon.url, lambda api: api.kill(identity))
        with pytest.raises(SandboxBroken, match="server's log"):
            await running
        assert await trial.says("print('works')") == "works"
        assert containers(docker_daemon) != [identity]

    async def test_a_warm_container_that_has_ended_is_not_used(self, trial: Trial, docker_daemon: TestDaemon) -> None:
        (identity,) = containers(docker_daemon)
        with_client(docker_daemon.url, lambda api: api.kill(identity))
        await asyncio.sleep(0.2)
        assert await trial.says("print('works')") == "works"

    async def test_a_launcher_that_dies_ends_its_runs_and_another_takes_its_place(
        self, trial: Trial, sandbox: DockerSandbox
    ) -> None:
        running = asyncio.ensure_future(trial.shell("touch begun; sleep 600"))
        while not (trial.work / "begun").exists():
            await asyncio.sleep(0.01)
        sandbox._launcher._process.kill()
        with pytest.raises(SandboxBroken):
            await running
        assert await trial.says("print('works')") == "works"


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
            assert len(containers(docker_daemon)) == 1
        finally:
            server.send_signal(signal.SIGKILL)
    await gone(docker_daemon)
    size_bytes = (work / "beat").stat().st_size
    await asyncio.sleep(0.1)
    assert (work / "beat").stat().st_size == size_bytes


async def test_what_a_dead_server_left_is_removed_at_start_and_nothing_else(
    docker_daemon: TestDaemon, tmp_path: Path
) -> None:
    namespace, _, ticks = instance.own_name().split("-")
    owners = {"dead": f"{namespace}-{os.getpid()}-{int(ticks) + 1}", "alive": instance.own_name(), "elsewhere": "1-1-1"}

    def leave(api: Any) -> dict[str, str]:
        made = {}
        for name, owner in owners.items():
            labels = {SERVER_LABEL: owner, "left": "yes"}
            made[name] = api.create_container(image.NAME, list(INIT_COMMAND), labels=labels, network_disabled=True)[
                "Id"
            ]
        return made

    made = with_client(docker_daemon.url, leave)
    try:
        async with docker_bench.docker(docker_daemon, tmp_path):
            assert containers(docker_daemon, left="yes") == sorted([made["alive"], made["elsewhere"]])
    finally:
        for identity in containers(docker_daemon, left="yes"):
            with_client(docker_daemon.url, lambda api, identity=identity: api.remove_container(identity, force=True))


async def test_programs_may_work_elsewhere(docker_daemon: TestDaemon, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    os.chown(work, bench.profile().user.uid, bench.profile().user.gid)
    async with (
        docker_bench.docker(docker_daemon, tmp_path, work_dir="/srv/here") as sandbox,
        sandbox.open(BindMount(str(work)), LIMITS) as cell,
    ):
        result = await cell.run(Job(("sh", "-c", "pwd; echo x > made; echo $PYTHONUSERBASE"), (), b"", LIMITS))
        little = msgspec.structs.replace(LIMITS, disk_bytes=1 << 20)
        nameless = "sleep 1; exec 3> full; rm full; head -c 3000000 /dev/zero >&3; sleep 15"
        greedy = await cell.run(Job(("sh", "-c", nameless), (), b"", little))
    assert (result.ending, result.stdout.data) == (Ending.EXITED, b"/srv/here\n/srv/here/.local\n")
    assert (greedy.ending, greedy.hit) == (Ending.DISK_LIMIT, ("disk",))
    assert (work / "made").read_text() == "x\n"


async def test_an_image_without_a_shell_is_refused(docker_daemon: TestDaemon, tmp_path: Path) -> None:
    with_client(
        docker_daemon.url, lambda api: api.import_image_from_data(bytes(1024), repository="psf-test", tag="empty")
    )
    with pytest.raises(SandboxUnavailable, match=r"its image has no /bin/sh, .* set `docker.image`"):
        async with docker_bench.docker(docker_daemon, tmp_path, image="psf-test:empty"):
            pass
    await gone(docker_daemon)


async def test_the_identity_is_the_images(docker_daemon: TestDaemon, tmp_path: Path) -> None:
    identities = []
    for fields in ({}, {}, {"work_dir": "/srv"}):
        async with docker_bench.docker(docker_daemon, tmp_path, **fields) as sandbox:
            identities.append(sandbox.identity())
    assert identities[0] == identities[1] != identities[2]


async def test_a_daemon_may_go_and_come_back(docker_daemon: TestDaemon, tmp_path: Path) -> None:
    """Without it warm containers that survived do their work, new ones are breakage; with it again, all is well."""
    work = tmp_path / "work"
    work.mkdir()
    os.chown(work, bench.profile().user.uid, bench.profile().user.gid)

    async def says(sandbox: DockerSandbox) -> bytes:
        async with sandbox.open(BindMount(str(work)), LIMITS) as cell:
            return (await cell.run(Job(("echo", "works"), (), b"", LIMITS))).stdout.data

    async with docker_bench.docker(docker_daemon, tmp_path) as sandbox:
        docker_daemon.stop()
        try:
            with pytest.raises(SandboxBroken) as raised:
                await says(sandbox)
            assert "no Docker daemon answers" in (raised.value.detail or "")
        finally:
            docker_daemon.start()
        assert await says(sandbox) == b"works\n"
    await gone(docker_daemon)
