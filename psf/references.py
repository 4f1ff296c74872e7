"""What a person calls a snapshot on the command line, and which one that is.

SESSION            a session by its id, a unique beginning of that, or its name: where its head stands
SESSION@STEP       of its history: a step number, -n for n steps back, a snapshot id or a unique beginning of one
PIN                a pin by its name
SNAPSHOT           the id of a stored snapshot; a unique beginning of at least six digits of one that any log or pin names

A whole id means what has it, whatever is called so; then come pins, then what a session is called or begins with.
"""

from __future__ import annotations

from typing import NamedTuple

from psf.errors import PsfError
from psf.history import find_snapshot
from store.ids import ID_BYTES, PREFIX_DIGITS_MIN, Kind, SnapshotId, is_prefix
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
    """The snapshot that `text` names. Raises ReferenceUnknown, also when it names more than one thing; NotInHistory."""
    name, _, place = text.partition("@")
    if place:
        session = resolve_session(store, name)
        return Reference(find_snapshot(store.objects, store.heads, session, place), session)
    for find in (_of_id, _pinned, _loose):
        candidates = find(store, name)
        if len(candidates) == 1:
            return candidates.pop()
        if candidates:
            raise ReferenceUnknown(text, f"names {len(candidates)} things")
    raise ReferenceUnknown(text, "is no session, pin or snapshot")


def resolve_session(store: LocalStore, text: str) -> Session:
    """The session that `text` names: by its id, else by its name or the beginning of its id. Raises ReferenceUnknown."""
    sessions = _sessions(store)
    found = [session for session in sessions if session.session_id == text] or [
        session for session in sessions if _is_called(session, text)
    ]
    if len(found) != 1:
        raise ReferenceUnknown(text, f"names {len(found)} sessions" if found else "is no session")
    return found[0]


def _of_id(store: LocalStore, name: str) -> set[Reference]:
    """What has this very id: nobody who may name a session, or pins something, can take its place."""
    found = {Reference(session.head, session) for session in _sessions(store) if session.session_id == name}
    if not found and is_prefix(name) and len(name) == 2 * ID_BYTES:
        snapshot = SnapshotId(bytes.fromhex(name))
        if not store.objects.find_missing([(Kind.SNAPSHOT, snapshot)]):
            found.add(Reference(snapshot, None))
    return found


def _pinned(store: LocalStore, name: str) -> set[Reference]:
    return {Reference(pin.snapshot, None) for pin in store.heads.pins() if pin.name == name}


def _loose(store: LocalStore, name: str) -> set[Reference]:
    """What is called so, or whose id begins so."""
    found = {Reference(session.head, session) for session in _sessions(store) if _is_called(session, name)}
    if is_prefix(name):
        found |= {Reference(snapshot, None) for _, snapshot in store.heads.roots() if snapshot.hex().startswith(name)}
    return found


def _sessions(store: LocalStore) -> list[Session]:
    return [moved.session for moved in store.heads.last_moves()]


def _is_called(session: Session, text: str) -> bool:
    return session.name == text or (len(text) >= PREFIX_DIGITS_MIN and session.session_id.startswith(text))
