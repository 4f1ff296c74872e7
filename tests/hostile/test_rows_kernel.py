"""The battery, kernel surface: calls that reach further than files, memory, processes and sockets of its own.

Numbers are x86_64's; other architectures are covered by the filter's own tests (tests/executors/test_seccomp.py).
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from store.snapshot import Ending
from tests.hostile.battery import ROOMY, Attack, each, each_tame, stages, unconfined
from tests.hostile.conftest import Doors, House

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="calls by the numbers of another architecture")


def call(name: str, arguments: str, *, tame: bool = False, before: str = "") -> Attack:
    """One system call that would answer, were it let through."""
    return Attack(name, f"{before}\ngot('answered', call({arguments}))", "call", tame=tame)


def opened(name: str, arguments: str, *, tame: bool = False) -> Attack:
    return Attack(name, f"got('opened', libc.socket({arguments}))", "call", tame=tame)


ZEROS = "room = ctypes.create_string_buffer(256); at = ctypes.addressof(room)"
IN_A_CHILD = "if os.fork() == 0:\n    got('answered', call({}))\n    os._exit(0)\nos.wait()"
NAMESPACES = {"mounts": 0x20000, "control groups": 0x2000000, "names": 0x4000000, "ipc": 0x8000000, "users": 0x10000000,
              "processes": 0x20000000, "networks": 0x40000000, "times": 0x80}  # fmt: skip

ROWS = (
    *(Attack(f"unshare {name}", IN_A_CHILD.format(f"272, {flag}"), "call", tame=True) for name, flag in NAMESPACES.items()),
    *(
        Attack(f"clone with new {name}", f"child = call(56, {flag} | 17)\nif child == 0: os._exit(0)\ngot('child', child)", "call",
               tame=name != "times")
        for name, flag in NAMESPACES.items()
    ),
    Attack("clone3 with a new user namespace", f"{ZEROS}\nstruct.pack_into('=QQQQQ', room, 0, 0x10000000, 0, 0, 0, 17)\n"
           "child = call(435, at, 88)\nif child == 0: os._exit(0)\ngot('child', child)", "call", tame=True),
    Attack("a user namespace by a tool", "unshare -U true && echo GOT; unshare -Ur id && echo GOT; true", tame=True),
    Attack("a nest of user namespaces by a tool", "unshare -Ur unshare -Ur unshare -Ur echo GOT; true", tame=True),
    call("setns into a namespace of the first process", "308, os.open('/proc/1/ns/net', os.O_RDONLY), 0x40000000"),
    call("setns by a pidfd", "308, os.pidfd_open(os.getppid()), 0x40000000"),
    Attack("mount a file system in memory", IN_A_CHILD.format("165, b'none', b'/tmp/psf-no-such', b'tmpfs', 0, 0")
           + "\ngot('mounted', call(165, b'none', b'/tmp', b'tmpfs', 0, 0))", "call"),
    call("bind the root somewhere", "165, b'/', b'/mnt', 0, 0x1000, 0"),
    call("remount the system writable", "165, 0, b'/usr', 0, 0x1020, 0"),
    call("unmount what hides", "166, b'/proc/keys', 2"),
    call("a mount's context", "430, b'tmpfs', 0", tame=True),
    call("a copy of a mount", "428, -100, b'/usr', 1", tame=True),
    call("move a mount", "429, -100, b'/tmp', -100, b'/mnt', 0"),
    call("a mount's flags", "442, -100, b'/tmp', 0, at, 32", before=ZEROS),
    call("a listing of mounts", "458, at, at + 64, 16, 0", before=ZEROS + "; struct.pack_into('=IIQQ', room, 0, 24, 0, (1 << 64) - 1, 0)"),
    call("another root", "161, b'/tmp'"),
    call("another root by turning", "155, b'/tmp', b'/tmp'"),
    call("bpf: a map", "321, 0, at, 72", tame=True, before=ZEROS + "; struct.pack_into('=IIII', room, 0, 2, 4, 4, 1)"),
    call("bpf: a program", "321, 5, at, 72", before=ZEROS),
    call("perf events", "298, at, 0, -1, -1, 0", tame=True, before=ZEROS + "; struct.pack_into('=IIQ', room, 0, 1, 128, 0)"),
    call("a key in a keyring", "248, b'user', b'psf', b'data', 4, -2", tame=True),
    call("the session's keyring", "250, 0, -3, 1", tame=True),
    call("a key by asking for it", "249, b'user', b'psf', 0, -2", before="call(248, b'user', b'psf', b'x', 1, -2)", tame=True),
    call("io_uring", "425, 8, at", tame=True, before=ZEROS),
    call("io_uring's registrations", "427, -1, 13, at, 1", before=ZEROS),
    call("userfaultfd", "323, 0x80001", tame=True),
    Attack("userfaultfd by its device", "test -e /dev/userfaultfd && echo GOT"),
    call("trace its parent", "101, 0x4206, os.getppid(), 0, 0"),
    Attack("trace its child", "child = os.fork()\nif child == 0:\n    call(34)\ngot('attached', call(101, 16, child, 0, 0))\nos.kill(child, 9)",
           "call", tame=True),
    Attack("be traced by its parent", IN_A_CHILD.format("101, 0, 0, 0, 0"), "call", tame=True),
    call("a child's memory", "310, os.getpid(), at, 1, at, 1, 0", tame=True,
         before=ZEROS + "; struct.pack_into('=QQ', room, 0, at + 64, 8)"),
    call("a descriptor of its parent's", "438, os.pidfd_open(os.getppid()), 0, 0", tame=True),
    call("whether two processes share", "312, os.getpid(), os.getppid(), 0, 0, 0", tame=True),
    call("another personality", "135, 0x0040000", tame=True),
    call("modules: load", "175, at, 0, b''", before=ZEROS),
    call("modules: load a file", "313, os.open('/usr/bin/env', 0), b'', 0"),
    call("another kernel", "246, 0, 0, 0, 0"),
    call("reboot", "169, 0xfee1dead, 672274793, 0, 0"),  # which would only switch ctrl-alt-del off
    call("swap to a file", "167, b'/work/_psf_main.py', 0"),
    call("accounting to a file", "163, b'/work/_psf_main.py'"),
    call("the clock", "227, 0, at", before=ZEROS),
    call("the clock's speed", "159, at", tame=True, before=ZEROS),
    call("ports of the hardware", "172, 3"),
    call("a segment of its own", "154, 0, at, 64", tame=True, before=ZEROS),
    call("quotas", "179, 0x80000700, 0, 0, at", before=ZEROS),
    call("watch a whole file system", "300, 0, 0", tame=True),
    call("move pages of another", "279, os.getppid(), 0, 0, 0, 0", tame=True),
    call("advise another's memory", "440, os.pidfd_open(os.getppid()), at, 1, 4, 0", before=ZEROS),
    call("secret memory", "447, 0"),
    opened("packets of the network", "17, 3, 0x300", tame=True),
    opened("raw internet packets", "2, 3, 255", tame=True),
    opened("raw ICMP", "2, 3, 1", tame=True),
    opened("vsock to the host", "40, 1, 0"),
    opened("the kernel's ciphers", "38, 5, 0"),
    opened("express data paths", "44, 3, 0"),
    opened("bluetooth", "31, 3, 1"),
    opened("TIPC", "30, 1, 0"),
    opened("a CAN bus", "29, 3, 1"),
    opened("the key database", "15, 3, 2"),
    opened("netlink: netfilter", "16, 3, 12"),
    opened("netlink: audit", "16, 3, 9"),
    opened("netlink: device events", "16, 3, 15", tame=True),
    opened("netlink: generic families", "16, 3, 16", tame=True),
    opened("netlink: other sockets", "16, 3, 4"),
    opened("SCTP", "2, 1, 132"),
    opened("multipath TCP", "2, 1, 262"),
    Attack("a pair of TIPC sockets", "pair = (ctypes.c_int * 2)()\ngot('pair', libc.socketpair(30, 5, 0, pair))", "call"),
    Attack("rights to set up a network", "got('raised', libc.ioctl(socket.socket().fileno(), 0x8914,"
           " struct.pack('16sH14x', b'lo', 1) + bytes(8)))", "call"),
    Attack("type into a terminal", "import fcntl, pty\nours, theirs = pty.openpty()\nos.setsid()\n"
           "got('ours', libc.ioctl(theirs, 0x540E, 0) * 0 - 1)\ngot('typed', libc.ioctl(theirs, 0x5412, ctypes.c_char_p(b'x')))", "call"),
    Attack("type with the high word set", "import pty\nours, theirs = pty.openpty()\nos.setsid()\nlibc.ioctl(theirs, 0x540E, 0)\n"
           "got('typed', call(16, theirs, 0x5412 | 1 << 40, b'x'))", "call"),
    Attack("select text on a console", "import pty\nours, theirs = pty.openpty()\n"
           "got('set', libc.ioctl(theirs, 0x541C, ctypes.c_char_p(bytes([2]))))", "call"),
    Attack("another discipline of a terminal", "import pty\nours, theirs = pty.openpty()\n"
           "for number in range(1, 30): got('discipline', libc.ioctl(theirs, 0x5423, ctypes.byref(ctypes.c_int(number))))", "call", tame=True),
    Attack("more of a priority", "got('nice', -1 if libc.setpriority(0, 0, -5) else 0)", "call", tame=True),
    Attack("a real-time schedule", "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))\nprint('GOT')", "call"),
    Attack("not to be killed for memory", "os.write(os.open('/proc/self/oom_score_adj', 1), b'-1000')\nprint('GOT')", "call"),
    Attack("a capability", "import re\nif int(re.search(r'CapBnd:\\s+(\\w+)', open('/proc/self/status').read())[1], 16): print('GOT')", "call", tame=True),
    Attack("an ambient capability", "got('raised', libc.prctl(47, 2, 21, 0, 0))", "call"),
    Attack("another name for the machine", "got('named', libc.sethostname(socket.gethostname().encode(), len(socket.gethostname())))", "call", tame=True),
    Attack("the filter off again", "got('off', libc.prctl(22, 0, 0, 0, 0))", "call"),
)  # fmt: skip
FOREIGN = {
    "x32": "int main() { syscall(0x40000000 | 39); puts(\"GOT\"); }",
    "x32, a number of its own": "int main() { syscall(0x40000000 | 521, 0, 0); puts(\"GOT\"); }",
    "i386 by an interrupt": "int main() { int n = 20; __asm__ volatile(\"int $0x80\" : \"+a\"(n)); puts(\"GOT\"); }",
}  # fmt: skip


@each(ROWS)
async def test_the_kernel_does_not_give(house: House, attack: Attack) -> None:
    await house.withstands(attack)


@each_tame(ROWS)
def test_unconfined_it_is_noticed_that_the_kernel_gives(own_doors: Doors, tmp_path: Path, attack: Attack) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root is given everything")
    assert unconfined(attack, own_doors.places, tmp_path)


@pytest.mark.parametrize("body", FOREIGN.values(), ids=FOREIGN.keys())
async def test_calls_by_another_table_end_the_program(house: House, body: str) -> None:
    history = house.session()
    language, program = Attack("foreign", body, "c").source(house.places)
    result = await history.step(language, program + "\necho status $?", stages=stages(language, ROOMY))
    run = result.stages[-1][1]
    assert (run.ending, run.stdout.data) == (Ending.EXITED, b"status 159\n")


async def test_what_programs_need_of_sockets_they_have(house: House) -> None:
    """FIFOs, unix sockets as files, loopback, names of interfaces, shared memory, terminals of their own."""
    program = """
