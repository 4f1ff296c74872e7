"""A disk that is full: commits fail cleanly, reading goes on, and room that is made heals it without a restart.

Each size is a tmpfs of its own, in a mount namespace of its own that ends with the process that uses it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import errno, json, os, subprocess, sys
from pathlib import Path

folder, options = Path(sys.argv[1]), sys.argv[2]
subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
from store.local import LocalStore
from tests.store.history import LARGE_TAIL, begin, files_of, never, step

def attempt(store, number):
    files = {b"data": os.urandom(9000), b"large": os.urandom(9) + LARGE_TAIL if number % 8 == 0 else b"none"}
    return step(store, "a", files), files

room = folder / "room"
with room.open("wb") as file:
    file.write(bytes(400_000))
for number in range(20):
    (folder / f"inode{number}").touch()
store = LocalStore(folder / "store")
store.objects.seal_bytes = 100_000
begin(store, "a")
acknowledged, refused = {}, []
for number in range(4000):
    try:
        snapshot, files = attempt(store, number)
        acknowledged[snapshot] = files
    except OSError as error:
        refused.append(error.errno)
        if len(refused) == 5:
            break
head = store.heads.get("a", "alice").head
whole_when_full = head == list(acknowledged)[-1] and all(files_of(store, s) == f for s, f in acknowledged.items())
room.unlink()
for number in range(20):
    (folder / f"inode{number}").unlink()
healed = 0
for number in range(4):
    snapshot, files = attempt(store, 1)
    acknowledged[snapshot] = files
    healed += 1
whole_when_healed = all(files_of(store, s) == f for s, f in acknowledged.items())
try:
    store.close()
    closed = True
except OSError:
    closed = False
store = LocalStore(folder / "store")
report, _ = store.check(full=True)
print(json.dumps({
    "acknowledged": len(acknowledged), "refused": refused, "whole_when_full": whole_when_full, "healed": healed,
    "whole_when_healed": whole_when_healed, "closed": closed, "clean": report.clean,
    "head": store.heads.get("a", "alice").head == list(acknowledged)[-1],
}))
store.close()
"""

SIZES_KIB = range(1024, 8193, 1024)
INODES = (60, 75, 90, 120)


def fill(folder: Path, options: str) -> dict[str, object]:
    namespace = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid() != 0:
        namespace.insert(1, "--map-root-user")
    probe = subprocess.run([*namespace, "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True)
    if probe.returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    done = subprocess.run(
        [*namespace, sys.executable, "-c", _PROGRAM, str(folder), options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, object] = json.loads(done.stdout)
    return seen


def assert_clean(seen: dict[str, object]) -> None:
    assert isinstance(seen["acknowledged"], int)
    assert seen["acknowledged"] > 4
    assert set(seen["refused"]) == {28}  # type: ignore[call-overload]
    checks = ("whole_when_full", "whole_when_healed", "clean", "head", "closed")
    assert {name: seen[name] for name in checks} == dict.fromkeys(checks, True)
    assert seen["healed"] == 4


@pytest.mark.parametrize("size_kib", SIZES_KIB)
def test_a_disk_without_bytes(tmp_path: Path, size_kib: int) -> None:
    assert_clean(fill(tmp_path, f"size={size_kib}k"))


@pytest.mark.parametrize("inodes", INODES)
def test_a_disk_without_inodes(tmp_path: Path, inodes: int) -> None:
    assert_clean(fill(tmp_path, f"size=256m,nr_inodes={inodes}"))


@pytest.mark.slow
@pytest.mark.parametrize("size_kib", range(1024, 17408, 256))
def test_many_disks_without_bytes(tmp_path: Path, size_kib: int) -> None:
    assert_clean(fill(tmp_path, f"size={size_kib}k"))
