"""The process that uses stores on the recorded device: python -m tests.faults.powercut.workload FOLDER NOTES RECORD SEED CARELESS

Plays every scenario, each in a folder of its own, with the SQLite of the standard library; then several threads at once. Each note is
a line of JSON with the length of the record at that moment: what was said before a cut must hold after it.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from store import heads
from store.ids import Kind
from store.recording import DiskLog, Event
from tests.faults import promises
from tests.faults.scenarios import SCENARIOS
from tests.faults.scenes import EVERYWHERE, Carelessness, Scene

THREADS = 4
STEPS_OF_EACH = 6
_READERS = {"head": bytes.fromhex, "name": bytes.fromhex, "kind": Kind, "aside": int}


class CarelessConnection(sqlite3.Connection):
    """Commits without waiting for the disk."""

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute(statement.replace("synchronous=full", "synchronous=normal"), *parameters)


def careless_connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=CarelessConnection)


class NotesOnly(DiskLog):
    """Remembers no change, since the device does; writes the notes into a file that lies elsewhere."""

    def __init__(self, folder: Path, notes: Path, record: Path) -> None:
        super().__init__(folder)
        self._scene, self._notes, self._record = folder.name, notes, record

    def record(self, event: Event) -> None:
        pass

    def note(self, fact: object) -> None:
        values = {name: value.hex() if isinstance(value, bytes) else value for name, value in asdict(fact).items()}
        line = {"scene": self._scene, "record_bytes": self._record.stat().st_size, "fact": type(fact).__name__} | values
        with self.turn, self._notes.open("a") as file:
            file.write(json.dumps(line) + "\n")


def facts(lines: list[dict[str, object]], scene: str, record_bytes: int) -> list[object]:
    """What was noted of a scene before the record had more than `record_bytes`."""
    noted = []
    for line in lines:
        if line["scene"] == scene and line["record_bytes"] <= record_bytes:
            kind = getattr(promises, str(line["fact"]))
            noted.append(kind(**{name: _READERS.get(name, str)(line[name]) for name in kind.__dataclass_fields__}))
    return noted


def many_at_once(scene: Scene) -> None:
    """Threads that commit to sessions of their own, and share syncs."""
    store = scene.open()
    names = [f"session {number}" for number in range(THREADS)]
    scene.create(store, *names)
    begin = threading.Barrier(THREADS)

    def work(name: str) -> None:
        begin.wait()
        for _ in range(STEPS_OF_EACH):
            scene.commit(store, name, scene.small())

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, names))
    scene.close(store)


def main(folder: Path, notes: Path, record: Path, seed: str, careless: str) -> None:
    carelessness = Carelessness(site=EVERYWHERE if careless == "objects" else None)
    connect = careless_connect if careless == "heads" else heads.connect
    for scenario in (*SCENARIOS, many_at_once):
        place = folder / scenario.__name__
        place.mkdir()
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)  # the folder of the scene is there before it begins
        os.close(descriptor)
        generator = random.Random(f"{scenario.__name__} {seed}")
        scene = Scene(place, NotesOnly(place, notes, record), connect, generator, carelessness)
        scenario(scene)
        scene.end()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *sys.argv[4:])
