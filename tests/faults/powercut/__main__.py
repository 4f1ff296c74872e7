"""python -m tests.faults.powercut FOLDER --file-system ext4 --states 60 --seed 1 [--careless heads]

Prints one line of JSON: how many states there were, how many failed, and what was wrong. Run it in namespaces of its own (NAMESPACES in
tests/faults/test_power_cuts.py).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

from tests.faults.powercut.device import (
    FORMAT,
    MOODS,
    Cuts,
    Entry,
    copy_image,
    make_image,
    mounted,
    read_record,
    recorded,
)
from tests.faults.powercut.workload import facts
from tests.faults.promises import Promises
from tests.faults.scenarios import look
from tests.faults.scenes import PLACE


class Bench:
    """The folder with images, record and notes of one run."""

    def __init__(self, folder: Path, file_system: str) -> None:
        self.blank, self.live, self.state = folder / "blank", folder / "live", folder / "state"
        self.record, self.notes, self.durable = folder / "record", folder / "notes", folder / "durable"
        self.mount, self.device = folder / "mount", folder / "device"
        for path in (self.mount, self.device):
            path.mkdir()
        for path in (self.record, self.notes):
            path.touch()
        make_image(self.blank, file_system)
        copy_image(self.blank, self.live)

    def play(self, seed: int, careless: str) -> tuple[int, int]:
        """Run the workload; returns the length of the record before and after it."""
        with recorded(self.live, self.record, self.device) as device, mounted(device, self.mount):
            began = self.record.stat().st_size
            arguments = [str(self.mount), str(self.notes), str(self.record), str(seed), careless]
            subprocess.run([sys.executable, "-m", "tests.faults.powercut.workload", *arguments], check=True)
            return began, self.record.stat().st_size

    def look_at(self, record_bytes: int) -> list[str]:
        """What does not hold in the state that was made, of all that was said before the cut."""
        lines = [json.loads(line) for line in self.notes.read_text().splitlines()]
        begun = sorted({line["scene"] for line in lines if line["record_bytes"] <= record_bytes})
        with mounted(self.state, self.mount):
            return [
                f"{scene}: {problem}"
                for scene in begun
                for problem in look(
                    scene,
                    self.mount / scene / PLACE,
                    Promises(facts(lines, scene, record_bytes)),
                )
            ]


def cut(bench: Bench, entries: list[Entry], span: range, states: int, generator: random.Random) -> dict[str, object]:
    """Make the states and look at each. Half of them are just before a flush, when most is not yet durable."""
    cuts = Cuts(entries, bench.blank, bench.durable)
    pending = failing = 0
    examples: list[str] = []
    before_flushes = [number for number in span[:-1] if entries[number + 1].is_flush]
    numbers = generator.choices(span, k=states - states // 2) + generator.choices(before_flushes, k=states // 2)
    for number in sorted(numbers):
        mood = generator.choice(MOODS)
        pending += cuts.make(number, mood, generator, bench.state)
        try:
            found = bench.look_at(entries[number].end)
        except OSError as error:
            found = [f"it cannot be mounted: {error}"]
        if found:
            failing += 1
            examples.append(f"{mood} after entry {number}: {found[0]}")
    return {
        "states": states,
        "failing": failing,
        "entries": len(entries),
        "flushes": sum(entry.is_flush for entry in entries),
        "pending_writes": pending,
        "examples": examples[:5],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="an empty folder for images; to be removed afterwards from outside")
    parser.add_argument("--file-system", choices=FORMAT, default="ext4")
    parser.add_argument("--states", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--careless",
        choices=["nowhere", "objects", "heads"],
        default="nowhere",
        help="skips syncs there: states must fail",
    )
    arguments = parser.parse_args()
    bench = Bench(arguments.folder, arguments.file_system)
    began, ended = bench.play(arguments.seed, arguments.careless)
    entries = read_record(bench.record)
    first = next(number for number, entry in enumerate(entries) if entry.end > began)
    last = sum(entry.end <= ended for entry in entries)
    report = cut(bench, entries, range(first, last), arguments.states, random.Random(arguments.seed))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
