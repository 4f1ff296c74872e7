"""The battery, resources: programs that take all there is. Each ends as what it is, and others are served meanwhile and afterwards."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from executors.testing.history import PYTHON, said
from store.snapshot import Ending, Limits
from tests.executors import bench
from tests.hostile.battery import ROOMY, Attack, stages
from tests.hostile.conftest import House

DISK_BYTES, DISK_INODES = 48 << 20, 1500
TIGHT = msgspec.structs.replace(ROOMY, wall_time_s=0.8, memory_bytes=64 << 20)
LONG = msgspec.structs.replace(
    ROOMY, wall_time_s=25.0, file_bytes=1 << 30, memory_bytes=256 << 20, disk_bytes=DISK_BYTES, disk_inodes=DISK_INODES
)
BUSY = msgspec.structs.replace(LONG, cpu_time_s=1)
MANY = msgspec.structs.replace(LONG, open_files=256)


class Greedy(msgspec.Struct, frozen=True):
    """A row: what it takes, within what, and how that must end. `hit` must be among the limits reached; None: none need be."""

    name: str
    program: str
    language: str = "python"
    limits: Limits = TIGHT
    endings: tuple[Ending, ...] = (Ending.TIMED_OUT,)
    hit: str | None = None


STAY = "\nimport time\ntime.sleep(600)"
FILL = "import os\nfor n in range(1 << 20):\n    with open(f'{n}', 'wb') as f: f.write(bytes(1 << 20))" + STAY
DISK, INODES, MEMORY = (
    (Ending.DISK_LIMIT,),
    (Ending.DISK_LIMIT,),
    (Ending.OUT_OF_MEMORY, Ending.TIMED_OUT, Ending.EXITED),
)

HOLLOW = r"""
cat > hollow.c <<'END'
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#define PUT(type, value) (*(type *)at = (value), at += sizeof(type))
int main() {  /* unmap all of its own file, by a few instructions that lie elsewhere, and wait */
    uint8_t *code = mmap(0, 8192, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *at = code;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps)) {
        uint64_t from, to;
        if (!strstr(line, "/hollow")) continue;
        sscanf(line, "%lx-%lx", &from, &to);
        PUT(uint16_t, 0xb848), PUT(uint64_t, 11), PUT(uint16_t, 0xbf48), PUT(uint64_t, from);
        PUT(uint16_t, 0xbe48), PUT(uint64_t, to - from), PUT(uint16_t, 0x050f);
    }
    fclose(maps);
    PUT(uint16_t, 0xb848), PUT(uint64_t, 34), PUT(uint16_t, 0x050f), PUT(uint16_t, 0xf2eb);
    ((void (*)(void))code)();
}
END
gcc -w -o hollow hollow.c
for n in 1 2 3 4 5 6 7 8; do cp hollow hollow$n; head -c 16777216 /dev/zero >> hollow$n; ./hollow$n & sleep 0.05; rm hollow$n; done
sleep 600
"""
"""In the language of x86_64."""

ROWS = (
    Greedy("forks without end", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", hit="processes"),
    Greedy("a fork bomb of the shell", "bomb() { bomb | bomb & }; bomb; sleep 600", "bash", endings=(Ending.TIMED_OUT, Ending.EXITED)),
    Greedy("sessions of its own, forked twice", "import os\nfor _ in range(8):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:"
           "\n            while True: pass\n        os._exit(0)" + STAY),
    Greedy("a thread bomb", "import threading, time\nwhile True:\n    try: threading.Thread(target=time.sleep, args=(600,)).start()\n    except RuntimeError:"
           " time.sleep(.01)", endings=(Ending.TIMED_OUT, Ending.OUT_OF_MEMORY)),
    Greedy("memory at once", "bytearray(b'x') * (1 << 30)", endings=MEMORY),
    Greedy("memory by and by", "all = []\nwhile True: all.append(bytearray(b'x') * (4 << 20))", endings=MEMORY),
    Greedy("memory by many processes", "import os, time\nfor _ in range(16):\n    if os.fork() == 0:\n        data = bytearray(b'x') * (16 << 20)\n"
           "        time.sleep(600)\ntime.sleep(600)", hit="memory", endings=MEMORY),
    Greedy("memory as shared memory", "import mmap\nm = mmap.mmap(-1, 1 << 30)\nfor n in range(0, 1 << 30, 4096): m[n] = 1", endings=MEMORY, hit="memory"),
    Greedy("memory as a file without a name", "import os\nf = os.memfd_create('x')\nwhile True: os.write(f, bytes(1 << 20))", endings=MEMORY, limits=LONG),
    Greedy("memory as segments of System V", "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\nfor n in range(64):\n"
           "    at = libc.shmat(libc.shmget(0, 16 << 20, 0o1600), None, 0)\n    ctypes.memset(at, 1, 16 << 20)", endings=(*MEMORY, Ending.SIGNALLED)),
    Greedy("memory as files in /dev/shm", "head -c 300000000 /dev/zero > /dev/shm/x; sleep 600", "bash", endings=MEMORY),
    Greedy("memory as files in /tmp", "head -c 300000000 /dev/zero > /tmp/x; head -c 300000000 /dev/zero > /mnt/x; exit 3", "bash", endings=MEMORY),
    Greedy("memory as what pipes hold", "import os, fcntl\nfor _ in range(100):\n    try:\n        r, w = os.pipe(); fcntl.fcntl(w, 1031, 1 << 20); os.set_blocking(w, False)\n"
           "        os.write(w, bytes(1 << 20))\n    except OSError: pass" + STAY, limits=msgspec.structs.replace(MANY, wall_time_s=0.8)),
    Greedy("memory as what sockets hold", "import socket\nall = []\nwhile True:\n    try:\n        a, b = socket.socketpair(); a.setblocking(False); all.append((a, b))\n"
           "        while True: a.send(bytes(1 << 16))\n    except BlockingIOError: pass\n    except OSError: break" + STAY, endings=MEMORY),
    Greedy("the disk, file by file", FILL, limits=LONG, endings=DISK, hit="disk"),
    Greedy("the disk in one file", "head -c 900000000 /dev/zero > x; sleep 600", "bash", LONG, DISK, "disk"),
    Greedy("the disk without a name", "import os\nfor n in range(8):\n    f = open('x', 'wb'); os.unlink('x'); os.dup(f.fileno()); f.write(bytes(16 << 20)); f.flush()" + STAY,
           limits=LONG, endings=DISK, hit="disk"),
    Greedy("the disk by what is only mapped", "import mmap, os\nheld = []\nfor n in range(8):\n    f = open('x', 'w+b'); f.write(bytes(16 << 20)); f.flush(); os.unlink('x')\n"
           "    held.append(mmap.mmap(f.fileno(), 4096)); f.close()" + STAY, limits=LONG, endings=DISK, hit="disk"),
    Greedy("the disk by a file that never had a name", "import os\nfor n in range(8):\n    f = os.open('.', os.O_TMPFILE | os.O_RDWR); os.write(f, bytes(16 << 20))" + STAY,
           limits=LONG, endings=DISK, hit="disk"),
    Greedy("the disk behind a thread that has ended", "import ctypes, os, threading, time\ndef take():\n    for n in range(8):\n        f = open('x', 'wb'); os.unlink('x'); os.dup(f.fileno())"
           "\n        f.write(bytes(16 << 20)); f.flush()\n    time.sleep(600)\nthreading.Thread(target=take).start()\nctypes.CDLL(None).pthread_exit(0)", limits=LONG, endings=DISK, hit="disk"),
    Greedy("the disk by a removed file whose name was too long to tell", "import os\nfor _ in range(30): os.mkdir('n' * 200); os.chdir('n' * 200)\nfor n in range(8):\n"
           "    f = open('x', 'wb'); os.unlink('x'); os.dup(f.fileno()); f.write(bytes(16 << 20)); f.flush()" + STAY, limits=LONG, endings=DISK, hit="disk"),
    *([Greedy("the disk by programs that were removed while they run", HOLLOW, "bash", LONG, DISK, "disk")] if platform.machine() == "x86_64" else []),
    Greedy("the disk in the deep", "import os\nfor _ in range(400):\n    os.mkdir('n'); os.chdir('n')\n" + FILL, limits=LONG, endings=DISK, hit="disk"),
    Greedy("the disk behind closed folders", "import os\nos.mkdir('d'); os.chdir('d'); os.chmod('.', 0o300)\n" + FILL, limits=LONG, endings=DISK, hit="disk"),
    Greedy("the disk under moving names", "import os, threading\nos.mkdir('a'); os.mkdir('a/d'); d = os.open('a/d', os.O_RDONLY)\ndef move():\n    while True:\n        for x, y in (('a', 'b'), ('b', 'a')):\n"
           "            os.rename('/work/' + x, '/work/' + y)\nthreading.Thread(target=move, daemon=True).start()\nos.fchdir(d)\n" + FILL,
           limits=LONG, endings=DISK, hit="disk"),
    Greedy("the disk by a child that outlives its parent", "(head -c 900000000 /dev/zero > x) & disown; sleep 600", "bash", LONG, DISK, "disk"),
    Greedy("the disk by extended attributes and directories", "import os\nfor n in range(1 << 20): os.mkdir(f'{n:0200}')" + STAY, limits=LONG, endings=INODES, hit="inodes"),
    Greedy("names, in one folder", "import os\nfor n in range(1 << 20): open(f'{n}', 'w').close()" + STAY, limits=LONG, endings=INODES, hit="inodes"),
    Greedy("names, in many folders", "import os\nfor n in range(1 << 20): os.makedirs(f'{n % 7}/{n % 77}/{n}')" + STAY, limits=LONG, endings=INODES, hit="inodes"),
    Greedy("names of symlinks", "import os\nfor n in range(1 << 20): os.symlink('/usr', f'{n}')" + STAY, limits=LONG, endings=INODES, hit="inodes"),
    Greedy("names of FIFOs", "import os\nfor n in range(1 << 20): os.mkfifo(f'{n}')" + STAY, limits=LONG, endings=INODES, hit="inodes"),
    Greedy("a giant with a hole", "import os\ntry: os.truncate(os.open('x', os.O_CREAT | os.O_WRONLY), 1 << 50)\nexcept OSError: os._exit(7)", endings=(Ending.EXITED,)),
    Greedy("a giant by allocation", "import os\ntry: os.posix_fallocate(os.open('x', os.O_CREAT | os.O_WRONLY), 0, 1 << 40)\nexcept OSError: os._exit(7)", endings=(Ending.EXITED,)),
    Greedy("output without end", "yes", "bash", LONG, (Ending.OUTPUT_LIMIT,), "output"),
    Greedy("errors without end", "yes >&2", "bash", LONG, (Ending.OUTPUT_LIMIT,), "output"),
    Greedy("both without end", "yes & yes >&2", "bash", LONG, (Ending.OUTPUT_LIMIT,), "output"),
    Greedy("output by its name in /proc", "cat /dev/zero > /proc/self/fd/1", "bash", LONG, (Ending.OUTPUT_LIMIT,), "output"),
    Greedy("one stream copied to the other", "yes | tee /dev/stderr", "bash", LONG, (Ending.OUTPUT_LIMIT, Ending.EXITED), "output"),
    Greedy("a spin", "while :; do :; done", "bash"),
    Greedy("a spin beyond its processor time", "while True: pass", limits=BUSY),
    Greedy("a spin by one child after the other", "import os\nwhile True:\n    if os.fork() == 0:\n        for _ in range(300_000): pass\n        os._exit(0)\n    os.wait()", limits=BUSY),
    Greedy("a spin that catches the signal for it", "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: None)\nwhile True: pass", limits=BUSY),
    Greedy("all signals ignored", "import signal, time\nfor n in signal.valid_signals():\n    try: signal.signal(n, signal.SIG_IGN)\n    except OSError: pass\ntime.sleep(600)"),
    Greedy("a stop of itself", "kill -STOP $$", "bash"),
    Greedy("a stop of all", "sleep 600 & kill -STOP -1; kill -STOP $$", "bash"),
    Greedy("descriptors without end", "import os\nwhile True:\n    try: os.dup(0)\n    except OSError: pass"),
    Greedy("locks, watches and timers", "import ctypes, fcntl, os, select\nlibc = ctypes.CDLL(None)\nheld = []\nfor make in (select.epoll, lambda: libc.inotify_init(), lambda: libc.timerfd_create(1, 0)):\n"
           "    try: held += [make() for _ in range(20)]\n    except OSError: pass" + STAY),
    Greedy("signals queued without end", "import os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {34})\nimport ctypes\nlibc = ctypes.CDLL(None)\nwhile True: libc.sigqueue(os.getpid(), 34, None)"),
    Greedy("an answer of one line that never ends", "while :; do printf x; done", "bash"),
    Greedy("stdin held, streams closed", "exec 0<&- 1>&- 2>&-; sleep 600", "bash"),
)  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def neighbour(shared_house: House) -> AsyncIterator[list[float]]:
    """Another session, served all the time: how long each of its steps took."""
    history, took_s = shared_house.session(), list[float]()

    async def live() -> None:
        while True:
            began_s = time.monotonic()
            assert await history.says("echo served", keep="nothing") == "served"
            took_s.append(time.monotonic() - began_s)
            await asyncio.sleep(0.2)

    living = asyncio.create_task(live())
    yield took_s
    assert not living.done(), living.exception()
    living.cancel()
    await asyncio.wait([living])


@pytest.mark.parametrize("greedy", [pytest.param(greedy, id=greedy.name) for greedy in ROWS])
async def test_ends_as_it_must_by(house: House, neighbour: list[float], greedy: Greedy) -> None:
    history, served = house.session(), len(neighbour)
    await history.shell("echo mine > kept")
    language, program = Attack(greedy.name, greedy.program, greedy.language).source(house.places)  # type: ignore[arg-type]
    began_s = time.monotonic()
    result = await history.step(language, program, stages=stages(language, greedy.limits), keep="nothing")
    took_s = time.monotonic() - began_s
    run = result.stages[-1][1]
    assert run.ending in greedy.endings, run
    if greedy.hit == "memory" and any(lack.startswith("memory:") for lack in house.sandbox.capabilities.missing):
        return
    assert greedy.hit is None or greedy.hit in run.hit, run
    assert run.ending is not Ending.EXITED or greedy.endings != (Ending.EXITED,) or run.exit_code == 7
    assert len(run.stdout.data) + len(run.stderr.data) <= 3 * greedy.limits.output_kept_bytes
    if took_s > 1:
        await asyncio.sleep(0.3)
        assert len(neighbour) > served, "nobody else was served"
    assert await history.says("cat kept") == "mine"


async def test_queues_timers_and_signals_of_one_run_are_not_taken_from_another(house: House) -> None:
    """The kernel counts them for their user, who is the same for all."""
    take = """
