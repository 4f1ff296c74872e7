"""Bubblewrap on this machine, as psf.app puts it together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import pytest

from executors import profile as profiles
from executors.bubblewrap import BubblewrapSandbox, BubblewrapSettings
from executors.local import LocalExecutor
from executors.profile import Profile
from store.files import Files
from store.local import LocalStore
from store.workspace import WorkspaceSettings

Kind = Literal["auto", "overlay", "copy"]
StartSandbox = Callable[..., Awaitable[BubblewrapSandbox]]
StartExecutor = Callable[..., Awaitable[LocalExecutor]]


@pytest.fixture(scope="session")
def profile() -> Profile:
    return profiles.build()


@pytest.fixture
async def start_sandbox(profile: Profile, tmp_path: Path) -> AsyncIterator[StartSandbox]:
    """Starts sandboxes; they are closed at the end."""
    bwrap, libraries = profiles.find_bubblewrap(None)
    async with AsyncExitStack() as stack:

        async def start(kind: Kind = "auto") -> BubblewrapSandbox:
            probe = tmp_path / f"probe-{id(object())}"
            settings = BubblewrapSettings(bwrap, libraries, probe, kind)
            sandbox = await BubblewrapSandbox.start(profile, settings)
            Files().remove_tree(str(probe).encode())
            stack.push_async_callback(sandbox.close)
            return sandbox

        yield start


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    opened = LocalStore(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
async def start_executor(
    store: LocalStore, profile: Profile, start_sandbox: StartSandbox
) -> AsyncIterator[StartExecutor]:
    """Starts executors on one store, each with workspaces of its own; they are closed at the end."""
    async with AsyncExitStack() as stack:

        async def start(kind: Kind = "auto") -> LocalExecutor:
            sandbox = await start_sandbox(kind)
            owner = profile.user if profile.privileged else None
            settings = WorkspaceSettings(sandbox.capabilities.workspace, profile.privileged, owner)
            executor = LocalExecutor(sandbox, store.workspaces(settings), store.objects, owner)
            stack.push_async_callback(executor.close)
            return executor

        yield start
