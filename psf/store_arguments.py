"""The arguments of `psf store ...`. What the commands do is in psf.store_commands, which is loaded when one is asked for."""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Callable
from typing import Any

PATIENCE_S = 600.0
SECONDS_MAX = 30 * 86400.0
MOVES_MAX = 1 << 60
_ROOMS = {"export_tree": "psf.transfers", "import_tree": "psf.transfers", "pin": "psf.pins", "unpin": "psf.pins", "log": "psf.store_log"}  # fmt: skip
"""Where the commands are that do not stand in psf.store_commands."""


def add(commands: Any) -> None:
    """Add the commands to a parser."""
    group = commands.add_parser("store", help="look into a store and keep it in order", description="Look into a store and keep it in order.")  # fmt: skip
    parts = group.add_subparsers(required=True, metavar="COMMAND")
    _command(parts, "stats", "stats", "what a store holds and takes")
    check = _command(
        parts, "check", "check", "read it all again; exit status 0 clean, 3 repaired or repairable, 4 lost"
    )
    depth = check.add_mutually_exclusive_group()
    depth.add_argument("--full", action="store_true", help="every byte (the default)")
    depth.add_argument("--fast", action="store_true", help="indexes, headers and what heads need")
    depth.add_argument(
        "--repair", action="store_true", help="mend what can be mended; stop servers on this store first"
    )
    gc = _command(parts, "gc", "gc", "remove what nothing needs, and compress; steps go on meanwhile")
    gc.add_argument("--dry-run", action="store_true", help="say what would go, change nothing")
    gc.add_argument("--patience-s", type=_seconds, default=PATIENCE_S, metavar="NUMBER", help="how long to wait for steps in flight; those that take longer fail (default: %(default)g)")  # fmt: skip
    out = _command(parts, "export", "export_bundle", "write a session with its history into one file")
    out.add_argument("session", metavar="SESSION")
    out.add_argument("file", metavar="FILE", help="the bundle; - for stdout")
    out.add_argument("--force", action="store_true", help="write also to a terminal")
    out.add_argument("--since", type=_number, metavar="MOVE", help="leave out moves up to and including this number")
    out.add_argument("--until", type=_number, metavar="MOVE", help="leave out moves after this number")
    out.add_argument("--have", action="append", default=[], metavar="SNAPSHOT", help="a snapshot that the receiver has")
    into = _command(parts, "import", "import_bundle", "bring in a session from a bundle")
    into.add_argument("file", metavar="FILE", help="the bundle; - for stdin")
    into.add_argument("--as", dest="as_session", metavar="ID", help="under another session id")
    into.add_argument("--extend", action="store_true", help="also add moves to a session that is there; only from whom you trust with it")  # fmt: skip
    into.add_argument("--tenant", default="local", metavar="NAME", help="whose session it is (default: %(default)s)")
    listing = _command(parts, "ls", "ls", "sessions and pins; or what lies in a snapshot")
    listing.add_argument("-r", "--recursive", action="store_true", help="also what lies in its directories")
    listing.add_argument("reference", nargs="?", metavar="REFERENCE")
    listing.add_argument("path", nargs="?", default="", metavar="PATH")
    log = _command(parts, "log", "log", "how the head of a session has moved, newest first")
    log.add_argument("session", metavar="SESSION")
    log.add_argument("--limit", type=_number, metavar="NUMBER", help="no more moves than this (default: all)")
    cat = _command(parts, "cat", "cat", "write a file of a snapshot to stdout", json=False)
    cat.add_argument("reference", metavar="REFERENCE")
    cat.add_argument("path", metavar="PATH")
    differ = _command(parts, "diff", "diff", "what differs between two snapshots")
    differ.add_argument("before", metavar="REFERENCE")
    differ.add_argument("after", metavar="REFERENCE")
    differ.add_argument("--exit-code", action="store_true", help="exit status 1 when anything differs")
    pin = _command(parts, "pin", "pin", "name a snapshot, and keep it from being removed", json=False)
    pin.add_argument("reference", metavar="REFERENCE")
    pin.add_argument("name", metavar="NAME")
    pin.add_argument("--force", action="store_true", help="also when the name keeps another snapshot; that one is told")
    unpin = _command(parts, "unpin", "unpin", "remove a pin, and tell what it kept", json=False)
    unpin.add_argument("name", metavar="NAME")


def add_transfers(commands: Any) -> None:
    """Add `psf export` and `psf import`, which give snapshots to other tools and take trees in."""
    out = _command(commands, "export", "export_tree", "write what a snapshot holds as an archive", json=False)
    out.add_argument("reference", metavar="REFERENCE", help="a session, SESSION@STEP, a pin or a snapshot id")
    out.add_argument("file", metavar="FILE", help="the archive; - for stdout")
    out.add_argument(
        "--format", choices=("tar", "tar.gz", "zip"), help="default: by the file's name; tar for - and pipes"
    )
    out.add_argument("--force", action="store_true", help="write also to a terminal")
    into = _command(commands, "import", "import_tree", "take in a folder, tar or zip as a snapshot, and pin it; exit status 3 when something had to be left out")  # fmt: skip
    into.add_argument("path", metavar="PATH", help="a folder, a .tar, .tar.gz or .zip; - for an archive from stdin")
    into.add_argument("--pin", metavar="NAME", help="the name that keeps it (default: the path's own)")


def _number(text: str) -> int:
    """The number of a move, or of moves, as no log has more of."""
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be the number of a move, as 12, not {text[:80]!r}")
    return min(int(text[:40]), MOVES_MAX)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= SECONDS_MAX:  # never true of a NaN
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to {SECONDS_MAX:g}, not {text[:80]!r}")
    return value


def _command(parts: Any, name: str, act: str, text: str, *, json: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = parts.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--store", metavar="TEXT", help="folder of the store (or PSF_STORE)")
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings (or PSF_CONFIG)")
    parser.add_argument("--redis-url", metavar="TEXT", help="the Redis that holds its sessions (or PSF_REDIS_URL, REDIS_URL)")  # fmt: skip
    if json:
        parser.add_argument("--json", action="store_true", help="print JSON, show no progress")
    parser.set_defaults(act=_later(act))
    return parser


def _later(name: str) -> Callable[[argparse.Namespace], int]:
    def act(parsed: argparse.Namespace) -> int:
        # Only now, since they bring rich and the whole store.
        module = importlib.import_module(_ROOMS.get(name, "psf.store_commands"))
        command: Callable[[argparse.Namespace], int] = getattr(module, name)
        return command(parsed)

    return act
