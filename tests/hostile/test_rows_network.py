"""The battery, network: there is none, but a loopback that is each run's own. `house` looks whether anybody came in."""

from __future__ import annotations

import asyncio
from pathlib import Path

from executors.testing.confinement import own_address
from executors.testing.history import said
from tests.hostile.battery import Attack, each, each_tame, unconfined
from tests.hostile.conftest import Doors, House

OWN_ADDRESS = own_address()
CONNECT = """
import socket
for family, *_, address in socket.getaddrinfo({host!r}, {port}, type=socket.SOCK_STREAM):
    door = socket.socket(family)
    door.settimeout(2)
    try:
        door.connect(address)
        door.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
        print('GOT in', flush=True)
    except OSError:
        pass
"""
SEND = """
import socket
door = socket.socket({family}, socket.SOCK_DGRAM)
{option}
try:
    door.sendto(b'out', ({host!r}, {port}))
    print('GOT out')
except OSError:
    pass
"""
UNIX = """
import socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    try:
        socket.socket(socket.AF_UNIX, kind).connect({name!r})
        print('GOT in')
    except OSError:
        pass
"""


def connect(name: str, host: str, port: object = "@port", *, tame: bool = False) -> Attack:
    return Attack(name, CONNECT.format(host=host, port=port), "python", "doors", tame)


def send(name: str, host: str, port: object = 53, *, family: str = "socket.AF_INET", option: str = "") -> Attack:
    return Attack(name, SEND.format(host=host, port=port, family=family, option=option), "python")


ROWS = (
    connect("a service on the loopback", "127.0.0.1", tame=True),
    connect("a service on another name of the loopback", "127.8.9.10", tame=True),
    connect("a service on the loopback of version 6", "::1", tame=True),
    connect("a service on the loopback, mapped", "::ffff:127.0.0.1", tame=True),
    connect("a service on the address of none", "0.0.0.0", tame=True),
    connect("a service on the host's own address", OWN_ADDRESS, tame=True),
    connect("a service by the name localhost", "localhost", tame=True),
    connect("a service by the decimal number of the loopback", "2130706433", tame=True),
    connect("the usual ports of psf and docker", "127.0.0.1", 8080),
    connect("docker over TCP", "127.0.0.1", 2375),
    connect("the gateway of docker's network", "172.17.0.1"),
    connect("metadata of a cloud", "169.254.169.254", 80),
    connect("metadata of a cloud in version 6", "fd00:ec2::254", 80),
    connect("a neighbour on the link", "fe80::1%lo"),
    connect("an address of the world", "192.0.2.1", 80),
    Attack("a datagram to the loopback's service", SEND.format(host="127.0.0.1", port="@port", family="socket.AF_INET", option="")
           .replace("GOT", "SENT"), "python", "doors", tame=True),
    send("a datagram to the world", "192.0.2.1"),
    send("a datagram to a server of names", "8.8.8.8"),
    send("a datagram to all on the link", "255.255.255.255", option="door.setsockopt(1, 6, 1)"),
    send("a datagram to a group", "224.0.0.251", 5353),
    send("a datagram to a group of version 6", "ff02::1", 5353, family="socket.AF_INET6"),
    send("a datagram to metadata", "169.254.169.254", 80),
    Attack("the service by bash", "for host in 127.0.0.1 ::1 localhost @own; do (exec 3<> /dev/tcp/$host/@port && echo GOT in) 2> /dev/null; done;"
           " true".replace("@own", OWN_ADDRESS), seen="doors", tame=True),
    Attack("the service by bash's datagrams", "echo out 2> /dev/null > /dev/udp/127.0.0.1/@port", seen="doors"),
    Attack("a name of the world", "import socket\nfor name in ('example.com', 'metadata.google.internal', 'host.docker.internal', 'gateway'):\n"
           "    try: print('GOT', socket.getaddrinfo(name, 80))\n    except OSError: pass", "python"),
    Attack("names by a tool", "for name in example.com _gateway; do getent ahosts $name && echo GOT; done; true"),
    Attack("the host's name for itself", "import socket\naddresses = {item[4][0] for item in socket.getaddrinfo(socket.gethostname(), 80)}\n"
           "if addresses - {'127.0.0.1', '::1'}: print('GOT', addresses)", "python"),
    Attack("another interface", "import socket\nif {name for _, name in socket.if_nameindex()} - {'lo'}: print('GOT', socket.if_nameindex())",
           "python", tame=True),
    Attack("the host's routes and neighbours", "tail -n +2 /proc/net/route | grep . && echo GOT; tail -n +2 /proc/net/arp | grep . && echo GOT;"
           " grep -v -w lo /proc/net/if_inet6 && echo GOT; true", tame=True),
    Attack("the host's open ports", "tail -qn +2 /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/unix | grep . && echo GOT; true", tame=True),
    Attack("the host's interfaces in /sys and /proc", "grep : /proc/net/dev | grep -v -w lo && echo GOT; ls /sys/class/net 2> /dev/null | grep . && echo GOT;"
           " true", tame=True),
    Attack("a socket that is no file", UNIX.format(name="\0@abstract"), "python", "doors", tame=True),
    Attack("a socket of the house", UNIX.format(name="@home/socket"), "python", "doors", tame=True),
    Attack("a socket of the house through /proc", UNIX.format(name="/proc/1/root@home/socket"), "python", "doors"),
    Attack("sockets of the system", "".join(UNIX.format(name=name) for name in (
        "/run/docker.sock", "/var/run/docker.sock", "/run/systemd/private", "/run/dbus/system_bus_socket", "/run/containerd/containerd.sock",
        "/dev/log", "/run/systemd/journal/stdout", "/run/nscd/socket")), "python"),
    Attack("a socket of its parent", "import os, socket, stat\nfor n in range(1 << 10):\n    try:\n        if stat.S_ISSOCK(os.fstat(n).st_mode):"
           " print('GOT', n)\n    except OSError: pass", "python"),
    Attack("an interface of its own", "for kind in dummy bridge; do ip link add psf0 type $kind 2> /dev/null && echo GOT; done; ip addr add 192.0.2.9/24"
           " dev lo 2> /dev/null && echo GOT; true"),
    Attack("a tunnel", "test -e /dev/net/tun && echo GOT; true", tame=True),
)  # fmt: skip


