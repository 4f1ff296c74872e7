"""The real thing, started for a test: the bubblewrap sandbox of this machine, and an executor on it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from executors import profile as profiles
from executors.bubblewrap import BubblewrapSandbox, BubblewrapSettings
from executors.interfaces import Sandbox
from executors.local import LocalExecutor
from executors.nsjail import start as start_nsjail
from executors.profile import Profile, User
from executors.sandboxes import Options
from executors.systems import OneSystem, Site
from executors.testing import MakeExecutor
from store.capture import CaptureLimits
from store.files import Files
from store.interfaces import Objects
from store.pool import Workspaces
from store.workspace import WorkspaceSettings

Kind = Literal["overlay", "copy"]
ORDINARY = CaptureLimits()


@functools.cache
def profile() -> Profile:
    return profiles.build()


def owner() -> User | None:
    """Who owns files in workspaces, when that is not the user who runs the tests."""
    return profile().user if profile().privileged else None


@asynccontextmanager
async def bubblewrap(folder: Path, kind: Kind) -> AsyncIterator[BubblewrapSandbox]:
    """A sandbox of its own. Skips when this machine cannot mount overlays and one is wanted."""
    bwrap, libraries = profiles.find_bubblewrap(None)
    settings = BubblewrapSettings(bwrap, libraries, folder, kind)
    sandbox = await BubblewrapSandbox.start(profile(), settings)
    try:
        if sandbox.capabilities.workspace != kind:
            pytest.skip("no overlay can be mounted here")
        yield sandbox
    finally:
        await sandbox.close()


@asynccontextmanager
async def nsjail(folder: Path) -> AsyncIterator[Sandbox]:
    """A sandbox of its own, with whatever workspaces can be had."""
    sandbox = await start_nsjail(profile(), Options(folder))
    try:
        yield sandbox
    finally:
        await sandbox.close()


def maker(folder: Path, kind: Kind) -> MakeExecutor:
    """Makes executors with a sandbox and a pool of their own: what another one left live is not there."""
    numbers = itertools.count()
    return lambda objects: local_executor(folder / f"{kind}-{next(numbers)}", objects, kind)


@asynccontextmanager
async def local_executor(
    folder: Path, objects: Objects, kind: Kind, limits: CaptureLimits = ORDINARY
) -> AsyncIterator[LocalExecutor]:
    async with bubblewrap(folder, kind) as sandbox:
        settings = WorkspaceSettings(kind, profile().privileged, owner(), limits)
        pool = Workspaces(folder / "workspaces", objects, Files(), settings)
        executor = LocalExecutor(OneSystem(Site(sandbox)), pool, objects, owner())
        try:
            yield executor
        finally:
            await executor.close()
