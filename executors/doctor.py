"""Trials: each guarantee of a sandbox put to the test by a short program that tries to get past it, harmlessly.

What a sandbox says of itself is not asked here. A trial gives None, or in a few words what the program got.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from executors import determinism
from executors.guarantees import FACILITIES
from executors.interfaces import Job, RunResult, Sandbox
from executors.profile import User
from store.snapshot import Ending, Limits
from store.workspace import BindMount

LIMITS = Limits(
    wall_time_s=20.0,
    cpu_time_s=20,
    memory_bytes=96 << 20,
    processes=24,
    output_kept_bytes=64 << 10,
    output_flood_bytes=1 << 20,
    file_bytes=4 << 20,
    scratch_bytes=2 << 20,
    scratch_inodes=200,
    open_files=64,
)


class Trial(msgspec.Struct, frozen=True):
    """A Python program, what it may use, and what its result says: None when the guarantee held, else what happened."""

    source: str
    judge: Callable[[RunResult], str | None]
    limits: Limits = LIMITS
    deterministic: bool = False


def _prints_nothing(result: RunResult) -> str | None:
    if (result.ending, result.exit_code) != (Ending.EXITED, 0):
        return f"the trial could not be made: {result.ending} {result.exit_code} {_last_line(result)}"
    return result.stdout.data.decode(errors="replace").strip() or None


def _ends(*endings: Ending) -> Callable[[RunResult], str | None]:
    return lambda result: None if result.ending in endings else f"the program {result.ending} instead of being stopped"


def _exits_137(result: RunResult) -> str | None:
    return None if (result.ending, result.exit_code) == (Ending.EXITED, 137) else "exit code 137 looks like signal 9"


def _last_line(result: RunResult) -> str:
    return result.stderr.data.decode(errors="replace").strip().rpartition("\n")[2][:200]


_FILES = """
import os
for name in ({canary!r}, '/root/.profile', '/etc/shadow'):
    if os.access(name, os.R_OK): print('read a file of the host')
for folder in ('/usr', '/etc', '/'):
    if os.access(folder, os.W_OK): print('may write below', folder)
"""
_IDENTITY = """
import os
status = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())
if int(status['CapEff'], 16) or int(status['CapBnd'], 16) and status['NoNewPrivs'].strip() != '1': print('has capabilities')
if status['NoNewPrivs'].strip() != '1': print('may gain rights')
if os.getuid() == 0: print('is root')
if sum(name.isdecimal() for name in os.listdir('/proc')) > 8: print('sees other processes')
"""
_SYSTEM_CALLS = """
import ctypes
if ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0: print('made a namespace')
elif ctypes.get_errno() != 1: print('no filter answers')
"""
_NETWORK = """
import socket
for address in {addresses!r}:
    try:
        socket.create_connection(address, timeout=2)
        print('reached the host')
    except OSError: pass
"""
_EGRESS = """
import socket
ways_out = {{name for _, name in socket.if_nameindex()}} - {{'lo'}}
if not ways_out: print('found no way out')
for host, port in {addresses!r}:
    for address in (host, *(['10.0.2.2'] if 'tap0' in ways_out else [])):
        try:
            socket.create_connection((address, port), timeout=2)
            print('reached the host')
        except OSError: pass
"""
_MEMORY = """
import os, time
for _ in range(4):
    reading, writing = os.pipe()
    if os.fork() == 0:
        data = bytearray(b'x') * (48 << 20)
        os.write(writing, b'.')
        time.sleep(60)
    os.close(writing)
    os.read(reading, 1)
time.sleep(0.2)
if os.waitpid(-1, os.WNOHANG) == (0, 0): print('four processes together had twice the limit')
"""
_PROCESSES = """
import os, time
for number in range({count}):
    try: pid = os.fork()
    except OSError: break
    if pid == 0:
        time.sleep(60)
        os._exit(0)
else: print('started {count} processes')
"""
_FILE_SIZE = """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with open('large', 'wb', buffering=0) as file:
        for _ in range(8): file.write(bytes(1 << 20))
    print('wrote a file of 8 MiB')
except OSError: pass
"""
_OPEN_FILES = """
files = []
try:
    for _ in range(200): files.append(open('/dev/null'))
    print('opened 200 files')
