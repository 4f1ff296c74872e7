"""What a program can see and change."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec
import pytest

from executors import guarantees
from executors.interfaces import Job
from executors.paths import SCRATCH
from executors.testing.trial import LIMITS, Trial, python
from store.files import Owner
from store.snapshot import Ending

GUARANTEES = {
    "files", "network", "identity", "wall_time", "cpu_time", "memory", "processes", "output", "file_size", "open_files", "scratch",
}  # fmt: skip
CALL = """
import socket
try:
    server = socket.socket()
    server.bind(('127.0.0.1', 0))
    server.listen()
    socket.create_connection(server.getsockname(), timeout=5)
    print('reached')
except OSError as error: print(error.strerror)
for family, address in ((socket.AF_INET, ('127.0.0.1', 9)), (socket.AF_INET6, ('::1', 9)), (socket.AF_INET, ('192.0.2.1', 9))):
    try: print(socket.socket(family, socket.SOCK_DGRAM).sendto(b'x', address))
    except OSError as error: print(error.strerror)
print(sorted(name for _, name in socket.if_nameindex()))
"""
"""Calls its own loopback, and what lies beyond."""
CANARY = "psf-test-canary-5f0e"
ENVIRONMENTS = """
import glob, os
found = [repr(dict(os.environ))]
for name in glob.glob('/proc/*/environ'):
    try:
        found.append(repr(open(name, 'rb').read()))
    except OSError:
        pass
print('\\n'.join(found))
"""
WRITES = """
import os
for folder in ('/', '/usr', '/usr/bin', '/etc', '/opt', '/opt/psf', '/dev', '/run', '/var', '/home', '/proc', '/proc/sys/kernel'):
    try:
        open(folder + '/psf-new', 'w').close()
        print('wrote below', folder)
    except OSError:
        pass
for name in ('/etc/passwd', '/usr/bin/env', '/etc/hosts', '/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger'):
    for act in (lambda: open(name, 'a').close(), lambda: os.unlink(name), lambda: os.chmod(name, 0o777)):
        try:
            act()
            print('changed', name)
        except OSError:
            pass
"""
FILL = """
import os
written, error = 0, None
try:
    for number in range(100_000):
        with open(f'{folder}/{{number}}', 'wb') as file:
            written += file.write({data})
except OSError as failure:
    error = failure.strerror