import ctypes, os, time
libc, timer, made = ctypes.CDLL(None), ctypes.c_void_p(), []
for make in (lambda n: libc.timer_create(1, None, ctypes.byref(timer)), lambda n: libc.mq_open(b'/%d' % n, os.O_CREAT | os.O_RDWR, 0o600, None)):
    number = 0
    while number < @most and make(number) >= 0: number += 1
    made.append(number > 0)
"""
    begun = "open('begun', 'w').close(); time.sleep(600)"
    greedy = asyncio.create_task(
        house.session().python(take.replace("@most", "1e9") + begun, stages=stages(PYTHON, MANY))
    )
    while not list(house.workspaces().glob("*/*/upper/begun")):
        await asyncio.sleep(0.02)
        assert not greedy.done(), greedy.result()
    assert said(await house.session().python(take.replace("@most", "1") + "print(made)")) == "[True, True]"
    greedy.cancel()
    await asyncio.wait([greedy])


async def test_what_is_within_the_limits_is_not_ended(house: House) -> None:
    """The rows' limits strike nobody who keeps to them, for as long as they are looked at."""
    program = f"""
import os, time
for n in range({DISK_INODES} // 2):
    open(f'{{n}}', 'w').close()
open('x', 'wb').write(bytes({DISK_BYTES} // 2))
os.truncate(os.open('hole', os.O_CREAT | os.O_WRONLY), 1 << 29)
time.sleep(1)
"""
    language, source = Attack("moderate", program, "python").source(house.places)
    result = await house.session().step(language, source, stages=stages(language, LONG), keep="nothing")
    run = result.stages[-1][1]
    assert (run.ending, run.exit_code, run.hit) == (Ending.EXITED, 0, ()), run


