"""The n-th operation of sealing, sweeping, checking and mending fails, for n = 1, 2, 3 ... until the work succeeds.

Whatever fails: every head and all it reaches can be read, also after reopening; check finds nothing lost; trying again succeeds; and no
sync is ever tried again on a descriptor on which it failed.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from store.faulty import FaultyFiles, ShortFiles
from store.ids import SnapshotId
from store.local import LocalStore
from store.testing import nobody
from tests.store.history import LARGE_TAIL, begin, files_of, never, step

SEAL_BYTES = 3000
OPERATIONS_MAX = 200
ERRORS = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EINTR]
GARBAGE = b"NOBODY'S"
History = dict[SnapshotId, dict[bytes, bytes]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, History]:
    """A store with garbage of every kind beside one live session; and what that holds."""
    root = tmp_path_factory.mktemp("template") / "store"
    store = LocalStore(root)
    store.objects.seal_bytes = SEAL_BYTES
    history: History = {}
    for name in ("gone", "kept"):
        begin(store, name, used_at_s=10.0 if name == "gone" else 1e9)
        for number in range(8):
            mark = GARBAGE if name == "gone" else b""
            files = {b"small": mark + os.urandom(350)}
            if number % 4 == 0:
                files[b"large"] = mark + os.urandom(9) + LARGE_TAIL
            snapshot = step(store, name, files, at_s=20.0 if name == "gone" else 1e9)
            if name == "kept":
                history[snapshot] = files
    store.heads.drop_unused_since(1e6, is_running=nobody)
    store.objects.seal()
    store.close()
    return root, history


def seal(root: Path, files: FaultyFiles) -> None:
    """Fill packs until several are sealed."""
    store = LocalStore(root, files)
    store.objects.seal_bytes = SEAL_BYTES
    try:
        for number in range(4):
            step(store, "kept", {b"more": b"%d" % number * 1500}, at_s=1e9)
        store.objects.seal()
    finally:
        store.close()


def sweep(root: Path, files: FaultyFiles) -> None:
    store = LocalStore(root, files)
    store.objects.seal_bytes = SEAL_BYTES
    try:
        store.sweep(dry=False, pause=never)
    finally:
        store.close()


def check(root: Path, files: FaultyFiles) -> None:
    """Indexes that are gone are made again."""
    for path in (root / "packs").glob("*.idx"):
        path.unlink()
    store = LocalStore(root, files)
    try:
        assert store.check(full=True)[0].clean
    finally:
        store.close()


def mend(root: Path, files: FaultyFiles) -> None:
    """FORMAT, the heads and an index are gone, and what nobody needs is damaged, in packs and in large files."""
    for path in (*(root / "packs").glob("*.pack"), *(root / "large").glob("*/*")):
        if GARBAGE in (data := path.read_bytes()):
            path.chmod(0o600)
            path.write_bytes(data.replace(GARBAGE, GARBAGE.lower()))
    for path in (root / "FORMAT", root / "heads.sqlite", next((root / "packs").glob("*.idx"), root / "FORMAT")):
        path.unlink(missing_ok=True)
    mended = LocalStore.mend(root, files, seal_bytes=SEAL_BYTES)
    assert mended.report.broken == {}
    assert mended.report.harmless == ()
    aside = [path.name.split(".")[1:] for path in (root / "damaged").iterdir()]
    assert ["pack"] in aside, "a pack was written anew"
    assert [] in aside, "a large file was put aside"


def assert_whole(root: Path, history: History) -> None:
    store = LocalStore(root)
    try:
        assert {snapshot: files_of(store, snapshot) for snapshot in history} == history
        assert store.heads.get("kept", "alice").session_id == "kept"
        report, _ = store.check(full=True)
        assert not report.broken
        assert not report.damaged
        assert not report.behind
    finally:
        store.close()


Work = Callable[[Path, FaultyFiles], None]
each_work = pytest.mark.parametrize("work", [seal, sweep, check, mend], ids=lambda work: work.__name__)


@each_work
@pytest.mark.parametrize(
    ("error", "sticky"), [*((error, False) for error in ERRORS), (errno.EIO, True), (errno.ENOSPC, True)]
)
def test_whichever_operation_fails_nothing_is_lost_and_a_retry_succeeds(
    template: tuple[Path, History], tmp_path: Path, work: Work, error: int, sticky: bool
) -> None:
    source, history = template
    failures = 0
    for number in range(1, OPERATIONS_MAX):
        root = tmp_path / str(number)
        shutil.copytree(source, root)
        files = FaultyFiles(number, error, sticky=sticky)
        try:
            work(root, files)
        except Exception as failure:
            assert _is_injected(failure), failure  # noqa: PT017 - the last round does not fail
            failures += 1
        assert files.synced_after_failure == []
        if work is not mend:  # which begins with a store that cannot be opened
            assert_whole(root, history)
        files.heal()
        work(root, files)
        files.close()
        assert_whole(root, history)
        shutil.rmtree(root)
        if not files.failed:
            break
    assert failures > 3
    assert number < OPERATIONS_MAX - 1


def _is_injected(failure: BaseException) -> bool:
    """The disk's error, or psf's own that says so."""
    seen: BaseException | None = failure
    while seen is not None:
        if isinstance(seen, OSError) or "injected" in str(seen) or "cannot be used" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@each_work
def test_writes_that_are_cut_short_are_completed(template: tuple[Path, History], tmp_path: Path, work: Work) -> None:
    source, history = template
    shutil.copytree(source, tmp_path / "store")
    work(tmp_path / "store", ShortFiles(4001))  # type: ignore[arg-type]
    assert_whole(tmp_path / "store", history)


def test_a_disk_that_takes_a_few_bytes_at_a_time_gives_them_back(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, ShortFiles())
    begin(store, "a")
    files = {b"small": os.urandom(500)}
    snapshot = step(store, "a", files)
    store.close()
    assert_store = LocalStore(tmp_path)
    assert files_of(assert_store, snapshot) == files
    assert_store.close()
