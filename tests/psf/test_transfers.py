"""`psf export` and `psf import`: a snapshot as an archive, a folder or an archive as a snapshot, on the command line."""

from __future__ import annotations

import gzip
import json
import os
import pty
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from store.local import LocalStore
from tests.store.history import LARGE_TAIL, begin, step

SESSION = "a1b2c3d4e5f6"
FILES = {b"text": b"hello\n", b"large": LARGE_TAIL, b"odd \xff name": b"bytes"}


def psf(*arguments: str, store: Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "psf.cli", *arguments]
    return subprocess.run(
        command, input=given, capture_output=True, timeout=60, env={**os.environ, "PSF_STORE": str(store)}
    )


def done(*arguments: str, store: Path, given: bytes = b"") -> bytes:
    result = psf(*arguments, store=store, given=given)
    assert (result.returncode, result.stderr) == (0, b""), result
    return result.stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    store = LocalStore(root)
    begin(store, SESSION)
    step(store, SESSION, FILES)
    store.close()
    return root


@pytest.mark.parametrize("name", ["tree.tar", "tree.zip"])
def test_what_goes_out_comes_in_as_the_same_tree(root: Path, tmp_path: Path, name: str) -> None:
    archive, other = str(tmp_path / name), tmp_path / "other"
    assert done("export", SESSION, archive, store=root) == b""
    kind = tarfile.is_tarfile if name.endswith("tar") else zipfile.is_zipfile
    assert kind(archive)
    imported = json.loads(done("import", archive, "--json", store=other))
    assert (imported["pin"], imported["files"], imported["left_out"]) == ("tree", 3, [])
    assert done("store", "cat", "tree", "d/large", store=other) == LARGE_TAIL
    again = json.loads(done("import", archive, "--json", store=other))
    assert again["snapshot"] == imported["snapshot"]
    back = json.loads(done("import", archive, "--pin", "back", "--json", store=root))
    assert done("store", "diff", "back", SESSION, "--exit-code", store=root) == b""
    assert back["snapshot"] == imported["snapshot"]


def test_a_gzipped_tar_holds_the_tar_and_no_time(root: Path, tmp_path: Path) -> None:
    made = []
    for name in ("a.tar.gz", "b.TGZ"):
        done("export", SESSION, str(tmp_path / name), store=root)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
    assert made[0][4:8] == bytes(4)
    assert gzip.decompress(made[0]) == done("export", SESSION, "-", store=root)
    assert b"pinned as b: 3 files" in done("import", str(tmp_path / "b.TGZ"), store=root)
    assert done("export", SESSION, "-", "--format", "tar.gz", store=root) == made[0]


def test_a_zip_is_one_however_its_ending_is_written(root: Path, tmp_path: Path) -> None:
    done("export", SESSION, str(tmp_path / "tree.Zip"), store=root)
    assert zipfile.is_zipfile(tmp_path / "tree.Zip")


@pytest.mark.parametrize("name", ["tree", "tree.7z", "tar"])
def test_a_name_that_says_no_format_is_refused_with_those_there_are(root: Path, tmp_path: Path, name: str) -> None:
    refused = psf("export", SESSION, str(tmp_path / name), store=root)
    assert refused.returncode == 1
    assert b"tar|tar.gz|zip" in refused.stderr
    done("export", SESSION, str(tmp_path / name), "--format", "tar", store=root)
    assert tarfile.is_tarfile(tmp_path / name)


@pytest.mark.parametrize("command", [("export",), ("store", "export")])
@pytest.mark.parametrize("target", ["-", "/dev/stdout"])
def test_no_archive_is_written_to_a_terminal_unasked(root: Path, command: tuple[str, ...], target: str) -> None:
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-m", "psf.cli", *command, SESSION, target, "--store", str(root)]
    refused = subprocess.run(arguments, stdout=theirs, stderr=subprocess.PIPE, timeout=60)
    os.set_blocking(ours, False)
    with pytest.raises(BlockingIOError):
        os.read(ours, 1)
    assert refused.returncode == 1
    assert b"--force" in refused.stderr
    with subprocess.Popen([*arguments, "--force"], stdout=theirs) as forced:
        os.close(theirs)
        os.set_blocking(ours, True)
        assert os.read(ours, 1) != b""
        os.close(ours)
        forced.kill()


def test_archives_pass_through_pipes(root: Path, tmp_path: Path) -> None:
    archive = done("export", f"{SESSION}@1", "-", store=root)
    line = done("import", "-", "--pin", "piped", store=tmp_path / "other", given=archive)
    assert b"pinned as piped: 3 files" in line
    zipped = done("export", SESSION, "-", "--format", "zip", store=root)
    assert zipped.startswith(b"PK")
    assert b"pinned as zipped: 3 files" in done(
        "import", "-", "--pin", "zipped", store=tmp_path / "other", given=zipped
    )
    done("store", "diff", "piped", "zipped", "--exit-code", store=tmp_path / "other")


def test_a_pipe_that_is_named_gives_the_pin_its_name(root: Path) -> None:
    archive = done("export", SESSION, "-", store=root)
    assert b"pinned as stdin: 3 files" in done("import", "/dev/stdin", store=root, given=archive)


def test_an_import_of_nothing_makes_no_store(tmp_path: Path) -> None:
    assert psf("import", str(tmp_path / "nothing"), store=tmp_path / "other").returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_comes_in_and_what_cannot_be_kept_is_named(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "main.py").write_text("print(1)\n")
    os.mkfifo(folder / "pipe")
    first = psf("import", str(folder), "--json", store=root)
    imported = json.loads(first.stdout)
    assert (first.returncode, imported["pin"]) == (3, "project")
    assert [(lost["path"], lost["reason"]) for lost in imported["left_out"]] == [("pipe", "a FIFO")]
    again = psf("import", str(folder), store=root)
    assert (again.returncode, b"left out: pipe" in again.stdout) == (3, True)
    (folder / "pipe").unlink()
    assert imported["snapshot"].encode() in done("import", str(folder), store=root)
    assert done("store", "cat", "project", "src/main.py", store=root) == b"print(1)\n"
    done("store", "gc", store=root)
    assert done("store", "cat", "project", "src/main.py", store=root) == b"print(1)\n"


def test_a_pin_is_not_moved_by_accident(root: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}" / "base").mkdir(parents=True)
        (tmp_path / f"{number}" / "base" / "file").write_text(f"{number}")
    done("import", str(tmp_path / "1" / "base"), store=root)
    refused = psf("import", str(tmp_path / "2" / "base"), store=root)
    assert refused.returncode == 1
    assert b"--pin" in refused.stderr
    assert done("store", "cat", "base", "file", store=root) == b"1"


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, b"PK\x03\x04 nor this"])
def test_what_is_no_archive_is_refused_in_one_line(root: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "archive").write_bytes(content)
    refused = psf("import", str(tmp_path / "archive"), store=root)
    assert refused.returncode == 1
    assert refused.stderr.startswith(b"psf: ")
    assert refused.stderr.count(b"\n") == 1
    assert json.loads(done("store", "ls", "--json", store=root))["pins"] == []
