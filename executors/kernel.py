"""System calls that Python has no function for. Standard library only: the launcher imports this and must stay small."""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import signal
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_MS_REC_PRIVATE = 0x4000 | (1 << 18)
_MS_BIND_REC = 0x1000 | 0x4000
_MNT_DETACH = 2
AT_FDCWD = -100
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1
_PERSONALITY_UNCHANGED, _ADDRESSES_NOT_RANDOM = 0xFFFFFFFF, 0x0040000
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_CAPABILITY_VERSION_3 = 0x20080522

_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CREATE = 0, 1, 6
_FSMOUNT_CLOEXEC = 1
MOUNT_NOSUID, MOUNT_NODEV = 2, 4
_MOVE_MOUNT_F_EMPTY_PATH = 4

# _IOWR(0xFF, 11, struct pidfd_info of 64 bytes) and PIDFD_INFO_EXIT, from linux/pidfd.h (Linux 6.15).
_PIDFD_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11
_PIDFD_INFO_EXIT = 1 << 3

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """What a function of the C library gave. Raises OSError when it failed."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def syscall(number: int, what: str, *arguments: int | bytes | None) -> int:
    converted = [
        ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_char_p(argument) for argument in arguments
    ]
    return checked(libc.syscall(ctypes.c_long(number), *converted), what)


def unshare(flags: int) -> None:
    checked(libc.unshare(flags), "unshare")


def enter(namespaces: int, kinds: int = 0) -> None:
    """Enter the namespace that a descriptor stands for; or, of those of a process (a pidfd), `kinds` of them. Of pid namespaces, our children do."""
    checked(libc.setns(namespaces, kinds), "setns")


def keep_capability(capability: int) -> None:
    """Have this one, below 32, of those that we have now, and keep it when we become another program."""
    header, data = struct.pack("Ii", _CAPABILITY_VERSION_3, 0), struct.pack("6I", *[1 << capability] * 3, 0, 0, 0)
    checked(libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(data)), "capset")
    raised = (ctypes.c_ulong(value) for value in (_PR_CAP_AMBIENT_RAISE, capability, 0, 0))
    checked(libc.prctl(_PR_CAP_AMBIENT, *raised), "keep a capability")


def fix_addresses() -> int:
    """Have programs that we become, and what they start, lie in memory where they always lie. Returns what to `set_personality` again."""
    before = set_personality(_PERSONALITY_UNCHANGED)
    set_personality(before | _ADDRESSES_NOT_RANDOM)
    return before


def set_personality(personality: int) -> int:
    """Returns the one before."""
    return checked(libc.personality(ctypes.c_ulong(personality)), "personality")


def become_subreaper() -> None:
    """Orphans among our descendants become our children, so that we can reap them."""
    checked(libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1)), "prctl")


def die_with_parent(parent: int) -> None:
    """Be killed when our parent ends, also if it has ended already."""
    checked(libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)), "prctl")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def make_mounts_private() -> None:
    checked(libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None), "mount --make-rprivate /")


def bind(source: str, target: str) -> None:
    arguments = (os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(_MS_BIND_REC), None)
    checked(libc.mount(*arguments), f"bind {target}")


def unmount(target: str, *, detach: bool = False) -> None:
    checked(libc.umount2(os.fsencode(target), _MNT_DETACH if detach else 0), f"umount {target}")


def mount(kind: str, target: str, options: list[tuple[str, str | None]], *, devices: bool = False) -> None:
    """Mount a new file system at `target`, as `new_mount`."""
    made = new_mount(kind, options, devices=devices)
    try:
        attach(made, target)
    finally:
        os.close(made)


def new_mount(kind: str, options: list[tuple[str, str | None]], *, devices: bool = False) -> int:
    """Descriptor of a new file system that is mounted nowhere, nosuid, and nodev unless `devices`.

    Relative names in options are resolved, and shown, relative to the cwd.
    """
    context = syscall(_FSOPEN, f"fsopen {kind}", kind.encode(), 1)
    try:
        for key, value in options:
            command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            data = None if value is None else os.fsencode(value)
            syscall(_FSCONFIG, f"{kind} option {key}", context, command, key.encode(), data, 0)
        syscall(_FSCONFIG, f"mount {kind}", context, _FSCONFIG_CREATE, None, None, 0)
        attributes = MOUNT_NOSUID if devices else MOUNT_NOSUID | MOUNT_NODEV
        return syscall(_FSMOUNT, f"fsmount {kind}", context, _FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)


def attach(mount: int, target: str) -> None:
    """Mount at `target` what a descriptor stands for."""
    arguments = (mount, b"", AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    syscall(_MOVE_MOUNT, f"move_mount {target}", *arguments)


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
