"""Hypothesis profiles, and the refusal of skips that nobody has allowed."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.dockerd import daemon
from tests.dockerd.daemon import TestDaemon

if TYPE_CHECKING:
    from tests.redisd.server import TestRedis

pytest.register_assert_rewrite("executors.testing", "store.testing")
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("dev", max_examples=30, **_COMMON)  # type: ignore[arg-type]
settings.register_profile("ci", max_examples=50, derandomize=True, database=None, **_COMMON)  # type: ignore[arg-type]
settings.register_profile("deep", max_examples=1000, **_COMMON)  # type: ignore[arg-type]
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

_ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")


def _is_allowed(reason: str) -> bool:
    allowed = [line.strip() for line in _ALLOWED_SKIPS.read_text().splitlines()]
    return any(line and not line.startswith("#") and line in reason for line in allowed)


def _refused(reason: str) -> str:
    return f"skipped, which tests/allowed_skips.txt does not allow here: {reason}"


_APART = (
    "hostile/", "dockerd/", "e2e/test_crash.py", "executors/test_traces.py", "executors/test_unprivileged.py",
    "faults/test_power_cuts.py", "faults/test_full_disk.py",
)  # fmt: skip
"""Tests that look at the whole machine, or mount something on it: one process runs them all, one after the other, and all of Docker's."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which tests may run beside which, when several processes share them: whole files, and those of _APART and of Docker in one."""
    here = Path(__file__).parent
    for item in items:
        place = item.path.relative_to(here)
        apart = str(place).startswith(_APART) or "docker_daemon" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("machine" if apart else str(place)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With PSF_TEST_REQUIRE_ALL=1 a skip fails unless its reason is listed: what is not tested must be known."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("PSF_TEST_REQUIRE_ALL") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not _is_allowed(reason):
            report.outcome, report.longrepr = "failed", _refused(reason)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for whole modules (importorskip)."""
    report = yield
    if report.outcome == "skipped" and os.environ.get("PSF_TEST_REQUIRE_ALL") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not _is_allowed(reason):
            report.outcome, report.longrepr = "failed", _refused(reason)
    return report


@pytest.fixture(scope="session")
def docker_daemon() -> Iterator[TestDaemon]:
    """A Docker daemon of our own, with an image of this machine in it. Skips where none can be had."""
    with daemon.running() as running:
        yield running


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[TestRedis]:
    """A Redis of our own, to be left running and as it is but for keys of the test's own prefix. Skips where there is none to be had."""
    from tests.redisd import server  # its library is not for each Python that runs tests

    with server.running() as running:
        yield running


@pytest.fixture
def redis_server() -> Iterator[TestRedis]:
    """A Redis of the test's own, to be done with as it likes."""
    from tests.redisd import server  # its library is not for each Python that runs tests

    with server.running() as running:
        yield running