@each(ROWS)
async def test_nobody_gets_out_to(house: House, attack: Attack) -> None:
    await house.withstands(attack)


@each_tame(ROWS)
def test_unconfined_it_is_noticed_that_somebody_gets_out_to(own_doors: Doors, tmp_path: Path, attack: Attack) -> None:
    brought, guests = unconfined(attack, own_doors.places, tmp_path), own_doors.came()
    assert guests if attack.seen == "doors" else brought


async def test_two_runs_do_not_meet_on_loopback_or_by_name(house: House) -> None:
    host = """
import os, socket, time
doors = []
for family, name in ((socket.AF_INET, ('127.0.0.1', 5001)), (socket.AF_INET6, ('::1', 5001)), (socket.AF_UNIX, '\\0meeting')):
    doors.append(socket.socket(family))
    doors[-1].bind(name)
    doors[-1].listen()
open('open', 'w').close()
time.sleep(1.5)
for door in doors:
    door.settimeout(0)
    try:
        print('GOT', door.accept())
    except BlockingIOError:
        pass
"""
    guest = (
        CONNECT.format(host="127.0.0.1", port=5001)
        + CONNECT.format(host="::1", port=5001)
        + UNIX.format(name="\0meeting")
    )
    hosting = asyncio.create_task(house.session().python(host))
    visits = []
    while not hosting.done():
        visits.append(said(await house.session().python(guest)))
    assert len(visits) >= 2
    assert set(visits) == {""}
    assert said(await hosting) == ""


async def test_no_run_leaves_the_next_one_connections_that_have_ended(house: House) -> None:
    """Those would keep ports from it for a minute, and it would see with whom they were."""
    before = "import socket\ndoor = socket.create_server(('127.0.0.1', 5002))\n"
    speaking = (
        "guest = socket.create_connection(('127.0.0.1', 5002)); door.accept()[0].close(); guest.recv(1); guest.close()"
    )
    after = """
print(open('/proc/net/tcp').read().count('\\n'), [int(line.split()[1]) for line in open('/proc/net/dev') if 'lo:' in line])
socket.socket().bind(('127.0.0.1', 5002))
"""
    look = "import socket" + after
    assert said(await house.session().python(look)) == "1 [0]"
    assert said(await house.session().python(before + speaking + "\nimport os; os.system('cat /proc/net/tcp')"))
    assert said(await house.session().python(look)) == "1 [0]"
