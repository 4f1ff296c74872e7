"""System calls by which a program is brought into a container and confined there, beside those of executors.kernel.

Standard library only. Mounts are made detached, seen by nobody, and attached in the container: the host's table of mounts never shows
them, and they go with the container whatever happens to us.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct

from executors.kernel import AT_FDCWD, MOUNT_NODEV, MOUNT_NOSUID, checked, libc, syscall

_OPEN_TREE, _MOUNT_SETATTR = 428, 442
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MS_REMOUNT, _MS_LOCKED_DOWN = 32, 1 | 2 | 4 | 8
_AT_EMPTY_PATH = 0x1000

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 22, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL, _SECCOMP_MODE_FILTER = 4, 2
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_CAPABILITY_VERSION_3, _CAPABILITIES_MAX = 0x20080522, 64
_FILTER_RECORD_BYTES = 8


def _prctl(what: str, option: int, *arguments: int) -> None:
    padded = [*arguments, 0, 0, 0, 0][:4]
    checked(libc.prctl(option, *(ctypes.c_ulong(argument) for argument in padded)), what)


def bring_loopback_up() -> None:
    """Of our network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def mount_of(folder: str) -> int:
    """Descriptor of a mount that shows `folder`, nosuid and nodev, and is mounted nowhere."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    tree = syscall(_OPEN_TREE, "open_tree", AT_FDCWD, os.fsencode(folder), flags)
    try:
        attributes = struct.pack("4Q", MOUNT_NOSUID | MOUNT_NODEV, 0, 0, 0)
        syscall(_MOUNT_SETATTR, "mount_setattr", tree, b"", _AT_EMPTY_PATH, attributes, len(attributes))
    except OSError:
        os.close(tree)
        raise
    return tree


def guard_proc() -> None:
    """Tell nobody in our /proc of processes that he could not trace: neither of a container's init nor of a supervisor.

    And let nobody write there: settings of a run's own namespaces would be the program's to change.
    """
    flags = ctypes.c_ulong(_MS_REMOUNT | _MS_LOCKED_DOWN)
    checked(libc.mount(b"proc", b"/proc", None, flags, b"hidepid=1"), "guard /proc")


def die_with_parent() -> None:
    """As in executors.kernel, but for a parent in another pid namespace, whose pid cannot be known here."""
    _prctl("die with parent", _PR_SET_PDEATHSIG, signal.SIGKILL)


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
    checked(libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(data)), "capset")


def filter_system_calls(program: bytes) -> None:
    """Load `program` (records of struct sock_filter). No new privileges must have been given up before."""
    records = ctypes.create_string_buffer(program, len(program))
    length = len(program) // _FILTER_RECORD_BYTES
    described = struct.pack("HxxxxxxP", length, ctypes.addressof(records))
    buffer = ctypes.create_string_buffer(described, len(described))
    _prctl("seccomp", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(buffer))
