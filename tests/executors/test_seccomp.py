"""The compiled filter, run by a small interpreter: what it decides on every architecture, whatever this machine is.

Of classic BPF (linux/filter.h) the interpreter knows what the filter uses, and refuses the rest.
"""

from __future__ import annotations

import errno
import platform
import struct

import pytest

from executors import seccomp
from executors.seccomp import ARCHITECTURES, NAMESPACE_FLAGS, TERMINAL_REQUESTS, compile_filter

ALLOW, KILL = "allow", "kill"
CLONE3 = 435
INSTRUCTIONS_MAX = 4096
NOBODY_MINDS = (1, 1, 0)
"""Arguments with which no call is refused for their sake: for a socket, one of the family of unix."""
# What programs cannot do without, by the numbers of each architecture (asm/unistd.h).
ORDINARY = {
    "x86_64": dict(  # noqa: C408 - numbers by name read best so
        read=0, write=1, open=2, close=3, mmap=9, rt_sigaction=13, socketpair=53, fork=57, vfork=58, execve=59, exit=60,
        wait4=61, kill=62, fcntl=72, rename=82, mkdir=83, symlink=88, chmod=90, getuid=102, setsid=112, mknod=133, prctl=157,
        arch_prctl=158, gettid=186, futex=202, openat=257, getrandom=318, memfd_create=319, execveat=322, statx=332, rseq=334,
        pidfd_open=434, openat2=437, close_range=436, faccessat2=439, landlock_create_ruleset=444,
    ),
    "aarch64": dict(  # noqa: C408
        getcwd=17, dup=23, fcntl=25, mknodat=33, mkdirat=34, symlinkat=36, openat=56, close=57, read=63, write=64, exit=93,
        futex=98, kill=129, rt_sigaction=134, setsid=157, prctl=167, gettid=178, socketpair=199, brk=214, munmap=215,
        execve=221, mmap=222, wait4=260, getrandom=278, memfd_create=279, execveat=281, statx=291, pidfd_open=434,
        openat2=437, close_range=436, faccessat2=439,
    ),
}  # fmt: skip
MACHINES = sorted(ARCHITECTURES)
each_machine = pytest.mark.parametrize("machine", MACHINES)


def decide(machine: str, number: int, *arguments: int, audit: int | None = None) -> str | int:
    """What the filter for `machine` decides of one call: allow, kill, or the errno."""
    program = compile_filter(machine)
    assert program is not None
    architecture = ARCHITECTURES[machine].audit if audit is None else audit
    words = [*arguments, *[0] * (6 - len(arguments))]
    call = struct.pack("<iIQ6Q", number - (1 << 32) if number >= 1 << 31 else number, architecture, 0, *words)
    return meaning(interpret(list(struct.iter_unpack("<HBBI", program)), call))


def interpret(program: list[tuple[int, int, int, int]], data: bytes) -> int:
    position = accumulator = 0
    for _ in range(INSTRUCTIONS_MAX):
        code, if_true, if_false, value = program[position]
        position += 1
        if code == 0x06:
            return value
        if code == 0x20:
            assert value % 4 == 0
            (accumulator,) = struct.unpack_from("<I", data, value)
            continue
        tests = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}
        position += if_true if tests[code] else if_false
    raise AssertionError("the filter does not end")


def meaning(answer: int) -> str | int:
    if answer >> 16 == 0x0005:
        return answer & 0xFFFF
    return {0x7FFF0000: ALLOW, 0x80000000: KILL}[answer]


@each_machine
def test_every_denied_call_is_refused(machine: str) -> None:
    denied = ARCHITECTURES[machine].denied
    assert {name: decide(machine, number) for name, number in denied.items()} == dict.fromkeys(denied, errno.EPERM)


@each_machine
def test_ordinary_calls_are_allowed(machine: str) -> None:
    ordinary = ORDINARY[machine]
    decided = {name: decide(machine, number, *NOBODY_MINDS) for name, number in ordinary.items()}
    assert decided == dict.fromkeys(ordinary, ALLOW)


@each_machine
def test_exactly_the_named_calls_are_refused(machine: str) -> None:
    """No neighbour by an off-by-one jump: all numbers there are, with arguments that nobody minds."""
    refused = {number for number in range(1000) if decide(machine, number, *NOBODY_MINDS) != ALLOW}
    assert refused == {*ARCHITECTURES[machine].denied.values(), CLONE3}


@each_machine
def test_the_kernels_dangerous_doors_are_among_the_denied(machine: str) -> None:
    doors = {"mount", "umount2", "unshare", "setns", "ptrace", "bpf", "keyctl", "userfaultfd", "io_uring_setup",
             "perf_event_open", "kexec_load", "init_module", "open_by_handle_at", "process_vm_writev", "pidfd_getfd",
             "pivot_root", "chroot", "fsopen", "move_mount", "open_tree", "mount_setattr", "add_key", "reboot",
             "personality", "memfd_secret", "process_madvise"}  # fmt: skip
    assert doors <= set(ARCHITECTURES[machine].denied)


