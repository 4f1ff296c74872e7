"""A server's house with things worth stealing or breaking, and hostile programs let into it: once with each kind of sandbox.

One house serves a module; after each test it is looked at whether anything was touched and whether anybody came in.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from executors import profile as profiles
from executors.bubblewrap import BubblewrapSandbox, BubblewrapSettings
from executors.docker import DockerSandbox
from executors.interfaces import Executor, Sandbox
from executors.local import LocalExecutor
from executors.nsjail import start as start_nsjail
from executors.profile import Profile
from executors.sandboxes import Options
from executors.systems import OneSystem, Site
from executors.testing.history import History
from store.local import LocalStore
from store.pool import Workspaces
from store.workspace import WorkspaceSettings
from tests.dockerd import image
from tests.dockerd.daemon import TestDaemon, with_client
from tests.executors import bench, docker_bench
from tests.hostile import compilers
from tests.hostile.battery import LOOT, ROOMY, SECRET, Attack, Places, breaches_of, stages


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The battery's tests run on their module's loop, on which the shared house lives."""
    on_the_modules_loop = pytest.mark.asyncio(loop_scope="module")
    for item in items:
        if Path(__file__).parent in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(on_the_modules_loop, append=False)


class Lodging(NamedTuple):
    """A sandbox, and the workspaces that go with it."""

    sandbox: Sandbox
    workspaces: WorkspaceSettings


@asynccontextmanager
async def bubblewrap(folder: Path, profile: Profile, _: pytest.FixtureRequest) -> AsyncIterator[Lodging]:
    bwrap, libraries = profiles.find_bubblewrap(None)
    sandbox = await BubblewrapSandbox.start(profile, BubblewrapSettings(bwrap, libraries, folder, "auto"))
    try:
        if sandbox.capabilities.workspace != "overlay":
            pytest.skip("no overlay can be mounted here")
        yield Lodging(sandbox, WorkspaceSettings("overlay", profile.privileged, bench.owner()))
    finally:
        await sandbox.close()


@asynccontextmanager
async def nsjail(folder: Path, profile: Profile, _: pytest.FixtureRequest) -> AsyncIterator[Lodging]:
    sandbox = await start_nsjail(profile, Options(folder))
    try:
        settings = WorkspaceSettings(sandbox.capabilities.workspace, profile.privileged, bench.owner())
        yield Lodging(sandbox, settings)
    finally:
        await sandbox.close()


@asynccontextmanager
async def docker(folder: Path, profile: Profile, request: pytest.FixtureRequest) -> AsyncIterator[Lodging]:
    running = request.getfixturevalue("daemon_with_compilers")
    sandbox = await DockerSandbox.start(profile, docker_bench.settings(running, folder, image=compilers.IMAGE))
    try:
        settings = WorkspaceSettings(sandbox.capabilities.workspace, profile.privileged, bench.owner())
        yield Lodging(sandbox, settings)
    finally:
        await sandbox.close()


@pytest.fixture(scope="session")
def daemon_with_compilers(docker_daemon: TestDaemon, tmp_path_factory: pytest.TempPathFactory) -> TestDaemon:
    archive = tmp_path_factory.mktemp("image") / "image.tar"
    image.write(archive, compilers.PROGRAMS, compilers.files())
    with_client(docker_daemon.url, lambda client: client.import_image(str(archive), *compilers.IMAGE.split(":")))
    archive.unlink()
    return docker_daemon


Opener = Callable[[Path, Profile, pytest.FixtureRequest], AbstractAsyncContextManager[Lodging]]
KINDS: dict[str, Opener] = {"bubblewrap": bubblewrap, "nsjail": nsjail, "docker": docker}
"""Every sandbox that the battery is let loose on: how to start it, with a folder of its own."""

fast_with_bubblewrap = pytest.mark.parametrize(
    "shared_house",
    [
        pytest.param(opener, id=name, marks=[] if name == "bubblewrap" else pytest.mark.slow)
        for name, opener in KINDS.items()
    ],
    indirect=True,
)
"""For what takes long and whose outcome hardly depends on the sandbox: with the others it belongs to `make soak`."""


