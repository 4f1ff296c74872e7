"""Which process a thing on this machine belongs to, beyond doubt, so that what a dead one left can be told from what is used.

Standard library only: the launcher imports this.
"""

from __future__ import annotations

import os
from pathlib import Path


def own_name() -> str:
    """This process: its pid namespace, its pid, and its start in clock ticks since boot."""
    return f"{_namespace()}-{os.getpid()}-{_start_ticks(os.getpid())}"


def is_dead(name: str) -> bool:
    """Whether the process of that name is known to be gone. Of another pid namespace, or of no such form: not known."""
    namespace, pid, ticks = ([*name.split("-"), "", "", ""])[:3]
    return namespace == _namespace() and pid.isdecimal() and _start_ticks(int(pid)) != ticks


def _namespace() -> str:
    return str(os.stat("/proc/self/ns/pid").st_ino)


def _start_ticks(pid: int) -> str | None:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return status.rpartition(")")[2].split()[19]
