"""`psf store pin` and `unpin`: names that keep snapshots, and what can be such a name."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from psf.errors import PsfError
from psf.references import resolve
from psf.store_commands import NotThere, opened, turn
from store.gc import alone
from store.ids import Kind, SnapshotId
from store.interfaces import Lease, Pin
from store.local import LocalStore
from store.reachable import is_implied, mark
from store.records import Name

NAME_CHARACTERS_MAX = 200
_LIKE_AN_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""As session ids are made, and as snapshot ids are."""


class NotAName(PsfError):
    """What was given cannot be the name of a pin: a REFERENCE could not say it, or it would be taken for an id."""

    code = "not_a_name"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name[:80]!a} cannot be a name: {reason}")


class PinTaken(PsfError):
    """A pin would let go of what it keeps."""

    code = "pin_taken"

    def __init__(self, pin: Pin, ways: str) -> None:
        free = f"`psf store unpin {shlex.quote(pin.name)}` frees it"
        super().__init__(f"the pin {pin.name!r} keeps another snapshot, {pin.snapshot.hex()}; {ways}, {free}")


def pin(parsed: argparse.Namespace) -> int:
    """Name a snapshot. The one that the name has kept so far is told, since nothing may keep it now."""
    name = checked_name(parsed.name)
    with opened(parsed) as store, turn(store) as lease:
        snapshot = resolve(store, parsed.reference).snapshot
        refuse_session_id(store, name)
        before = pinned(store, name)
        if before is not None and before.snapshot != snapshot and not parsed.force:
            raise PinTaken(before, "--force moves it")
        keep(store, name, snapshot, lease)
    if before is not None and before.snapshot != snapshot:
        print(f"psf: the pin has let go of {before.snapshot.hex()}", file=sys.stderr)
    print(snapshot.hex())
    return 0


def unpin(parsed: argparse.Namespace) -> int:
    """Remove a pin, and tell what it kept: until a sweep it can be pinned again."""
    with opened(parsed) as store:
        before = pinned(store, parsed.name)
        if before is None or not store.heads.unpin(parsed.name):
            raise NotThere(f"there is no pin {parsed.name!r}; `psf store ls` lists them")
    print(before.snapshot.hex())
    return 0


def checked_name(name: str) -> str:
    """A name for a pin. Raises NotAName."""
    if not 0 < len(name) <= NAME_CHARACTERS_MAX or not name.isprintable() or "@" in name or name.startswith("-"):
        rule = f"1 to {NAME_CHARACTERS_MAX} printable characters without @ can, not beginning with -"
        raise NotAName(name, rule)
    if _LIKE_AN_ID.fullmatch(name):
        raise NotAName(name, "it would be taken for the id of a session or snapshot")
    return name


def refuse_session_id(store: LocalStore, name: str) -> None:
    """Raise NotAName for the id of a session: that always means the session."""
    if any(moved.session.session_id == name for moved in store.heads.last_moves()):
        raise NotAName(name, "it is the id of a session")


def pinned(store: LocalStore, name: str) -> Pin | None:
    """The pin of this name."""
    return next((pin for pin in store.heads.pins() if pin.name == name), None)


def keep(store: LocalStore, name: str, snapshot: SnapshotId, lease: Lease) -> None:
    """Pin a snapshot. Raises NotThere when some of what it needs is not stored any more, GcRunning."""
    with _unswept(store, snapshot):
        store.heads.pin(Pin(name, snapshot, time.time()), epoch=lease.epoch)


@contextmanager
def _unswept(store: LocalStore, snapshot: SnapshotId) -> Iterator[None]:
    """A snapshot that nothing keeps is not swept meanwhile, and is whole: a pin on a part of one would be damage."""
    if any(root == snapshot for _, root in store.heads.roots()):
        yield
        return
    with alone(store.root):
        store.objects.folder.refresh()  # an earlier sweep may have removed some of it
        needed: set[Name] = set()
        unreadable = mark(store.objects, [(Kind.SNAPSHOT, snapshot)], needed)
        missing = store.objects.find_missing([name for name in needed if not is_implied(name)])
        if unreadable or missing:
            raise NotThere(f"snapshot {snapshot.hex()} has been swept: nothing kept it, and some of it is gone")
        yield
