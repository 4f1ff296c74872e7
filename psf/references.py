"""What a person calls a snapshot on the command line, and which one that is.

SESSION            a session by its id, a unique beginning of that, or its name: where its head stands
SESSION@STEP       of its history: a step number, -n for n steps back, a snapshot id or a unique beginning of one
PIN                a pin by its name
SNAPSHOT           a snapshot id, or a unique beginning of at least six digits, that any log or pin names
"""

from __future__ import annotations

from typing import NamedTuple

from psf.errors import PsfError
from psf.history import find_snapshot
from store.ids import PREFIX_DIGITS_MIN, SnapshotId, is_prefix
from store.interfaces import Session
from store.local import LocalStore


class ReferenceUnknown(PsfError):
    """A reference names nothing, or more than one thing."""

    code = "reference_unknown"

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"{text!r} {reason}; `psf store ls` lists sessions and pins")
        self.text = text


class Reference(NamedTuple):
    """A snapshot, and the session it was found by."""

    snapshot: SnapshotId
    session: Session | None


def resolve(store: LocalStore, text: str) -> Reference:
    """The snapshot that `text` names. Raises ReferenceUnknown, NotInHistory."""
    name, _, place = text.partition("@")
    session = _session(store, name)
    if session is not None:
        snapshot = find_snapshot(store.objects, store.heads, session, place) if place else session.head
        return Reference(snapshot, session)
    if place:
        raise ReferenceUnknown(name, "is no session")
    for pin in store.heads.pins():
        if pin.name == name:
            return Reference(pin.snapshot, None)
    return Reference(_snapshot(store, name), None)


def resolve_session(store: LocalStore, text: str) -> Session:
    """The session that `text` names. Raises ReferenceUnknown."""
    session = _session(store, text)
    if session is None:
        raise ReferenceUnknown(text, "is no session")
    return session


def _session(store: LocalStore, name: str) -> Session | None:
    sessions = [moved.session for moved in store.heads.last_moves()]
    for found in (
        [session for session in sessions if session.session_id == name],
        [session for session in sessions if session.name == name],
        [session for session in sessions if len(name) >= PREFIX_DIGITS_MIN and session.session_id.startswith(name)],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            raise ReferenceUnknown(name, f"names {len(found)} sessions")
    return None


def _snapshot(store: LocalStore, text: str) -> SnapshotId:
    if not is_prefix(text):
        raise ReferenceUnknown(text, "is no session, pin or snapshot id")
    found = {snapshot for _, snapshot in store.heads.roots() if snapshot.hex().startswith(text)}
    if len(found) == 1:
        return found.pop()
    raise ReferenceUnknown(text, f"names {len(found)} snapshots" if found else "is no session, pin or snapshot")
