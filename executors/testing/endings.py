"""How a job ends, what went in and what came out."""

from __future__ import annotations

import msgspec
import pytest

from executors.testing.trial import LIMITS, Trial, python
from store import asked
from store.asked import AskedLimits
from store.snapshot import Ending

LEAST = {
    "cpu_time_s": 1, "processes": 1, "output_kept_bytes": 1, "output_flood_bytes": 4, "file_bytes": 1, "scratch_bytes": 4096, "scratch_inodes": 16,
    "open_files": 32, "disk_bytes": 1, "disk_inodes": 1, "cpus": 0.01,
}  # fmt: skip
"""Less could not be told from psf's own failing. A program within less time, memory or output may end so, and that is told."""
MOST = {
    "wall_time_s": 1e9, "cpu_time_s": 10**9, "cpus": 1e4, "processes": asked.PROCESSES_MAX, "open_files": asked.OPEN_FILES_MAX,
    **dict.fromkeys(
        ("memory_bytes", "output_kept_bytes", "output_flood_bytes", "file_bytes", "scratch_bytes", "scratch_inodes", "disk_bytes", "disk_inodes"),
        asked.AMOUNT_MAX,
    ),
}  # fmt: skip
SHORT = msgspec.structs.replace(LIMITS, wall_time_s=0.5)


