"""System calls that Python has no function for. Standard library only: the launcher imports this and must stay small."""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import signal
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

_MS_REC_PRIVATE = 0x4000 | (1 << 18)
_MS_BIND_REC = 0x1000 | 0x4000
_MNT_DETACH = 2
_AT_FDCWD = -100
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_CAPABILITY_VERSION_3 = 0x20080522

_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CREATE = 0, 1, 6
_FSMOUNT_CLOEXEC = 1
_MOUNT_ATTRIBUTE_NOSUID, _MOUNT_ATTRIBUTE_NODEV = 2, 4
_MOVE_MOUNT_F_EMPTY_PATH = 4

# _IOWR(0xFF, 11, struct pidfd_info of 64 bytes) and PIDFD_INFO_EXIT, from linux/pidfd.h (Linux 6.15).
_PIDFD_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11
_PIDFD_INFO_EXIT = 1 << 3

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def _syscall(number: int, what: str, *arguments: int | bytes | None) -> int:
    converted = [
        ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_char_p(argument) for argument in arguments
    ]
    return _checked(_libc.syscall(ctypes.c_long(number), *converted), what)


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), "unshare")


def enter(namespace: int) -> None:
    """Enter the namespace that a descriptor stands for."""
    _checked(_libc.setns(namespace, 0), "setns")


def keep_capability(capability: int) -> None:
    """Have this one, below 32, of those that we have now, and keep it when we become another program."""
    header, data = struct.pack("Ii", _CAPABILITY_VERSION_3, 0), struct.pack("6I", *[1 << capability] * 3, 0, 0, 0)
    _checked(_libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(data)), "capset")
    raised = (ctypes.c_ulong(value) for value in (_PR_CAP_AMBIENT_RAISE, capability, 0, 0))
    _checked(_libc.prctl(_PR_CAP_AMBIENT, *raised), "keep a capability")


def become_subreaper() -> None:
    """Orphans among our descendants become our children, so that we can reap them."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1)), "prctl")


def die_with_parent(parent: int) -> None:
    """Be killed when our parent ends, also if it has ended already."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)), "prctl")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def make_mounts_private() -> None:
    _checked(_libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None), "mount --make-rprivate /")


def bind(source: str, target: str) -> None:
    arguments = (os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(_MS_BIND_REC), None)
    _checked(_libc.mount(*arguments), f"bind {target}")


def unmount(target: str, *, detach: bool = False) -> None:
    _checked(_libc.umount2(os.fsencode(target), _MNT_DETACH if detach else 0), f"umount {target}")


def mount(kind: str, target: str, options: list[tuple[str, str | None]], *, devices: bool = False) -> None:
    """Mount a new file system, nosuid, and nodev unless `devices`.

    Relative names in options are resolved, and shown, relative to the cwd.
    """
    context = _syscall(_FSOPEN, f"fsopen {kind}", kind.encode(), 1)
    try:
        for key, value in options:
            command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            data = None if value is None else os.fsencode(value)
            _syscall(_FSCONFIG, f"{kind} option {key}", context, command, key.encode(), data, 0)
        _syscall(_FSCONFIG, f"mount {kind}", context, _FSCONFIG_CREATE, None, None, 0)
        attributes = _MOUNT_ATTRIBUTE_NOSUID if devices else _MOUNT_ATTRIBUTE_NOSUID | _MOUNT_ATTRIBUTE_NODEV
        tree = _syscall(_FSMOUNT, f"fsmount {kind}", context, _FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)
    try:
        _syscall(_MOVE_MOUNT, f"move_mount {kind}", tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def exit_status(pidfd: int) -> int | None:
    """Wait status of a process that is gone, even one that was never our child; None where the kernel cannot tell."""
    info = array.array("B", struct.pack("Q", _PIDFD_INFO_EXIT) + bytes(56))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    mask: int
    status: int
    (mask,), (status,) = struct.unpack_from("Q", info), struct.unpack_from("i", info, 60)
    return status if mask & _PIDFD_INFO_EXIT else None


def tells_exit_status() -> bool:
    """Whether `exit_status` works here."""
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    pidfd = os.pidfd_open(pid)
    try:
        os.waitpid(pid, 0)
        status = exit_status(pidfd)
    finally:
        os.close(pidfd)
    return status is not None and os.waitstatus_to_exitcode(status) == 7
