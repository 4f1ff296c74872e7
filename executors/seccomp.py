"""The system call filter, as a table and a small assembler for classic BPF.

A deny list: programs of 30 languages must run, so what is refused is what reaches the kernel beyond files, memory, processes and
sockets: mounts and namespaces, modules, tracing, keyrings, BPF, io_uring, clocks, raw hardware. Of sockets the few kinds that
programs need are named instead: each other one is a part of the kernel that a call would load. Another architecture's calls
kill the process, since their numbers would mean other things. Format: linux/filter.h, linux/seccomp.h.
"""

from __future__ import annotations

import errno
import platform
import struct

import msgspec

_LOAD_WORD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_AT_LEAST = 0x35
_JUMP_ANY_BIT = 0x45
_RETURN = 0x06

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_X32_BIT = 0x40000000

NAMESPACE_FLAGS = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x00000080
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME."""
TERMINAL_REQUESTS = (0x5412, 0x541C, 0x5423)
"""TIOCSTI and TIOCLINUX: typing into somebody's terminal. TIOCSETD: line disciplines, each a module."""
UNIX_FAMILY = 1
SOCKET_PROTOCOLS = {2: (0, 1, 6, 17), 10: (0, 6, 17, 58), 16: (0,)}
"""Of AF_INET and AF_INET6: TCP, UDP and ping. Of AF_NETLINK: routes, by which libraries list interfaces."""


class Architecture(msgspec.Struct, frozen=True):
    """Numbers of the calls a filter names on one architecture (linux/audit.h, asm/unistd.h)."""

    audit: int
    denied: dict[str, int]
    clone: int
    ioctl: int
    socket: int
    socketpair: int


_SHARED = dict(  # noqa: C408 - numbers by name read best so
    io_uring_setup=425, io_uring_enter=426, io_uring_register=427, open_tree=428, move_mount=429, fsopen=430, fsconfig=431,
    fsmount=432, fspick=433, pidfd_getfd=438, process_madvise=440, mount_setattr=442, quotactl_fd=443, memfd_secret=447,
    process_mrelease=448, set_mempolicy_home_node=450, statmount=457, listmount=458, lsm_set_self_attr=460, open_tree_attr=467,
)  # fmt: skip
_CLONE3 = 435

ARCHITECTURES = {
    "x86_64": Architecture(
        0xC000003E,
        dict(
            ptrace=101, syslog=103, uselib=134, personality=135, ustat=136, sysfs=139, vhangup=153, modify_ldt=154,
            pivot_root=155, sysctl=156, adjtimex=159, chroot=161, acct=163, settimeofday=164, mount=165, umount2=166,
            swapon=167, swapoff=168, reboot=169, sethostname=170, setdomainname=171, iopl=172, ioperm=173, create_module=174, init_module=175, delete_module=176,
            get_kernel_syms=177, query_module=178, quotactl=179, nfsservctl=180, lookup_dcookie=212, clock_settime=227,
            kexec_load=246, add_key=248, request_key=249, keyctl=250, migrate_pages=256, unshare=272, move_pages=279,
            perf_event_open=298, fanotify_init=300, name_to_handle_at=303, open_by_handle_at=304, clock_adjtime=305, setns=308,
            process_vm_readv=310, process_vm_writev=311, kcmp=312, finit_module=313, kexec_file_load=320, bpf=321,
            userfaultfd=323, **_SHARED,
        ),
        clone=56, ioctl=16, socket=41, socketpair=53,
    ),
    "aarch64": Architecture(
        0xC00000B7,
        dict(
            lookup_dcookie=18, umount2=39, mount=40, pivot_root=41, nfsservctl=42, chroot=51, vhangup=58, quotactl=60, acct=89,
            personality=92, unshare=97, kexec_load=104, init_module=105, delete_module=106, clock_settime=112, syslog=116,
            ptrace=117, reboot=142, sethostname=161, setdomainname=162, settimeofday=170, adjtimex=171, add_key=217, request_key=218, keyctl=219, swapon=224,
            swapoff=225, migrate_pages=238, move_pages=239, perf_event_open=241, fanotify_init=262, name_to_handle_at=264,
            open_by_handle_at=265, clock_adjtime=266, setns=268, process_vm_readv=270, process_vm_writev=271, kcmp=272,
            finit_module=273, bpf=280, userfaultfd=282, kexec_file_load=294, **_SHARED,
        ),
        clone=220, ioctl=29, socket=198, socketpair=199,
    ),
}  # fmt: skip


