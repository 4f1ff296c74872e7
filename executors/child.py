"""The launcher's forked child, on its way to becoming what confines the program. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from typing import NoReturn

from executors import kernel
from executors.running import Message

GATE = (
    'ulimit -p "$1" 2>/dev/null || ulimit -u "$1" || exit 125; shift; '
    'echo >&9; read -r _ <&9 || exit 125; exec 9<&-; exec "$@"'
)
COUNTED_TOGETHER = {"SIGPENDING": 4096, "MSGQUEUE": 800 << 10}
"""Queued signals and timers, bytes of message queues: what each run gets of what the kernel counts for all runs' user, too."""
_RUNS_SERVED = 8
"""Where we may not raise what all runs get together, none gets more than its part for so many."""
GATE_DESCRIPTOR, ARGUMENTS_DESCRIPTOR, FILTER_DESCRIPTOR = 9, 10, 11


def become_confiner(
    launcher: int,
    program: str,
    command: list[str],
    user: tuple[int, int] | None,
    message: Message,
    inner: list[int],
    entrances: list[int],
) -> NoReturn:
    """Groups, descriptors, limits, identity (uid and gid, as root only), exec.

    `launcher` is our parent's pid. `command` is the confiner's argv up to the job's. `inner`: stdin, stdout, stderr, the gate's end, the confiner's arguments, the
    system call filter.
    """
    try:
        for entrance in entrances:
            os.write(entrance, b"0")
        make_repeatable(message["turn"])
        if message["network"] == "none":
            # While we still may. A confiner would bring the loopback of its own namespace up.
            kernel.unshare(kernel.CLONE_NEWNET)
        moved = [_duplicate_high(descriptor) for descriptor in inner]
        targets = (0, 1, 2, GATE_DESCRIPTOR, ARGUMENTS_DESCRIPTOR, FILTER_DESCRIPTOR)
        for source, target in zip(moved, targets, strict=True):
            os.dup2(source, target)
        restore_signals()
        os.closerange(3, GATE_DESCRIPTOR)
        os.closerange(FILTER_DESCRIPTOR + 1, 1 << 16)
        # After the descriptors are in their places: a low limit would not let them be moved.
        for name, (soft, hard) in message["rlimits"].items():
            set_limit(name, soft, hard)
        raise_what_is_counted_together()
        if user is not None:
            os.setgroups([])
            os.setgid(user[1])
            os.setuid(user[0])
        # After the identity, whose change would forget it.
        kernel.die_with_parent(launcher)
        environment = {"LD_LIBRARY_PATH": os.path.dirname(program)}
        processes = within_our_own("NPROC", message["processes"])
        os.execve(program, [*command, str(processes), *message["argv"]], environment)
    except BaseException as error:  # noqa: BLE001 - the child must not go on as a second launcher
        os.write(2, f"psf: the sandbox could not be started: {error}".encode())
    finally:
        os._exit(125)


def make_repeatable(turn: int | None) -> None:
    """What the profile that makes programs repeat fixes of a process and those it becomes. Which processor it keeps to goes by turns.

    A filter of system calls may not let this be done any more; and a control group that is joined later may undo it. None: nothing.
    """
    if turn is None:
        return
    kernel.fix_addresses()
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[turn % len(processors)]})


def never_repeats() -> str | None:
    """Why `make_repeatable` cannot be done here, found by trying; None when it can."""
    try:
        kernel.set_personality(kernel.fix_addresses())
        os.sched_setaffinity(0, os.sched_getaffinity(0))
    except OSError as error:
        return f"the kernel or a filter around psf refuses it ({error})"
    return None


def restore_signals() -> None:
    """Programs inherit what is ignored: by us, by Python, or by whoever started the server (nohup)."""
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _duplicate_high(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64)


def set_limit(name: str, soft: int, hard: int) -> None:
    """Set a limit of this process, as far as we may."""
    resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (within_our_own(name, soft), within_our_own(name, hard)))


def raise_what_is_counted_together() -> None:
    """As far as we may. The user namespace that is made next keeps our limits as those of its user in all of them."""
    for name in COUNTED_TOGETHER:
        kind = getattr(resource, f"RLIMIT_{name}")
        try:
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (OSError, ValueError):  # not root, or one who may not do this
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (hard, hard))


def limit_what_is_counted_together(pid: int) -> None:
    """Of a process in the user namespace of its run, where these limits are for that run alone. Raises OSError."""
    for name, value in COUNTED_TOGETHER.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.prlimit(pid, kind)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard // _RUNS_SERVED)
        resource.prlimit(pid, kind, (most, most))


@contextlib.contextmanager
def really(user: tuple[int, int]) -> Iterator[None]:
    """Root, who may all the same, is this user (uid and gid) by his real ids, who may set the limits of a process of his."""
    os.setresgid(user[1], -1, -1)
    os.setresuid(user[0], -1, -1)
    try:
        yield
    finally:
        os.setresuid(os.geteuid(), -1, -1)
        os.setresgid(os.getegid(), -1, -1)


def within_our_own(name: str, value: int) -> int:
    """A limit, but no more than we have ourselves: only who may do everything can give more."""
    ceiling = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1]
    if ceiling == resource.RLIM_INFINITY:
        return value
    return ceiling if value == resource.RLIM_INFINITY else min(value, ceiling)


def memory_file(data: bytes) -> int:
    """A descriptor to read `data` from, of any size."""
    descriptor = os.memfd_create("psf", os.MFD_CLOEXEC)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
