"""Fixtures for tests of the store: a helper that mounts, where it can."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
