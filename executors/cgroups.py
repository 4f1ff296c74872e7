"""Control groups: limits on memory, processes and processors of a whole run, and what it used. Version 1 and version 2.

Standard library only: the launcher imports this. Groups are made below our own group, or below the root of the hierarchy,
in a folder named after the launcher, so that what a dead launcher left can be told from what a living one uses.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from executors import instance

_PREFIX = "psf-"
_REMOVE_ATTEMPTS = 50
_REMOVE_PAUSE_S = 0.002
_PERIOD_US = 100_000
_QUOTA_US_MIN = 1000
"""The kernel takes no smaller one."""


class GroupUsage(NamedTuple):
    """`memory_kills` and `process_refusals` count how often a limit struck."""

    memory_kills: int
    process_refusals: int
    memory_peak_bytes: int | None
    cpu_time_s: float | None


class Group:
    """The control group of one run: one folder in each hierarchy."""

    def __init__(self, folders: dict[str, Path], version: int) -> None:
        self._folders, self._version = folders, version

    def set_limits(self, memory_bytes: int, processes: int, cpus: float | None = None) -> None:
        """`cpus`: how many processors' time it gets; None: of all. Raises OSError."""
        memory, pids = self._folders["memory"], self._folders["pids"]
        if self._version == 2:
            _write(memory / "memory.max", memory_bytes)
            _write_if_there(memory / "memory.swap.max", 0)
        else:
            _write(memory / "memory.limit_in_bytes", memory_bytes)
            _write_if_there(memory / "memory.memsw.limit_in_bytes", memory_bytes)
        _write(pids / "pids.max", processes)
        if cpus is not None:
            self._set_quota(max(_QUOTA_US_MIN, int(cpus * _PERIOD_US)))

    def _set_quota(self, quota_us: int) -> None:
        if self._version == 2:
            _write(self._folders["memory"] / "cpu.max", f"{quota_us} {_PERIOD_US}")
            return
        cpu = self._folders["cpu"]
        _write(cpu / "cpu.cfs_period_us", _PERIOD_US)
        try:
            _write(cpu / "cpu.cfs_quota_us", quota_us)
        except OSError as error:
            # A group above has less than that, which holds for this one too.
            if error.errno != errno.EINVAL:
                raise

    def open_entrances(self) -> list[int]:
        """Descriptors to which a process of one thread writes `0` to join."""
        return [open_entrance(folder) for folder in set(self._folders.values())]

    def usage(self) -> GroupUsage:
        memory, pids = self._folders["memory"], self._folders["pids"]
        kills, peak = (
            (_field(memory / "memory.events", "oom_kill"), _number(memory / "memory.peak"))
            if self._version == 2
            else (_field(memory / "memory.oom_control", "oom_kill"), _number(memory / "memory.max_usage_in_bytes"))
        )
        return GroupUsage(kills, _field(pids / "pids.events", "max"), peak, self.cpu_time_s())

    def cpu_time_s(self) -> float | None:
        """What all its processes have taken so far, those that have ended too."""
        if self._version == 2:
            return _field(self._folders["memory"] / "cpu.stat", "usage_usec") / 1e6
        cpu = self._folders.get("cpuacct")
        nanos = _number(cpu / "cpuacct.usage") if cpu else None
        return nanos / 1e9 if nanos is not None else None

    def processes(self) -> list[int]:
        return _pids(self._folders["pids"])

    def remove(self) -> bool:
        """Remove the folders; False when processes are still in it."""
        removed = [_remove(folder) for folder in set(self._folders.values())]
        return all(removed)


def open_entrance(folder: Path) -> int:
    """A thread that moves itself waits for nobody; a process that does, for all processors to have come by, ten milliseconds.

    Version 2 lets threads part from their processes only where it has been told to, so there is no such way there.
    """
    tasks = folder / "tasks"
    return os.open(tasks if tasks.exists() else folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)


