"""The battery, reading: what is not the program's own, through every door there is."""

from __future__ import annotations

import asyncio
import fcntl
import subprocess
from pathlib import Path

import pytest

from executors.testing.history import said
from tests.hostile.battery import LOOT, SECRET, Attack, breaches, each, each_tame, unconfined
from tests.hostile.conftest import Doors, House

CAT = "cat {} 2> /dev/null"
PRIVATE = "for f in {}; do test -r $f && test -s $f && echo GOT $f; done 2> /dev/null; true"
SEARCHED = """
import glob
for path in glob.glob({pattern!r}):
    try:
        data = open(path, 'rb').read(1 << 20)
    except OSError:
        continue
    for word in {words!r}:
        if word in data:
            print('GOT', path, word)
"""


def searched(pattern: str, *words: str) -> str:
    return SEARCHED.format(pattern=pattern, words=[word.encode() for word in words])


ROWS = (
    Attack("a host file by its name", CAT.format("@canary"), tame=True),
    Attack("a host file by a name that climbs", CAT.format("/work/../../..@canary"), tame=True),
    Attack("a host file through the root of any process", CAT.format("/proc/[0-9]*/root@canary"), tame=True),
    Attack("a host file through the root of the first process", CAT.format("/proc/1/root@canary")),
    Attack("a host file through the server's root", CAT.format("/proc/@server/root@canary"), tame=True),
    Attack("a host file below any process's cwd", "cd @home 2> /dev/null; cat /proc/[0-9]*/cwd/*canary*.txt 2> /dev/null", tame=True),
    Attack("a host file through map_files", CAT.format("/proc/*/map_files/*")),
    Attack("a host file through an inherited descriptor", "for n in /proc/*/fd/*; do test $n -ef @canary && cat $n; done 2> /dev/null;"
           "exec 5< @canary; cat <&5", tame=True),
    Attack("a host folder through an inherited descriptor", "for n in $(seq 3 255); do ls /proc/self/fd/$n/ && echo GOT $n; done 2> /dev/null; true"),
    Attack("a host file by a hard link", "ln @canary here 2> /dev/null && cat here; ln /proc/self/root@canary here && cat here"),
    Attack("a host file by a symlink", "ln -s @canary here; cat here", tame=True),
    Attack("a host file by an include of a language", "import runpy\ntry: print(runpy.run_path('@canary'))\nexcept SyntaxError as e: print(e.text)",
           "python", tame=True),
    Attack("a host file by its handle", "for kind in (0, 1, 2, 3, 4, 5):\n"
           "    handle = struct.pack('=IiQI', 12, kind, 2, 0) + bytes(128)\n"
           "    at = ctypes.create_string_buffer(handle)\n"
           "    for way in (0, 1, 2, -100): got('handle', call(304, way, ctypes.addressof(at), 0))", "call"),
    Attack("the handle of a file", "handle, mount = ctypes.create_string_buffer(struct.pack('=Ii', 128, 0) + bytes(128)), ctypes.c_int()\n"
           "got('named', call(303, -100, b'/usr', ctypes.addressof(handle), ctypes.addressof(mount), 0))", "call", tame=True),
    Attack("the server's environment", searched("/proc/*/environ", LOOT, "PSF_SECRET"), "python"),
    Attack("the server's arguments", searched("/proc/*/cmdline", "pytest", "launcher_process", SECRET), "python"),
    Attack("where things lie on the host", searched("/proc/*/mountinfo", "psf-hostile", "site-packages", "/workspaces/", "/.venv"), "python"),
    Attack("where things lie on the host, in the other table", searched("/proc/*/mounts", "psf-hostile", "site-packages"), "python"),
    Attack("the memory of the first process", "open('/proc/1/mem', 'rb').read(1)\nprint('GOT')", "python"),
    Attack("the map of the first process's memory", "test -s /proc/1/maps && head -c 1 /proc/1/maps > /dev/null && grep -q venv /proc/1/maps && echo GOT"),
    Attack("the stack and registers of the first process", PRIVATE.format("/proc/1/stack /proc/1/syscall /proc/1/auxv")),
    Attack("the server's process", "ls -d /proc/@server 2> /dev/null && tr '\\\\0' ' ' < /proc/@server/cmdline | grep python && echo GOT", tame=True),
    Attack("the store", "ls -A @home/store 2> /dev/null && echo GOT; true"),
    Attack("workspaces of others", "find / -xdev -name upper -o -xdev -name delta 2> /dev/null | grep . && echo GOT; true"),
    Attack("the stage on which cells stand", "ls -d /dev/shm/* /mnt/* /media/* /srv/* 2> /dev/null | grep -e cell -e bwrap && echo GOT; true"),
    Attack("the host's accounts", "grep -v -e ^root -e ^sandbox -e ^nobody /etc/passwd && echo GOT", tame=True),
    Attack("the host's passwords", PRIVATE.format("/etc/shadow /etc/gshadow /etc/shadow- /etc/sudoers"), tame=True),
    Attack("the host's keys", PRIVATE.format("/root/.ssh/* /home/*/.ssh/* /etc/ssh/* /etc/ssl/private/*")),
    Attack("the host's name", "grep -qx sandbox /proc/sys/kernel/hostname || echo GOT $(hostname)", tame=True),
    Attack("the host's names of others", "grep -v -e localhost /etc/hosts && echo GOT; grep . /etc/resolv.conf /etc/machine-id && echo GOT; true"),
    Attack("the host's homes", "ls -A /root /home | grep -v -e sandbox -e : -e ^$ && echo GOT; true"),
    Attack("the host's logs", PRIVATE.format("/var/log/* /var/log/*/* /var/spool/*/* /run/log/*"), tame=True),
    Attack("the kernel's log by a call", "data = ctypes.create_string_buffer(4096)\ngot('log', call(103, 3, ctypes.addressof(data), 4096))", "call", tame=True),
    Attack("the kernel's log by its device", "test -e /dev/kmsg && echo GOT", tame=True),
    Attack("the kernel's log in /proc", "test -e /proc/kmsg && timeout 1 head -c 1 /proc/kmsg 2> /dev/null | grep -q . && echo GOT"),
    Attack("the kernel's memory", PRIVATE.format("/proc/kcore /dev/mem /dev/kmem /dev/port /proc/vmcore")),
    Attack("where the kernel's functions lie", "grep -v '^0000000000000000' /proc/kallsyms | grep . > /dev/null && echo GOT", tame=True),
    Attack("how the kernel was started", "grep -q . /proc/cmdline && echo GOT $(cat /proc/cmdline)", tame=True),
    Attack("the kernel's keys", "grep -q . /proc/keys && echo GOT", tame=True),
    Attack("the kernel's modules and configuration", PRIVATE.format("/proc/config.gz /proc/kcore /boot/*"), tame=True),
    Attack("what all users of the machine wait for", PRIVATE.format("/proc/timer_list /proc/sched_debug /proc/latency_stats /proc/slabinfo /proc/vmallocinfo")),
    Attack("which interrupts the machine gets", "grep -q . /proc/interrupts && echo GOT", tame=True),
    Attack("the machine's devices and firmware", "find /sys -mindepth 1 -maxdepth 3 2> /dev/null | grep . && echo GOT; true", tame=True),
    Attack("the machine's disks", "head -c 1 /dev/[svn]d[a-z]* /dev/vda /dev/nvme0n1 /dev/loop0 /dev/dm-0 2> /dev/null | grep . && echo GOT; true"),
    Attack("docker's socket and others", "for f in $(find /run/docker* /run/*.sock /var/run/docker.sock /tmp/*.sock @home -maxdepth 1 -type s 2> /dev/null); do echo GOT $f; done", tame=True),
    Attack("the control groups' tree", "ls -d /sys/fs/cgroup/* 2> /dev/null && echo GOT", tame=True),
    Attack("which control group it is in", "grep -e psf- /proc/self/cgroup && echo GOT; true"),
    Attack("shared memory of the host", "ipcs -m -q -s | grep 0x && echo GOT; ls -A /dev/shm | grep . && echo GOT; true"),
    Attack("files of the host that are open for all", "find / -xdev -type f -perm -002 2> /dev/null | grep -v -e ^/work -e ^/proc -e ^/tmp | xargs -r cat 2> /dev/null; true"),
    Attack("what its standard streams are files of", "readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 | grep -v -e pipe: -e /dev/null && echo GOT; true"),
    Attack("what the gate was told", "printenv | grep -i -e launcher -e canary -e ^LD_ -e ^PYTEST && echo GOT; true"),
)  # fmt: skip


