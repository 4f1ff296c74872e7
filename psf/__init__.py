"""PersistentSandboxFusion: runs untrusted code and keeps what it leaves behind as history."""

from __future__ import annotations

from pathlib import Path

import executors
import store

__version__ = "0.1.0"


def _check_neighbours() -> None:
    """`store` and `executors` are common names: refuse to work with somebody else's (docs/adr/0001)."""
    here = Path(__file__).resolve().parent.parent
    for package in (executors, store):
        found = Path(str(package.__file__)).resolve().parent.parent
        if found != here:
            raise ImportError(
                f"psf needs its own package {package.__name__!r}, beside it; another one of that name comes first."
                " Start psf from a virtual environment of its own."
            )


_check_neighbours()