def compile_filter(machine: str | None = None) -> bytes | None:
    """The filter for this machine (or the named one) as `sock_filter` records; None for an architecture not in the table."""
    architecture = ARCHITECTURES.get(machine or platform.machine())
    if architecture is None:
        return None
    program = [
        _instruction(_LOAD_WORD, _ARCHITECTURE_AT),
        _instruction(_JUMP_EQUAL, architecture.audit, 1, 0),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD_WORD, _NUMBER_AT),
        _instruction(_JUMP_AT_LEAST, _X32_BIT, 0, 1),
        _instruction(_RETURN, _KILL_PROCESS),
    ]
    # glibc falls back to clone when clone3 does not exist; its flags lie in memory, where a filter cannot look.
    program += _refuse(_CLONE3, errno.ENOSYS)
    for number in sorted(architecture.denied.values()):
        program += _refuse(number, errno.EPERM)
    program += _refuse_argument(architecture.clone, 0, _JUMP_ANY_BIT, (NAMESPACE_FLAGS,), errno.EPERM)
    program += _refuse_argument(architecture.ioctl, 1, _JUMP_EQUAL, TERMINAL_REQUESTS, errno.EPERM)
    pairs = _allow_only(0, (UNIX_FAMILY,), errno.EOPNOTSUPP)
    program += [*_unless(architecture.socketpair, pairs), *pairs]
    sockets = _sockets()
    program += [*_unless(architecture.socket, sockets), *sockets]
    program.append(_instruction(_RETURN, _ALLOW))
    return b"".join(program)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _refuse(number: int, error: int) -> list[bytes]:
    answer = [_instruction(_RETURN, _ERRNO | error)]
    return [*_unless(number, answer), *answer]


def _allow(value: int) -> list[bytes]:
    answer = [_instruction(_RETURN, _ALLOW)]
    return [*_unless(value, answer), *answer]


def _unless(number: int, body: list[bytes]) -> list[bytes]:
    """What stands before `body`, so that it is skipped unless the accumulator holds `number`."""
    return [_instruction(_JUMP_EQUAL, number, 0, len(body))]


def _allow_only(argument: int, values: tuple[int, ...], error: int) -> list[bytes]:
    """Allow a call when the low word of its argument is one of `values`, else refuse it: it ends here."""
    body = [_instruction(_LOAD_WORD, _ARGUMENTS_AT + 8 * argument)]
    for value in values:
        body += _allow(value)
    return [*body, _instruction(_RETURN, _ERRNO | error)]


def _sockets() -> list[bytes]:
    """Unix sockets, and of the other families the protocols that programs need."""
    body = [_instruction(_LOAD_WORD, _ARGUMENTS_AT), *_allow(UNIX_FAMILY)]
    for family, protocols in SOCKET_PROTOCOLS.items():
        known = _allow_only(2, protocols, errno.EPROTONOSUPPORT)
        body += [*_unless(family, known), *known]
    return [*body, _instruction(_RETURN, _ERRNO | errno.EAFNOSUPPORT)]


def _refuse_argument(number: int, argument: int, test: int, values: tuple[int, ...], error: int) -> list[bytes]:
    """Refuse call `number` when the low word of its argument passes `test` with one of `values`."""
    body = [_instruction(_LOAD_WORD, _ARGUMENTS_AT + 8 * argument)]
    for value in values:
        body += [_instruction(test, value, 0, 1), _instruction(_RETURN, _ERRNO | error)]
    body.append(_instruction(_RETURN, _ALLOW))
    return [*_unless(number, body), *body]
