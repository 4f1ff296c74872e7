"""What histories cost: `python benchmarks/history.py --quick|--full`."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    # Started as a script, its folder comes first in the path, where `store` is a file and not the package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks import history_run

    return history_run.main()


if __name__ == "__main__":
    sys.exit(main())
