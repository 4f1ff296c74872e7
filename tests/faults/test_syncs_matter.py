"""Each sync of the store is needed: without any one of them, the crash simulation finds states in which something is lost.

A sync whose absence is not noticed is either needless and belongs removed, or the simulation lacks a scenario. Which syncs there
are is found in the code, and by playing the scenarios.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import store
from tests.faults.scenarios import several_sessions, two_processes
from tests.faults.scenes import Carelessness
from tests.faults.simulation import Tally, simulate

SEEDS_MAX = 40
SOAKED_SEEDS = range(10)
_DISKS = ("files.py", "faulty.py", "recording.py")

WITHOUT_CARE = {
    "synchronous=normal": Carelessness(statements={"pragma synchronous": "pragma synchronous=normal"}),
    "synchronous=off": Carelessness(statements={"pragma synchronous": "pragma synchronous=off"}),
    "journal_mode=delete": Carelessness(statements={"pragma journal_mode": "pragma journal_mode=delete"}),
}


def sync_calls(module: Path) -> Iterator[str]:
    """`module:line` of each call of a disk's sync or sync_directory."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = ast.unparse(node.func)
            if asked.endswith(("files.sync", "files.sync_directory")):
                yield f"{module.name}:{node.lineno}"


_REDIS = "redis_place.py"
"""Syncs once, when a store first has its heads in Redis: no scenario has a Redis whose power could be cut with the store's."""


def written_sites() -> set[str]:
    modules = [path for path in Path(store.__file__).parent.glob("*.py") if path.name not in (*_DISKS, _REDIS)]
    return {site for module in modules for site in sync_calls(module)}


def played_sites() -> list[str]:
    return sorted(simulate(range(6), states_of_one_scene=0).sites)


def noticed(carelessness: Carelessness) -> bool:
    """Whether some state of some scene fails; stops at the first."""
    return any(simulate([seed], carelessness).failing for seed in range(SEEDS_MAX))


def test_every_sync_in_the_code_is_reached_by_a_scenario() -> None:
    assert {site.split()[0] for site in played_sites()} == written_sites()


def test_no_sync_can_be_left_out_unnoticed() -> None:
    sites = played_sites()
    assert len(sites) > 8
    assert [site for site in sites if not noticed(Carelessness(site=site))] == []


@pytest.mark.parametrize("what", WITHOUT_CARE)
def test_a_careless_database_is_noticed(what: str) -> None:
    assert noticed(WITHOUT_CARE[what])


def test_a_head_that_moves_before_its_objects_are_durable_is_noticed() -> None:
    tally = simulate(range(3), Carelessness(head_before_objects=True), [several_sessions, two_processes])
    assert sum(tally.failing.values()) > 10


@pytest.mark.slow
def test_how_many_states_notice_each_sync(capsys: pytest.CaptureFixture[str]) -> None:
    """The table: what is left out, states, failing states."""
    cases = {site: Carelessness(site=site) for site in played_sites()} | WITHOUT_CARE
    rows: dict[str, Tally] = {name: simulate(SOAKED_SEEDS, carelessness) for name, carelessness in cases.items()}
    with capsys.disabled():
        print(f"\n{'left out':44} {'states':>8} {'failing':>8}")
        for name, tally in rows.items():
            print(f"{name:44} {tally.states:8} {sum(tally.failing.values()):8}")
    assert all(tally.failing for tally in rows.values())
    assert simulate(SOAKED_SEEDS).failing == {}
