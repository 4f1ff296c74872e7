"""Where commands write to and read from: what cannot be is said in one line, and nothing is left behind."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psf.targets import PIECE_BYTES, CannotWrite, written
from store.local import LocalStore
from tests.store.history import begin, step

SESSION = "a1b2c3d4e5f6"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a store, a folder, and a file."""
    store = LocalStore(tmp_path / "store")
    begin(store, SESSION)
    step(store, SESSION, {b"text": b"hello\n"})
    store.close()
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    return tmp_path


def psf(*arguments: str, place: Path) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PSF_STORE": str(place / "store"), "PYTHONPATH": os.getcwd()}
    return subprocess.run(
        [sys.executable, "-m", "psf.cli", *arguments], cwd=place, capture_output=True, timeout=60, env=environment
    )


@pytest.mark.parametrize(
    "name", [".", "..", "/", "", "folder", "folder/", "new/", "new/.", "no/where", "file/below", "n" * 256, "d/" * 3000]
)
def test_a_target_that_none_can_be_is_told_in_one_line(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    with pytest.raises(CannotWrite, match="cannot write '"), written(name):
        raise AssertionError("nothing may be written there")
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("command", [("store", "export"), ("export",)])
def test_exporting_into_a_folder_names_what_would_do(command: tuple[str, ...], place: Path) -> None:
    done = psf(*command, SESSION, ".", place=place)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"psf: cannot write '.': that is a folder; name a file in it, or - for stdout\n"


def test_the_longest_name_can_be_written(place: Path) -> None:
    path = place / ("n" * 255)
    with written(str(path)) as file:
        file.write(b"all")
    assert path.read_bytes() == b"all"
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_fails_leaves_what_was_there(place: Path) -> None:
    def write_half() -> None:
        with written(str(place / "file")) as file:
            file.write(b"ha")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        write_half()
    assert (place / "file").read_text() == "mine"
    assert sorted(path.name for path in place.iterdir()) == ["file", "folder", "store"]


def test_a_pipe_is_written_to_and_stays_one(place: Path) -> None:
    pipe = place / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        with written(str(pipe)) as file:
            file.write(b"through")
        assert reader.communicate(timeout=30)[0] == b"through"
    assert pipe.is_fifo()


@pytest.mark.parametrize("command", [("store", "import"), ("import",)])
@pytest.mark.parametrize("name", ["nothing", "file/below"])
def test_what_cannot_be_read_is_told_in_one_line(command: tuple[str, ...], name: str, place: Path) -> None:
    done = psf(*command, name, place=place)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"psf: cannot read '")
    assert done.stderr.count(b"\n") == 1


