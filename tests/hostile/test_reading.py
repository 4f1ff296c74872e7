"""Programs that look for what is not theirs: host files, the server's secrets, other sessions, open doors."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from executors.testing.history import History, said
from store.snapshot import Ending
from tests.hostile.battery import SECRET
from tests.hostile.conftest import House

READ = """
import glob, os
for name in {names!r}:
    for path in glob.glob(name) or [name]:
        try:
            with open(path, 'rb', 0, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
                print('READ', path, file.read(1 << 16))
        except (OSError, ValueError):
            pass
"""
SEARCH = """
import os
secret = bytes.fromhex('{secret}')
for folder, folders, files in os.walk(b'/'):
    if folder == b'/':
        folders[:] = [name for name in folders if name not in (b'usr', b'proc')]
    for name in files + folders:
        path = os.path.join(folder, name)
        if secret in name:
            print('NAME', path)
        elif name in files and os.path.isfile(path):
            try:
                if secret in open(path, 'rb').read(1 << 20):
                    print('CONTENT', path)
            except OSError:
                pass
print('looked everywhere')
"""


async def test_the_hosts_private_files_are_not_there(house: House, session: History) -> None:
    home, pid = str(house.home), os.getpid()
    names = (
        "/etc/shadow", "/etc/gshadow", "/root/*", "/root/.*", f"{home}/*", f"{home}/store/*", f"{home}/store/*/*",
        f"/proc/{pid}/environ", f"/proc/{pid}/maps", f"/proc/*/root{home}/*", f"/proc/*/cwd{home}/*", "/proc/*/root/root/*",
        "/proc/*/root/etc/shadow", "/proc/kcore", "/dev/mem", "/dev/kmem", "/dev/port", "/dev/vda", "/dev/sda", "/dev/kmsg",
        "/proc/kmsg", "/sys/kernel/*", "/run/*", "/var/run/docker.sock", "/run/docker.sock", "/var/log/*", "/boot/*",
    )  # fmt: skip
    assert said(await session.python(READ.format(names=names))) == ""


@pytest.mark.parametrize("name", ["environ", "cmdline", "mountinfo", "mounts", "maps", "fd/*", "fdinfo/*", "cgroup"])
async def test_no_process_entry_tells_the_servers_secrets(session: History, name: str) -> None:
    """Neither its own nor those of the sandbox's process beside it, nor whose paths they came from."""
    printed = said(await session.python(READ.format(names=(f"/proc/*/{name}", f"/proc/thread-self/{name}"))))
    assert SECRET not in printed
    assert "psf-hostile" not in printed


async def test_a_search_of_all_that_is_visible_finds_nothing(session: History) -> None:
    assert said(await session.python(SEARCH.format(secret=SECRET.encode().hex()))) == "looked everywhere"


async def test_the_sandboxs_own_process_has_no_more_rights_than_the_program(house: House, session: History) -> None:
    """A program may have power over it: it must be worth nothing. Where it is hidden from programs, the host looks."""
    text, uid = await session.says("cat /proc/1/status 2> /dev/null || kill -0 1 2> /dev/null || echo hidden"), "1000"
    if text == "hidden":
        assert house.sandbox.capabilities.sandbox == "docker"
        text, uid = await first_process_beside(house), "65534"
    status = dict(line.split(":\t", 1) for line in text.splitlines())
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (status["Seccomp"], status["NoNewPrivs"], status["Uid"].split()) == ("2", "1", [uid] * 4)


async def first_process_beside(house: House) -> str:
    """What the host's /proc tells of the first process of the pid namespace that a program runs in."""
    running = asyncio.create_task(house.session().shell("sleep 47.125; true"))
    try:
        while True:
            await asyncio.sleep(0.05)
            assert not running.done(), running.result()
            texts = {path: told(path / "status") for path in Path("/proc").glob("[0-9]*")}
            sleeper = next(
                (path for path in texts if told(path / "cmdline").split("\0")[:2] == ["sleep", "47.125"]), None
            )
            if sleeper is not None:
                namespace = os.readlink(sleeper / "ns" / "pid")
                same = [text for path, text in texts.items() if leads(path / "ns" / "pid") == namespace]
                return next(text for text in same if re.search(r"^NSpid:.*\t1$", text, re.MULTILINE))
    finally:
        running.cancel()
        await asyncio.wait([running])


def told(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def leads(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


async def test_another_session_that_runs_at_the_same_time_is_not_there(house: House) -> None:
    """Not its files, processes, arguments, sockets or shared memory; and it does not feel what is done to everybody."""
    victim, thief = house.session(), house.session()
    holding = f"""
import ctypes, os, socket, time
for folder in ('/work', '/tmp', '/var/tmp', '/mnt', '/dev/shm', os.environ['HOME']):
    open(folder + '/{SECRET}', 'w').write('{SECRET}')
door = socket.socket(socket.AF_UNIX)
door.bind('\\0{SECRET}-session')
door.listen()
libc = ctypes.CDLL(None)
print(libc.shmget(0x5EC4E7, 4096, 0o1666) >= 0, flush=True)
if os.fork() == 0:
    os.execvp('sleep', ['sleep', '600'])
open('begun', 'w').close()
time.sleep(600)
"""
    running = asyncio.create_task(victim.python(holding, args=(SECRET,)))
    while not list((house.home / "store" / "workspaces").glob("*/*/upper/begun")):
        await asyncio.sleep(0.02)
        assert not running.done(), running.result()
    stealing = f"""
import ctypes, glob, socket
try:
    socket.socket(socket.AF_UNIX).connect('\\0{SECRET}-session')
    print('CONNECTED')
except OSError:
    pass
libc = ctypes.CDLL(None)
print('SHARED' if libc.shmget(0x5EC4E7, 4096, 0o666) >= 0 else '', end='')
for name in glob.glob('/proc/[0-9]*/cmdline'):
    if b'sleep' in open(name, 'rb').read():
        print('SAW', name)
"""
    assert said(await thief.python(stealing)) == ""
    assert said(await thief.python(SEARCH.format(secret=SECRET.encode().hex()))) == "looked everywhere"
    killed = await thief.shell("kill -9 -1; for n in $(seq 1 99999); do kill -9 $n 2> /dev/null; done")
    assert killed.stages[0][1].ending in (Ending.EXITED, Ending.SIGNALLED)
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])


async def test_what_was_left_in_scratch_is_gone_for_everybody(house: House) -> None:
    folders = "/tmp /var/tmp /mnt /dev/shm ~"
    first = house.session()
    await first.shell(f"for f in {folders}; do echo {SECRET} > $f/left; done")
    for history in (first, house.session()):
        assert await history.says(f"ls -A {folders} | grep -c left; true") == "0"