@each(ROWS)
async def test_nothing_is_read_by(house: House, attack: Attack) -> None:
    await house.withstands(attack)


@each_tame(ROWS)
def test_unconfined_it_is_noticed_that_something_is_read_by(own_doors: Doors, tmp_path: Path, attack: Attack) -> None:
    assert unconfined(attack, own_doors.places, tmp_path)


async def test_an_answer_that_carries_the_canary_would_be_noticed() -> None:
    assert breaches(f"... {LOOT} ...".encode())
    assert breaches(b"nothing", b"", f"{LOOT}".encode())
    assert breaches(b"x\nGOT 1") == [b"GOT 1"]
    assert not breaches(b"FORGOT nothing", SECRET.encode())


@pytest.mark.parametrize("place", ["/tmp", "/var/tmp", "/mnt", "/dev/shm", "$HOME", "/work"])
async def test_what_another_session_has_is_not_read_in(house: House, place: str) -> None:
    """While it runs, and when it has ended."""
    victim, thief = house.session(), house.session()
    keeping = asyncio.create_task(victim.shell(f"echo '{LOOT}' > {place}/mine; sleep 0.5", keep="nothing"))
    look = f"cat {place}/* /proc/[0-9]*/root{place}/* /proc/[0-9]*/cwd/mine 2> /dev/null; true"
    found = "".join([await thief.says(f"sleep 0.2; {look}", keep="nothing") for _ in range(2)])
    await keeping
    found += await thief.says(look, keep="nothing")
    assert LOOT not in found


