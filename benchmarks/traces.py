"""What runs could leave on the host, and whether they did.

A machine has others on it who start and write things meanwhile, so but for the table of mounts what is looked at is ours: what descends
from us, what is named after our launcher or containers, the folder that we work in, and in the folders of temporary files
what confiners are known to make, or what has `mark` in its name, as all that the programs write should have.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/run/user", "/mnt")
_CONFINERS = ("nsjail", "bwrap", ".bubblewrap")
_SETTLED_S = 10.0

Traces = dict[str, list[str]]
"""What there is, by kind: `host mounts`, `launcher mounts`, `groups`, `server descriptors`, `launcher descriptors`, `processes`, `files`."""


def litterer(mark: str) -> tuple[str, ...]:
    """A program that leaves all it can: processes of all kinds, files wherever it may write, a FIFO."""
    script = "sleep 1000 & setsid sleep 1000 & mkfifo p; for place in . /tmp /var/tmp /dev/shm /mnt ~; do echo x > $place/{mark}; done"
    return "bash", "-c", script.replace("{mark}", mark)


class Watched(msgspec.Struct, frozen=True):
    """Whose traces: the launcher's pid, the containers' (identity, pid of the init), the folder where workspaces lie, the mark."""

    launcher: int
    containers: tuple[tuple[str, int], ...]
    folder: Path
    mark: str


def look(watched: Watched) -> Traces:
    pids = ("self", str(watched.launcher))
    names = (f"-{watched.launcher}-", *(identity for identity, _ in watched.containers))
    mounts = {pid: Path(f"/proc/{pid}/mountinfo").read_text().splitlines() for pid in pids}
    groups = [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if any(name in folder for name in names)]
    return {
        "host mounts": sorted(mounts["self"]),
        # The numbers of mounts are given anew each time.
        "launcher mounts": sorted(" ".join(line.split()[3:]) for line in mounts[pids[1]]),
        "groups": sorted(groups),
        "server descriptors": _descriptors("self"),
        "launcher descriptors": _descriptors(pids[1]),
        "processes": descendants([os.getpid(), *(init for _, init in watched.containers)]),
        "files": sorted([*_below(watched.folder), *_temporary(watched.mark)]),
    }


def difference(before: Traces, after: Traces) -> list[str]:
    """What has appeared and what has gone, in words. Pure."""
    found = []
    for kind in before:
        rest = list(after[kind])
        for entry in before[kind]:
            if entry in rest:
                rest.remove(entry)
            else:
                found.append(f"{kind}: gone: {entry}")
        found += [f"{kind}: left: {entry}" for entry in rest]
    return found


def settled(before: Traces, again: Callable[[], Traces]) -> Traces:
    """How it is after the runs: as it was before, or what it still is when there was time to go away."""
    deadline_s = time.monotonic() + _SETTLED_S
    while difference(before, after := again()) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return after


def descendants(roots: Iterable[int]) -> list[str]:
    """`pid name` of all processes that come from `roots`, zombies too."""
    parents: dict[int, tuple[int, str]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                head, _, tail = Path(f"/proc/{name}/stat").read_text().rpartition(")")
            except OSError:
                continue
            parents[int(name)] = (int(tail.split()[1]), head.partition("(")[2])
    known = set(roots)
    found: set[int] = set()
    while more := {pid for pid, (parent, _) in parents.items() if parent in known | found} - found:
        found |= more
    return sorted(f"{pid} {parents[pid][1]}" for pid in found)


def _descriptors(pid: str) -> list[str]:
    """What each descriptor leads to, without the numbers that change."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(re.sub(r"\d+", "N", os.readlink(f"/proc/{pid}/fd/{name}")))
        except OSError:
            continue  # the one that the listing itself had open
    return sorted(found)


def _below(folder: Path) -> list[str]:
    return [os.path.join(place, name) for place, folders, names in os.walk(folder) for name in (*folders, *names)]


def _temporary(mark: str) -> list[str]:
    folders = [folder for folder in dict.fromkeys((*_TEMPORARY, tempfile.gettempdir())) if os.path.isdir(folder)]
    return [
        f"{folder}/{name}"
        for folder in folders
        for name in os.listdir(folder)
        if name.startswith(_CONFINERS) or mark in name
    ]


def counts(before: Traces, after: Traces) -> dict[str, tuple[int, int]]:
    return {kind: (len(before[kind]), len(after[kind])) for kind in before}
