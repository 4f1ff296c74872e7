"""Fixtures for tests of the store: a helper that mounts, where it can, and stores that take in bundles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.local import LocalStore
from tests.store.bundles import Place
from tests.store.live import Live, why_no_overlay


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The mounting helper. Skips when no overlay can be mounted here."""
    reason = why_no_overlay(tmp_path_factory.mktemp("probe"))
    if reason is not None:
        pytest.skip(reason)
    helper = Live()
    yield helper
    helper.close()


@pytest.fixture
def local_place(tmp_path: Path) -> Iterator[Place]:
    store = LocalStore(tmp_path / "store")
    yield Place(store.objects, store.heads)
    store.close()


@pytest.fixture(params=["memory", "local"])
def receiver(request: pytest.FixtureRequest) -> Place:
    if request.param == "memory":
        return Place.in_memory()
    place: Place = request.getfixturevalue("local_place")
    return place
