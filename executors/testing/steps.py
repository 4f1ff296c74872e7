"""What one step does: files in, a program run, files out, a tree."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from executors.interfaces import StageRequest
from executors.testing.history import SHELL, History, HistoryFixtures, MakeExecutor, make_request, said
from executors.testing.trial import LIMITS
from store.interfaces import Objects
from store.snapshot import Ending, LeftOut

START = (
    "mkdir -p d/e empty; echo 1 > a; echo 2 > d/b; echo 3 > d/e/c; echo 'echo ran' > run; chmod +x run; ln -s d/b link"
)
STARTED = {
    "a": b"1\n",
    "d": None,
    "d/b": b"2\n",
    "d/e": None,
    "d/e/c": b"3\n",
    "empty": None,
    "link": b"-> d/b",
    "run": b"echo ran\n",
}
SPECIAL = """
import os, socket
os.mkfifo('pipe')
socket.socket(socket.AF_UNIX).bind('socket')
os.symlink('/etc/passwd', 'absolute')
os.symlink('../' * 20 + 'etc/passwd', 'relative')
os.symlink('no such name', 'dangling')
"""


class StepsContract(HistoryFixtures):
    @pytest.fixture
    async def history(self, make_executor: MakeExecutor, objects: Objects) -> AsyncIterator[History]:
        async with make_executor(objects) as executor:
            yield History(executor, objects)

    async def test_everything_a_program_leaves_is_captured(self, history: History) -> None:
        result = await history.shell(START)
        assert (result.stages[0][0], result.stages[0][1].exit_code) == ("run", 0)
        assert (result.left_out, result.stages[0][1].hit, result.fetched) == ((), (), {})
        assert history.contents() == STARTED
        assert await history.says("./run; cat link") == "ran\n2"

    async def test_a_file_fetched_through_symlinks_stays_where_they_lead(self, history: History) -> None:
        await history.shell("mkdir v1; echo 1 > v1/kept; ln -s v1 latest; ln -s v1/kept note")
        await history.shell("echo 2 > latest/out; echo 3 > note", keep="fetched", fetch=("latest/out", "note"))
        assert history.contents() == {
            "latest": b"-> v1", "note": b"-> v1/kept", "v1": None, "v1/kept": b"3\n", "v1/out": b"2\n",
        }  # fmt: skip

    async def test_what_later_steps_change_delete_and_rename_is_captured(self, history: History) -> None:
        await history.shell(START)
        await history.shell("echo more >> a; rm d/b run; mv d/e empty/moved; rm link; mkdir link")
        assert history.contents() == {
            "a": b"1\nmore\n", "d": None, "empty": None, "empty/moved": None, "empty/moved/c": b"3\n", "link": None,
        }  # fmt: skip
        await history.shell("rm -r d empty; mv a d")
        assert history.contents() == {"d": b"1\nmore\n", "link": None}

    @pytest.mark.parametrize("end", ["exit 3", "kill -9 $$", "exec sleep 600", "exec yes"])
    async def test_every_ending_leaves_a_tree(self, history: History, end: str) -> None:
        limits = msgspec.structs.replace(LIMITS, wall_time_s=1.0)
        stages = (StageRequest("run", SHELL[1], limits),)
        result = await history.shell(f"echo done > file; {end}", stages=stages)
        endings = {"exit 3": Ending.EXITED, "kill -9 $$": Ending.SIGNALLED, "exec yes": Ending.OUTPUT_LIMIT}
        assert result.stages[0][1].ending is endings.get(end, Ending.TIMED_OUT)
        assert history.contents() == {"file": b"done\n"}

    async def test_only_what_was_fetched_persists_when_asked_so(self, history: History) -> None:
        await history.shell(START)
        script = "echo new > kept; echo new > d/b; echo new > lost; rm -r d/e a"
        result = await history.shell(script, keep="fetched", fetch=("kept", "d/b", "missing"))
        assert result.fetched == {"kept": b"new\n", "d/b": b"new\n"}
        assert history.contents() == STARTED | {"kept": b"new\n", "d/b": b"new\n"}
        assert await history.says("ls; cat d/e/c") == "_psf_main.sh\na\nd\nempty\nkept\nlink\nrun\n3"

    async def test_nothing_persists_when_asked_so(self, history: History) -> None:
        result = await history.shell("echo x > a", keep="nothing", fetch=("a",))
        assert (result.fetched, history.contents()) == ({"a": b"x\n"}, {})
        assert await history.says("ls", keep="nothing") == "_psf_main.sh"

    async def test_files_are_there_for_their_call_only(self, history: History) -> None:
        await history.shell(START)
        sent = (("new/deep/file", b"\x00\xff"), ("a", b"instead"), ("/work/absolute", b"2"), ("/tmp/x", b"3"))
        script = "cat a absolute /tmp/x; wc -c < new/deep/file"
        assert await history.says(script, files=sent, keep="fetched") == "instead232"
        assert history.contents() == STARTED
        assert await history.says("cat a; ls new absolute /tmp/x 2>&1 | grep -c 'No such file'") == "1\n3"

    async def test_a_file_takes_the_place_of_what_is_in_its_way(self, history: History) -> None:
        await history.shell("mkdir -p d/e; echo 1 > a; ln -s /etc link")
        sent = (("d", b"was a directory"), ("a/b", b"below a file"), ("link/hosts", b"not through it"))
        assert await history.says("cat d a/b link/hosts; cat /etc/hosts | head -1", files=sent) == (
            "was a directorybelow a filenot through it127.0.0.1 localhost sandbox"
        )

    @pytest.mark.parametrize("name", ["/etc/passwd", "../escape", "/work", "", "/", "/usr/x", "/tmp/../etc/x"])
    async def test_no_file_goes_where_it_may_not(self, history: History, name: str) -> None:
        """The service refuses such names; the executor alone leaves them out."""
        result = await history.shell("cat /etc/passwd | head -1; ls -A", files=((name, b"planted"),), fetch=(name,))
        assert said(result) == "root:x:0:0:root:/:/bin/false\n_psf_main.sh"
        assert (result.fetched, history.contents()) == ({}, {})

    async def test_files_are_fetched_by_any_name_that_a_program_could_use(self, history: History) -> None:
        script = "echo w > file; for f in /tmp /var/tmp /mnt ~; do mkdir $f/d; echo $f > $f/d/out; done"
        names = {
            "file": b"w\n", "./file": b"w\n", "/work/file": b"w\n", "d/../file": b"w\n", "//work//file": b"w\n",
            "/tmp/d/out": b"/tmp\n", "/var/tmp/d/out": b"/var/tmp\n", "/mnt/d/out": b"/mnt\n",
            "/home/sandbox/d/out": b"/home/sandbox\n", "../tmp/d/out": b"/tmp\n",
        }  # fmt: skip
        result = await history.shell(script, fetch=tuple(names), keep="fetched")
        assert result.fetched == names
        assert history.contents() == {"file": b"w\n"}

    async def test_what_is_no_file_is_not_fetched(self, history: History) -> None:
        await history.shell("mkdir d; mkfifo pipe /tmp/pipe; ln -s nothing dangling; ln -s loop loop")
        names = (
            "d",
            "pipe",
            "/tmp/pipe",
            "missing",
            "d/missing",
            "dangling",
            "loop",
            "/tmp",
            "/proc/version",
            "/etc/passwd",
        )
        result = await history.shell("mkfifo pipe /tmp/pipe", fetch=names)
        assert result.fetched == {}

    async def test_symlinks_are_followed_inside_and_never_outside(self, history: History) -> None:
        inside = "mkdir d; echo in > d/file; ln -s d dir; ln -s dir/file link; ln -s /work/d/file absolute"
        outside = "ln -s /etc/passwd out; ln -s ../../../etc/passwd up; ln -s /proc/self/environ proc; ln -s / root"
        names = ("dir/file", "link", "absolute", "out", "up", "proc", "root/etc/passwd", "root/work/d/file", "/tmp/out")
        result = await history.shell(f"{inside}; {outside}; ln -s /etc/passwd /tmp/out", fetch=names)
        assert result.fetched == dict.fromkeys(("dir/file", "link", "absolute"), b"in\n")

    async def test_what_no_tree_holds_is_left_out_and_named_and_symlinks_are_text(self, history: History) -> None:
        result = await history.python(SPECIAL)
        assert set(result.left_out) == {LeftOut(b"pipe", "a FIFO"), LeftOut(b"socket", "a socket")}
        assert history.contents() == {
            "absolute": b"-> /etc/passwd",
            "relative": b"-> " + b"../" * 20 + b"etc/passwd",
            "dangling": b"-> no such name",
        }
        assert await history.says("ls -A") == "_psf_main.sh\nabsolute\ndangling\nrelative"

    async def test_the_programs_file_is_there_for_the_run_and_never_kept(self, history: History) -> None:
        for script in ("ls -A", "rm _psf_main.sh; ls -A", "echo changed > _psf_main.sh; ls -A", "touch _psf_other"):
            result = await history.shell(script)
            assert (said(result), history.contents()) in (("_psf_main.sh", {}), ("", {}))

    async def test_a_compiler_runs_first_and_the_program_finds_what_it_made(self, history: History) -> None:
        stages = (
            StageRequest("compile", ("sh", "-c", "cat > /tmp/stdin; echo $# > /tmp/made; echo made > made"), LIMITS),
            StageRequest("run", SHELL[1], LIMITS),
        )
        script = "cat made /tmp/made; wc -c < /tmp/stdin; echo $*; cat"
        result = await history.shell(script, stages=stages, stdin=b"for the run", args=("one", "two"))
        assert [name for name, _ in result.stages] == ["compile", "run"]
        assert said(result) == "made\n0\n0\none two\nfor the run"

    async def test_what_stages_print_is_seen_while_they_run(self, history: History) -> None:
        says = "echo out of {0}; echo err of {0} >&2; sleep 0.5; echo end of {0}"
        stages = (
            StageRequest("compile", ("sh", "-c", says.format("compile")), LIMITS),
            StageRequest("run", SHELL[1], LIMITS),
        )
        told: list[tuple[str, str, bytes]] = []
        moments_s: list[float] = []

        def watch(stage: str, stream: str, piece: bytes) -> None:
            told.append((stage, stream, piece))
            moments_s.append(time.monotonic())

        wanted = make_request(history.tree, 1, SHELL, says.format("run"), stages=stages)
        result = await history.executor.execute(wanted, watch)
        for stage, run in result.stages:
            for stream, output in (("stdout", run.stdout), ("stderr", run.stderr)):
                assert b"".join(piece for *where, piece in told if where == [stage, stream]) == output.data != b""
        assert [stage for stage, _, _ in told] == sorted(stage for stage, _, _ in told)
        # Each stage sleeps between its first word and its last.
        of_run_s = [moment_s for moment_s, (stage, _, _) in zip(moments_s, told, strict=True) if stage == "run"]
        assert of_run_s[-1] - of_run_s[0] > 0.4
        assert of_run_s[0] - moments_s[0] > 0.4

    async def test_a_watcher_that_raises_in_one_stage_is_told_nothing_of_the_next(
        self, history: History, caplog: pytest.LogCaptureFixture
    ) -> None:
        stages = (StageRequest("compile", ("echo", "1"), LIMITS), StageRequest("run", SHELL[1], LIMITS))
        told: list[str] = []

        def watch(stage: str, stream: str, piece: bytes) -> None:
            told.append(stage)
            raise ValueError("no more")

        result = await history.executor.execute(make_request(history.tree, 1, SHELL, "echo 2", stages=stages), watch)
        assert [run.stdout.data for _, run in result.stages] == [b"1\n", b"2\n"]
        assert (told, sum("watched" in message for message in caplog.messages)) == (["compile"], 1)

    async def test_what_does_not_compile_does_not_run(self, history: History) -> None:
        stages = (
            StageRequest("compile", ("sh", "-c", "echo no >&2; exit 4"), LIMITS),
            StageRequest("run", SHELL[1], LIMITS),
        )
        result = await history.shell("touch ran", stages=stages)
        assert [(name, run.exit_code, run.stderr.data) for name, run in result.stages] == [("compile", 4, b"no\n")]
        assert history.contents() == {}

    async def test_steps_on_one_tree_may_run_at_once(self, history: History) -> None:
        await history.shell(START)
        scripts = [f"sleep 0.1; ls > seen; echo {number} > a; rm -r d" for number in range(5)]
        forks = [_fork(history) for _ in scripts]
        await asyncio.gather(*(fork.shell(script) for fork, script in zip(forks, scripts, strict=True)))
        for number, fork in enumerate(forks):
            assert fork.contents()["a"] == b"%d\n" % number
            assert fork.contents()["seen"] == b"_psf_main.sh\na\nd\nempty\nlink\nrun\nseen\n"

    async def test_a_cancelled_step_changes_nothing_and_the_next_one_works(self, history: History) -> None:
        await history.shell(START)
        for pause_s in (0.0, 0.02, 0.2):
            step = asyncio.ensure_future(_fork(history).shell("rm -r d; echo lost > a; sleep 600"))
            await asyncio.sleep(pause_s)
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await step
        assert await history.says("cat a d/b d/e/c") == "1\n2\n3"
        assert history.contents() == STARTED


def _fork(history: History) -> History:
    fork = History(history.executor, history.objects)
    fork.tree, fork.number = history.tree, history.number
    return fork
