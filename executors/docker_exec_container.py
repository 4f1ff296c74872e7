"""What a container of one run is made of, and how a program is started in it: in Docker's terms. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from executors import docker_container
from executors.docker_container import DockerSettings
from executors.launched import resource_limits
from executors.paths import SCRATCH
from executors.profile import Profile, User
from store.snapshot import Limits
from store.workspace import BindMount, OverlayMount

MEMORY_BYTES_MIN = 32 << 20
"""A runtime's own program needs room in the container before ours begins."""
PROCESSES_MIN = 16
"""And threads."""
OPEN_FILES_MIN, FILE_BYTES_MIN = 256, 1 << 20
"""And files, which they also write. Below that the program's shell sets the limit."""
PROCESSES_OF_OURS = 2
"""The container's init and the program's shell."""
_FIRST_NUMBER = 60
"""Above all process numbers that runtimes use up while they start, so that the program's is always the same."""
_BLOCK_BYTES = 512
"""In which POSIX shells count the sizes of files."""
_SHELL = f"""
while : & wait; [ $! -lt {_FIRST_NUMBER} ]; do :; done
echo
exec 9>&2 2>/dev/null
(eval "$0"; exec "$@" 2>&9 9>&-)
code=$?
kill -9 -1
exit $code
"""
"""Says that the program begins (`docker_exec_streams.MARK`), waits for its end, kills what it left, tells how it ended.

Its own words, such as a shell says when something is killed, are nobody's output.
"""


class Machine(msgspec.Struct, frozen=True):
    """What a container can have at most: so many processors, and so many open files in one process."""

    processors: int
    open_files: int


def command(argv: tuple[str, ...], limits: Limits) -> list[str]:
    """The command line that starts a program in a container."""
    narrow = []
    if limits.open_files < OPEN_FILES_MIN:
        narrow.append(f"ulimit -n {limits.open_files}")
    if limits.file_bytes < FILE_BYTES_MIN:
        narrow.append(f"ulimit -f {-(-limits.file_bytes // _BLOCK_BYTES)}")
    return ["/bin/sh", "-c", _SHELL, "; ".join(narrow) or ":", *argv]


def configuration(
    profile: Profile,
    settings: DockerSettings,
    server: str,
    limits: Limits,
    mounts: list[dict[str, Any]],
    machine: Machine,
) -> dict[str, Any]:
    """Body of the request that makes the container of one run."""
    made = docker_container.configuration(profile, settings, server)
    host: dict[str, Any] = made["HostConfig"]
    memory_bytes = max(MEMORY_BYTES_MIN, min(settings.memory_bytes, limits.memory_bytes))
    room = msgspec.structs.replace(
        limits,
        open_files=min(machine.open_files, max(OPEN_FILES_MIN, limits.open_files)),
        file_bytes=max(FILE_BYTES_MIN, limits.file_bytes),
    )
    cpus = min((given for given in (settings.cpus, limits.cpus) if given is not None), default=0.0)
    filtering = docker_container.seccomp_profile(unreachable=limits.network == "none")
    del host["Tmpfs"]
    host |= {
        "Mounts": mounts,
        "ShmSize": profile.shared_memory_bytes,
        # Nobody needs to see the machine's devices and groups.
        "MaskedPaths": [*host["MaskedPaths"], *profile.masked, "/sys"],
        "SecurityOpt": docker_container.security_options(filtering),
        "Memory": memory_bytes,
        "MemorySwap": memory_bytes,
        "PidsLimit": max(PROCESSES_MIN, min(settings.processes, limits.processes + PROCESSES_OF_OURS)),
        # Docker refuses more than there is.
        "NanoCpus": int(cpus * 1e9) if cpus < machine.processors else 0,
        "Ulimits": [
            {"Name": name.lower(), "Soft": soft, "Hard": hard}
            for name, (soft, hard) in resource_limits(room, in_group=True).items()
        ],
    }
    return made


def mounts(
    settings: DockerSettings, work: OverlayMount | BindMount, scratch: str, texts: dict[str, str]
) -> list[dict[str, Any]]:
    """What is seen of the host in a container. `scratch` holds the scratch folders, `texts`: path inside -> file of ours."""
    own = [_bound(source, target, read_only=True) for target, source in texts.items()]
    places = [_bound(f"{scratch}/{name.decode()}", path) for path, name in SCRATCH.items()]
    if isinstance(work, BindMount):
        return [*own, *places, _bound(work.folder, settings.work_dir)]
    return [*own, *places, _overlaid(work, settings.work_dir)]


def _bound(source: str, target: str, *, read_only: bool = False) -> dict[str, Any]:
    propagation = {"Propagation": "rprivate"}
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only, "BindOptions": propagation}


def _overlaid(work: OverlayMount, target: str) -> dict[str, Any]:
    """A volume without a name, which the daemon mounts when the container starts and forgets with it."""
    lowers = ":".join(f"{work.folder}/{lower}" for lower in work.lowers)
    upper, working = f"{work.folder}/{work.upper}", f"{work.folder}/{work.work}"
    # Not volatile: the kernel mounts such a one once, and a cell may have several runs.
    option = f"lowerdir={lowers},upperdir={upper},workdir={working},redirect_dir=on,metacopy=off"
    driver = {"Name": "local", "Options": {"type": "overlay", "device": "overlay", "o": option}}
    return {"Type": "volume", "Target": target, "VolumeOptions": {"NoCopy": True, "DriverConfig": driver}}


def texts(profile: Profile) -> dict[str, str]:
    """Files of /etc that psf makes up: path -> content, with the user that programs have here."""
    return {path: _with_user(text, profile.user) for path, text in profile.texts if path.startswith("/etc/")}


def _with_user(text: str, user: User) -> str:
    return text.replace(":1000:1000:", f":{user.uid}:{user.gid}:").replace(
        "sandbox:x:1000:\n", f"sandbox:x:{user.gid}:\n"
    )
