"""How the limits and systems of sessions are written down, pinned: in moves and at the beginning of bundles, byte for byte.

These must never change; of a session without them the older files beside this one say how it is written.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from store import bundle_header, moves
from store.asked import AskedLimits
from store.bundle_header import Header
from store.interfaces import Move, Session
from store.moves import MoveRecord
from store.snapshot import EMPTY_SNAPSHOT_ID

PINS: dict[str, str] = json.loads(Path(__file__).with_name("session-limits-2.json").read_text())
LATER_PINS: dict[str, str] = json.loads(Path(__file__).with_name("sessions-2.json").read_text())
EVERY = AskedLimits(2.5, 3, 1 << 30, 5, 6, 7, 8, 1 << 20, 100, 64, 1 << 40, 9, 0.5, "none")
SESSION = Session("s1", "local", None, EMPTY_SNAPSHOT_ID, "python", "bubblewrap", 3600.0, 1.5e9, 1.6e9, EVERY)
PLAIN = Session("s1", "local", None, EMPTY_SNAPSHOT_ID, "python", "docker", 3600.0, 1.5e9, 1.6e9)
MOVE = Move(1, "create", None, EMPTY_SNAPSHOT_ID, 1.5e9, b"")
RECORD = MoveRecord(1, SESSION, MOVE, 4)
HEADER = Header(SESSION, (MOVE,), (), 0)


def test_a_move_of_a_session_with_limits_has_the_pinned_bytes() -> None:
    assert moves.encode(RECORD).hex() == PINS["move"]
    assert moves.decode(bytes.fromhex(PINS["move"])) == RECORD


def test_a_move_of_a_session_with_a_system_of_its_own_has_the_pinned_bytes() -> None:
    for name, system in (("move, image", ("python:3.11", "")), ("move, work_dir", ("", "/srv/app"))):
        record = MoveRecord(1, msgspec.structs.replace(PLAIN, image=system[0], work_dir=system[1]), MOVE, 4)
        assert moves.encode(record).hex() == LATER_PINS[name]
        assert moves.decode(bytes.fromhex(LATER_PINS[name])) == record


def test_a_move_of_a_request_that_may_be_repeated_has_the_pinned_bytes() -> None:
    keyed = msgspec.structs.replace(MOVE, key=b"k" * 16, asked=b"a" * 16)
    assert moves.encode(MoveRecord(1, PLAIN, keyed, 4)).hex() == LATER_PINS["move, keyed"]
    assert moves.decode(bytes.fromhex(LATER_PINS["move, keyed"])).move == keyed


def test_a_bundle_of_a_session_with_limits_begins_with_the_pinned_bytes() -> None:
    assert bundle_header.encode_header(HEADER).hex() == PINS["bundle header"]
    assert bundle_header.decode_header(bytes.fromhex(PINS["bundle header"])) == HEADER
