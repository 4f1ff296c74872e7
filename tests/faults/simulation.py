"""The crash simulation: scenarios are played on a recorded disk, crash at random points, and are looked at afterwards."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from store.errors import StoreError
from store.recording import Event, Note
from tests.faults.crashing import crash
from tests.faults.promises import Promises
from tests.faults.scenarios import NOT_CRASHED_TWICE, SCENARIOS, Scenario, going_on, look
from tests.faults.scenes import PLACE, Carelessness, played

STATES_OF_ONE_SCENE = 25
CRASHED_TWICE = 0.2
"""The share of scenes that go on after a crash and crash again."""
_IN_MEMORY = Path("/dev/shm")


@dataclass
class Tally:
    states: int = 0
    failing: Counter[str] = field(default_factory=Counter)
    """States in which something did not hold, by scenario."""
    examples: list[str] = field(default_factory=list)
    sites: set[str] = field(default_factory=set)

    def add(self, state: str, found: Sequence[str]) -> None:
        self.states += 1
        if found:
            self.failing[state.split(maxsplit=1)[0]] += 1
            self.examples.append(f"{state}: {found[0]}")


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory, where there is such a thing: what is synced there is not waited for."""
    with tempfile.TemporaryDirectory(prefix="psf-crash-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as folder:
        yield Path(folder)


def simulate(
    seeds: Sequence[int],
    carelessness: Carelessness | None = None,
    scenarios: Sequence[Scenario] = SCENARIOS,
    states_of_one_scene: int = STATES_OF_ONE_SCENE,
) -> Tally:
    """Play each scenario with each seed, and look at some crashes of each. The same seeds give the same states."""
    tally = Tally()
    for seed in seeds:
        for scenario in scenarios:
            with quick_folder() as folder:
                _simulate_one(folder, scenario, seed, carelessness or Carelessness(), states_of_one_scene, tally)
    return tally


def _simulate_one(
    folder: Path, scenario: Scenario, seed: int, carelessness: Carelessness, states: int, tally: Tally
) -> None:
    label = f"{scenario.__name__} {seed}"
    generator = random.Random(label)
    live, state = folder / "live", folder / "state"
    live.mkdir()
    if scenario not in NOT_CRASHED_TWICE and generator.random() < CRASHED_TWICE:
        with played(scenario, live, generator, carelessness) as scene:
            events = scene.log.events
            crash(events[: generator.randint(0, len(events))], generator, _emptied(state))
            tally.sites |= scene.files.sites
        live, scenario = folder / "again", going_on
        shutil.copytree(state, live)
    try:
        with played(scenario, live, generator, carelessness) as scene:
            events, began = list(scene.log.events), scene.log.began
            tally.sites |= scene.files.sites
    except StoreError as error:
        tally.add(label, [f"it cannot go on: {error}"])
        return
    for number in range(states):
        reached = events[: generator.randint(began, len(events))]
        crash(reached, generator, _emptied(state))
        tally.add(f"{label} {number}", look(scenario.__name__, state / PLACE, promises(reached)))


def promises(events: Sequence[Event]) -> Promises:
    return Promises(event.fact for event in events if isinstance(event, Note))


def _emptied(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    return folder