class EndingsContract:
    """The first process's ending is the job's, whatever else happened."""

    @pytest.mark.parametrize("code", [0, 1, 7, 126, 127, 255])
    async def test_an_exit_code_is_the_programs_own(self, trial: Trial, code: int) -> None:
        result = await trial.shell(f"exit {code}")
        assert (result.ending, result.exit_code, result.signal) == (Ending.EXITED, code, None)

    @pytest.mark.parametrize("number", [2, 6, 9, 11, 13, 15])
    async def test_death_by_a_signal_is_told(self, trial: Trial, number: int) -> None:
        result = await trial.shell(f"kill -{number} $$; exit 1")
        assert (result.ending, result.exit_code, result.signal) == (Ending.SIGNALLED, None, number)

    async def test_exit_code_137_is_told_from_death_by_signal_9_where_the_sandbox_says_so(self, trial: Trial) -> None:
        result = await trial.shell("exit 137")
        honest = (Ending.SIGNALLED, None, 9) if trial.lacks("exit_status") else (Ending.EXITED, 137, None)
        assert (result.ending, result.exit_code, result.signal) == honest

    async def test_a_program_that_is_not_there_is_exit_code_127(self, trial: Trial) -> None:
        for name in ("no-such-program", "/no/such/program"):
            result = await trial.run(name)
            assert (result.ending, result.exit_code) == (Ending.EXITED, 127)

    async def test_a_file_that_is_no_program_is_exit_code_126(self, trial: Trial) -> None:
        (trial.work / "data").write_text("no program")
        result = await trial.run("/work/data")
        assert (result.ending, result.exit_code) == (Ending.EXITED, 126)

    @pytest.mark.parametrize("source", ["while True: pass", "import time; time.sleep(600)"])
    async def test_a_program_that_goes_on_too_long_is_killed_and_what_it_said_is_kept(
        self, trial: Trial, source: str
    ) -> None:
        result = await trial.python(f"print('before', flush=True)\n{source}", limits=SHORT)
        assert (result.ending, result.exit_code, result.signal) == (Ending.TIMED_OUT, None, None)
        assert result.stdout.data == b"before\n"
        assert result.usage.wall_time_s >= 0.5

    async def test_too_much_cpu_time_is_a_time_out(self, trial: Trial) -> None:
        result = await trial.python("while True: pass", limits=msgspec.structs.replace(LIMITS, cpu_time_s=1))
        assert result.ending is Ending.TIMED_OUT
        assert result.usage.wall_time_s < LIMITS.wall_time_s

    @pytest.mark.parametrize("limits", [LEAST, MOST], ids=["least", "most"])
    async def test_a_program_starts_within_the_least_and_the_most_that_can_be_asked_for(
        self, trial: Trial, limits: dict[str, float]
    ) -> None:
        for name, value in limits.items():
            one = msgspec.convert({name: value}, AskedLimits)
            result = await trial.shell("echo hi", limits=msgspec.structs.replace(LIMITS, **one.given()))
            assert (result.ending, result.exit_code, result.stdout.total_bytes) == (Ending.EXITED, 0, 3), name

    async def test_a_share_of_a_processor_is_all_that_is_had(self, trial: Trial) -> None:
        source = """
import os, time
began_s = time.monotonic()
if os.fork() == 0:
    while time.monotonic() < began_s + 1: pass
    os._exit(0)
while time.monotonic() < began_s + 1: pass
os.wait()
print(sum(os.times()[:4]))
"""
        shared = float(await trial.says(source, limits=msgspec.structs.replace(LIMITS, cpus=0.25)))
        assert shared < 0.6 or trial.lacks("cpus")

    async def test_more_memory_than_allowed_is_never_had(self, trial: Trial) -> None:
        limits = msgspec.structs.replace(LIMITS, memory_bytes=64 << 20)
        result = await trial.python("data = bytearray(b'x') * (512 << 20); print('had it')", limits=limits)
        assert b"had it" not in result.stdout.data
        assert (result.ending, result.exit_code) != (Ending.EXITED, 0)
        if not trial.lacks("memory"):
            assert (result.ending, result.hit) == (Ending.OUT_OF_MEMORY, ("memory",))

    async def test_a_child_killed_for_memory_is_noted_and_the_ending_is_the_parents(self, trial: Trial) -> None:
        limits = msgspec.structs.replace(LIMITS, memory_bytes=64 << 20)
        child = """python3 -c "x = bytearray(b'x') * (512 << 20)" || exit 5"""
        result = await trial.shell(child, limits=limits)
        assert (result.ending, result.exit_code) == (Ending.EXITED, 5)
        if not trial.lacks("memory"):
            assert result.hit == ("memory",)

    async def test_a_flood_of_output_is_stopped_and_counted(self, trial: Trial) -> None:
        limits = msgspec.structs.replace(LIMITS, output_kept_bytes=1000, output_flood_bytes=1 << 20)
        result = await trial.run("yes", limits=limits)
        assert (result.ending, result.exit_code, result.signal) == (Ending.OUTPUT_LIMIT, None, None)
        assert result.hit == ("output",)
        assert result.stdout.truncated
        assert result.stdout.total_bytes > 1 << 20

    async def test_of_much_output_head_and_tail_are_kept_and_the_exit_code_is_true(self, trial: Trial) -> None:
        limits = msgspec.structs.replace(LIMITS, output_kept_bytes=1000)
        result = await trial.python(
            "import sys; print('first' + 'x' * 9000 + 'last', end=''); sys.exit(3)", limits=limits
        )
        assert (result.ending, result.exit_code, result.hit) == (Ending.EXITED, 3, ("output",))
        assert (result.stdout.total_bytes, result.stdout.truncated) == (9009, True)
        assert result.stdout.data.startswith(b"first")
        assert result.stdout.data.endswith(b"last")
        assert b"8009 bytes left out" in result.stdout.data
        assert len(result.stdout.data) < 1100

    async def test_output_is_bytes_and_each_stream_its_own(self, trial: Trial) -> None:
        source = "import os; os.write(1, bytes(range(256))); os.write(2, b'\\xff\\x00error')"
        result = await trial.python(source)
        assert (result.stdout.data, result.stderr.data) == (bytes(range(256)), b"\xff\x00error")
        assert (result.stdout.total_bytes, result.stdout.truncated, result.hit) == (256, False, ())

    async def test_a_program_may_close_its_output_and_go_on(self, trial: Trial) -> None:
        source = "import os, time; os.close(1); os.close(2); time.sleep(0.1); open('done', 'w'); os._exit(4)"
        result = await trial.python(source)
        assert (result.ending, result.exit_code, result.stdout.data) == (Ending.EXITED, 4, b"")
        assert (trial.work / "done").exists()

    async def test_stdin_arrives_whole_and_ends(self, trial: Trial) -> None:
        sent = bytes(range(256)) * 4096
        source = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
        result = await trial.python(source, stdin=sent)
        digest = await trial.says(f"import hashlib; print(hashlib.sha256(bytes(range(256)) * {4096}).hexdigest())")
        assert result.stdout.data.decode().strip() == digest

    async def test_without_stdin_there_is_an_empty_one(self, trial: Trial) -> None:
        assert await trial.says("import sys; print(repr(sys.stdin.read()))") == "''"

    @pytest.mark.parametrize("source", ["pass", "import os; os.close(0)", "import sys; sys.stdin.buffer.read(10)"])
    async def test_stdin_that_nobody_reads_delays_nothing(self, trial: Trial, source: str) -> None:
        result = await trial.python(source, stdin=b"x" * (4 << 20))
        assert (result.ending, result.exit_code) == (Ending.EXITED, 0)

    async def test_arguments_arrive_exactly(self, trial: Trial) -> None:
        arguments = ["", "a b", "\u00e9\u4e2d", "--", "-x", "$HOME `id`", "new\nline", "'\"\\", "*", "=", "~"]
        result = await trial.run(*python("import sys; print(ascii(sys.argv[1:]))"), *arguments)
        assert result.stdout.data.decode().strip() == ascii(arguments)

    async def test_variables_arrive_exactly_and_go_before_the_sandboxs_own(self, trial: Trial) -> None:
        chosen = {"PLAIN": "1", "EMPTY": "", "ODD": " a=b\n'\"$X", "LETTERS": "\u00e9\u4e2d", "LANG": "chosen"}
        source = f"import os; print(ascii([os.environ.get(name) for name in {list(chosen)}]))"
        result = await trial.run(*python(source), env=tuple(chosen.items()))
        assert result.stdout.data.decode().strip() == ascii(list(chosen.values()))

    async def test_a_program_starts_where_its_work_is(self, trial: Trial) -> None:
        assert await trial.says("import os; print(os.getcwd(), os.environ['HOME'])") == "/work /home/sandbox"
