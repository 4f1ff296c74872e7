"""A server's house with things worth stealing or breaking, and hostile programs let into it: once with each kind of sandbox."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from executors.interfaces import Executor
from executors.local import LocalExecutor
from executors.testing.history import History
from store.local import LocalStore
from store.workspace import WorkspaceSettings
from tests.executors import bench

SECRET = "psf-hostile-canary-8d21f0"
"""Stands in every place that no program may read. Where it is printed, something was read."""
KINDS = ("bubblewrap",)


class House:
    """`home` is a folder of the server's that any user of the host may read and write: only the sandbox guards it."""

    def __init__(self, home: Path, store: LocalStore, executor: Executor) -> None:
        self.home, self.store, self._executor = home, store, executor
        self.canary = home / f"{SECRET}.txt"

    def session(self) -> History:
        return History(self._executor, self.store.objects)

    def workspaces(self) -> Path:
        """The folder of the work directories, when what was given up of them is gone."""
        assert isinstance(self._executor, LocalExecutor)
        self._executor._workspaces.wait_for_removal()
        return self.home / "store" / "workspaces"

    def assert_untouched(self) -> None:
        """What stands in the house is what was put there."""
        assert self.canary.read_text() == SECRET
        assert {path.name for path in self.home.iterdir()} == {self.canary.name, "store", "socket"}


class Doors:
    """Sockets that a server has open. Nobody may come in."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.tcp = stack.enter_context(socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))
        self.port: int = self.tcp.getsockname()[1]
        self.abstract = f"\0{SECRET}"
        self._sockets = [self.tcp]
        for name in (self.abstract, str(home / "socket")):
            door = stack.enter_context(socket.socket(socket.AF_UNIX))
            door.bind(name)
            door.listen()
            self._sockets.append(door)
        (home / "socket").chmod(0o777)

    def assert_nobody_came(self) -> None:
        for door in self._sockets:
            door.settimeout(0)
            with pytest.raises(BlockingIOError):
                door.accept()


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="psf-hostile-", dir="/var/tmp"))
    folder.chmod(0o777)
    canary = folder / f"{SECRET}.txt"
    canary.write_text(SECRET)
    canary.chmod(0o666)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def doors(home: Path) -> Iterator[Doors]:
    with ExitStack() as stack:
        yield Doors(home, stack)


@pytest.fixture(params=KINDS)
async def house(home: Path, doors: Doors, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """A store and an executor on it. At the end nothing in the house may have changed and nobody may have come in."""
    monkeypatch.setenv("PSF_SECRET", SECRET)
    store = LocalStore(home / "store")
    try:
        async with bench.bubblewrap(home / "store" / "probes", "overlay") as sandbox:
            settings = WorkspaceSettings("overlay", bench.profile().privileged, bench.owner())
            executor = LocalExecutor(sandbox, store.workspaces(settings), store.objects, bench.owner())
            try:
                house = House(home, store, executor)
                yield house
                house.assert_untouched()
                doors.assert_nobody_came()
            finally:
                await executor.close()
    finally:
        store.close()


@pytest.fixture
def session(house: House) -> History:
    return house.session()


@pytest.fixture
def sessions(house: House) -> Callable[[], History]:
    return house.session
