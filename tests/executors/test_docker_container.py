"""What containers are made of: hardening, limits and the one list of refused system calls. No daemon."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from executors import seccomp
from executors.docker_container import SERVER_LABEL, DockerSettings, configuration, fault, seccomp_profile
from tests.executors import bench

SETTINGS = DockerSettings("image", Path("/probes"))


def host(**fields: Any) -> dict[str, Any]:
    settings = msgspec.structs.replace(SETTINGS, **fields)
    made: dict[str, Any] = configuration(bench.profile(), settings, "server")["HostConfig"]
    return made


def test_nothing_is_given_that_a_program_does_not_need() -> None:
    made = host()
    assert (made["NetworkMode"], made["IpcMode"], made["CgroupnsMode"]) == ("none", "private", "private")
    assert made["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in made["SecurityOpt"]
    assert made["ReadonlyRootfs"]
    assert made["LogConfig"] == {"Type": "none", "Config": {}}
    assert not {"Binds", "Mounts", "Devices", "Privileged", "CapAdd", "PortBindings", "VolumesFrom", "PidMode"} & set(
        made
    )
    assert {"/proc/kcore", "/proc/kallsyms", "/proc/timer_list"} <= set(made["MaskedPaths"])
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(made["ReadonlyPaths"])
    assert configuration(bench.profile(), SETTINGS, "server")["User"] == "65534:65534"


def test_limits_are_those_of_the_settings_and_there_is_no_swap() -> None:
    made = host(memory_bytes=1 << 30, processes=99, cpus=1.5, runtime="runsc")
    assert (made["Memory"], made["MemorySwap"], made["PidsLimit"], made["NanoCpus"], made["Runtime"]) == (
        1 << 30, 1 << 30, 99, 1_500_000_000, "runsc",
    )  # fmt: skip


def test_labels_of_the_settings_do_not_hide_whose_a_container_is() -> None:
    settings = msgspec.structs.replace(SETTINGS, labels=(("team", "a"), (SERVER_LABEL, "forged")))
    assert configuration(bench.profile(), settings, "server")["Labels"] == {"team": "a", SERVER_LABEL: "server"}


@pytest.mark.parametrize("machine", seccomp.ARCHITECTURES)
def test_dockers_filter_refuses_what_the_other_sandboxes_filter_refuses(machine: str) -> None:
    profile = seccomp_profile(machine)
    whole = {rule["names"][0]: rule["errnoRet"] for rule in profile["syscalls"] if "args" not in rule}
    assert whole.pop("clone3") == errno.ENOSYS
    assert set(whole) == {name.replace("sysctl", "_sysctl") for name in seccomp.ARCHITECTURES[machine].denied}
    assert {"io_uring_setup", "bpf", "userfaultfd", "keyctl"} <= set(whole)
    assert set(whole.values()) == {errno.EPERM}
    tested = {
        call: [rule["args"] for rule in profile["syscalls"] if rule["names"] == [call]] for call in ("clone", "ioctl")
    }
    assert sum(test["value"] for (test,) in tested["clone"]) == seccomp.NAMESPACE_FLAGS
    assert [test["value"] for (test,) in tested["ioctl"]] == list(seccomp.TERMINAL_REQUESTS)
    assert profile["architectures"] == [f"SCMP_ARCH_{machine.upper()}"]


@pytest.mark.parametrize("family", range(48))
@pytest.mark.parametrize("protocol", [0, 1, 2, 6, 17, 58, 132, 255, 2**64 - 1])
def test_the_kinds_of_sockets_are_those_of_the_other_filter(family: int, protocol: int) -> None:
    compare = {"SCMP_CMP_EQ": int.__eq__, "SCMP_CMP_GT": int.__gt__}
    arguments = (family, 1, protocol)
    refusals = {
        rule["errnoRet"]
        for rule in seccomp_profile("x86_64")["syscalls"]
        if rule["names"] == ["socket"]
        and all(compare[test["op"]](arguments[test["index"]], test["value"]) for test in rule["args"])
    }
    if family == seccomp.UNIX_FAMILY or protocol in seccomp.SOCKET_PROTOCOLS.get(family, ()):
        assert not refusals
    else:
        assert refusals == {errno.EPROTONOSUPPORT if family in seccomp.SOCKET_PROTOCOLS else errno.EAFNOSUPPORT}


def test_the_filter_goes_to_docker_as_json() -> None:
    (option,) = (option for option in host()["SecurityOpt"] if option.startswith("seccomp="))
    assert json.loads(option.removeprefix("seccomp=")) == seccomp_profile()


@pytest.mark.parametrize("work_dir", ["/work", "/srv/work", "/app", "/home/me"])
def test_programs_may_work_in_a_folder_of_their_own(work_dir: str) -> None:
    assert fault(msgspec.structs.replace(SETTINGS, work_dir=work_dir)) is None


@pytest.mark.parametrize(
    "work_dir",
    ["", "work", "/", "//x", "/a/../b", "/a:b", "/tmp", "/tmp/x", "/home", "/etc", "/usr/x", "/proc", "/var"],
)
def test_a_work_directory_in_the_way_of_something_else_is_refused(work_dir: str) -> None:
    assert "work_dir" in (fault(msgspec.structs.replace(SETTINGS, work_dir=work_dir)) or "")


def test_a_number_of_containers_below_none_is_refused() -> None:
    assert "warm_containers" in (fault(msgspec.structs.replace(SETTINGS, warm_containers=-1)) or "")