class Cgroups:
    """Makes groups for one launcher. `parents` maps each controller to the folder that our own folder, `name`, is made in."""

    def __init__(self, parents: dict[str, Path], version: int, name: str) -> None:
        self.version, self._count = version, 0
        self._instances = {controller: parent / name for controller, parent in parents.items() if controller != "cpu"}
        for parent in set(parents.values()):
            _sweep(parent)
        try:
            for folder in set(self._instances.values()):
                folder.mkdir(exist_ok=True)
                if version == 2:
                    _delegate(folder)
        except OSError:
            self.close()
            raise
        self.cpus_missing = self._try_cpus(parents.get("cpu"), name)
        """Why processors cannot be limited here; None when they can."""

    def create(self, memory_bytes: int, processes: int, cpus: float | None = None) -> Group:
        """A group for one run. `cpus` as in `Group.set_limits`, where processors can be limited. Raises OSError."""
        return self._create(memory_bytes, processes, cpus if self.cpus_missing is None else None)

    def _create(self, memory_bytes: int, processes: int, cpus: float | None) -> Group:
        self._count += 1
        # Most runs have no limit on processors, and need no folder in a hierarchy that is there for nothing else.
        wanted = {name: folder for name, folder in self._instances.items() if name != "cpu" or cpus is not None}
        folders = {name: folder / str(self._count) for name, folder in wanted.items()}
        group = Group(folders, self.version)
        try:
            for folder in set(folders.values()):
                folder.mkdir(exist_ok=True)  # of two controllers of version 1 that are mounted together
            group.set_limits(memory_bytes, processes, cpus)
        except OSError:
            group.remove()
            raise
        return group

    def _try_cpus(self, parent: Path | None, name: str) -> str | None:
        """Limit processors once; None when that works, else why not."""
        try:
            if self.version == 1:
                if parent is None:
                    return "cgroup v1: the controller for processors is not mounted"
                (parent / name).mkdir(exist_ok=True)
                self._instances["cpu"] = parent / name
            self._create(1 << 30, 1024, 1.0).remove()
        except OSError as error:
            return f"cgroup v{self.version}: {error.strerror}"
        return None

    def close(self) -> None:
        for folder in set(self._instances.values()):
            _remove_instance(folder)


def find(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> tuple[Cgroups | None, str]:
    """Groups with memory and process limits, tried by making one; else None and the reason."""
    reasons = []
    for version, parents in _candidates(root, groups_of(membership)):
        try:
            cgroups = Cgroups(parents, version, _PREFIX + instance.own_name())
        except OSError as error:
            reasons.append(f"cgroup v{version}: {error.strerror}")
            continue
        try:
            cgroups.create(1 << 30, 1024).remove()
            return cgroups, f"cgroup v{version}"
        except OSError as error:
            reasons.append(f"cgroup v{version}: {error.strerror}")
            cgroups.close()
    return None, "; ".join(dict.fromkeys(reasons)) or "no control group hierarchy is mounted"


def _candidates(root: Path, own: dict[str, str]) -> list[tuple[int, dict[str, Path]]]:
    """Where groups may be made, best first: below our own group, then below the root of the hierarchy."""
    candidates = []
    for inside in (True, False):
        if (root / "cgroup.controllers").exists():
            folder = root / own.get("", "").lstrip("/") if inside else root
            candidates.append((2, {"memory": folder, "pids": folder}))
        if (root / "memory").is_dir() and (root / "pids").is_dir():
            controllers = [name for name in ("memory", "pids", "cpuacct", "cpu") if (root / name).is_dir()]
            version_1 = {
                name: root / name / own.get(name, "").lstrip("/") if inside else root / name for name in controllers
            }
            candidates.append((1, version_1))
    return candidates


def groups_of(membership: Path) -> dict[str, str]:
    """A process's group in each hierarchy; version 2 under the name ''. Format: cgroups(7), /proc/[pid]/cgroup."""
    groups = {}
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _delegate(folder: Path) -> None:
    try:
        _hand_on(folder, "memory", "pids", "cpu")
    except OSError:
        _hand_on(folder, "memory", "pids")


def _hand_on(folder: Path, *controllers: str) -> None:
    available = (folder / "cgroup.controllers").read_text().split()
    asked = " ".join(f"+{name}" for name in controllers)
    if not set(controllers) <= set(available):
        _write(folder.parent / "cgroup.subtree_control", asked)
    _write(folder / "cgroup.subtree_control", asked)


def _sweep(parent: Path) -> None:
    """Kill and remove what launchers that are known to be gone have left."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if instance.is_dead(folder.name.removeprefix(_PREFIX)):
            _remove_instance(folder)


def _remove_instance(folder: Path) -> None:
    try:
        groups = [*folder.iterdir(), folder]
    except OSError:
        return  # it is gone: Docker removes what lies below its own groups when a container ends
    for group in groups:
        if not group.is_dir():
            continue
        for pid in _pids(group):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _remove(group)


def _pids(group: Path) -> list[int]:
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split() if pid != "0"]
    except OSError:
        return []


def _remove(folder: Path) -> bool:
    for _ in range(_REMOVE_ATTEMPTS):
        try:
            folder.rmdir()
            return True
        except FileNotFoundError:
            return True
        except OSError:
            time.sleep(_REMOVE_PAUSE_S)
    return False


def _write(path: Path, value: int | str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def _write_if_there(path: Path, value: int) -> None:
    with contextlib.suppress(OSError):
        _write(path, value)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _field(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)
