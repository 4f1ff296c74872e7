"""The commands for histories on a store without a server: the page that shows them, run as it stands, and what needs a real sandbox."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Server

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs/cli.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
EXPECTED = "#=>"
PSF = Path(sys.executable).with_name("psf")


def run(store: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PSF_STORE": str(store)}
    return subprocess.run([PSF, *arguments], input=stdin, capture_output=True, timeout=60, check=False, env=environment)


@pytest.mark.timeout(240)
def test_each_command_prints_what_the_page_says(tmp_path: Path) -> None:
    """All blocks in one shell, since later ones go on with what earlier ones made."""
    for tool in ("bash", "jq", "sed"):
        if subprocess.run(["which", tool], capture_output=True, check=False).returncode:
            pytest.skip(f"{tool} is not installed, which the page's commands use")
    script = (
        "\n".join(BLOCKS).replace("/tmp/program.py", f"{tmp_path}/program.py").replace("/tmp/data", f"{tmp_path}/data")
    )
    script = script.replace("/tmp/copy", f"{tmp_path}/copy")
    path = f"{PSF.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PSF_STORE": str(tmp_path / "store")}
    done = subprocess.run(
        ["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200, check=False, env=environment
    )  # fmt: skip
    lines = [line for block in BLOCKS for line in block.splitlines() if line.startswith(EXPECTED)]
    assert len(lines) > 30
    assert done.stdout.splitlines() == [re.sub(f"^{EXPECTED} ?", "", line) for line in lines]


def test_a_program_has_its_streams_its_bytes_and_its_end(tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = run(store, "run", "-r", "bash", "-c", "head -c 3 /dev/zero; printf '\\377'; echo err >&2; kill -TERM $$")
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, b"\0\0\0\xff")
    assert done.stderr.splitlines()[0] == b"err"


def test_output_comes_while_the_program_runs(tmp_path: Path) -> None:
    command = [PSF, "run", "-r", "bash", "-c", "echo first; sleep 3; echo second"]
    environment = {**os.environ, "PSF_STORE": str(tmp_path / "store")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        first_s = time.monotonic()
        assert process.stdout.readline() == b"second\n"
        assert time.monotonic() - first_s > 2


def test_an_interrupted_step_leaves_the_head_where_it_is(tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert run(store, "new", "--name", "mine", "-r", "bash").returncode == 0
    environment = {**os.environ, "PSF_STORE": str(store)}
    command = [PSF, "exec", "mine", "-l", "wall_time_s=100", "-c", "echo begun; echo x > f; sleep 100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert [move["kind"] for move in json.loads(run(store, "log", "mine", "--json").stdout)] == ["create"]


def test_a_store_is_used_by_a_server_and_by_commands_at_once(server: Server) -> None:
    session = server.session("bash")
    server.execute(session, "echo from the server > f", keep="all")
    assert run(server.store, "cat", f"{session}:f").stdout == b"from the server\n"
    assert run(server.store, "exec", session[:8], "-c", "echo from a command > f").returncode == 0
    assert server.execute(session, "cat f")["run_result"]["stdout"] == "from a command\n"


def test_a_store_that_is_none_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    done = run(tmp_path / "store", "ls")
    assert done.returncode == 3
    assert [line[:5] for line in done.stderr.splitlines()] == [b"psf: "]


def test_a_folder_larger_than_one_request_goes_in_and_comes_out_whole(tmp_path: Path) -> None:
    store, folder = tmp_path / "store", tmp_path / "folder"
    folder.mkdir()
    for number in range(4):
        (folder / f"f{number}").write_bytes(os.urandom(9 << 20))
    assert run(store, "new", "--name", "mine").returncode == 0
    assert run(store, "cp", str(folder), "mine:data").stderr == b""
    assert run(store, "cp", "mine:data", str(tmp_path / "out")).stderr == b""
    assert all((tmp_path / "out" / file.name).read_bytes() == file.read_bytes() for file in folder.iterdir())
    assert [move["kind"] for move in json.loads(run(store, "log", "mine", "--json").stdout)] == [
        "write",
        "write",
        "create",
    ]