import fcntl, multiprocessing, os, pty, socket, struct
os.mkfifo('fifo')
if os.fork() == 0:
    open('fifo', 'w').write('through')
    os._exit(0)
assert open('fifo').read() == 'through'
for family, name in ((socket.AF_UNIX, 'door'), (socket.AF_UNIX, '\\0door'), (socket.AF_INET, ('127.0.0.1', 0)), (socket.AF_INET6, ('::1', 0))):
    server = socket.socket(family)
    server.bind(name)
    server.listen()
    client = socket.socket(family)
    client.connect(server.getsockname())
    client.sendall(b'x')
    assert server.accept()[0].recv(1) == b'x'
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    socket.socketpair(socket.AF_UNIX, kind)
assert [name for _, name in socket.if_nameindex()] == ['lo']
route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
route.send(struct.pack('=IHHIIB3x', 20, 18, 0x301, 1, 0, 0))
assert b'lo' in route.recv(1 << 16)
assert socket.getaddrinfo('localhost', 80, type=socket.SOCK_STREAM)
multiprocessing.Lock()
os.write(pty.openpty()[0], b'x')
print('all')
"""
    result = await house.session().python(program)
    run = result.stages[-1][1]
    assert run.stdout.data == b"all\n", run
    assert sorted(item.reason for item in result.left_out) == ["a FIFO", "a socket"]
