"""Large blobs: never whole in memory, written once, and sharing their blocks where the file system can."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from store.faulty import FaultyFiles
from store.files import Files
from store.ids import BlobId, Kind, object_id
from store.large import LARGE_BYTES
from store.packs import PackObjects

MIB = 1 << 20


def stored(objects: PackObjects, path: Path) -> BlobId:
    with path.open("rb") as file:
        return objects.put_file(file.fileno(), path.stat().st_size)


def write_out(objects: PackObjects, blob: BlobId, path: Path) -> None:
    with path.open("xb+") as file:
        objects.write_file(blob, file.fileno())


def test_a_large_blob_goes_in_and_out_without_being_held_in_memory(tmp_path: Path) -> None:
    objects = PackObjects(tmp_path / "store", Files())
    with (tmp_path / "large").open("wb") as file:
        for _ in range(32):
            file.write(os.urandom(MIB))
    tracemalloc.start()
    try:
        write_out(objects, stored(objects, tmp_path / "large"), tmp_path / "again")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * MIB
    assert (tmp_path / "again").read_bytes() == (tmp_path / "large").read_bytes()
    objects.close()


def test_a_file_whose_content_is_stored_is_not_written_again(tmp_path: Path) -> None:
    files = FaultyFiles()
    objects = PackObjects(tmp_path / "store", files)
    for name in ("one", "other"):
        (tmp_path / name).write_bytes(b"x" * LARGE_BYTES)
    blob = stored(objects, tmp_path / "one")
    files.performed.clear()
    assert stored(objects, tmp_path / "other") == blob
    assert set(files.performed) <= {"unnamed", "clone"}
    objects.close()


def test_a_file_that_changes_while_it_is_stored_is_refused_or_stored_as_it_was_read(tmp_path: Path) -> None:
    class Changing(Files):
        """Somebody writes to the file when it has been hashed and before it is copied."""

        def copy(self, source: int, target: int, length: int) -> None:
            (tmp_path / "file").write_bytes(b"y" * LARGE_BYTES)
            super().copy(source, target, length)

    objects = PackObjects(tmp_path / "store", Changing())
    (tmp_path / "file").write_bytes(b"x" * LARGE_BYTES)
    try:
        found = stored(objects, tmp_path / "file")
    except OSError:
        found = None
    assert found in (None, object_id(Kind.BLOB, b"x" * LARGE_BYTES))
    for kind, name in objects:
        assert objects.get(kind, name) in (b"x" * LARGE_BYTES, b"y" * LARGE_BYTES)
    objects.close()


def test_blocks_are_shared_where_the_file_system_can(tmp_path: Path) -> None:
    """On XFS, made for this test in a mount namespace of its own: nothing stays mounted."""
    for command in ("mkfs.xfs", "mount", "unshare"):
        if shutil.which(command) is None:
            pytest.skip(f"sharing blocks is tested on XFS, and {command} is not there")
    if os.geteuid() != 0:
        pytest.skip("sharing blocks is tested on XFS, which needs root to be mounted")
    image, mounted = tmp_path / "xfs", tmp_path / "mnt"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(512 * MIB)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
    inside = ["sh", "-c", 'mount -o loop "$1" "$2" && exec "$3" "$4" "$2"', "sh"]
    found = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", *inside, image, mounted, sys.executable, __file__],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode and "mount:" in found.stderr:
        pytest.skip(f"sharing blocks is tested on XFS, which cannot be mounted here: {found.stderr.strip()}")
    assert found.returncode == 0, found.stderr
    grown = json.loads(found.stdout)
    assert grown == {
        "stored": pytest.approx(0, abs=MIB),
        "stored again": pytest.approx(0, abs=MIB),
        "written out": pytest.approx(0, abs=MIB),
        "sparse": pytest.approx(0, abs=MIB),
        "changed": pytest.approx(MIB, abs=MIB),
    }


def _measure(folder: Path) -> dict[str, int]:
    """How many bytes on disk each act takes, on 32 MiB that are there already."""
    objects = PackObjects(folder / "store", Files())
    grown = {}

    def free() -> int:
        subprocess.run(["sync", "--file-system", folder], check=True)
        status = os.statvfs(folder)
        return status.f_bfree * status.f_frsize

    (folder / "file").write_bytes(os.urandom(32 * MIB))
    shutil.copyfile(folder / "file", folder / "equal")
    before = free()
    blob = stored(objects, folder / "file")
    grown["stored"], before = before - free(), free()
    assert stored(objects, folder / "equal") == blob
    grown["stored again"], before = before - free(), free()
    write_out(objects, blob, folder / "out")
    assert (folder / "out").read_bytes() == (folder / "file").read_bytes()
    grown["written out"], before = before - free(), free()
    with (folder / "sparse").open("wb") as file:
        file.truncate(32 * MIB)
    write_out(objects, stored(objects, folder / "sparse"), folder / "sparse out")
    assert (folder / "sparse out").stat().st_blocks == 0
    grown["sparse"], before = before - free(), free()
    with (folder / "out").open("r+b") as file:
        file.write(os.urandom(MIB))
    grown["changed"] = before - free()
    assert objects.get(Kind.BLOB, blob) == (folder / "file").read_bytes()
    objects.close()
    return grown


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]))))
