"""Everything that can go wrong in the store. Each error carries its facts as fields; the message is made from them."""

from __future__ import annotations

MEMBER_BYTES_SHOWN = 200


class StoreError(Exception):
    """Base of all store errors. `code` is stable and may be shown to clients."""

    code = "store_error"


class ObjectMissing(StoreError):
    """No object has this id."""

    code = "object_missing"

    def __init__(self, kind: str, object_id: str) -> None:
        super().__init__(f"the store has no {kind} {object_id}")
        self.kind, self.object_id = kind, object_id


class ObjectDamaged(StoreError):
    """The bytes stored under this id are not the bytes that were put."""

    code = "object_damaged"

    def __init__(self, kind: str, object_id: str, reason: str) -> None:
        super().__init__(f"{kind} {object_id} is damaged: {reason}")
        self.kind, self.object_id, self.reason = kind, object_id, reason


class ObjectTooLong(StoreError):
    """An object is longer than what a pack may hold. Nothing was put."""

    code = "object_too_long"

    def __init__(self, kind: str, size_bytes: int, bytes_max: int) -> None:
        super().__init__(f"a {kind} of {size_bytes} bytes is too long; at most {bytes_max} are kept")
        self.kind, self.size_bytes, self.bytes_max = kind, size_bytes, bytes_max


class DecodeError(StoreError):
    """Bytes are not the canonical encoding of the value they should hold."""

    code = "not_canonical"


class SessionMissing(StoreError):
    """No live session has this id: never made, expired, or dropped."""

    code = "session_missing"

    def __init__(self, session_id: str) -> None:
        super().__init__("Session expired or not found")
        self.session_id = session_id


class SessionExists(StoreError):
    """A session of this id is there already. Nothing was created."""

    code = "session_exists"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id} exists already")
        self.session_id = session_id


class HeadMoved(StoreError):
    """A compare-and-set lost: the head is not the one the caller expected. Nothing was changed."""

    code = "head_moved"

    def __init__(self, session_id: str, expected: str, actual: str) -> None:
        super().__init__(f"the head is {actual}, not {expected}")
        self.session_id, self.expected, self.actual = session_id, expected, actual


class WriterFenced(StoreError):
    """A writer took so long that gc went on without it: what it relied on may be gone. Nothing was changed."""

    code = "writer_fenced"

    def __init__(self) -> None:
        super().__init__("this took so long that the store was swept meanwhile; nothing has changed, try again")


class NotInHistory(StoreError):
    """A reference names no snapshot, or more than one, of the session's history."""

    code = "snapshot_missing"

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(f"{reference!r} {reason}")
        self.reference = reference


class BundleRefused(StoreError):
    """A bundle is cut off, damaged, forged, or does not fit this store. Nothing that can be seen has changed."""

    code = "bundle_refused"

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"the bundle was refused: {place} {reason}; nothing has changed")
        self.place, self.reason = place, reason


class ArchiveRefused(StoreError):
    """An archive or a folder cannot be taken in, or a tree not given out as an archive. No tree names what was read of it.

    `member` is the name of the member it is about, as the archive gives it; None when it is about the whole.
    """

    code = "archive_refused"

    def __init__(self, reason: str, member: bytes | None = None) -> None:
        shown = "" if member is None else f"{member[:MEMBER_BYTES_SHOWN].decode(errors='backslashreplace')!r}: "
        super().__init__(shown + reason)
        self.reason, self.member = reason, member


class StoreUnusable(StoreError):
    """The store folder cannot be used: wrong format, no rights, no space, or not a store."""

    code = "store_unusable"
    mendable = False
    """Whether `psf store check --repair` makes it usable again."""


class HeadsUnreachable(StoreUnusable):
    """The server that holds the heads has not answered for as long as we have patience. What was asked may be done yet, whole or not at all."""

    code = "heads_unreachable"
