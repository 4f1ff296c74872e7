"""What the end of a first process means, for every sandbox alike. Pure."""

from __future__ import annotations

import signal

from executors.watching import Overrun
from store.snapshot import Ending


def told_code(code: int) -> int:
    """An exit code as a shell or a confiner tells it, who say 128+n of death by signal n, as `os.waitstatus_to_exitcode` gives it."""
    return 128 - code if 128 < code <= 128 + signal.SIGRTMAX else code


def ending_of(
    code: int | None, *, timed_out: bool, overrun: Overrun | None, flooded: bool, out_of_memory: bool
) -> tuple[Ending, int | None, int | None]:
    """Ending, exit code, signal.

    `code` is as of `os.waitstatus_to_exitcode`; None: of one that we killed, or that the kernel killed for memory before it began.
    `out_of_memory`: whether the limit on memory killed something of the run.
    """
    died_by = -code if code is not None and code < 0 else None
    if timed_out or overrun == "cpu" or died_by == signal.SIGXCPU:
        return Ending.TIMED_OUT, None, None
    if overrun:
        return Ending.DISK_LIMIT, None, None
    if flooded:
        return Ending.OUTPUT_LIMIT, None, None
    if out_of_memory and (code is None or died_by == signal.SIGKILL):
        return Ending.OUT_OF_MEMORY, None, int(signal.SIGKILL)
    if died_by is not None:
        return Ending.SIGNALLED, None, died_by
    return Ending.EXITED, code, None


def limits_hit(
    ending: Ending, overrun: Overrun | None, *, memory: bool, processes: bool, output: bool
) -> tuple[str, ...]:
    """Limits reached on the way, by name and in order. That on the disk is one only when the run ended by it."""
    reached = {"memory": memory, "output": output, "processes": processes}
    if overrun and ending is Ending.DISK_LIMIT:
        reached[overrun] = True
    return tuple(sorted(name for name, is_reached in reached.items() if is_reached))
