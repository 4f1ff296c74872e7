"""The control groups of a container, and those that runs get below them, so that Docker's limits stay above. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from executors import cgroups

_ROOT = Path("/sys/fs/cgroup")
_RUN_CONTROLLERS = ("memory", "pids", "cpuacct")
"""Of version 1, those in which every run has a group. In that for processors only some have: all join the container's first."""


def make_groups(own: dict[str, str], pid: int) -> tuple[cgroups.Cgroups | None, str]:
    """Groups for runs below a container's own, so that Docker's limits stay above them; else None and the reason."""
    unified = (_ROOT / "cgroup.controllers").exists()
    if unified:
        folder = _ROOT / own.get("", "").lstrip("/")
        parents = {"memory": folder, "pids": folder}
    else:
        parents = {name: _ROOT / name / own[name].lstrip("/") for name in (*_RUN_CONTROLLERS, "cpu") if name in own}
    version = 2 if unified else 1
    try:
        if unified:
            _make_room(folder, pid)
        elif not {"memory", "pids"} <= set(parents):
            return None, "the controllers for memory and processes are not mounted"
        return cgroups.Cgroups(parents, version, "psf"), f"cgroup v{version}"
    except OSError as error:
        return None, f"cgroup v{version}: {error.strerror}"


def group_of(pid: int, identity: str) -> cgroups.Group | None:
    """Docker's own group of the container of this id, as it is seen from here, for whoever may only read; None if it is not."""
    try:
        own = cgroups.groups_of(Path(f"/proc/{pid}/cgroup"))
        version = 2 if (_ROOT / "cgroup.controllers").exists() else 1
        names = dict.fromkeys(("memory", "pids"), "") if version == 2 else {name: name for name in _RUN_CONTROLLERS}
        paths = {controller: own[name].lstrip("/") for controller, name in names.items() if name in own}
    except OSError:
        return None
    folders = {controller: _ROOT / names[controller] / path for controller, path in paths.items()}
    seen = all(identity in path for path in paths.values()) and all(
        (folder / "cgroup.procs").exists() for folder in folders.values()
    )
    return cgroups.Group(folders, version) if seen and {"memory", "pids"} <= set(folders) else None


def _make_room(folder: Path, pid: int) -> None:
    """In version 2 a group with groups below it may hold no process: the init moves into one of its own."""
    leaf = folder / "init"
    leaf.mkdir(exist_ok=True)
    (leaf / "cgroup.procs").write_text(str(pid))


def outer_groups(own: dict[str, str], groups: cgroups.Cgroups | None) -> list[Path]:
    """A container's own groups that runs must join, since they have none below them: Docker's limits hold there too."""
    covered: tuple[str, ...] = ()
    if groups is not None:
        covered = _RUN_CONTROLLERS if groups.version == 1 else ("",)
    folders = [_ROOT / name / path.lstrip("/") for name, path in own.items() if name not in covered and "=" not in name]
    return [folder for folder in folders if (folder / "cgroup.procs").exists()]


def label_of(pid: int) -> str:
    """The label of mandatory access control (AppArmor, SELinux) that a process is under; '' for none."""
    try:
        label = Path(f"/proc/{pid}/attr/current").read_text().strip("\0\n ")
    except OSError:
        return ""
    return "" if label.startswith("unconfined") else label


def entrances(outer: list[Path], group: cgroups.Group | None) -> Iterator[int]:
    """Descriptors to which a process of one thread writes `0` to join the groups of a run."""
    for folder in outer:
        yield cgroups.open_entrance(folder)
    if group is not None:
        yield from group.open_entrances()
