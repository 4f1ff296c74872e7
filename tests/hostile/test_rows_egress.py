"""The battery, egress: runs that may leave the machine turn back to it. All is on a machine of the tests' own, with a world outside.

`house` looks whether anybody came in; who came in outside, where a cloud's metadata and a neighbour are, is seen there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from executors.testing.history import PYTHON, said
from tests.executors import outside, world
from tests.executors.world import World
from tests.hostile.battery import ROOMY, Attack, breaches_of, each, each_tame, stages, unconfined
from tests.hostile.conftest import Doors, House, furnish
from tests.hostile.test_rows_network import UNIX, connect, send

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a machine of its own")

OUTWARD = msgspec.structs.replace(ROOMY, network="egress")
NETLINK = """
import ctypes, os, socket, struct
for protocol in (0, 12):
    try:
        link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        kind, body = (26, struct.pack('8BI', 2, 0, 0, 0, 254, 3, 0, 1, 0)) if protocol == 0 else (0x0a02, bytes([1, 0, 0, 0]))
        link.send(struct.pack('IHHII', 16 + len(body), kind, 0x605, 1, 0) + body)
        answer = link.recv(4096)
        if struct.unpack_from('H', answer, 4)[0] == 2 and struct.unpack_from('i', answer, 16)[0] == 0: print('GOT', protocol)
    except OSError:
        pass
"""
LEFT_BEHIND = f"""
import socket
for option in (socket.SO_BINDTODEVICE, socket.SO_DONTROUTE, 36):
    for host, port in (('{world.OWN}', @port), ('{outside.METADATA}', 80), ('{outside.NEIGHBOUR}', 80)):
        door = socket.socket()
        door.settimeout(0.5)
        try:
            door.setsockopt(socket.SOL_SOCKET, option, b'tap0' if option == socket.SO_BINDTODEVICE else 1)
            door.connect((host, port))
            print('GOT in', option)
        except OSError:
            pass
"""  # fmt: skip
PACKETS = """
import socket
for family, kind, protocol in ((17, 3, 3), (17, 2, 3), (2, 3, 1), (2, 3, 255), (10, 3, 58), (16, 3, 12), (40, 1, 0)):
    try:
        socket.socket(family, kind, protocol)
        print('GOT', family, kind, protocol)
    except OSError:
        pass
"""

ROWS = (
    connect("the machine's own address", world.OWN, tame=True),
    connect("the machine's own address in a private network", world.OWN_PRIVATE, tame=True),
    connect("the machine's own address of version 6", world.OWN_SIXTH, tame=True),
    connect("the machine's own address, mapped", f"::ffff:{world.OWN}", tame=True),
    connect("the machine's own address as a number", str(int.from_bytes(map(int, world.OWN.split(".")))), tame=True),
    connect("the machine's loopback by the gateway", "10.0.2.2"),
    connect("the machine's loopback by the resolver", "10.0.2.3"),
    connect("the machine's loopback, which is the run's own", "127.0.0.1", tame=True),
    connect("the address of none", "0.0.0.0", tame=True),
    connect("metadata of a cloud", outside.METADATA, 80, tame=True),
    connect("metadata of a cloud, mapped", f"::ffff:{outside.METADATA}", 80, tame=True),
    connect("metadata of a cloud as a number", "2852039166", 80, tame=True),
    connect("a neighbour in a private network", outside.NEIGHBOUR, 80, tame=True),
    connect("the resolver of a private network", outside.NEIGHBOUR, 53, tame=True),
    connect("the world in version 6", outside.SIXTH, 80, tame=True),
    send("a datagram to metadata", outside.METADATA, 80),
    send("a datagram to the resolver of a private network", outside.NEIGHBOUR, 53),
    send("a datagram to all on the link", "255.255.255.255", 67, option="door.setsockopt(1, 6, 1)"),
    send("a datagram to the gateway's files", "10.0.2.2", 69),
    send("a datagram to a group", "224.0.0.251", 5353),
    send("a datagram to the machine in version 6", world.OWN_SIXTH, 53, family="socket.AF_INET6"),
    Attack("a socket that knows better than the routes", LEFT_BEHIND, "python"),
    Attack("new routes and no rules", NETLINK, "python"),
    Attack("new routes and no rules by their tools", "PATH=$PATH:/usr/sbin:/sbin; for act in 'nft flush ruleset' 'nft delete table inet psf' 'iptables -F'"
           " 'ip route add 169.254.169.254 dev tap0' 'ip addr add 203.0.113.9/24 dev tap0' 'ip link set tap0 down'; do $act 2> /dev/null && echo GOT $act; done; true"),
    Attack("packets of its own making", PACKETS, "python"),
    Attack("another tunnel", "exec 3<> /dev/net/tun && echo GOT; true"),
    Attack("the process that moves its packets", "for f in /proc/[0-9]*/comm; do grep slirp $f && echo GOT; done; pkill slirp && echo GOT; true"),
    Attack("a socket that is no file", UNIX.format(name="\0@abstract"), "python", "doors", tame=True),
)  # fmt: skip


@pytest.fixture(scope="module")
def whole() -> Iterator[World]:
    with world.machine() as made:
        yield made


@pytest.fixture(scope="module")
def shared_doors(whole: World) -> Iterator[Doors]:
    """The house stands on the machine of the tests' own, with its doors and all that is started in it."""
    folder = furnish()
    with ExitStack() as stack:
        yield Doors(folder, stack)
    shutil.rmtree(folder)


@pytest.fixture
def outer(whole: World) -> World:
    whole.came()
    return whole


@each(ROWS)
async def test_nobody_who_may_leave_gets_to(outer: World, house: House, attack: Attack) -> None:
    history = house.session()
    language, program = attack.source(house.places)
    result = await history.step(language, program, stages=stages(language, OUTWARD))
    assert breaches_of(result, history.objects) == []
    assert result.stages[-1][1].exit_code != 125, result
    assert outer.came() == set()


@each_tame(ROWS)
def test_unconfined_it_is_noticed_that_somebody_gets_to(
    outer: World, own_doors: Doors, tmp_path: Path, attack: Attack
) -> None:
    assert unconfined(attack, own_doors.places, tmp_path)
    assert own_doors.came() or outer.came()


async def test_a_run_that_may_leave_does_get_out(outer: World, house: House) -> None:
    """So that the rows above mean something."""
    _, program = connect("the world", outside.WORLD, 80).source(house.places)
    result = await house.session().python(program, stages=stages(PYTHON, OUTWARD))
    assert said(result) == "GOT in"
    assert outer.came() == {f"tcp {outside.WORLD} 80"}


async def test_two_runs_that_may_leave_do_not_meet(house: House) -> None:
    """Although each has the same address."""
    host = """
import socket, time
door = socket.create_server(('0.0.0.0', 5001))
time.sleep(1.5)
door.settimeout(0)
try: print('GOT', door.accept())
except BlockingIOError: pass
"""
    guest = "".join(
        connect("", address, 5001).program.replace("(2)", "(0.3)")
        for address in ("10.0.2.100", "10.0.2.2", "10.0.2.15", world.OWN)
    )
    hosting = asyncio.create_task(house.session().python(host, stages=stages(PYTHON, OUTWARD)))
    visits = []
    while not hosting.done():
        visits.append(said(await house.session().python(guest, stages=stages(PYTHON, OUTWARD))))
    assert set(visits) == {""}
    assert said(await hosting) == ""
