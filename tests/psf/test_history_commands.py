"""The commands for histories, through the real entry point, against a server over a scripted executor."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp.test_utils import TestServer

from executors.fake import Script
from psf import cli
from psf.tokens import Caller, Tokens
from store.snapshot import Ending
from tests.psf.api.conftest import application
from tests.psf.service import TENANT, Bench


class Done(NamedTuple):
    status: int
    out: str
    err: str


class Shell:
    """Runs `psf` as anybody does, told by PSF_URL where the server is."""

    def __init__(self, url: str, bench: Bench) -> None:
        self.url, self.bench = url, bench

    async def __call__(self, *arguments: str, stdin: bytes = b"", **environment: str) -> Done:
        """In this process, since starting one for each command would take longer than all the rest."""
        done = await asyncio.to_thread(self._run, arguments, stdin, {"PSF_URL": self.url, **environment})
        assert "Traceback" not in done.err, done.err
        return done

    def _run(self, arguments: tuple[str, ...], stdin: bytes, environment: dict[str, str]) -> Done:
        streams = [io.TextIOWrapper(io.BytesIO(data), write_through=True) for data in (stdin, b"", b"")]
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
                patch.setattr(sys, name, stream)
            status = cli.main(list(arguments))
        out, err = (stream.buffer.getvalue().decode() for stream in streams[1:])  # type: ignore[attr-defined]
        return Done(status, out, err)

    async def process(self, *arguments: str, interrupted: asyncio.Event | None = None) -> tuple[int, bytes, bytes]:
        """In a process of its own; status, stdout and stderr."""
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("psf"), *arguments,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PSF_URL": self.url},
        )  # fmt: skip
        if interrupted is not None:
            await interrupted.wait()
            await asyncio.sleep(0.1)
            process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out, err

    async def printed(self, *arguments: str) -> str:
        """What a command prints that does what it is asked for and has nothing to say beside it."""
        done = await self(*arguments)
        assert (done.status, done.err) == (0, ""), done
        return done.out

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self.printed(*arguments, "--json"))


@pytest.fixture
async def psf(bench: Bench) -> AsyncIterator[Shell]:
    async with TestServer(application(bench)) as server:
        yield Shell(str(server.make_url("")).rstrip("/"), bench)


@pytest.fixture
async def mine(psf: Shell) -> str:
    return (await psf.printed("new", "--name", "mine", "-r", "bash")).strip()


# -- programs -----------------------------------------------------------------------------------------------------------------


async def test_run_prints_what_its_program_does_and_ends_as_it_does(psf: Shell, tmp_path: Path) -> None:
    psf.bench.fake._play = lambda _: Script(stdout=b"out\xff", stderr=b"err", exit_code=3)
    program = tmp_path / "p.py"
    program.write_text("the program")
    assert await psf.process("run", str(program), "a", "--b") == (3, b"out\xff", b"err")
    request = psf.bench.fake.requests[-1]
    assert request.program == b"the program"
    assert request.args == ("a", "--b")


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        (Script(ending=Ending.TIMED_OUT), 124, "timed_out"),
        (Script(exit_code=0), 0, ""),
        (Script(ending=Ending.OUT_OF_MEMORY), 137, "out_of_memory"),
    ],
)
async def test_an_ending_becomes_the_status_that_shells_know(
    psf: Shell, script: Script, status: int, said: str
) -> None:
    psf.bench.fake._play = lambda _: script
    done = await psf("run", "-c", "x")
    assert done.status == status
    assert said in done.err


async def test_exec_goes_on_in_a_session_with_all_it_is_told(psf: Shell, mine: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"\xff")
    (tmp_path / "in").write_text("stdin")
    done = await psf(
        "exec", "mine", "-c", "a=1", "-e", "A=1", "--secret", "HIDDEN", "-f", f"data={tmp_path / 'data'}", "-i", str(tmp_path / "in"),
        "-l", "wall_time_s=5", "--note", "why", "--key", "k", "x", "--y", HIDDEN="hidden",
    )  # fmt: skip
    assert (done.status, done.out, done.err) == (0, "", "")
    request = psf.bench.fake.requests[-1]
    assert (request.files, request.stdin, request.stages[-1].limits.wall_time_s) == (
        (("data", b"\xff"),),
        b"stdin",
        5.0,
    )
    assert request.args == ("x", "--y")
    assert {("A", "1"), ("HIDDEN", "hidden")} <= set(request.env)
    assert await psf.bench.moves(mine) == ["create", "execute"]


async def test_exec_takes_flags_on_both_sides_of_the_session_and_programs_from_stdin(psf: Shell, mine: str) -> None:
    done = await psf("exec", "--json", mine[:8], "-", stdin=b"hello")
    answer = json.loads(done.out)
    assert (answer["session_id"], answer["status"], answer["stages"]["run"]["stdout"]) == (mine, 0, "hello")
    assert json.loads((await psf("exec", mine, "--json", "-c", "x")).out)["status"] == 0


async def test_run_can_begin_with_a_snapshot_and_leave_no_session(psf: Shell, mine: str) -> None:
    await psf.printed("exec", "mine", "-c", "a=1")
    await psf.printed("run", "--from", "mine", "--rm", "-c", "b=2")
    psf.bench.clock.now_s += 1
    assert [one["name"] for one in (await psf.json("ls"))["sessions"]] == ["mine"]


async def test_interrupting_a_command_cancels_its_step(psf: Shell, mine: str) -> None:
    execute = psf.bench.fake.execute
    begun = asyncio.Event()

    async def slowly(*arguments: Any) -> Any:
        begun.set()
        await asyncio.sleep(30)
        return await execute(*arguments)

    psf.bench.steps._executor.execute = slowly  # type: ignore[method-assign]
    status, _, err = await psf.process("exec", "mine", "-c", "a=1", interrupted=begun)
    assert (status, err) == (130, b"")
    assert await psf.bench.moves(mine) == ["create"]
    assert psf.bench.steps._running == {}


# -- looking ------------------------------------------------------------------------------------------------------------------


async def test_ls_shows_sessions_tags_and_what_lies_in_snapshots(psf: Shell, mine: str) -> None:
    assert "there are no sessions" not in (await psf("ls")).err
    for step in ("a=1", "b=22"):
        await psf.printed("exec", "mine", "-c", step)
    await psf.printed("tag", "good", "mine@1")
    listed = await psf.printed("ls")
    assert all(word in listed for word in (mine, "mine", "good"))
    assert re.findall(r"\w+(?= *$)", await psf.printed("ls", "mine"), re.MULTILINE) == ["name", "a", "b"]
    assert [entry["path"] for entry in await psf.json("ls", "mine@-1")] == ["a"]
    assert [entry["path"] for entry in await psf.json("ls", "good")] == ["a"]


async def test_ls_goes_into_directories_and_all_of_them_when_asked(psf: Shell, mine: str, tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/f").write_text("x")
    await psf.printed("cp", str(tmp_path / "d"), "mine:top")
    assert [entry["path"] for entry in await psf.json("ls", "mine")] == ["top"]
    assert [entry["path"] for entry in await psf.json("ls", "mine:top")] == ["top/e"]
    assert [entry["path"] for entry in await psf.json("ls", "-r", "mine", "top")] == ["top/e", "top/e/f"]
    assert "nothing at 'gone'" in (await psf("ls", "mine", "gone")).err


async def test_log_draws_what_branched_and_what_was_merged(psf: Shell, mine: str) -> None:
    await psf.printed("exec", "mine", "-c", "a=1", "--note", "the first")
    await psf.printed("fork", "mine", "--name", "other")
    await psf.printed("exec", "other", "-c", "b=2")
    await psf.printed("exec", "mine", "-c", "c=3")
    await psf.printed("merge", "mine", "other")
    text = await psf.printed("log", "mine")
    rows = [re.sub(r" +\d+ [0-9a-f]{12}", "", row) for row in text.splitlines()]
    rows = [re.sub(r"  \d{4}-\S+ \S+", "", row) for row in rows]
    assert rows == [
        "* (HEAD) merge", "|\\", "| * (other) bash: b=2", "* | bash: c=3", "|/", "* bash: a=1  the first", "* (beginning)",
    ]  # fmt: skip
    assert [move["kind"] for move in await psf.json("log", "mine", "-n", "2")] == ["merge", "execute"]
    await psf.printed("rollback", "mine", "1")
    assert re.findall(r"  (\w+) +step", await psf.printed("log", "mine", "--moves")) == [
        "rollback", "merge", "execute", "execute", "create",
    ]  # fmt: skip


async def test_show_tells_a_step_and_nothing_that_a_terminal_would_obey(psf: Shell, mine: str) -> None:
    psf.bench.fake._play = lambda _: Script(writes={"a": b"\x1b[2Jx\n"}, stdout=b"\x1b]0;title\x07", exit_code=4)
    assert (await psf("exec", "mine", "-c", "the code\x1b[1m")).status == 4
    text = await psf.printed("show", "mine")
    assert "\x1b" not in text
    assert all(
        word in text
        for word in ("step     1, run", "the code\\x1b[1m", "exited 4", "stdout \\x1b]0;title", "+\\x1b[2Jx")
    )
    assert (await psf.json("show", "mine"))["changes"][0]["path"] == "a"
    assert "\x1b" not in await psf.printed("log", "mine")


async def test_diff_is_text_or_names_and_may_be_a_status(psf: Shell, mine: str) -> None:
    for step in ("a=1", "a=2", "b=3"):
        await psf.printed("exec", "mine", "-c", step)
    assert {"-1", "+2", "+3"} <= set((await psf.printed("diff", "mine@1")).splitlines())
    assert await psf.printed("diff", "mine@1", "mine@2", "--names") == "M a\n"
    assert (await psf("diff", "mine@1", "mine@1", "--exit-code")).status == 0
    assert (await psf("diff", "mine@1", "--exit-code")).status == 1
    assert [change["path"] for change in (await psf.json("diff", "mine@1"))["changes"]] == ["a", "b"]


async def test_cat_and_cp_move_bytes_both_ways(psf: Shell, mine: str, tmp_path: Path) -> None:
    data = bytes(range(256))
    (tmp_path / "f").write_bytes(data)
    await psf.printed("cp", str(tmp_path / "f"), "mine:d/")
    await psf.printed("cp", str(tmp_path / "f"), "mine:g")
    await psf.printed("cp", "mine:d", str(tmp_path / "out"))
    await psf.printed("cp", "mine@1:d/f", str(tmp_path / "one"))
    assert (tmp_path / "out/f").read_bytes() == (tmp_path / "one").read_bytes() == data
    for arguments in (("cat", "mine:g"), ("cat", "mine", "g")):
        assert await psf.process(*arguments) == (0, data, b"")


async def test_cp_says_what_it_leaves_behind(psf: Shell, mine: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("x")
    (tmp_path / "d/link").symlink_to("f")
    done = await psf("cp", str(tmp_path / "d"), "mine:d")
    assert (done.status, f"not copied: {tmp_path}/d/link" in done.err) == (3, True)
    assert [entry["path"] for entry in await psf.json("ls", "mine:d")] == ["d/f"]


# -- moving -------------------------------------------------------------------------------------------------------------------


async def test_rollback_says_where_it_went(psf: Shell, mine: str) -> None:
    for step in ("a=1", "b=2"):
        await psf.printed("exec", "mine", "-c", step)
    assert "step 1: bash: a=1" in await psf.printed("rollback", "mine", "-1")
    assert "step 2: bash: b=2" in await psf.printed("rollback", "mine@2")
    assert (await psf.json("rollback", "mine", "0"))["step"] == 0


async def test_fork_makes_as_many_as_are_wanted(psf: Shell, mine: str) -> None:
    await psf.printed("exec", "mine", "-c", "a=1")
    assert len((await psf.printed("fork", "mine@0", "--count", "3")).split()) == 3
    assert [one["name"] for one in await psf.json("fork", "mine", "--name", "x", "--name", "y")] == ["x", "y"]


async def test_merge_tells_conflicts_and_takes_a_side(psf: Shell, mine: str) -> None:
    await psf.printed("fork", "mine", "--name", "other")
    await psf.printed("exec", "mine", "-c", "a=ours")
    await psf.printed("exec", "other", "-c", "a=theirs")
    done = await psf("merge", "mine", "other")
    assert (done.status, done.out) == (1, "conflict: a\n")
    assert "--theirs" in done.err
    await psf.printed("merge", "mine", "other", "--theirs")
    assert await psf.printed("cat", "mine:a") == "theirs"


async def test_tags_are_set_listed_and_let_go_of(psf: Shell, mine: str) -> None:
    await psf.printed("tag", "good", "mine")
    assert "good" in await psf.printed("tag")
    await psf.printed("tag", "-d", "good")
    assert await psf.json("tag") == []


async def test_rm_deletes_sessions_or_what_lies_in_them_and_undelete_undoes_it(psf: Shell, mine: str) -> None:
    await psf.printed("exec", "mine", "-c", "a=1")
    await psf.printed("rm", "mine:a")
    assert await psf.json("ls", "mine") == []
    await psf.printed("rm", "mine")
    psf.bench.clock.now_s += 1
    done = await psf("exec", "mine", "-c", "b=1")
    assert done.status == 2
    assert "`psf undelete mine`" in done.err
    await psf.printed("undelete", "mine", "--ttl-s", "60")
    await psf.printed("exec", "mine", "-c", "b=1")


# -- asking -------------------------------------------------------------------------------------------------------------------


async def test_bisect_blame_and_replay_ask_the_history(psf: Shell, mine: str) -> None:
    for step in ("a=1", "b=2", "c=3"):
        await psf.printed("exec", "mine", "-c", step)
    assert "step 2: bash: b=2" in await psf.printed("blame", "mine", "b")
    assert (await psf.json("blame", "mine@1", "a"))["step"] == 1
    assert "all the same" in await psf.printed("replay", "mine")
    assert (await psf.json("replay", "mine@2", "--verify"))["steps"] == 2
    done = await psf("bisect", "mine", "-c", "check")
    assert (done.status, done.out.split(" (")[0]) == (1, "it fails after no step")


async def test_a_replay_that_differs_is_told_and_is_a_status(psf: Shell, mine: str) -> None:
    await psf.printed("exec", "mine", "-c", "a=1")
    psf.bench.fake._play = lambda _: Script(stdout=b"other")
    done = await psf("replay", "mine")
    assert done.status == 1
    assert "1 are not the same" in done.out
    assert "step 1" in done.out


# -- what goes wrong ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("log", "nobody"), 2, "`psf ls` lists sessions"),
        (("log", "0" * 40), 2, "`psf ls` lists sessions"),
        (("show", "nothing"), 2, "`psf ls` lists sessions and tags"),
        (("show", "mine@9"), 2, "names no snapshot"),
        (("show", "mine@"), 2, "a step number, -n"),
        (("rollback", "mine"), 2, "psf rollback SESSION PLACE"),
        (("diff", "mine"), 2, "psf diff BEFORE AFTER"),
        (("run",), 2, "-c"),
        (("run", "/no/such/file"), 3, "/no/such/file: No such file"),
        (("run", "-c", "x", "-r", "cobol"), 2, "bash"),
        (("run", "-c", "x", "-l", "speed=9"), 2, "there is no limit 'speed'"),
        (("run", "-c", "x", "-l", "processes=many"), 2, "--limit"),
        (("run", "-c", "x", "-l", "wall_time_s=nan"), 2, "wall_time_s must be a number"),
        (("run", "-c", "\udcff"), 2, "no Unicode"),
        (("cat", "mine", "\udcff"), 2, "nothing at"),
        (("exec", "mine", "-c", "x", "--key", "a\nb"), 2, "Idempotency-Key"),
        (("run", "-c", "x", "-e", "A"), 2, "NAME=VALUE"),
        (("run", "-c", "x", "--secret", "NOT_THERE"), 2, "export it"),
        (("cp", "a", "b"), 2, "SESSION:PATH"),
        (("cp", "a", "mine@1:b"), 2, "psf fork"),
        (("cat", "mine"), 2, "psf cat mine:PATH"),
        (("cat", "mine:gone"), 2, "nothing at 'gone'"),
        (("tag", "good"), 2, "psf tag good SESSION"),
        (("tag", "-d", "good"), 2, "'good'"),
        (("rm", "mine:"), 2, "names no path"),
        (("rm", "mine", "nobody"), 2, "'nobody' is no session"),
        (("ls", "--url", "nowhere"), 2, "http://127.0.0.1:8080"),
        (("ls", "--url", "http://127.0.0.1:9"), 3, "psf serve"),
        (("ls", "--url", "http://127.0.0.1:9", "--store", "x"), 2, "exclude one another"),
    ],
)
async def test_what_goes_wrong_is_one_line_that_says_what_to_type(
    psf: Shell, mine: str, arguments: tuple[str, ...], status: int, said: str
) -> None:
    done = await psf(*arguments)
    assert (done.status, done.out) == (status, ""), done
    assert [line[:5] for line in done.err.splitlines()] == ["psf: "], done.err
    assert said in done.err
    assert await psf.bench.moves(mine) == ["create"]


async def test_two_sessions_of_one_name_are_told_apart_by_their_ids(psf: Shell, mine: str) -> None:
    other = (await psf.printed("new", "--name", "mine")).strip()
    done = await psf("log", "mine")
    assert (done.status, mine[:12] in done.err, other[:12] in done.err) == (2, True, True)
    await psf.printed("log", other[:10])


async def test_a_server_that_wants_a_token_gets_that_of_the_environment(bench: Bench) -> None:
    digest = hashlib.sha256(b"psf_right").digest()
    known = Tokens({digest: Caller("me", TENANT, frozenset({"read", "execute"}))})
    async with TestServer(application(bench, known)) as server:
        psf = Shell(str(server.make_url("")).rstrip("/"), bench)
        assert (await psf("new", PSF_TOKEN="psf_right")).status == 0
        done = await psf("new", PSF_TOKEN="psf_wrong")
        assert (done.status, "PSF_TOKEN" in done.err) == (2, True)


# -- completion -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["psf", "und"], "undelete"),
        (["psf", "store", "st"], "stats"),
        (["psf", "completion", "f"], "fish"),
        (["psf", "merge", "--th"], "--theirs"),
        (["psf", "exec", "mine", "--no"], "--note"),
    ],
)
async def test_bash_completes_commands_and_flags(psf: Shell, typed: list[str], expected: str) -> None:
    script = await psf.printed("completion", "bash")
    words = " ".join(typed)
    ask = f"{script}\nCOMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; _psf; echo ${{COMPREPLY[*]}}"
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected]


async def test_each_shells_script_knows_every_command(psf: Shell) -> None:
    for shell in ("bash", "zsh", "fish"):
        script = await psf.printed("completion", shell)
        assert all(re.search(rf"\b{word}\b", script) for word in ("exec", "bisect", "undelete", "store", "theirs"))
