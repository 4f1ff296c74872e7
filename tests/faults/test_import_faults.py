"""The n-th operation of an import fails, for n = 1, 2, 3 ... until it succeeds.

Whatever fails: heads are as they were, check finds nothing wrong, and a retry brings the session, on the same store and on a
reopened one.
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

import pytest

from store import bundle
from store.faulty import FaultyFiles
from store.large import LARGE_BYTES
from store.local import LocalStore
from tests.store.bundles import Place, filled

OPERATIONS_MAX = 60


def opened(root: Path, files: FaultyFiles | None = None) -> tuple[LocalStore, Place]:
    store = LocalStore(root, files)
    return store, Place(store.objects, store.heads)


def assert_whole(store: LocalStore) -> None:
    report, _ = store.check(full=True)
    assert report.clean, report


@pytest.mark.parametrize("reopened", [False, True], ids=["same store", "reopened"])
@pytest.mark.parametrize("sticky", [False, True], ids=["once", "sticky"])
@pytest.mark.parametrize("known", [0, 3], ids=["created", "extended"])
def test_whichever_operation_fails_heads_are_as_they_were_and_a_retry_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: int, sticky: bool, reopened: bool
) -> None:
    """Small objects, a large one, and one in parts."""
    monkeypatch.setattr(bundle, "PART_BYTES", 2 * LARGE_BYTES)
    sender = filled()
    sender.step({b"large": b"x" * LARGE_BYTES, b"in parts": b"y" * 5 * LARGE_BYTES})
    data = sender.export()
    for number in range(1, OPERATIONS_MAX):
        files = FaultyFiles(0, errno.EIO, sticky=sticky)
        store, place = opened(tmp_path / str(number), files)
        if known:
            place.take(sender.export(until=known))
        before = place.visible()
        files.fail_at = files.operations + number
        try:
            place.take(data)
        except OSError as failure:
            assert failure.errno == errno.EIO  # noqa: PT017 - failing is the point of most rounds, not of all
            assert place.visible() == before
            assert_whole(store)
            if reopened:
                with contextlib.suppress(OSError):
                    store.close()
                store, place = opened(tmp_path / str(number))
                assert place.visible() == before
            files.heal()
            place.take(data)
        assert place.log() == sender.log()
        assert_whole(store)
        with contextlib.suppress(OSError):
            store.close()
        assert files.synced_after_failure == []
        files.close()
        if not files.failed:
            break
    assert 8 < number < OPERATIONS_MAX - 1