async def test_nothing_of_all_that_remains_on_the_machine(house: House) -> None:
    """Neither processes of the sandbox's user, nor bytes in the workspaces."""
    user = bench.owner()
    await asyncio.sleep(0.1)
    house.pool.wait_for_removal()
    folders = house.workspaces().rglob("*")
    assert sum(path.lstat().st_blocks * 512 for path in folders if path.is_file()) < DISK_BYTES
    if user is not None:
        assert len(list(processes_of(user.uid))) <= 3  # the neighbour's step


def processes_of(uid: int) -> Iterator[int]:
    """Processes of a user of the host that nobody else than we started: below us, or below nobody any more."""
    for name in os.listdir("/proc"):
        line = ancestors(int(name)) if name.isdecimal() else []
        ours = line and (os.getpid() in line or owner(line[-1]) == uid)
        if ours and owner(line[0]) == uid:
            yield line[0]


def ancestors(pid: int) -> list[int]:
    """A process and all above it, but the machine's first; as far as they live."""
    line = []
    while pid > 1:
        line.append(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return line


def owner(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


async def test_somebody_who_remains_would_be_noticed(house: House) -> None:
    """The look itself: a program that runs is among them, and one that nobody has as a parent too."""
    user = bench.owner()
    if user is None:
        pytest.skip("only root gives programs a user of their own")
    orphan = subprocess.run(
        [sys.executable, "-c", f"import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nos.setuid({user.uid})\nprint(os.getpid(), flush=True)\nos.closerange(0, 3)\ntime.sleep(60)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    try:
        assert int(orphan.stdout) in processes_of(user.uid)
    finally:
        os.kill(int(orphan.stdout), signal.SIGKILL)
