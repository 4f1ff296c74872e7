"""What a container is made of: the profile and the settings in Docker's terms. Pure."""

from __future__ import annotations

import errno
import json
import platform
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from executors import seccomp
from executors.egress import Egress
from executors.interfaces import System
from executors.paths import SCRATCH, WORK
from executors.profile import Profile

SERVER_LABEL = "psf.server"
INIT_COMMAND = ("/bin/sh", "-c", "read -r _")
"""Lives as long as its stdin is open, that is as long as the server."""
RUNC = "runc"
OWN_IMAGE = "psf/pybash"
MEMORY_BYTES, PROCESSES = 8 << 30, 4096
SPARE_PROCESSES = 64
"""Of a container, beside those of its run."""
WORK_DIR_CHARACTERS_MAX = 200
_INIT_USER = "65534:65534"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PLACEHOLDER = "ro,nosuid,nodev,noexec,size=4k,nr_inodes=2,mode=0555"
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kallsyms", "/proc/kcore", "/proc/key-users", "/proc/latency_stats", "/proc/modules", "/proc/sched_debug", "/proc/scsi",
    "/proc/slabinfo", "/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo",
)  # fmt: skip
_LIBRARY_NAMES = {"sysctl": "_sysctl"}
"""What libseccomp, and so Docker, calls a call that has another name there."""
_TAKEN = ("/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr")
_INTERNET = (2, 10)
"""AF_INET and AF_INET6."""
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class DockerSettings(msgspec.Struct, frozen=True):
    """`base_url`: the daemon's socket (None: DOCKER_HOST, else Docker's own default).

    `memory_bytes`, `processes` and `cpus` (None: all) are Docker's own limits on a container, a ceiling above those of each
    run. `warm_containers` that nobody uses are kept for the next cell. `labels` are put on every container beside psf's own.
    `pull`: whether an image that is not here may be fetched from its registry. `workspace` and `probe_parent`: as for
    bubblewrap. `runtime`: who makes the containers, None for runc; one that is named is not entered (executors.docker_exec).
    """

    image: str
    probe_parent: Path
    workspace: Literal["auto", "overlay", "copy"] = "auto"
    base_url: str | None = None
    runtime: str | None = None
    work_dir: str = WORK
    labels: tuple[tuple[str, str], ...] = ()
    warm_containers: int = 4
    memory_bytes: int = MEMORY_BYTES
    processes: int = PROCESSES
    cpus: float | None = None
    pull: Literal["never", "missing"] = "never"
    patience_s: float = 60.0
    """How long the daemon may take for one answer."""
    egress: Egress = Egress("docker")


def own_system(given: Mapping[str, str]) -> System:
    """The image and the work directory of all who ask for no other, from what the configuration says."""
    return System(given.get("image", OWN_IMAGE), given.get("work_dir", WORK))


def fault(settings: DockerSettings) -> str | None:
    """What is wrong with the settings and what would be right, or None."""
    fault = work_dir_fault(settings.work_dir)
    if fault is not None:
        return f"`work_dir`: {fault}"
    if settings.warm_containers < 0:
        return f"`warm_containers`: {settings.warm_containers} is below 0"
    return None


def work_dir_fault(path: str) -> str | None:
    """Why the work directory cannot lie at `path`, and what would be right; or None."""
    plain = path.startswith("/") and not path.startswith("//") and path != "/" and posixpath.normpath(path) == path
    if not plain or len(path) > WORK_DIR_CHARACTERS_MAX or not path.isprintable() or ":" in path or "," in path:
        return f"{path[:200]!r} is not an absolute path such as {WORK}"
    taken = next(
        (one for one in (*SCRATCH, *_TAKEN) if f"{path}/".startswith(f"{one}/") or one.startswith(f"{path}/")), None
    )
    if taken is not None:
        return f"{path} and {taken} are in each other's way; choose another folder, such as {WORK}"
    return None


def configuration(profile: Profile, settings: DockerSettings, server: str) -> dict[str, Any]:
    """Body of the request that makes a container (Docker Engine API, POST /containers/create)."""
    return {
        "Image": settings.image,
        "Entrypoint": list(INIT_COMMAND),
        "Cmd": [],
        "User": _INIT_USER,
        "WorkingDir": "/",
        "Hostname": profile.hostname,
        "Env": ["HOME=/"],
        "Labels": {**dict(settings.labels), SERVER_LABEL: server},
        "AttachStdin": True,
        "OpenStdin": True,
        # When whoever holds the other end goes, however it goes, the init reads the end of its input, and the container ends.
        "StdinOnce": True,
        "NetworkDisabled": True,
        # There is nothing to wait for: what matters of a run is not in the container.
        "StopSignal": "SIGKILL",
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host_configuration(settings),
    }


def _host_configuration(settings: DockerSettings) -> dict[str, Any]:
    return {
        "AutoRemove": True,
        "Runtime": settings.runtime or RUNC,
        "NetworkMode": "none",
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": security_options(seccomp_profile()),
        "MaskedPaths": list(_MASKED),
        "ReadonlyPaths": list(_READ_ONLY),
        # Where cells mount. The image need not have these folders, and between cells there is no room in them.
        "Tmpfs": dict.fromkeys((settings.work_dir, *SCRATCH), _PLACEHOLDER),
        "ShmSize": 4096,
        "Memory": settings.memory_bytes,
        "MemorySwap": settings.memory_bytes,
        "PidsLimit": settings.processes,
        "NanoCpus": int(settings.cpus * 1e9) if settings.cpus is not None else 0,
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}, {"Name": "nofile", "Soft": 256, "Hard": 256}],
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no"},
    }


def security_options(filtering: dict[str, Any]) -> list[str]:
    return ["no-new-privileges", f"seccomp={json.dumps(filtering)}"]


def environment(profile: Profile, settings: DockerSettings, image: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Variables of every program: the image's, ours, and a path that begins in the work directory and goes on as the image's."""
    ours = {
        name: settings.work_dir + value.removeprefix(WORK) if value.startswith(f"{WORK}/") else value
        for name, value in profile.environment
    }
    folders = dict(image).get("PATH", _PATH)
    return {**dict(image), **ours, "PATH": f"{settings.work_dir}/.local/bin:{folders}"}


def seccomp_profile(machine: str | None = None, *, unreachable: bool = False) -> dict[str, Any]:
    """The system call filter of `executors.seccomp` as Docker's JSON: one list, whoever loads it.

    `unreachable`: no sockets for a network, not even for the loopback, which Docker always gives.
    """
    name = machine or platform.machine()
    architecture = seccomp.ARCHITECTURES.get(name)
    if architecture is None:
        return {"defaultAction": "SCMP_ACT_ALLOW"}
    flags = [1 << bit for bit in range(32) if seccomp.NAMESPACE_FLAGS >> bit & 1]
    denied = sorted(_LIBRARY_NAMES.get(call, call) for call in architecture.denied)
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        # Calls of any other architecture kill: their numbers would mean other things.
        "architectures": [f"SCMP_ARCH_{name.upper()}"],
        "syscalls": [
            _refusal("clone3", errno.ENOSYS),
            *(_refusal(call, errno.EPERM) for call in denied),
            *(_refusal("clone", errno.EPERM, (0, "MASKED_EQ", flag, flag)) for flag in flags),
            *(_refusal("ioctl", errno.EPERM, (1, "EQ", asked, 0)) for asked in seccomp.TERMINAL_REQUESTS),
            *(_refusal("socketpair", errno.EOPNOTSUPP, test) for test in _none_of(0, {seccomp.UNIX_FAMILY})),
            *(
                [_refusal("socket", errno.ENETUNREACH, (0, "EQ", family, 0)) for family in _INTERNET]
                if unreachable
                else []
            ),
            *_socket_refusals(() if not unreachable else _INTERNET),
        ],
    }


def _socket_refusals(refused: tuple[int, ...]) -> list[dict[str, Any]]:
    """Kinds of sockets that nobody gets; families in `refused` are refused already."""
    protocols = seccomp.SOCKET_PROTOCOLS
    families = [_refusal("socket", errno.EAFNOSUPPORT, test) for test in _none_of(0, {seccomp.UNIX_FAMILY, *protocols})]
    return families + [
        _refusal("socket", errno.EPROTONOSUPPORT, (0, "EQ", family, 0), test)
        for family, known in protocols.items()
        if family not in refused
        for test in _none_of(2, set(known))
    ]


_Test = tuple[int, str, int, int]
"""On an argument of a call: its index, how to compare, with what (and with what more)."""


def _none_of(index: int, values: set[int]) -> list[_Test]:
    """Tests of which one is true when an argument is none of `values`; Docker knows no "and" of tests on one argument."""
    below: list[_Test] = [(index, "EQ", value, 0) for value in range(max(values)) if value not in values]
    return [*below, (index, "GT", max(values), 0)]


def _refusal(call: str, error: int, *tests: _Test) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": [call], "action": "SCMP_ACT_ERRNO", "errnoRet": error}
    if tests:
        rule["args"] = [
            {"index": index, "op": f"SCMP_CMP_{operator}", "value": value, "valueTwo": second}
            for index, operator, value, second in tests
        ]
    return rule
