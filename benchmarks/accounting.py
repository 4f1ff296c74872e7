"""CPU time of all that works for us: this process, launchers, what they start, and a Docker daemon that was started for us.

RUSAGE_CHILDREN sees a process when it has been waited for, and a launcher lives on. So we join a control group (cpuacct, version 1):
whatever is started from then on is in it or below it, containers too when their daemon is told so, and it counts to the
nanosecond. Where none can be had, /proc/PID/stat of the launchers is read: it counts in hundredths of a second, so a sample
is then many runs, and a daemon's time is in no figure.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from benchmarks.measure import cpu_time_s

_CPU = Path("/sys/fs/cgroup/cpuacct")
_TICKS_S = 1 / os.sysconf("SC_CLK_TCK")


class Account:
    """Made when the run begins, left when it ends. `launchers`: the pids of those that live."""

    def __init__(self) -> None:
        self.launchers: set[int] = set()
        self.name = f"psf-benchmark-{os.getpid()}"
        """Of our groups, and of the one that containers are to be made in."""
        self._home = _CPU / _own_group()
        self._groups: list[Path] = []
        try:
            for folder in dict.fromkeys((self._home / self.name, _CPU / self.name)):
                folder.mkdir()
                self._groups.append(folder)
            (self._groups[0] / "cgroup.procs").write_text("0")
        except OSError:
            self.leave()

    @property
    def source(self) -> str:
        return "a control group" if self._groups else "/proc/PID/stat of the launchers"

    @property
    def repeats(self) -> int:
        """How many runs make one sample."""
        return 1 if self._groups else 20

    def cpu_time_s(self) -> float:
        ours = cpu_time_s()  # asked in any case: it brings the group's count of what runs up to date
        if self._groups:
            return sum(int((group / "cpuacct.usage").read_text()) for group in self._groups) / 1e9
        return ours + sum(sum(spent_s(pid)) for pid in self.launchers)

    def leave(self) -> None:
        """Back to where we were. Groups that a daemon has made for its containers go too."""
        if self._groups:
            (self._home / "cgroup.procs").write_text("0")
            self._groups.clear()
        deadline_s = time.monotonic() + 5
        places = {self._home, *Path("/sys/fs/cgroup").glob("*")}
        left = [folder for place in places for folder in place.glob(self.name)]
        while left and time.monotonic() < deadline_s:
            for folder in left:
                with contextlib.suppress(OSError):
                    for below in sorted(folder.glob("**/"), reverse=True):
                        below.rmdir()
            left = [folder for folder in left if folder.exists()]
            time.sleep(0.01)


def spent_s(pid: int) -> tuple[float, float, float, float]:
    """What a process has taken (in user mode, in the kernel), and what those took that it has waited for. To a hundredth."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, children_user, children_system = (int(field) * _TICKS_S for field in fields[11:15])
    return user, system, children_user, children_system


def _own_group() -> str:
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return next((path.lstrip("/") for _, controllers, path in lines if "cpuacct" in controllers.split(",")), "")
