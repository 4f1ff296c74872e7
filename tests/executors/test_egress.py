"""Runs with egress in bubblewrap and nsjail, on a machine of their own: as root, and as a plain user. And what may be configured."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from executors import bubblewrap, nsjail
from executors.egress import Egress, _device_fault, configured, tried
from executors.errors import OptionRefused, SandboxBroken
from executors.interfaces import RunResult, Sandbox
from executors.sandboxes import Options, StartSandbox
from store.snapshot import Limits
from tests.e2e.test_demo import PLAIN_UID, reachable_python
from tests.executors import bench, outside, world
from tests.executors.egress_contract import EgressContract, Open
from tests.executors.test_unprivileged import ROOT, plain_home
from tests.executors.world import World

__all__ = ["plain_home"]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a machine of its own")
# Seen by what comes after alone: whom the machine asks for names, and a device that any user may open, as udev makes it.
OWN_FILES = """
set -e
mount --bind "$1" /etc/resolv.conf
mount -t tmpfs tunnels /dev/net
mknod -m 666 /dev/net/tun c 10 200
shift
exec "$@"
"""
ASK = """
import asyncio, os, sys
from pathlib import Path
from executors.testing.trial import Trial
from tests.executors import bench, outside, world
from tests.executors.egress_contract import EGRESS, LOOK_UP, send

async def main():
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    (folder / 'work').mkdir()
    if bench.owner(): os.chown(folder / 'work', bench.owner().uid, bench.owner().gid)
    async with bench.bubblewrap(folder, 'copy') as sandbox:
        assert 'egress' in sandbox.capabilities.enforced, sandbox.capabilities.missing
        doors = ((outside.WORLD, 80), ('10.0.2.3', port), ('10.0.2.2', 53), (world.OWN, port), (outside.METADATA, 80))
        print(await Trial(sandbox, folder / 'work').says(LOOK_UP + send(*doors, patience_s=0.3), limits=EGRESS))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def whole() -> Iterator[World]:
    with world.machine() as made:
        yield made


@pytest.fixture
def outer(whole: World) -> World:
    whole.came()
    return whole


@needs_root
class TestBubblewrap(EgressContract):
    @pytest.fixture
    def open_sandbox(self, outer: World, tmp_path: Path) -> Open:
        return lambda **settings: _opened(bubblewrap.start, tmp_path, settings)


@needs_root
class TestNsjail(EgressContract):
    @pytest.fixture
    def open_sandbox(self, outer: World, tmp_path: Path) -> Open:
        return lambda **settings: _opened(nsjail.start, tmp_path, settings)


@asynccontextmanager
async def _opened(start: StartSandbox, folder: Path, settings: dict[str, str]) -> AsyncIterator[Sandbox]:
    sandbox = await start(bench.profile(), Options(folder, "copy", settings))
    try:
        yield sandbox
    finally:
        await sandbox.close()


@needs_root
def test_names_are_asked_of_the_machines_own_resolver_where_nothing_is_configured(outer: World, tmp_path: Path) -> None:
    """Although that listens on the machine's loopback, of which nothing else is reached."""
    _asks([sys.executable], ROOT, tmp_path, outer)


@needs_root
def test_a_plain_users_runs_have_the_same(outer: World, plain_home: Path) -> None:
    switch = ["setpriv", "--reuid", str(PLAIN_UID), "--regid", str(PLAIN_UID), "--clear-groups", reachable_python()]
    _asks(switch, plain_home, plain_home / "temporary", outer)


def _asks(python: list[str], home: Path, folder: Path, outer: World) -> None:
    names = folder / "resolv.conf"
    names.write_text("nameserver 127.0.0.1\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind(("127.0.0.1", 53))
        threading.Thread(target=_answer_names, args=(door,), daemon=True).start()
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", OWN_FILES, "sh", str(names), *python, "-c", ASK, str(folder), str(outer.port)],
            cwd=home, env={**os.environ, "PYTHONPATH": f"{home}:{home}/packages", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        door.sendto(b"", door.getsockname())
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {str({outside.WORLD}), f"{outside.WORLD} 80"}
    assert outer.came() == {f"{kind} {outside.WORLD} 80" for kind in ("tcp", "udp")}


def _answer_names(door: socket.socket) -> None:
    while True:
        question, guest = door.recvfrom(2048)
        if not question:
            return
        door.sendto(outside.answer(question), guest)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("egress_allow", "10.1.0.0/8", "10.1.0.0/8 has host bits set"),
        ("egress_deny", "example.com", "IPv4 networks such as 10.1.0.0/16"),
        ("egress_allow", "fd00::/8", "IPv4 networks such as 10.1.0.0/16"),
        ("egress_resolvers", "127.0.0.53", "must be an address that runs can reach"),
        ("egress_resolvers", "9.9.9.0/24", "must be an address that runs can reach"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(option: str, value: str, says: str) -> None:
    with pytest.raises(OptionRefused, match=f"nsjail.{option}: .*{says}"):
        configured("nsjail", {option: value})


def test_networks_are_told_one_after_another() -> None:
    found = configured("nsjail", {"egress_allow": "10.1.0.0/16, 10.2.0.0/16  10.3.0.1", "program": "/else"})
    assert (found.allow, found.deny, found.resolvers) == (("10.1.0.0/16", "10.2.0.0/16", "10.3.0.1"), (), ())


def test_a_device_that_cannot_be_opened_is_told_with_what_to_type(tmp_path: Path) -> None:
    assert "`modprobe tun`" in (_device_fault(str(tmp_path / "tun")) or "")
    assert "`chmod 666 /proc/self`" in (
        _device_fault("/proc/self") or ""
    )  # a directory, which nobody opens for writing
    assert _device_fault("/dev/null") is None


async def test_why_a_trial_failed_is_one_line() -> None:
    async def fails(limits: Limits) -> RunResult:
        raise SandboxBroken("broken", detail="first\nsecond")

    lack = (await tried(Egress("any"), fails)).lack
    assert lack is not None
    assert "\n" not in lack