print(number, written, error, sep=';')
"""


class ConfinementContract:
    async def test_every_guarantee_is_enforced_by_something_or_said_to_be_missing(self, trial: Trial) -> None:
        capabilities = trial.sandbox.capabilities
        assert set(capabilities.enforced) >= GUARANTEES
        assert all(capabilities.enforced.values())
        assert all(": " in lack for lack in capabilities.missing)
        # By these names calls require them.
        assert set(guarantees.lacks(capabilities)) | set(capabilities.enforced) <= set(guarantees.NAMES)

    async def test_without_a_network_not_even_the_loopback_is_reached(self, trial: Trial) -> None:
        reached = (await trial.says(CALL)).splitlines()
        assert (reached[:2], reached[3:]) == (["reached", "1"], ["Network is unreachable", "['lo']"])
        nothing = (await trial.says(CALL, limits=msgspec.structs.replace(LIMITS, network="none"))).splitlines()
        assert "reached" not in nothing
        assert nothing[1:] == ["Network is unreachable", *nothing[2:3], "Network is unreachable", "['lo']"]
        assert nothing[2] != "1"

    async def test_the_servers_environment_is_not_visible(self, canary: str, trial: Trial) -> None:
        seen = await trial.says(ENVIRONMENTS)
        assert "HOME" in seen
        assert canary not in seen

    @pytest.fixture
    def canary(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """A word in the environment of the server, before its sandbox starts."""
        monkeypatch.setenv("PSF_CANARY", CANARY)
        return CANARY

    async def test_no_descriptor_is_inherited(self, canary: str, trial: Trial) -> None:
        open_here = "[n for n in range(3, 2048) if os.path.exists(f'/proc/self/fd/{n}')]"
        assert await trial.says(f"import os; print({open_here})") == "[]"

    async def test_only_the_programs_own_processes_are_visible(self, trial: Trial) -> None:
        pids = await trial.says("import os; print([name for name in os.listdir('/proc') if name.isdecimal()])")
        assert 1 <= len(pids.split(",")) <= 3

    async def test_the_host_is_not_named(self, trial: Trial) -> None:
        assert await trial.says("import os; print(os.uname().nodename)") != socket.gethostname()

    async def test_a_program_is_not_root_and_cannot_become_it(self, trial: Trial, owner: Owner | None) -> None:
        result = await trial.python(
            "import os; print(os.getuid(), os.geteuid(), os.getgid(), os.getegid(), *os.getgroups()); os.setuid(0)"
        )
        user, group = 1000, 1000
        if trial.lacks("user_id"):
            user, group = (owner.uid, owner.gid) if owner else (os.getuid(), os.getgid())
        seen = [int(number) for number in result.stdout.data.split()]
        assert seen[:4] == [user, user, group, group]
        assert set(seen[4:]) <= ({group} if trial.lacks("user_id") else set())
        assert 0 not in seen
        assert b"OSError" in result.stderr.data or b"PermissionError" in result.stderr.data

    async def test_what_a_program_makes_belongs_to_nobody_else_on_the_host(
        self, trial: Trial, owner: Owner | None
    ) -> None:
        await trial.shell("echo x > made")
        status = (trial.work / "made").stat()
        assert (status.st_uid, status.st_gid) == ((owner.uid, owner.gid) if owner else (os.getuid(), os.getgid()))
        assert status.st_uid != 0

    async def test_there_are_no_capabilities_and_none_can_be_gained(self, trial: Trial) -> None:
        text = await trial.says("print(open('/proc/self/status').read())")
        status = dict(line.split(":\t", 1) for line in text.splitlines())
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == "1"
        assert (status["Seccomp"] == "2") == ("system_calls" in trial.sandbox.capabilities.enforced)

    async def test_nothing_outside_work_and_scratch_can_be_written(self, trial: Trial) -> None:
        assert await trial.says(WRITES) == ""

    async def test_the_work_directory_is_the_hosts(self, trial: Trial) -> None:
        (trial.work / "given").write_text("from the host")
        assert await trial.says("open('made', 'w').write('x'); print(open('given').read())") == "from the host"
        assert (trial.work / "made").read_text() == "x"
        assert trial.work.stat().st_dev == (trial.work / "made").stat().st_dev

    @pytest.mark.parametrize("folder", SCRATCH)
    async def test_scratch_is_empty_writable_and_gone_afterwards(self, trial: Trial, folder: str) -> None:
        source = f"import os; print(os.listdir('{folder}')); open('{folder}/x', 'w').write('1')"
        for _ in range(2):
            assert await trial.says(source) == "[]"

    async def test_the_host_and_the_program_share_scratch(self, trial: Trial) -> None:
        async with trial.sandbox.open(trial.mount, LIMITS) as cell:
            for number, folder in enumerate(SCRATCH.values()):
                place = os.open(folder + b"/given", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=cell.scratch)
                os.write(place, b"%d" % number)
                os.close(place)
            script = "; ".join(f"cat {folder}/given; echo made > {folder}/made" for folder in SCRATCH)
            result = await cell.run(Job(("sh", "-c", script), (), b"", LIMITS))
            for folder in SCRATCH.values():
                os.stat(folder + b"/made", dir_fd=cell.scratch)
        assert result.stdout.data == b"0123"

    @pytest.mark.parametrize("folder", [*SCRATCH, "/dev/shm"])
    async def test_scratch_holds_no_more_than_allowed(self, trial: Trial, folder: str) -> None:
        if folder in SCRATCH and trial.lacks("scratch"):
            await self._assert_watched(trial, folder, f"bytes({LIMITS.scratch_bytes})", "disk")
            return
        limits = msgspec.structs.replace(LIMITS, file_bytes=1 << 30)
        source = FILL.format(folder=folder, data="bytes(1 << 20)")
        number, _, error = (await trial.says(source, limits=limits)).split(";")
        assert int(number) <= (64 if folder == "/dev/shm" else LIMITS.scratch_bytes >> 20)
        assert error == "No space left on device"

    async def test_scratch_holds_no_more_files_than_allowed(self, trial: Trial) -> None:
        if trial.lacks("scratch"):
            await self._assert_watched(trial, "/tmp", "b''", "inodes")
            return
        number, _, error = (await trial.says(FILL.format(folder="/tmp", data="b''"))).split(";")
        assert int(number) <= LIMITS.scratch_inodes
        assert error == "No space left on device"

    async def _assert_watched(self, trial: Trial, folder: str, data: str, hit: str) -> None:
        """Where scratch has no size of its own, a program that goes beyond it and on is killed."""
        source = FILL.format(folder=folder, data=data).replace(
            "100_000", str(2 + LIMITS.scratch_inodes * (hit == "inodes"))
        )
        result = await trial.python(f"{source}\nimport time; time.sleep(15)")
        assert (result.ending, result.hit) == (Ending.DISK_LIMIT, (hit,))

    async def test_no_file_grows_beyond_its_limit(self, trial: Trial) -> None:
        source = """
