"""What a run with egress reaches and what not, whatever sandbox it is in. Judged from outside (tests.executors.world)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest

from executors import connecting
from executors.errors import EgressUnavailable
from executors.interfaces import Job, Sandbox
from executors.testing.trial import LIMITS, Trial, TrialFixtures, python
from store.files import Owner
from tests.executors import bench, outside, world
from tests.executors.world import World

EGRESS = msgspec.structs.replace(LIMITS, network="egress")
SEND = """
import socket, struct, sys

def options(door):
    interface = socket.if_nametoindex('tap0') if 'tap0' in [name for _, name in socket.if_nameindex()] else 0
    yield 'plainly', lambda: None
    yield 'by the interface', lambda: door.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'tap0')
    yield 'past the routes', lambda: door.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
    yield 'from the loopback', lambda: door.bind(('127.0.0.1', 0))
    yield 'by way of another', lambda: door.setsockopt(socket.IPPROTO_IP, 4, bytes([131, 7, 4]) + socket.inet_aton(address) + b'\\0')

for address, port in {addresses!r}:
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for number in range(5 if family == socket.AF_INET else 1):
            with socket.socket(family, kind) as door:
                door.settimeout({patience_s})
                try:
                    list(options(door))[number][1]()
                    door.connect((address, port))
                    door.send(b'GET / HTTP/1.0\\r\\n\\r\\n')
                    if door.recv(99): print(address, port, flush=True)
                except OSError:
                    pass
"""
LOOK_UP = f"import socket; print({{item[4][0] for item in socket.getaddrinfo('{outside.NAME}', 80, socket.AF_INET)}})"
Open = Callable[..., AbstractAsyncContextManager[Sandbox]]


def send(*addresses: tuple[str, int], patience_s: float = 1.0) -> str:
    """A program that tells which addresses answer it, by whatever way."""
    return SEND.format(addresses=addresses, patience_s=patience_s)


class EgressContract(TrialFixtures):
    """Give a fixture `open_sandbox`: it starts a sandbox with the options of egress that it is given (name -> value)."""

    @pytest.fixture
    def open_sandbox(self) -> Open:
        raise NotImplementedError

    @pytest.fixture
    async def sandbox(self, open_sandbox: Open) -> AsyncIterator[Sandbox]:
        async with open_sandbox() as sandbox:
            yield sandbox

    @pytest.fixture
    def owner(self) -> Owner | None:
        return bench.owner()

    async def test_a_run_with_egress_reaches_the_world(self, outer: World, trial: Trial) -> None:
        assert "egress" in trial.sandbox.capabilities.enforced, trial.sandbox.capabilities.missing
        said = await trial.says(send((outside.WORLD, 80), (outside.HERE, 80)), limits=EGRESS)
        assert set(said.splitlines()) == {f"{outside.WORLD} 80", f"{outside.HERE} 80"}
        assert outer.came() == {
            f"{kind} {address} 80" for kind in ("tcp", "udp") for address in (outside.WORLD, outside.HERE)
        }

    async def test_and_nothing_of_its_machine_nor_of_private_networks(self, outer: World, trial: Trial) -> None:
        own = (
            "127.0.0.1",
            "10.0.2.2",
            "10.0.2.3",
            world.OWN,
            world.OWN_PRIVATE,
            world.OWN_SIXTH,
            "::1",
            f"::ffff:{world.OWN}",
            "0.0.0.0",
        )
        others = (outside.METADATA, outside.NEIGHBOUR, outside.SIXTH, f"::ffff:{outside.METADATA}")
        doors = [*((address, outer.port) for address in own), *((address, 80) for address in others)]
        assert await trial.says(send(*doors, patience_s=0.3), limits=EGRESS) == ""
        assert outer.came() == set()

    async def test_what_is_refused_is_refused_at_once(self, outer: World, trial: Trial) -> None:
        source = f"""
import socket, time
for address in ('{outside.METADATA}', '{outside.NEIGHBOUR}', '10.0.2.2'):
    began_s = time.monotonic()
    try:
        socket.socket().connect((address, 80))  # blocking: one with a time-out hears of any refusal at once
    except OSError as error:
        print(address, error, time.monotonic() - began_s < 0.5)