@each_machine
@pytest.mark.parametrize("flag", [1 << bit for bit in range(32)])
def test_clone_makes_processes_and_threads_but_no_namespaces(machine: str, flag: int) -> None:
    expected = errno.EPERM if flag & NAMESPACE_FLAGS else ALLOW
    assert decide(machine, ARCHITECTURES[machine].clone, flag) == expected
    assert decide(machine, ARCHITECTURES[machine].clone, flag | 0x11 | 0xDEAD << 32) == expected


@each_machine
def test_clone_as_threads_libraries_call_it_is_allowed(machine: str) -> None:
    assert decide(machine, ARCHITECTURES[machine].clone, 0x3D0F00) == ALLOW
    assert decide(machine, ARCHITECTURES[machine].clone, 0x1200011) == ALLOW


@each_machine
def test_clone3_does_not_exist_so_that_libraries_fall_back(machine: str) -> None:
    assert decide(machine, CLONE3) == errno.ENOSYS


@each_machine
def test_nobody_types_into_a_terminal(machine: str) -> None:
    """The kernel looks at the low word only: a high one must not hide the request."""
    number = ARCHITECTURES[machine].ioctl
    for request in TERMINAL_REQUESTS:
        for high in (0, 1 << 32, 0xFFFFFFFF << 32):
            assert decide(machine, number, 3, high | request) == errno.EPERM
    for request in (0x5401, 0x5413, 0x541B, 0x5411, 0x541D, 0x5422, 0x5424):
        assert decide(machine, number, 3, request) == ALLOW
    assert decide(machine, number, TERMINAL_REQUESTS[0], 0x5401) == ALLOW


@each_machine
def test_only_sockets_that_programs_need_are_given(machine: str) -> None:
    number, families = ARCHITECTURES[machine].socket, range(64)
    given = {family: protocols for family in families if (protocols := protocols_given(machine, family))}
    assert given == {1: [*range(300)], 2: [0, 1, 6, 17], 10: [0, 6, 17, 58], 16: [0]}
    assert {decide(machine, number, family, 1) for family in families if family not in given} == {errno.EAFNOSUPPORT}
    assert {decide(machine, number, 1 << 32 | family, 1) for family in (17, 38, 40)} == {errno.EAFNOSUPPORT}
    assert decide(machine, number, 2, 1, 132) == decide(machine, number, 16, 3, 12) == errno.EPROTONOSUPPORT
    assert decide(machine, number, 2, 1, 1 << 32 | 132) == errno.EPROTONOSUPPORT


def protocols_given(machine: str, family: int) -> list[int]:
    number = ARCHITECTURES[machine].socket
    return [protocol for protocol in range(300) if decide(machine, number, family, 2, protocol) == ALLOW]


@each_machine
def test_only_unix_sockets_come_in_pairs(machine: str) -> None:
    decided = {family: decide(machine, ARCHITECTURES[machine].socketpair, family, 1) for family in range(64)}
    assert decided.pop(1) == ALLOW
    assert set(decided.values()) == {errno.EOPNOTSUPP}


@each_machine
@pytest.mark.parametrize("audit", [0, 0x40000003, 0xC000003E ^ 1, 0xC00000B7 ^ 1, 0x40000028, 0xFFFFFFFF])
def test_a_call_of_another_architecture_kills(machine: str, audit: int) -> None:
    """Its numbers mean other things: 32-bit code on a 64-bit kernel."""
    assert {decide(machine, number, audit=audit) for number in (0, 1, 39, 60, 165)} == {KILL}


@pytest.mark.parametrize("number", [0x40000000, 0x40000000 | 101, 0x40000000 | 165, 0x7FFFFFFF, 0xFFFFFFFF])
def test_an_x32_call_kills(number: int) -> None:
    assert decide("x86_64", number) == KILL


def test_each_architecture_is_judged_by_its_own_numbers() -> None:
    numbers = {name: ARCHITECTURES["x86_64"].denied[name] for name in ("mount", "ptrace")}
    assert {decide("aarch64", number) for number in numbers.values()} == {ALLOW}


def test_there_is_no_filter_for_an_unknown_architecture() -> None:
    assert compile_filter("riscv64") is None


def test_without_a_name_the_filter_is_this_machines() -> None:
    assert compile_filter() == compile_filter(platform.machine())


@each_machine
def test_a_filter_is_what_the_kernel_takes(machine: str) -> None:
    """Whole instructions, not too many, every jump inside, a return at the end."""
    program = list(struct.iter_unpack("<HBBI", compile_filter(machine) or b""))
    assert 0 < len(program) <= INSTRUCTIONS_MAX
    for position, (_, if_true, if_false, _) in enumerate(program):
        assert position + 1 + max(if_true, if_false) < len(program) or program[position][0] == seccomp._RETURN
    assert program[-1][0] == seccomp._RETURN