SPY = """
import ctypes, fcntl, os, select, time
libc, seen, end = ctypes.CDLL(None), b'', time.monotonic() + 3
watch = libc.inotify_init()
assert libc.inotify_add_watch(watch, b'/usr/bin', 0x20) > 0
held = open('/usr/bin/env')
fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
open('begun', 'w').close()
while time.monotonic() < end:
    if select.select([watch], [], [], 0.1)[0]: seen += os.read(watch, 4096)
print('GOT' if b'factor' in seen or b'nl\\0' in seen else 'saw nobody else')
"""


async def test_what_others_open_of_the_system_is_not_seen_and_not_locked(house: House) -> None:
    """Neither this machine's programs, nor another session's: the folders that both read are each run's own."""
    spying = asyncio.create_task(house.session().python(SPY))
    while not list(house.workspaces().glob("*/*/upper/begun")):
        await asyncio.sleep(0.02)
        assert not spying.done(), spying.result()
    subprocess.run(["factor", "1"], check=True, stdout=subprocess.DEVNULL)
    locking = (
        "exec 3< /usr/bin/env; python3 -c 'import fcntl; fcntl.flock(3, fcntl.LOCK_EX | fcntl.LOCK_NB)' && echo mine"
    )
    assert said(await house.session().shell(f"nl /dev/null; {locking}")) == "mine"
    with open("/usr/bin/env") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert said(await spying) == "saw nobody else"