file = open('big', 'wb', buffering=0)
try:
    while True:
        file.write(bytes(1 << 20))
except OSError as error:
    print(error.strerror)
"""
        assert await trial.says(source) == "File too large"
        assert (trial.work / "big").stat().st_size == LIMITS.file_bytes

    async def test_no_more_files_are_open_than_allowed(self, trial: Trial) -> None:
        source = """
files = []
try:
    while True:
        files.append(open('/dev/null'))
except OSError as error:
    print(len(files), error.strerror, sep=';')
"""
        count, error = (await trial.says(source)).split(";")
        assert LIMITS.open_files - 4 <= int(count) <= LIMITS.open_files
        assert error == "Too many open files"

    async def test_limits_cannot_be_raised(self, trial: Trial) -> None:
        source = """
import resource
for name in ('NOFILE', 'FSIZE', 'CPU', 'NPROC', 'CORE'):
    which = getattr(resource, 'RLIMIT_' + name)
    try:
        resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print('raised', name)
    except (ValueError, OSError):
        pass
"""
        assert await trial.says(source) == ""

    async def test_there_is_no_network(self, trial: Trial) -> None:
        """Not the host's loopback, not its addresses, not the world; only a loopback of the program's own."""
        with socket.create_server(("0.0.0.0", 0)) as server:
            port = server.getsockname()[1]
            source = f"""
import socket
for address in ('127.0.0.1', '{own_address()}', '192.0.2.1'):
    try:
        socket.create_connection((address, {port}), timeout=5)
        print('reached', address)
    except OSError:
        pass
print([name for _, name in socket.if_nameindex()])
"""
            assert await trial.says(source) in ("['lo']", "[]")

    async def test_there_is_no_terminal(self, trial: Trial) -> None:
        result = await trial.shell("test -t 0 || test -t 1 || test -t 2 || exec 3<> /dev/tty")
        assert result.exit_code != 0

    async def test_when_a_cell_is_closed_nothing_is_mounted(self, trial: Trial) -> None:
        before = Path("/proc/self/mountinfo").read_text()
        await trial.run(*python("open('/tmp/x', 'w')"))
        assert Path("/proc/self/mountinfo").read_text() == before
        await trial.sandbox.close()
        (trial.work / "free").mkdir()
        (trial.work / "free").rmdir()


def own_address() -> str:
    """An address of this machine that is not the loopback's, where it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address
