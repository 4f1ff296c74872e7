"""Programs that ask the kernel for more than a program needs."""

from __future__ import annotations

import platform
from pathlib import Path

import msgspec
import pytest

from executors.interfaces import StageRequest
from executors.seccomp import ARCHITECTURES
from executors.testing.history import PYTHON, History, said
from executors.testing.trial import LIMITS
from tests.hostile.conftest import House

MACHINE = ARCHITECTURES[platform.machine()]
CALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *arguments):
    converted = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]
    converted += [ctypes.c_long(0)] * (6 - len(converted))
    if libc.syscall(ctypes.c_long(number), *converted) >= 0:
        print('DID', name)
"""
# A harmless-looking but sufficient way to succeed, were the call allowed. Others are made with zeros.
ARGUMENTS: dict[str, tuple[object, ...]] = {
    "mount": (b"none", b"/mnt", b"tmpfs", 0, 0),
    "umount2": (b"/tmp", 2),
    "ptrace": (16, 1),
    "setns": (0, 0),
    "bpf": (0, 0, 0),
    "keyctl": (0, -3, 1),
    "add_key": (b"user", b"name", b"data", 4, -3),
    "io_uring_setup": (1, 0),
    "userfaultfd": (1,),
    "fsopen": (b"tmpfs", 0),
    "open_tree": (-100, b"/tmp", 1),
    "chroot": (b"/tmp",),
    "pivot_root": (b"/tmp", b"/tmp"),
    "personality": (0x0040000,),
    "name_to_handle_at": (-100, b"/usr", 0, 0, 0),
    "syslog": (3, 0, 0),
    "perf_event_open": (0, 0, -1, -1, 0),
    "swapon": (b"/work/x", 0),
    "acct": (b"/work/x",),
    "process_vm_readv": (1, 0, 0, 0, 0, 0),
}


async def test_no_call_that_leads_out_of_the_sandbox_is_answered(session: History) -> None:
    calls = [f"call({name!r}, {number}, *{ARGUMENTS.get(name, ())!r})" for name, number in MACHINE.denied.items()]
    assert said(await session.python(CALL + "\n".join(calls))) == ""


async def test_nothing_about_the_machine_can_be_set(session: History) -> None:
    program = """
import os, socket, time
def put(name, data):
    os.write(os.open(name, os.O_RDWR), data)
attempts = [lambda: socket.sethostname('mine'), lambda: time.clock_settime(time.CLOCK_REALTIME, 0), lambda: os.nice(-5),
            lambda: os.setpriority(os.PRIO_PROCESS, 0, -5), lambda: os.setgroups([0]), lambda: os.setresuid(0, 0, 0),
            lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)), lambda: os.chown('.', 0, 0),
            lambda: put('/proc/self/oom_score_adj', b'-1000'), lambda: put('/proc/sys/vm/drop_caches', b'1'),
            lambda: put('/proc/self/uid_map', b'0 0 1'), lambda: put('/proc/1/mem', b'x')]
for number, attempt in enumerate(attempts):
    try:
        attempt()
        print('DID', number)
    except OSError:
        pass
"""
    assert said(await session.python(program)) == ""


@pytest.mark.parametrize("mode", ["4755", "2755", "6755", "1777"])
async def test_special_mode_bits_give_nothing_and_are_not_kept(house: House, session: History, mode: str) -> None:
    await session.shell(f"cp /usr/bin/id id; chmod {mode} id; mkdir d; chmod {mode} d; ./id -u > who; ./id -g >> who")
    assert session.contents()["who"] == b"1000\n1000\n"
    assert await session.says("stat -c %a id d; ./id -u; ./id -G") == "755\n755\n1000\n1000"
    workspaces = house.workspaces()
    files = [path for path in workspaces.rglob("*") if not path.is_symlink()]
    assert any(path.name == "id" for path in files)
    assert not [path for path in files if path.stat().st_mode & 0o6000]


async def test_the_systems_setuid_programs_do_not_help(session: History) -> None:
    program = """
import os, subprocess
found = [entry.path for folder in ('/usr/bin', '/usr/sbin') for entry in os.scandir(folder)
         if entry.is_file() and entry.stat().st_mode & 0o6000]
for name in found:
    child = subprocess.Popen([name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        status = open(f'/proc/{child.pid}/status').read()
        if 'Uid:\\t1000\\t1000\\t1000\\t1000' not in status:
            print('BECAME', name, status)
    except OSError:
        pass
    child.kill()
    child.wait()
"""
    assert said(await session.python(program)) == ""


async def test_the_devices_that_are_there_are_harmless(session: History) -> None:
    harmless = {"core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
                "zero", "console"}  # fmt: skip
    assert set((await session.says("ls /dev")).split()) <= harmless


async def test_a_crash_leaves_no_image_of_memory(house: House, session: History) -> None:
    limits = msgspec.structs.replace(LIMITS, wall_time_s=10)
    result = await session.python(
        "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()",
        stages=(StageRequest("run", PYTHON[1], limits),),
    )
    assert result.stages[0][1].signal == 6
    assert session.contents() == {}
    assert not list(Path(house.home).glob("core*"))
