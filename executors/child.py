"""The launcher's forked child, on its way to becoming what confines the program. Standard library only."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
from typing import NoReturn

from executors import kernel
from executors.running import Message

GATE = (
    'ulimit -p "$1" 2>/dev/null || ulimit -u "$1" || exit 125; shift; '
    'echo >&9; read -r _ <&9 || exit 125; exec 9<&-; exec "$@"'
)
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
