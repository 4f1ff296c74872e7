"""Programs under the profile that makes them repeat, judged from inside; and that nothing of it is there for others."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from executors import determinism, guarantees
from executors.errors import DeterminismUnavailable
from executors.testing.trial import Trial

ADDRESSES = """
import sys
print(id(object()), id(sys), id('text'), {'some', 'words', 'in', 'a', 'set'})
for line in open('/proc/self/maps'):
    place, rights, *_, name = line.rstrip('\\n').split(None, 5)
    print(place, rights, name)
"""
"""Where a program's objects, in Python and in C, lie; and its hash seed. Devices and inode numbers are not in it."""
FACTS = """
import json, os, subprocess
own = {'affinity': sorted(os.sched_getaffinity(0)), 'personality': int(open('/proc/self/personality').read(), 16)}
child = subprocess.run(['cat', '/proc/self/personality'], capture_output=True, text=True).stdout
print(json.dumps(own | {'child': int(child, 16), 'variables': dict(os.environ)}))
"""
NOT_RANDOM = 0x0040000
"""ADDR_NO_RANDOMIZE of linux/personality.h."""


class DeterminismContract:
    async def test_programs_repeat_to_the_last_address(self, trial: Trial) -> None:
        if await lacks(trial):
            return
        seen = [await printed(trial, ADDRESSES, deterministic=True) for _ in range(4)]
        assert len(set(seen)) == 1
        assert "[stack]" in seen[0]

    async def test_variables_are_fixed_and_a_calls_own_go_before_them(self, trial: Trial) -> None:
        if await lacks(trial):
            return
        plain, fixed = await facts(trial), await facts(trial, deterministic=True)
        assert fixed["variables"] == plain["variables"] | determinism.ENVIRONMENT
        chosen = await facts(trial, deterministic=True, env=(("TZ", "Asia/Tokyo"), ("OWN", "1")))
        assert chosen["variables"] == fixed["variables"] | {"TZ": "Asia/Tokyo", "OWN": "1"}

    async def test_a_program_and_its_children_have_addresses_that_are_not_random(self, trial: Trial) -> None:
        if await lacks(trial):
            return
        fixed = await facts(trial, deterministic=True)
        assert (fixed["personality"], fixed["child"]) == (NOT_RANDOM, NOT_RANDOM)

    async def test_each_run_keeps_to_one_processor_and_not_all_to_the_same(self, trial: Trial) -> None:
        if await lacks(trial):
            return
        kept = [(await facts(trial, deterministic=True))["affinity"] for _ in range(4)]
        assert {len(processors) for processors in kept} == {1}
        there = len(os.sched_getaffinity(0))
        assert len({processor for (processor,) in kept}) > 1 or there == 1

    async def test_without_the_profile_nothing_of_it_is_there_even_after_a_run_that_had_it(self, trial: Trial) -> None:
        before = await facts(trial)
        if not await lacks(trial):
            await facts(trial, deterministic=True)
        after = await facts(trial)
        assert (before["personality"], before["child"], len(before["affinity"])) == (0, 0, len(os.sched_getaffinity(0)))
        assert after == before
        assert len({await printed(trial, ADDRESSES) for _ in range(3)}) > 1


async def lacks(trial: Trial) -> bool:
    """Whether the sandbox says that it cannot give the profile here. Then it must refuse, before anything runs."""
    if determinism.NAME not in guarantees.lacks(trial.sandbox.capabilities):
        return False
    with pytest.raises(DeterminismUnavailable):
        await trial.run("touch", "ran", deterministic=True)
    assert not (trial.work / "ran").exists()
    return True


async def facts(trial: Trial, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await printed(trial, FACTS, **fields))
    return found


async def printed(trial: Trial, source: str, **fields: Any) -> str:
    """As a program is usually started: one that ignores its variables has a hash seed of its own."""
    result = await trial.run("python3", "-S", "-c", source, **fields)
    assert result.exit_code == 0, result
    return result.stdout.data.decode()
