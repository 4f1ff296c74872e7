"""The way to back a store up that the documentation gives, done as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

from store.interfaces import Move
from store.local import LocalStore
from store.snapshot import EMPTY_SNAPSHOT_ID
from tests.store.history import LARGE_TAIL, begin, files_of, put_step, step

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def documented() -> str:
    (script,) = re.findall(r"```sh\n(flock .*?)```", OPERATIONS.read_text(), re.DOTALL)
    return str(script)


def begin_backup(store: LocalStore, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir()
    return subprocess.Popen(["sh", "-ec", documented()], cwd=store.root, env={**os.environ, "backup": str(folder)})


def test_a_back_up_is_whole_also_after_a_sweep_that_was_cut_off(tmp_path: Path) -> None:
    """Then what heads need may lie in `condemned/` only."""
    store = LocalStore(tmp_path / "store")
    begin(store, "a")
    history = {step(store, "a", files): files for files in ({b"f": b"one"}, {b"large": LARGE_TAIL})}
    store.objects.large.condemn(list(store.objects.large))
    assert begin_backup(store, tmp_path / "backup").wait(60) == 0
    step(store, "a", {b"f": b"later"})
    store.close()
    copy = LocalStore(tmp_path / "backup")
    report, _ = copy.check(full=True)
    assert (report.clean, report.broken) == (True, {})
    assert {snapshot: files_of(copy, snapshot) for snapshot in history} == history
    copy.close()


def test_a_back_up_waits_for_a_sweep_to_end(tmp_path: Path) -> None:
    """It would copy heads, and then what the sweep has left."""
    store = LocalStore(tmp_path / "store")
    for name in ("gone", "slow"):
        begin(store, name)
    files = {b"large": LARGE_TAIL}
    step(store, "gone", files)
    lease = store.leases.try_acquire("slow")
    assert lease is not None
    snapshot = put_step(store, EMPTY_SNAPSHOT_ID, 1, files)
    store.heads.drop_unused_since(1e9, is_running=lambda name: name == "slow")
    backups: list[subprocess.Popen[bytes]] = []

    def pause() -> bool:
        moved = Move(0, "execute", None, snapshot, 1e9, b"")
        store.heads.advance("slow", EMPTY_SNAPSHOT_ID, moved, epoch=lease.epoch)
        backups.append(begin_backup(store, tmp_path / "backup"))
        time.sleep(0.3)  # in which it would end
        assert backups[0].poll() is None
        lease.release()
        return True

    store.sweep(dry=False, pause=pause)
    assert backups[0].wait(60) == 0
    store.close()
    copy = LocalStore(tmp_path / "backup")
    assert copy.check(full=True)[0].clean
    assert files_of(copy, snapshot) == files
    copy.close()
