"""The bubblewrap sandbox keeps every contract: with overlays and with copies, for root and for a plain user."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from executors.errors import FilesTooLarge
from executors.interfaces import Sandbox, StageRequest
from executors.testing import ExecutorContract, History, MakeExecutor, SandboxContract
from executors.testing.history import SHELL
from executors.testing.trial import LIMITS, Trial
from store.capture import CaptureLimits
from store.files import Owner
from store.memory import MemoryObjects
from store.snapshot import Ending
from tests.executors import bench


class TestSandboxWithOverlays(SandboxContract):
    @pytest.fixture
    async def sandbox(self, tmp_path: Path) -> AsyncIterator[Sandbox]:
        async with bench.bubblewrap(tmp_path, "overlay") as sandbox:
            yield sandbox

    @pytest.fixture
    def owner(self) -> Owner | None:
        return bench.owner()

    async def test_etc_is_shown_as_a_whole_and_nothing_in_it_can_be_written(self, trial: Trial) -> None:
        """A mount for each of its files would cost every run."""
        script = """
cut -d' ' -f5 /proc/self/mountinfo | grep ^/etc/ | while read -r place; do test -d $place || echo mounted $place; done
for place in /etc /etc/*/; do (echo x > $place/x) 2> /dev/null && echo written $place; done
cat /etc/hostname
"""
        assert (await trial.shell(script)).stdout.data == b"sandbox\n"


class TestExecutorWithOverlays(ExecutorContract):
    @pytest.fixture
    def make_executor(self, tmp_path: Path) -> MakeExecutor:
        return bench.maker(tmp_path, "overlay")

    @pytest.fixture
    def other_executors(self, tmp_path: Path) -> list[MakeExecutor]:
        return [bench.maker(tmp_path, "copy")]


class TestExecutorWithCopies(ExecutorContract):
    @pytest.fixture
    def make_executor(self, tmp_path: Path) -> MakeExecutor:
        return bench.maker(tmp_path, "copy")


@pytest.mark.parametrize("kind", ["overlay", "copy"])
async def test_what_a_program_takes_before_it_is_looked_at_counts(tmp_path: Path, kind: bench.Kind) -> None:
    limits = msgspec.structs.replace(LIMITS, disk_bytes=1 << 20)
    stages = (StageRequest("run", ("sh", "-c", "head -c 3000000 /dev/zero > big; sleep 15"), limits),)
    async with bench.local_executor(tmp_path, MemoryObjects(), kind) as executor:
        history = History(executor, MemoryObjects())
        await history.shell("head -c 3000000 /dev/zero > earlier")
        assert (
            await history.says("sleep 0.5; echo earlier", stages=(StageRequest("run", SHELL[1], limits),)) == "earlier"
        )
        result = await history.shell("true", stages=stages)
    assert (result.stages[0][1].ending, result.stages[0][1].hit) == (Ending.DISK_LIMIT, ("disk",))


async def test_files_that_scratch_has_no_room_for_are_refused(tmp_path: Path) -> None:
    async with bench.local_executor(tmp_path, MemoryObjects(), "overlay") as executor:
        history = History(executor, MemoryObjects())
        for files in (
            (("/tmp/large", bytes(LIMITS.scratch_bytes + 1)),),
            tuple((f"/mnt/{number}", b"") for number in range(LIMITS.scratch_inodes)),
        ):
            with pytest.raises(FilesTooLarge, match="scratch"):
                await history.shell("echo ran", files=files)
        assert await history.says("ls /tmp /mnt | wc -l") == "3"


async def test_a_capture_that_reaches_its_limit_says_so_in_the_outcome(tmp_path: Path) -> None:
    objects = MemoryObjects()
    async with bench.local_executor(tmp_path, objects, "overlay", CaptureLimits(entries=2)) as executor:
        history = History(executor, objects)
        result = await history.shell("touch a b c")
        assert result.stages[-1][1].hit == ("inodes",)
        assert [(left.path, left.reason) for left in result.left_out] == [(b"c", "more than 2 changed entries")]
        assert sorted(history.contents()) == ["a", "b"]


async def test_a_program_reaches_its_streams_by_their_names(tmp_path: Path) -> None:
    """Which are pipes of the server's: without a right to open them a script's `> /dev/stderr` fails."""
    async with bench.local_executor(tmp_path, MemoryObjects(), "overlay") as executor:
        script = "cat /dev/stdin > /dev/stdout; echo y > /dev/fd/1; echo z > /proc/self/fd/2; echo e | tee /dev/stderr"
        run = (await History(executor, MemoryObjects()).shell(script, stdin=b"x\n")).stages[-1][1]
    assert (run.stdout.data, run.stderr.data) == (b"x\ny\ne\n", b"z\ne\n")
