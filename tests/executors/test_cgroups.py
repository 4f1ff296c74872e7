"""Control groups: the real ones of this machine, and what is read and written in trees made of plain files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from executors import cgroups, instance
from executors.cgroups import Cgroups, Group, GroupUsage

SLEEPER = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
NAMESPACE = os.stat("/proc/self/ns/pid").st_ino


@pytest.fixture
def real() -> Iterator[Cgroups]:
    """Groups that are really enforced; skips where none can be made."""
    found, word = cgroups.find()
    if found is None:
        pytest.skip(word)
    yield found
    found.close()
    assert not any(folder.exists() for folder in found._instances.values())


def start_in(group: Group, command: list[str]) -> subprocess.Popen[bytes]:
    entrances = group.open_entrances()

    def enter() -> None:
        for entrance in entrances:
            os.write(entrance, b"0")

    process = subprocess.Popen(command, preexec_fn=enter, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for entrance in entrances:
        os.close(entrance)
    return process


def finish(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_a_process_moves_with_its_only_thread(real: Cgroups) -> None:
    group = real.create(1 << 30, 100)
    sleeper = start_in(group, SLEEPER)
    for folder in group._folders.values():
        assert str(sleeper.pid) in (folder / "cgroup.procs").read_text().split()
    sleeper.kill()
    finish(sleeper)
    assert group.remove()


def test_version_1_is_entered_by_the_thread_which_waits_for_nobody(tmp_path: Path) -> None:
    folder = make(tmp_path, {"cgroup.procs": "", "tasks": ""})
    entrance = cgroups.open_entrance(folder)
    assert os.readlink(f"/proc/self/fd/{entrance}") == str(folder / "tasks")
    os.close(entrance)


def test_groups_that_somebody_else_has_removed_are_let_go(real: Cgroups) -> None:
    for folder in real._instances.values():
        folder.rmdir()
    real.close()


def test_memory_is_bounded_and_its_use_is_told(real: Cgroups) -> None:
    group = real.create(32 << 20, 100)
    hog = start_in(group, [sys.executable, "-I", "-S", "-c", "x = bytearray(b'x') * (256 << 20)"])
    assert finish(hog)[0] == -signal.SIGKILL
    usage = group.usage()
    assert usage.memory_kills >= 1
    assert usage.process_refusals == 0
    assert usage.memory_peak_bytes is None or 16 << 20 <= usage.memory_peak_bytes <= 32 << 20
    assert usage.cpu_time_s is None or usage.cpu_time_s > 0
    assert group.remove()


def test_processes_are_bounded_and_refusals_are_told(real: Cgroups) -> None:
    group = real.create(256 << 20, 5)
    forks = "import os, time\nwhile os.fork(): pass\ntime.sleep(600)"
    bomb = start_in(group, [sys.executable, "-I", "-S", "-c", forks])
    assert b"BlockingIOError" in finish_first(bomb)
    assert group.usage().process_refusals >= 1
    assert not group.remove(), "its children are still there"
    real.close()
    assert not any(folder.exists() for folder in group._folders.values())


def finish_first(process: subprocess.Popen[bytes]) -> bytes:
    """What the first process says; its children hold the output open."""
    process.wait(60)
    assert process.stdout is not None
    with process.stdout as stream:
        return os.read(stream.fileno(), 1 << 16)


def test_groups_do_not_share_limits(real: Cgroups) -> None:
    small, large = real.create(16 << 20, 3), real.create(512 << 20, 100)
    hog = "x = bytearray(b'x') * (64 << 20); print('had it')"
    codes = [finish(start_in(group, [sys.executable, "-I", "-S", "-c", hog])) for group in (small, large)]
    assert codes == [(-signal.SIGKILL, b""), (0, b"had it\n")]
    assert (small.usage().memory_kills, large.usage().memory_kills) == (1, 0)


def test_processors_are_bounded_and_without_a_bound_there_is_no_folder_for_them(real: Cgroups) -> None:
    if real.cpus_missing is not None:
        pytest.skip(real.cpus_missing)
    spin = "import time\nwhile time.monotonic() < END: pass\nprint(time.process_time())"
    quarter, all_there_is = real.create(256 << 20, 10, 0.25), real.create(256 << 20, 10)
    code, output = finish(
        start_in(quarter, [sys.executable, "-I", "-S", "-c", spin.replace("END", f"{time.monotonic() + 1}")])
    )
    assert (code, float(output) < 0.6) == (0, True), output
    assert real.version == 2 or ("cpu" in quarter._folders and "cpu" not in all_there_is._folders)
    assert quarter.remove()
    assert all_there_is.remove()


@pytest.mark.parametrize(
    ("cpus", "quota_us"),
    [(0.001, 1000), (0.01, 1000), (0.5, 50_000), (1, 100_000), (2.5, 250_000), (1000.0, 100_000_000)],
)
def test_a_quota_is_written_where_its_kernel_reads_it(tmp_path: Path, cpus: float, quota_us: int) -> None:
    one = make(
        tmp_path / "1",
        dict.fromkeys(("memory.limit_in_bytes", "pids.max", "cpu.cfs_period_us", "cpu.cfs_quota_us"), ""),
    )
    Group({"memory": one, "pids": one, "cpu": one}, 1).set_limits(1, 1, cpus)
    assert (read(one)["cpu.cfs_period_us"], read(one)["cpu.cfs_quota_us"]) == ("100000", str(quota_us))
    two = make(tmp_path / "2", dict.fromkeys(("memory.max", "pids.max", "cpu.max"), ""))
    Group({"memory": two, "pids": two}, 2).set_limits(1, 1, cpus)
    assert read(two)["cpu.max"] == f"{quota_us} 100000"


def test_where_processors_cannot_be_limited_the_reason_is_told_and_the_rest_is(tmp_path: Path) -> None:
    parents = {name: make(tmp_path / name, {}) for name in ("memory", "pids")}
    assert Cgroups(parents, 1, "psf-test").cpus_missing == "cgroup v1: the controller for processors is not mounted"
    file = tmp_path / "cpu"
    file.touch()
    made = Cgroups({**parents, "cpu": file}, 1, "psf-test")
    assert made.cpus_missing == "cgroup v1: Not a directory"
    assert "cpu" not in made._instances


def test_closing_kills_what_is_left(real: Cgroups) -> None:
    sleeper = start_in(real.create(256 << 20, 10), SLEEPER)
    real.close()
    assert finish(sleeper)[0] == -signal.SIGKILL
    real.close()


def test_what_a_dead_launcher_left_is_swept_and_nothing_else_is(real: Cgroups) -> None:
    """A name says which process made a folder: its pid namespace, its pid, its start."""
    parents = {controller: folder.parent for controller, folder in real._instances.items()}
    gone = subprocess.Popen(["true"])
    gone.wait()
    living = f"psf-{instance.own_name()}"
    dead, reused = f"psf-{NAMESPACE}-{gone.pid}-1", f"psf-{NAMESPACE}-{os.getpid()}-1"
    elsewhere, foreign = f"psf-{NAMESPACE + 1}-{gone.pid}-1", f"psf-other-{gone.pid}"
    made = [Cgroups(parents, real.version, name) for name in (elsewhere, foreign, dead)]
    (parents["memory"] / reused).mkdir()
    sleepers = [start_in(one.create(256 << 20, 10), SLEEPER) for one in (made[2], made[0])]
    try:
        made.append(Cgroups(parents, real.version, living))
        standing = {name for name in (living, dead, reused, elsewhere, foreign) if (parents["memory"] / name).is_dir()}
        assert standing == {living, elsewhere, foreign}
        assert sleepers[0].wait(60) == -signal.SIGKILL
        assert sleepers[1].poll() is None
    finally:
        for one in made:
            one.close()
        for sleeper in sleepers:
            finish(sleeper)


# -- trees of plain files -------------------------------------------------------------------------------------------------

VERSION_1_MEMBERSHIP = "8:pids:/\n4:memory:/a/b\n3:cpu,cpuacct:/c\n1:name=systemd:/\n0::/unified\n"
BARE = {"cgroup.controllers": "cpuset cpu io memory pids", "cgroup.subtree_control": "", "cgroup.procs": ""}


def make(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_limits_of_version_2_are_written_where_its_kernel_reads_them(tmp_path: Path) -> None:
    folder = make(tmp_path, dict.fromkeys(("memory.max", "memory.swap.max", "pids.max", "cgroup.procs"), ""))
    group = Group({"memory": folder, "pids": folder}, 2)
    group.set_limits(1 << 20, 7)
    assert read(folder) == {"memory.max": "1048576", "memory.swap.max": "0", "pids.max": "7", "cgroup.procs": ""}
    entrances = group.open_entrances()
    assert [os.readlink(f"/proc/self/fd/{entrance}") for entrance in entrances] == [str(folder / "cgroup.procs")]
    os.close(entrances[0])


def test_limits_of_version_1_are_written_where_its_kernel_reads_them(tmp_path: Path) -> None:
    memory = make(tmp_path / "m", dict.fromkeys(("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"), ""))
    pids = make(tmp_path / "p", {"pids.max": ""})
    Group({"memory": memory, "pids": pids}, 1).set_limits(1 << 20, 7)
    assert read(memory) == {"memory.limit_in_bytes": "1048576", "memory.memsw.limit_in_bytes": "1048576"}
    assert read(pids) == {"pids.max": "7"}


@pytest.mark.parametrize("version", [1, 2])
def test_a_kernel_without_swap_accounting_is_no_failure(tmp_path: Path, version: int) -> None:
    folder = make(tmp_path, dict.fromkeys(("memory.max", "memory.limit_in_bytes", "pids.max"), ""))
    Group({"memory": folder, "pids": folder}, version).set_limits(1 << 20, 7)
    assert read(folder)["pids.max"] == "7"


def test_a_limit_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Group({"memory": tmp_path, "pids": tmp_path}, 2).set_limits(1 << 20, 7)


def test_what_version_2_counts_is_understood(tmp_path: Path) -> None:
    files = {
        "memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n",
        "memory.peak": "4096\n",
        "pids.events": "max 5\n",
        "cpu.stat": "usage_usec 1500000\nuser_usec 1\nsystem_usec 2\n",
    }
    group = Group({"memory": make(tmp_path, files), "pids": tmp_path}, 2)
    assert group.usage() == GroupUsage(2, 5, 4096, 1.5)


def test_what_version_1_counts_is_understood(tmp_path: Path) -> None:
    oom = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
    memory = make(tmp_path / "m", {"memory.oom_control": oom, "memory.max_usage_in_bytes": "4096\n"})
    pids = make(tmp_path / "p", {"pids.events": "max 5\n"})
    cpu = make(tmp_path / "c", {"cpuacct.usage": "1500000000\n"})
    assert Group({"memory": memory, "pids": pids, "cpuacct": cpu}, 1).usage() == GroupUsage(2, 5, 4096, 1.5)
    assert Group({"memory": memory, "pids": pids}, 1).usage() == GroupUsage(2, 5, 4096, None)


def test_what_a_kernel_does_not_count_is_not_made_up(tmp_path: Path) -> None:
    usage = Group({"memory": tmp_path, "pids": tmp_path}, 2).usage()
    assert (usage.memory_kills, usage.process_refusals, usage.memory_peak_bytes) == (0, 0, None)


def test_groups_are_made_below_our_own_first_and_then_below_the_root(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text(VERSION_1_MEMBERSHIP)
    root = make(tmp_path / "cgroup", BARE)
    own = cgroups.groups_of(membership)
    assert cgroups._candidates(root, own) == [
        (2, {"memory": root / "unified", "pids": root / "unified"}),
        (2, {"memory": root, "pids": root}),
    ]


def test_of_version_1_each_controller_has_a_place_of_its_own(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text(VERSION_1_MEMBERSHIP)
    for name in ("memory", "pids", "cpuacct", "cpu"):
        (tmp_path / name).mkdir()
    own = cgroups.groups_of(membership)
    assert cgroups._candidates(tmp_path, own) == [
        (
            1,
            {
                "memory": tmp_path / "memory/a/b",
                "pids": tmp_path / "pids",
                "cpuacct": tmp_path / "cpuacct/c",
                "cpu": tmp_path / "cpu/c",
            },
        ),
        (1, {name: tmp_path / name for name in ("memory", "pids", "cpuacct", "cpu")}),
    ]


def test_where_nothing_is_mounted_the_reason_says_so(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("0::/\n")
    assert cgroups.find(tmp_path / "nothing", membership) == (None, "no control group hierarchy is mounted")


def test_where_groups_cannot_be_made_the_reason_says_why_and_nothing_is_left(tmp_path: Path) -> None:
    """Plain folders: no kernel puts files into them."""
    membership = tmp_path / "membership"
    membership.write_text("0::/\n")
    root = make(tmp_path / "cgroup", BARE)
    found, reason = cgroups.find(root, membership)
    assert (found, reason) == (None, "cgroup v2: No such file or directory")
    assert read(root) == BARE
    assert [path for path in root.iterdir() if path.is_dir()] == []


def test_a_version_2_group_hands_its_controllers_on(tmp_path: Path) -> None:
    """Only those who have them may: else the parent is asked first."""
    every = "+memory +pids +cpu"
    for controllers, asked in (("cpu memory pids", ""), ("cpu", every)):
        parent = make(tmp_path / (controllers or "none"), BARE)
        folder = make(parent / "psf-test", {"cgroup.controllers": controllers, "cgroup.subtree_control": ""})
        Cgroups({"memory": parent, "pids": parent}, 2, "psf-test")
        assert read(folder)["cgroup.subtree_control"] == every
        assert read(parent)["cgroup.subtree_control"] == asked
