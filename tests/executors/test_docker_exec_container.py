"""What the container of one run is made of, and the folders of the host that it sees. No daemon."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from executors import instance
from executors.docker_container import DockerSettings
from executors.docker_exec_container import (
    MEMORY_BYTES_MIN,
    PROCESSES_MIN,
    Machine,
    command,
    configuration,
    mounts,
    texts,
)
from executors.docker_exec_folders import HostFolders
from executors.paths import SCRATCH
from executors.profile import User
from store.snapshot import Limits, Network
from store.workspace import BindMount, OverlayMount
from tests.executors import bench

SETTINGS = DockerSettings("image", Path("/probes"), runtime="runsc", memory_bytes=4 << 30, processes=500, cpus=2.0)
MACHINE = Machine(processors=4, open_files=5000)
NOBODY = User(4711, 4712)


def host(limits: Limits) -> dict[str, Any]:
    made: dict[str, Any] = configuration(bench.profile(), SETTINGS, "server", limits, [], MACHINE)["HostConfig"]
    return made


def test_a_run_gets_its_own_limits_below_those_of_every_container() -> None:
    made = host(Limits(memory_bytes=1 << 30, processes=50, cpus=0.5, open_files=777))
    assert (made["Memory"], made["MemorySwap"], made["PidsLimit"], made["NanoCpus"]) == (
        1 << 30,
        1 << 30,
        52,
        5 * 10**8,
    )
    assert {"Name": "nofile", "Soft": 777, "Hard": 777} in made["Ulimits"]
    most = host(Limits(memory_bytes=64 << 30, processes=10_000))
    assert (most["Memory"], most["PidsLimit"], most["NanoCpus"]) == (4 << 30, 500, 2 * 10**9)


def test_a_container_has_room_to_start_however_little_a_run_may_use() -> None:
    made = host(Limits(memory_bytes=4096, processes=1))
    assert (made["Memory"], made["PidsLimit"]) == (MEMORY_BYTES_MIN, PROCESSES_MIN)


def test_what_is_too_little_for_a_runtime_is_set_by_the_programs_shell() -> None:
    made = host(Limits(open_files=32, file_bytes=1000))
    assert {"Name": "nofile", "Soft": 256, "Hard": 256} in made["Ulimits"]
    assert {"Name": "fsize", "Soft": 1 << 20, "Hard": 1 << 20} in made["Ulimits"]
    assert command(("true",), Limits(open_files=32, file_bytes=1000))[3] == "ulimit -n 32; ulimit -f 2"
    assert command(("true",), Limits())[3] == ":"


def test_more_than_the_machine_has_is_as_much_as_it_has() -> None:
    alone = msgspec.structs.replace(SETTINGS, cpus=None)
    made = configuration(bench.profile(), alone, "server", Limits(cpus=4.0, open_files=6000), [], MACHINE)["HostConfig"]
    assert made["NanoCpus"] == 0
    assert {"Name": "nofile", "Soft": 5000, "Hard": 5000} in made["Ulimits"]


def test_the_walls_are_those_of_every_container() -> None:
    made = host(Limits())
    assert (made["NetworkMode"], made["CapDrop"], made["ReadonlyRootfs"]) == ("none", ["ALL"], True)
    assert made["SecurityOpt"][0] == "no-new-privileges"
    assert made["Runtime"] == "runsc"
    assert {"/proc/kcore", "/sys", *bench.profile().masked} <= set(made["MaskedPaths"])
    assert "Tmpfs" not in made


def test_without_a_network_there_are_no_sockets_for_one() -> None:
    def refused(network: Network) -> dict[int, int]:
        (option,) = (text for text in host(Limits(network=network))["SecurityOpt"] if text.startswith("seccomp="))
        rules = json.loads(option.removeprefix("seccomp="))["syscalls"]
        tested = [(rule["args"], rule["errnoRet"]) for rule in rules if rule["names"] == ["socket"]]
        return {
            tests[0]["value"]: error for tests, error in tested if len(tests) == 1 and tests[0]["op"] == "SCMP_CMP_EQ"
        }

    loopback, none = refused("loopback"), refused("none")
    assert {family: error for family, error in none.items() if family not in loopback} == {
        2: errno.ENETUNREACH,
        10: errno.ENETUNREACH,
    }
    assert loopback.items() <= none.items()


def test_only_work_and_scratch_can_be_written() -> None:
    seen = mounts(SETTINGS, BindMount("/store/1/copy"), "/store/scratch", {"/etc/passwd": "/store/text-0"})
    assert [place["Target"] for place in seen if place["ReadOnly"]] == ["/etc/passwd"]
    assert {place["Target"]: place["Source"] for place in seen if not place["ReadOnly"]} == {
        "/work": "/store/1/copy",
        **{path: f"/store/scratch/{name.decode()}" for path, name in SCRATCH.items()},
    }
    # What the host mounts there later must not come in, nor what is mounted inside go out.
    assert {place["BindOptions"]["Propagation"] for place in seen} == {"rprivate"}


def test_an_overlay_is_a_volume_without_a_name_that_can_be_mounted_again() -> None:
    (work,) = (
        place
        for place in mounts(SETTINGS, OverlayMount("/store/1", ("delta", "../base"), "upper", "work"), "/scratch", {})
        if place["Target"] == "/work"
    )
    assert "Source" not in work
    options = work["VolumeOptions"]["DriverConfig"]["Options"]
    assert options["o"].split(",") == [
        "lowerdir=/store/1/delta:/store/1/../base", "upperdir=/store/1/upper", "workdir=/store/1/work", "redirect_dir=on", "metacopy=off",
    ]  # fmt: skip


def test_arguments_are_never_a_part_of_the_shells_script() -> None:
    hostile = ("$(touch x)", "-c", "'; exit", "")
    assert command(hostile, Limits())[4:] == list(hostile)
    assert command(hostile, Limits())[:4] == [*command((), Limits())[:4]]


def test_the_account_that_programs_find_is_the_one_they_have() -> None:
    made = texts(msgspec.structs.replace(bench.profile(), user=NOBODY))
    assert "sandbox:x:4711:4712:" in made["/etc/passwd"]
    assert "sandbox:x:4712:" in made["/etc/group"]
    assert set(made) == {path for path, _ in bench.profile().texts if path.startswith("/etc/")}


@pytest.fixture
def folders(tmp_path: Path) -> HostFolders:
    return HostFolders(tmp_path, {"/etc/one": "1"}, bench.profile().user)


def test_a_cell_gets_empty_scratch_that_belongs_to_programs(folders: HostFolders) -> None:
    made = folders.make_scratch()
    assert sorted(path.name.encode() for path in made.iterdir()) == sorted(SCRATCH.values())
    assert {path.stat().st_uid for path in made.iterdir()} == {bench.profile().user.uid}
    folders.remove(made)
    assert not made.exists()
    folders.remove(made)


def test_folders_of_dead_servers_are_removed_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    namespace, pid, ticks = instance.own_name().split("-")
    dead = tmp_path / f"docker-{namespace}-{pid}-{int(ticks) + 1}-feed"
    living = HostFolders(tmp_path, {}, bench.profile().user)
    dead.mkdir()
    (dead / "left").write_text("x")
    (tmp_path / "docker-notes").mkdir()
    second = HostFolders(tmp_path, {"/etc/one": "1"}, bench.profile().user)
    assert not dead.exists()
    assert (tmp_path / "docker-notes").exists()
    living.make_scratch()
    assert Path(second.texts["/etc/one"]).read_text() == "1"
    second.remove()
    living.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["docker-notes"]