class Doors:
    """Sockets that a server has open. Nobody may come in."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.tcp = stack.enter_context(socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))
        self.port: int = self.tcp.getsockname()[1]
        self.udp = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        self.udp.bind(("::", self.port))
        self.udp.settimeout(0)
        self.places = Places(home, self.port, os.getpid())
        self.abstract = f"\0{self.places.abstract}"
        self._sockets = [self.tcp]
        for name in (self.abstract, str(home / "socket")):
            door = stack.enter_context(socket.socket(socket.AF_UNIX))
            door.bind(name)
            door.listen()
            self._sockets.append(door)
        (home / "socket").chmod(0o777)
        for door in self._sockets:
            door.settimeout(0)

    def came(self) -> int:
        """How many came in since the last look."""
        guests = 0
        for door in self._sockets:
            while True:
                try:
                    door.accept()[0].close()
                except BlockingIOError:
                    break
                guests += 1
        try:
            while True:
                self.udp.recv(1)
                guests += 1
        except BlockingIOError:
            return guests


class House:
    """`home` is a folder of the server's that any user of the host may read and write: only the sandbox guards it."""

    def __init__(self, doors: Doors, store: LocalStore, pool: Workspaces, executor: Executor, sandbox: Sandbox) -> None:
        self.doors, self.places, self.store, self.pool, self.sandbox = doors, doors.places, store, pool, sandbox
        self.home, self.canary = self.places.home, self.places.canary
        self.executor = executor

    def session(self) -> History:
        return History(self.executor, self.store.objects)

    def workspaces(self) -> Path:
        """The folder of the work directories, when what was given up of them is gone."""
        self.pool.wait_for_removal()
        return self.home / "store" / "workspaces"

    async def withstands(self, attack: Attack) -> None:
        """Let one attack in, in a session of its own: nothing comes of it. That others go on, the next row shows."""
        history = self.session()
        language, program = attack.source(self.places)
        result = await history.step(language, program, stages=stages(language, ROOMY))
        run = result.stages[-1][1]
        assert breaches_of(result, history.objects) == []
        assert run.exit_code != 125, run

    def assert_untouched(self) -> None:
        """What stands in the house is what was put there."""
        assert self.canary.read_text() == LOOT
        assert {path.name for path in self.home.iterdir()} == {self.canary.name, "store", "socket"}
        assert self.doors.came() == 0


def furnish() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="psf-hostile-", dir="/var/tmp"))
    folder.chmod(0o777)
    canary = folder / f"{SECRET}.txt"
    canary.write_text(LOOT)
    canary.chmod(0o666)
    return folder


@pytest.fixture(scope="module")
def shared_doors() -> Iterator[Doors]:
    folder = furnish()
    with ExitStack() as stack:
        yield Doors(folder, stack)
    shutil.rmtree(folder)


@pytest.fixture
def own_doors() -> Iterator[Doors]:
    """Doors to be broken: what an attack does to them unconfined is to be seen."""
    folder = furnish()
    with ExitStack() as stack:
        yield Doors(folder, stack)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return bench.profile()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS.values(), ids=KINDS.keys())
async def shared_house(shared_doors: Doors, profile: Profile, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    home = shared_doors.places.home
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PSF_SECRET", LOOT)
        store = LocalStore(home / "store")
        try:
            async with request.param(home / "store" / "probes", profile, request) as (sandbox, settings):
                pool = store.workspaces(settings)
                executor = LocalExecutor(OneSystem(Site(sandbox)), pool, store.objects, settings.owner)
                try:
                    yield House(shared_doors, store, pool, executor, sandbox)
                finally:
                    await executor.close()
        finally:
            store.close()


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    """At the end nothing in the house may have changed and nobody may have come in."""
    yield shared_house
    shared_house.assert_untouched()


@pytest.fixture
def home(house: House) -> Path:
    return house.home


@pytest.fixture
def doors(house: House) -> Doors:
    return house.doors


@pytest.fixture
def session(house: House) -> History:
    return house.session()


@pytest.fixture
def sessions(house: House) -> Callable[[], History]:
    return house.session
