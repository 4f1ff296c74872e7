"""The command line: exit statuses, and one line that says what is wrong."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import psf
from psf import cli, store_commands, tokens


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "psf.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )


def refused(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line on stderr."""
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("psf: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_the_version_is_told() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"psf {psf.__version__}\n")


@pytest.mark.parametrize("arguments", [(), ("fly",), ("serve", "--prot", "1"), ("demo", "extra")])
def test_what_is_not_understood_is_answered_with_usage(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: psf")


def test_a_wrong_setting_is_status_2(tmp_path: Path) -> None:
    assert "PSF_SLOTS" in refused(run("serve", "--store", str(tmp_path), PSF_SLOTS="x"), 2)


def test_a_port_that_is_taken_is_status_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        line = refused(run("serve", "--store", str(tmp_path / "s"), "--port", port), 1)
    assert port in line
    assert "--port" in line


def test_a_folder_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    line = refused(run("serve", "--store", str(tmp_path), "--port", "0"), 1)
    assert "--store" in line
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write below /usr")
def test_a_store_that_programs_could_read_is_refused() -> None:
    line = refused(run("serve", "--store", "/usr/share/psf-test-store", "--port", "0"), 1)
    assert "/usr" in line
    assert not Path("/usr/share/psf-test-store").exists()


def test_a_folder_to_be_shown_that_lies_in_the_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s" / "packs").mkdir(parents=True)
    flags = ("serve", "--store", str(tmp_path / "s"), "--port", "0", "--read-only-paths", str(tmp_path / "s" / "packs"))
    assert "overlap" in refused(run(*flags), 1)


def test_an_interpreter_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    line = refused(run("serve", "--store", str(tmp_path / "s"), "--port", "0", "--interpreter", "/no/python"), 1)
    assert "/no/python" in line
    assert "interpreter" in line


@pytest.mark.parametrize("program", ["/bin/true", "/etc/passwd", "/no/bwrap"])
def test_a_bubblewrap_that_is_none_is_refused_at_start(tmp_path: Path, program: str) -> None:
    line = refused(run("serve", "--store", str(tmp_path / "s"), "--port", "0", "--bubblewrap", program), 1)
    assert "bubblewrap" in line
    assert program in line


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (("--executor", "dokcer"), 2, ("executor:", "'dokcer'", "auto, bubblewrap")),
        (("--sandbox-options", "dokcer.image=x"), 2, ("sandbox_options", "'dokcer'", "bubblewrap")),
        (
            ("--executor", "bubblewrap", "--sandbox-options", "bubblewrap.porgram=/x"),
            1,
            ("sandbox_options", "'porgram'", "program"),
        ),
        (("--executor", "nsjail", "--nsjail", "/no/nsjail"), 1, ("`nsjail`", "/no/nsjail")),
    ],
)
def test_a_sandbox_that_cannot_be_had_is_told_with_what_there_is(
    tmp_path: Path, flags: tuple[str, ...], status: int, words: tuple[str, ...]
) -> None:
    line = refused(run("serve", "--store", str(tmp_path / "s"), "--port", "0", *flags), status)
    assert all(word in line for word in words), line


def test_a_folder_to_be_shown_that_is_not_there_is_told(tmp_path: Path) -> None:
    line = refused(run("serve", "--store", str(tmp_path / "s"), "--port", "0", "--read-only-paths", "/no/where"), 1)
    assert "read_only_paths" in line
    assert "/no/where" in line


@pytest.mark.parametrize("level", ["info", "debug"])
def test_a_defect_is_told_in_one_line_without_paths(
    level: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: argparse.Namespace) -> int:
        raise ValueError("of /a/secret/place")

    monkeypatch.setattr(store_commands, "stats", broken)
    monkeypatch.setenv("PSF_LOG_LEVEL", level)
    assert cli.main(["store", "stats"]) == 70
    told = capsys.readouterr().err
    if level == "debug":
        assert "Traceback" in told
    else:
        assert told.startswith("psf: a defect of psf: ValueError in tests.psf.test_cli:")
        assert told.count("\n") == 1
        assert "/" not in told


@pytest.mark.parametrize("patience", ["nan", "inf", "-1", "soon", "1e9"])
def test_a_patience_that_makes_no_sense_is_refused(patience: str) -> None:
    done = run("store", "gc", f"--patience-s={patience}")
    assert done.returncode == 2
    assert "--patience-s: must be seconds from 0 to 2.592e+06, not" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "\u0661"])
def test_what_is_no_number_of_a_move_is_refused(number: str) -> None:
    done = run("store", "export", "s", "f", f"--since={number}")
    assert done.returncode == 2
    assert "--since: must be the number of a move" in done.stderr


def test_a_token_is_shown_once_and_the_servers_lines_hold_only_its_digest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["token", "trainer", "--tenant", "team", "--scope", "read"]) == 0
    printed = capsys.readouterr()
    token = printed.err.strip().rpartition(" ")[2]
    file = tmp_path / "tokens.toml"
    file.write_text(printed.out)
    caller = tokens.load(file).authenticate(f"Bearer {token}")
    assert (caller.name, caller.tenant, caller.scopes) == ("trainer", "team", {"read"})
    assert token not in printed.out
    assert cli.main(["token", "a b"]) == 2
    assert cli.main(["token", "a", "--scope", "root"]) == 2
