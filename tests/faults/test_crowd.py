"""Many threads and two processes make steps, on the same sessions and on others, while a third sweeps and is killed again and again.

Nothing that a client saw contradicts one order of moves; and all that any head reaches is whole, byte for byte.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from store import snapshot as snapshots
from store.ids import Kind, SnapshotId
from store.local import LocalStore
from tests.faults.crowd import CONTENTS, SEAL_BYTES, SESSIONS, content
from tests.faults.hammering import chain, read_history
from tests.faults.linear import Read, Swap, violations
from tests.store.history import begin, files_of

ROOT = Path(__file__).resolve().parents[2]


def process(*arguments: str, printed: Path | None = None) -> subprocess.Popen[str]:
    """`printed`: a file for what it prints, since a pipe that nobody reads would hold it up."""
    command = [sys.executable, "-m", "tests.faults.crowd", *arguments]
    if printed is None:
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with printed.open("w") as output:
        return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True)


def gather(root: Path, care: str, rounds: int, seed: int) -> tuple[dict[str, list[Read | Swap]], int]:
    """Let the crowd work; the history of each session, and how often the sweeper was killed."""
    store = LocalStore(root, seal_bytes=SEAL_BYTES)
    for name in SESSIONS:
        begin(store, name, used_at_s=1e9)
    store.close()
    generator, kills = random.Random(seed), 0
    printed = [root.with_name(f"{root.name} printed {number}") for number in range(2)]
    workers = [
        process("steps", str(root), f"worker {number} {seed}", "4", str(rounds), printed=printed[number])
        for number in range(2)
    ]
    while any(worker.poll() is None for worker in workers):
        with process("sweep", str(root), care) as sweeper:
            assert sweeper.stdout is not None
            assert sweeper.stdout.readline() == "ready\n", sweeper.communicate()
            time.sleep(generator.random())
            sweeper.kill()
            kills += sweeper.wait() == -9
    histories: defaultdict[str, list[Read | Swap]] = defaultdict(list)
    for worker, file in zip(workers, printed, strict=True):
        _, complaint = worker.communicate(timeout=60)
        assert worker.returncode == 0, complaint
        for name, seen in read_history(file.read_text()).items():
            histories[name] += seen
    return dict(histories), kills


def what_is_wrong(root: Path, histories: dict[str, list[Read | Swap]]) -> list[str]:
    store = LocalStore(root)
    try:
        found = []
        for name in SESSIONS:
            values = chain(store.heads, name)
            found += violations(histories.get(name, []), values)
            found += [problem for value in values for problem in _wrong_files(store, SnapshotId(bytes.fromhex(value)))]
        report, _ = store.check(full=True)
        broken = [f"{name}: {losses}" for name, losses in report.broken.items()]
        return found + broken + [*report.damaged, *report.behind, *report.derived]
    finally:
        store.close()


def _wrong_files(store: LocalStore, snapshot: SnapshotId) -> list[str]:
    try:
        files = files_of(store, snapshot)
        snapshots.decode(store.objects.get(Kind.SNAPSHOT, snapshot))
    except Exception as error:
        return [f"{snapshot.hex()}: {error}"]
    shared = {name: data for name, data in files.items() if name != b"own"}
    return [f"{name!r} is wrong" for name, data in shared.items() if data != content(int(name))]


def test_sweeping_beside_a_crowd_loses_nothing(tmp_path: Path) -> None:
    histories, kills = gather(tmp_path / "store", "careful", 25, 1)
    assert what_is_wrong(tmp_path / "store", histories) == []
    swaps = [seen for history in histories.values() for seen in history if isinstance(seen, Swap)]
    assert sum(swap.accepted for swap in swaps) > 50
    assert kills > 1
    store = LocalStore(tmp_path / "store", seal_bytes=SEAL_BYTES)
    assert store.heads.epoch() > 3, "it was never swept"
    store.sweep(dry=False, pause=lambda: False)
    assert sorted(store.objects.large.condemned()) == []
    assert len(list(store.objects.large)) <= CONTENTS // 4
    store.close()
    assert what_is_wrong(tmp_path / "store", histories) == []


@pytest.mark.parametrize("care", ["no waiting", "no second look"])
def test_a_careless_sweep_is_found_out(tmp_path: Path, care: str) -> None:
    """Else the test above would pass whatever sweeping does."""
    for seed in range(12):
        root = tmp_path / str(seed)
        try:
            histories, _ = gather(root, care, 25, seed)
        except AssertionError:
            return  # a worker could not even go on
        if what_is_wrong(root, histories):
            return
    pytest.fail("nothing was lost in twelve rounds")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 40))
def test_sweeping_beside_many_crowds_loses_nothing(tmp_path: Path, seed: int) -> None:
    histories, _ = gather(tmp_path / "store", "careful", 100, seed)
    assert what_is_wrong(tmp_path / "store", histories) == []