"""
        said = (await trial.says(source, limits=EGRESS)).splitlines()
        assert len(said) == 3
        assert all(line.endswith("True") for line in said), said

    async def test_a_run_without_egress_reaches_nothing(self, outer: World, trial: Trial) -> None:
        for network in ("loopback", "none"):
            limits = msgspec.structs.replace(LIMITS, network=network)
            doors = ((outside.WORLD, 80), (outside.HERE, 53), (world.OWN, outer.port), (outside.SIXTH, 80))
            assert await trial.says(send(*doors, patience_s=0.3), limits=limits) == ""
            assert await trial.says("print(open('/etc/resolv.conf').read())", limits=limits) == ""
        assert outer.came() == set()

    async def test_one_run_after_another_in_one_cell_has_what_it_asks_for(self, outer: World, trial: Trial) -> None:
        """As the stages of a step have, each with limits of its own."""
        said = []
        async with trial.sandbox.open(trial.mount, EGRESS) as cell:
            for limits in (EGRESS, LIMITS, EGRESS):
                result = await cell.run(Job(python(send((outside.WORLD, 80), patience_s=0.3)), (), b"", limits))
                said.append(result.stdout.data)
        assert [bool(words) for words in said] == [True, False, True]

    async def test_names_are_looked_up_where_the_configuration_says(
        self, outer: World, open_sandbox: Open, owner: Owner | None, tmp_path: Path
    ) -> None:
        async with open_sandbox(egress_resolvers=outside.NEIGHBOUR) as sandbox:
            trial = _trial(sandbox, owner, tmp_path)
            assert await trial.says(LOOK_UP, limits=EGRESS) == str({outside.WORLD})
            assert await trial.says(send((outside.NEIGHBOUR, 80), patience_s=0.3), limits=EGRESS) == ""
        assert outer.came() == {f"udp {outside.NEIGHBOUR} 53"}

    async def test_a_private_network_can_be_allowed_and_another_denied(
        self, outer: World, open_sandbox: Open, owner: Owner | None, tmp_path: Path
    ) -> None:
        """The machine's own addresses and its link are not to be had even so."""
        allowed = "10.77.0.0/24, 169.254.0.0/16"
        async with open_sandbox(egress_allow=allowed, egress_deny="198.51.100.0/24") as sandbox:
            doors = (
                (outside.NEIGHBOUR, 80),
                (outside.WORLD, 80),
                (outside.METADATA, 80),
                (world.OWN_PRIVATE, outer.port),
            )
            said = await _trial(sandbox, owner, tmp_path).says(send(*doors, patience_s=0.3), limits=EGRESS)
        assert set(said.splitlines()) == {f"{outside.NEIGHBOUR} 80"}
        assert outer.came() == {f"{kind} {outside.NEIGHBOUR} 80" for kind in ("tcp", "udp")}

    async def test_nothing_is_left_of_a_run_however_it_ends(self, outer: World, trial: Trial) -> None:
        brief = msgspec.structs.replace(EGRESS, wall_time_s=1.0)
        for source, limits in (
            ("", EGRESS),
            ("import os; os.kill(os.getpid(), 9)", EGRESS),
            ("while True: pass", brief),
        ):
            await trial.python(source, limits=limits)
            assert ways_out() == []
        running = asyncio.create_task(trial.python("import time; time.sleep(60)", limits=EGRESS))
        await _until(lambda: len(ways_out()) == 1)
        running.cancel()
        await asyncio.wait([running])
        assert ways_out() == []

    async def test_a_way_out_that_dies_takes_the_network_and_nothing_else(self, outer: World, trial: Trial) -> None:
        source = "open('begun', 'w').close()\nimport os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
        running = asyncio.create_task(
            trial.says(source + send((outside.WORLD, 80), patience_s=0.3) + "\nprint('whole')", limits=EGRESS)
        )
        await _until((trial.work / "begun").exists)
        os.kill(ways_out()[0], signal.SIGKILL)
        (trial.work / "go").touch()
        assert await running == "whole"

    async def test_the_way_out_goes_when_the_launcher_is_killed(self, outer: World, trial: Trial) -> None:
        running = asyncio.create_task(
            trial.python("open('begun', 'w').close()\nimport time; time.sleep(60)", limits=EGRESS)
        )
        await _until((trial.work / "begun").exists)
        (way_out,) = ways_out()
        os.kill(_parent(way_out), signal.SIGKILL)
        await _until(lambda: ways_out() == [])
        await asyncio.wait([running])

    async def test_the_way_out_is_nobody_and_sees_nothing_of_the_host(self, outer: World, trial: Trial) -> None:
        source = "open('begun', 'w').close()\nimport time; time.sleep(60)"
        running = asyncio.create_task(trial.python(source, limits=EGRESS))
        await _until((trial.work / "begun").exists)
        (way_out,) = ways_out()
        status = Path(f"/proc/{way_out}/status").read_text().split("\n")
        facts = dict(line.split(":\t", 1) for line in status if ":\t" in line)
        seen = set(os.listdir(f"/proc/{way_out}/root"))
        running.cancel()
        await asyncio.wait([running])
        assert set(facts["Uid"].split()) == {str(bench.profile().user.uid)}
        assert (int(facts["CapEff"], 16), facts["NoNewPrivs"], facts["Seccomp"]) == (0, "1", "2")
        assert seen <= {"usr", "bin", "lib", "lib32", "lib64", "etc", "dev", "network", "owner"}

    async def test_without_its_programs_there_is_no_egress_and_it_is_said(
        self, outer: World, open_sandbox: Open, owner: Owner | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connecting, "_PATH", str(tmp_path))
        async with open_sandbox() as sandbox:
            trial = _trial(sandbox, owner, tmp_path)
            assert trial.lacks("egress")
            with pytest.raises(EgressUnavailable, match="apt install slirp4netns nftables"):
                await trial.says("open('ran', 'w')", limits=EGRESS)
            async with sandbox.open(trial.mount, LIMITS) as cell:
                with pytest.raises(EgressUnavailable):
                    await cell.run(Job(python("open('ran', 'w')"), (), b"", EGRESS))
            assert os.listdir(trial.work) == []
            assert await trial.says("print(1)") == "1"


def ways_out() -> list[int]:
    """Processes that move packets for runs, in this thread's network namespace."""
    own = os.readlink("/proc/thread-self/ns/net")
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if (
                Path(f"/proc/{name}/comm").read_text().strip() == "slirp4netns"
                and os.readlink(f"/proc/{name}/ns/net") == own
            ):
                found.append(int(name))
        except OSError:
            continue
    return found


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _trial(sandbox: Sandbox, owner: Owner | None, folder: Path) -> Trial:
    work = folder / "another-work"
    work.mkdir()
    if owner is not None:
        os.chown(work, owner.uid, owner.gid)
    return Trial(sandbox, work)


async def _until(holds: Callable[[], bool]) -> None:
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError
