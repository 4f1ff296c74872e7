"""System calls by which a program is brought into a container and confined there. Standard library only.

Mounts are made detached, seen by nobody, and attached in the container: the host's table of mounts never shows them, and they go
with the container whatever happens to us.
"""

from __future__ import annotations

import ctypes
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CREATE = 0, 1, 6
_CLOEXEC = 1
_NOSUID_NODEV = 2 | 4
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MS_REMOUNT, _MS_LOCKED_DOWN = 32, 1 | 2 | 4 | 8
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 22, 24, 38, 47
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAP_AMBIENT_CLEAR_ALL, _SECCOMP_MODE_FILTER = 4, 2
_CAPABILITY_VERSION_3, _CAPABILITIES_MAX = 0x20080522, 64
_FILTER_RECORD_BYTES = 8

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def _syscall(number: int, what: str, *arguments: int | bytes | None) -> int:
    converted = [ctypes.c_long(given) if isinstance(given, int) else ctypes.c_char_p(given) for given in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *converted), what)


def _prctl(what: str, option: int, *arguments: int) -> None:
    padded = [*arguments, 0, 0, 0, 0][:4]
    _checked(_libc.prctl(option, *(ctypes.c_ulong(argument) for argument in padded)), what)


def join_namespaces(pidfd: int, flags: int) -> None:
    """Enter namespaces of a process; of CLONE_NEWPID, our children do. Needs Linux 5.8."""
    _checked(_libc.setns(pidfd, flags), "setns")


def leave_namespaces(flags: int) -> None:
    _checked(_libc.unshare(flags), "unshare")


def new_mount(kind: str, options: list[tuple[str, str | None]]) -> int:
    """Descriptor of a new file system, nosuid and nodev, mounted nowhere. Relative names in options start from the cwd."""
    context = _syscall(_FSOPEN, f"fsopen {kind}", kind.encode(), _CLOEXEC)
    try:
        for key, value in options:
            command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            data = None if value is None else os.fsencode(value)
            _syscall(_FSCONFIG, f"{kind} option {key}", context, command, key.encode(), data, 0)
        _syscall(_FSCONFIG, f"mount {kind}", context, _FSCONFIG_CREATE, None, None, 0)
        return _syscall(_FSMOUNT, f"fsmount {kind}", context, _CLOEXEC, _NOSUID_NODEV)
    finally:
        os.close(context)


def mount_of(folder: str) -> int:
    """Descriptor of a mount that shows `folder`, nosuid and nodev, and is mounted nowhere."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    tree = _syscall(_OPEN_TREE, "open_tree", _AT_FDCWD, os.fsencode(folder), flags)
    try:
        attributes = struct.pack("4Q", _NOSUID_NODEV, 0, 0, 0)
        _syscall(_MOUNT_SETATTR, "mount_setattr", tree, b"", _AT_EMPTY_PATH, attributes, len(attributes))
    except OSError:
        os.close(tree)
        raise
    return tree


def attach(mount: int, target: str) -> None:
    """Mount at `target` what `new_mount` or `mount_of` made."""
    arguments = (mount, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    _syscall(_MOVE_MOUNT, f"move_mount {target}", *arguments)


def guard_proc() -> None:
    """Tell nobody in our /proc of processes that he could not trace: neither of a container's init nor of a supervisor.

    And let nobody write there: settings of a run's own namespaces would be the program's to change.
    """
    flags = ctypes.c_ulong(_MS_REMOUNT | _MS_LOCKED_DOWN)
    _checked(_libc.mount(b"proc", b"/proc", None, flags, b"hidepid=1"), "guard /proc")


def die_with_parent(signal_number: int) -> None:
    _prctl("die with parent", _PR_SET_PDEATHSIG, signal_number)


def become_subreaper() -> None:
    """Orphans among our descendants, in our own pid namespace, become our children."""
    _prctl("subreaper", _PR_SET_CHILD_SUBREAPER, 1)


def drop_capabilities() -> None:
    """All, for good: no set keeps any, and no program regains any."""
    for capability in range(_CAPABILITIES_MAX):
        try:
            _prctl("drop capability", _PR_CAPBSET_DROP, capability)
        except OSError:  # the kernel knows no more of them
            break
    _prctl("no new privileges", _PR_SET_NO_NEW_PRIVS, 1)
    _prctl("clear ambient capabilities", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header, data = struct.pack("Ii", _CAPABILITY_VERSION_3, 0), bytes(24)
    _checked(_libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(data)), "capset")


def filter_system_calls(program: bytes) -> None:
    """Load `program` (records of struct sock_filter). No new privileges must have been given up before."""
    records = ctypes.create_string_buffer(program, len(program))
    length = len(program) // _FILTER_RECORD_BYTES
    described = struct.pack("HxxxxxxP", length, ctypes.addressof(records))
    buffer = ctypes.create_string_buffer(described, len(described))
    _prctl("seccomp", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(buffer))
