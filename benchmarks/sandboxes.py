"""What a sandbox costs beside a bare program: `python benchmarks/sandboxes.py --quick|--full`."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    # Started as a script, its folder comes first in the path, where `store` is this file and not the package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks import sandbox_run

    return sandbox_run.main()


if __name__ == "__main__":
    sys.exit(main())
