"""One page for all benchmarks, README.md: where each has its figures in it, and its results and its picture beside it."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import msgspec

FOLDER = Path(__file__).resolve().parent
README = FOLDER / "README.md"


class Page(msgspec.Struct, frozen=True):
    """The part of the benchmark `benchmarks/NAME.py`."""

    name: str

    @property
    def results(self) -> Path:
        return FOLDER / f"results/{self.name}.json"

    @property
    def picture(self) -> Path:
        return self.results.with_suffix(".svg")

    @property
    def markers(self) -> tuple[str, str]:
        return f"<!-- figures: made by benchmarks/{self.name}.py, not by hand -->", "<!-- end of figures -->"

    def shown(self) -> str:
        """What stands between the markers."""
        return self._split()[1]

    def write(self, figures: str, picture: str) -> None:
        self.picture.write_text(picture)
        before, _, after = self._split()
        README.write_text(f"{before}{self.markers[0]}\n{figures}\n{self.markers[1]}{after}")

    def keep(self, results: msgspec.Struct) -> None:
        """Write the results, from which all else is made."""
        self.results.parent.mkdir(exist_ok=True)
        self.results.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")

    def _split(self) -> tuple[str, str, str]:
        before, rest = README.read_text().split(self.markers[0])
        shown, after = rest.split(self.markers[1], 1)
        return before, shown, after


def machine(folder: Path) -> dict[str, str]:
    """What a reader has to know of the machine, and of the file system that `folder` is on."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "cores": str(os.cpu_count()),
        "kernel": platform.release().split("-", maxsplit=1)[0],
        "file system": kind,
        "python": platform.python_version(),
        "load at the end": f"{os.getloadavg()[0]:.1f}",
    }