def test_whoever_stops_reading_hears_no_more(place: Path) -> None:
    store = LocalStore(place / "store")
    step(store, SESSION, {b"%06d" % number: b"" for number in range(30_000)})
    store.close()
    command = f"{sys.executable} -m psf.cli store diff {SESSION}@1 {SESSION} | head -1"
    environment = {**os.environ, "PSF_STORE": str(place / "store")}
    done = subprocess.run(command, shell=True, capture_output=True, timeout=60, env=environment)
    assert done.stdout == b"+ d/000000\n"
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("store ls >&-", 141),
        ("store ls --json >&-", 141),
        (f"store cat {SESSION} d/text >&-", 141),
        (f"export {SESSION} - >&-", 141),
        ("--help >&-", 141),
        ("store ls >&- 2>&- <&-", 141),
        ("store ls 2>&-", 0),
        ("store ls <&-", 0),
        (f"export {SESSION} out.tar >&- 2>&-", 0),
        ("store unpin nothing 2>&-", 1),
        ("store unpin nothing >&- 2>&- <&-", 1),
    ],
)
def test_closed_streams_are_not_spoken_of(command: str, status: int, place: Path) -> None:
    environment = {**os.environ, "PSF_STORE": str(place / "store"), "PYTHONPATH": os.getcwd()}
    line = f"{sys.executable} -m psf.cli {command}"
    done = subprocess.run(["bash", "-c", line], cwd=place, capture_output=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (status, b"")


@pytest.mark.parametrize("command", ["import -", "store import -"])
def test_a_closed_stdin_is_told(command: str, place: Path) -> None:
    environment = {**os.environ, "PSF_STORE": str(place / "new"), "PYTHONPATH": os.getcwd()}
    line = f"{sys.executable} -m psf.cli {command} <&-"
    done = subprocess.run(["bash", "-c", line], cwd=place, capture_output=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (1, b"psf: cannot read '-': stdin is closed\n")
    assert not (place / "new").exists()


def test_a_full_disk_below_stdout_is_told_once(place: Path) -> None:
    environment = {**os.environ, "PSF_STORE": str(place / "store"), "PYTHONPATH": os.getcwd()}
    line = f"{sys.executable} -m psf.cli store ls > /dev/full"
    done = subprocess.run(["bash", "-c", line], cwd=place, capture_output=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (1, b"psf: No space left on device\n")


@given(st.lists(st.tuples(st.sampled_from([b"\0", b"x"]), st.integers(0, 3 * PIECE_BYTES)), max_size=6), st.booleans())
def test_what_is_written_is_what_is_read_whatever_is_zero(pieces: list[tuple[bytes, int]], patch: bool) -> None:
    """Also when the beginning is written again, as archives do."""
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        with written(f"{folder}/file") as file:
            for target in (file, model):
                for letter, count in pieces:
                    target.write(letter * count)
                if patch:
                    target.seek(0)
                    target.write(b"\0" * PIECE_BYTES)
                    target.seek(0, os.SEEK_END)
                    target.write(b"end")
        assert Path(f"{folder}/file").read_bytes() == model.getvalue()


def test_zeros_take_no_room(place: Path) -> None:
    with written(str(place / "zeros")) as file:
        for _ in range(16):
            file.write(bytes(1 << 20))
    status = (place / "zeros").stat()
    assert status.st_size == 16 << 20
    assert status.st_blocks * 512 < 1 << 20


def test_a_link_stays_and_what_it_leads_to_is_written_where_it_lies(place: Path) -> None:
    (place / "file").chmod(0o644)
    (place / "folder" / "relative").symlink_to("../file")
    (place / "link").symlink_to(place / "folder" / "relative")
    with written(str(place / "link")) as file:
        file.write(b"new")
        assert [path.name for path in place.iterdir() if path.name.endswith(".partial")] != []
        assert (place / "file").read_text() == "mine"
    assert (place / "file").read_bytes() == b"new"
    assert (place / "link").readlink() == place / "folder" / "relative"
    assert (place / "folder" / "relative").is_symlink()


def test_a_link_to_nothing_makes_what_it_names(place: Path) -> None:
    (place / "link").symlink_to("folder/new")
    with written(str(place / "link")) as file:
        file.write(b"new")
    assert (place / "folder" / "new").read_bytes() == b"new"
    assert (place / "link").is_symlink()


def test_links_that_lead_round_in_a_circle_are_told(place: Path) -> None:
    (place / "one").symlink_to("two")
    (place / "two").symlink_to("one")
    with pytest.raises(CannotWrite, match="links"), written(str(place / "one")):
        raise AssertionError("nothing may be written there")


def test_a_link_to_a_pipe_and_what_a_process_has_open_are_written_through(place: Path) -> None:
    os.mkfifo(place / "pipe")
    (place / "link").symlink_to("pipe")
    with subprocess.Popen(["cat", str(place / "link")], stdout=subprocess.PIPE) as reader:
        with written(str(place / "link")) as file:
            file.write(b"through")
        assert reader.communicate(timeout=30)[0] == b"through"
    with (place / "file").open("r+b") as opened:
        (place / "open").symlink_to(f"/proc/self/fd/{opened.fileno()}")
        with written(str(place / "open")) as file:
            file.write(b"also")
        assert opened.read() == b"also"
    assert (place / "link").is_symlink()
    assert (place / "pipe").is_fifo()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make devices")
def test_a_device_is_written_to_and_stays_one(place: Path) -> None:
    device = place / "null"
    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with written(str(device)) as file:
        file.write(b"gone")
    assert stat.S_ISCHR(device.stat().st_mode)