except OSError: pass
"""
_SCRATCH = """
try:
    for number in range(4):
        with open(f'/tmp/{number}', 'wb') as file: file.write(bytes(1 << 20))
    print('filled scratch beyond its size')
except OSError: pass
"""
_CPUS = """
import time
end_s = time.monotonic() + 1
while time.monotonic() < end_s: pass
if time.process_time() > 0.6: print('had more than a quarter of a processor')
"""
_DETERMINISTIC = """
import os
if not int(open('/proc/self/personality').read(), 16) & 0x0040000: print('addresses are random')
if len(os.sched_getaffinity(0)) != 1: print('has more than one processor')
for name, value in {variables!r}.items():
    if os.environ.get(name) != value: print('the variable', name, 'is not as it should be')
"""
_SHORT = msgspec.structs.replace(LIMITS, wall_time_s=0.5)
_BRIEF = msgspec.structs.replace(LIMITS, cpu_time_s=1)
_OUTWARD = msgspec.structs.replace(LIMITS, network="egress")
_SHARED = msgspec.structs.replace(LIMITS, cpus=0.25)


def _memory_kept(result: RunResult) -> str | None:
    if result.ending is Ending.OUT_OF_MEMORY or result.exit_code != 0:
        return None
    return _prints_nothing(result)


def trials(canary: str, addresses: tuple[tuple[str, int], ...]) -> dict[str, Trial]:
    """A trial for each guarantee that can be tried. `canary` is a file of the host, `addresses` where it listens. Pure."""
    return {
        "files": Trial(_FILES.format(canary=canary), _prints_nothing),
        "identity": Trial(_IDENTITY, _prints_nothing),
        "system_calls": Trial(_SYSTEM_CALLS, _prints_nothing),
        "network": Trial(_NETWORK.format(addresses=addresses), _prints_nothing),
        "egress": Trial(_EGRESS.format(addresses=addresses), _prints_nothing, _OUTWARD),
        "deterministic": Trial(
            _DETERMINISTIC.format(variables=determinism.ENVIRONMENT), _prints_nothing, deterministic=True
        ),
        "wall_time": Trial("import time; time.sleep(60)", _ends(Ending.TIMED_OUT), _SHORT),
        "cpu_time": Trial("while True: pass", _ends(Ending.TIMED_OUT), _BRIEF),
        "cpus": Trial(_CPUS, _prints_nothing, _SHARED),
        "memory": Trial(_MEMORY, _memory_kept),
        "processes": Trial(_PROCESSES.format(count=2 * LIMITS.processes), _prints_nothing),
        "output": Trial("while True: print('x' * 4096)", _ends(Ending.OUTPUT_LIMIT)),
        "file_size": Trial(_FILE_SIZE, _prints_nothing),
        "open_files": Trial(_OPEN_FILES, _prints_nothing),
        "scratch": Trial(_SCRATCH, _prints_nothing),
        "exit_status": Trial("import os; os._exit(137)", _exits_137),
    }


async def examine(sandbox: Sandbox, folder: Path, owner: User | None) -> dict[str, str | None]:
    """Try each guarantee that can be tried, and what more there is: name -> None when it held, else what the program got.

    `folder` is an empty folder of ours; what programs write there belongs to `owner`. Raises SandboxBroken.
    """
    canary = folder / "canary"
    canary.write_text("of the host")
    work = folder / "work"
    work.mkdir()
    if owner is not None:
        os.chown(work, owner.uid, owner.gid)
    with socket.create_server(("127.0.0.1", 0)) as server:
        addresses = (("127.0.0.1", server.getsockname()[1]),)
        provided = sandbox.capabilities.enforced
        names = {
            name: trial
            for name, trial in trials(str(canary), addresses).items()
            if name not in FACILITIES or name in provided
        }
        found = await asyncio.gather(*(_try(sandbox, work, trial) for trial in names.values()))
    return dict(zip(names, found, strict=True))


async def _try(sandbox: Sandbox, work: Path, trial: Trial) -> str | None:
    async with sandbox.open(BindMount(str(work)), trial.limits) as cell:
        job = Job(("python3", "-I", "-S", "-c", trial.source), (), b"", trial.limits, trial.deterministic)
        return trial.judge(await cell.run(job))
