"""One table from errors to HTTP statuses, and the two shapes an error has: FastAPI's on the compatible families, one on /v1."""

from __future__ import annotations

import logging
import secrets
from typing import Any

import msgspec
from aiohttp import web

from executors.errors import (
    DeterminismUnavailable,
    EgressUnavailable,
    ExecutorError,
    FilesTooLarge,
    Overloaded,
    SystemUnknown,
)
from psf.api.decode import BodyTooSlow, UnsupportedBody
from psf.api.schemas import (
    ConflictAnswer,
    DetailAnswer,
    ErrorAnswer,
    ErrorFacts,
    FaultAnswer,
    SideAnswer,
    ValidationAnswer,
)
from psf.errors import (
    GuaranteeMissing,
    InvalidField,
    KeyReused,
    MergeConflicts,
    NetworkRefused,
    NoCommonStep,
    PathMissing,
    QuotaReached,
    RuntimeUnknown,
    SandboxDiffers,
    SessionExpired,
    SnapshotUnknown,
    StepCancelled,
)
from psf.text_diff import shown
from psf.tokens import Forbidden, Unauthenticated
from store.errors import (
    ArchiveRefused,
    BundleRefused,
    HeadMoved,
    HeadsUnreachable,
    NotInHistory,
    SessionExists,
    SessionMissing,
    StoreError,
    WriterFenced,
)
from store.tree import Entry, EntryKind

_log = logging.getLogger(__name__)
RETRY_AFTER_S = 1
QUOTED_CHARACTERS_MAX = 500
LOCATION_PARTS_MAX = 20
CONFLICTS_MAX = 1000

_COMPATIBLE = {
    SessionMissing: 410,
    SessionExpired: 410,
    RuntimeUnknown: 422,
    InvalidField: 422,
    NotInHistory: 404,
    SnapshotUnknown: 404,
    PathMissing: 404,
    KeyReused: 422,
    QuotaReached: 429,
    HeadMoved: 409,
    MergeConflicts: 409,
    NoCommonStep: 409,
    StepCancelled: 409,
    SessionExists: 409,
    BundleRefused: 422,
    ArchiveRefused: 422,
    SandboxDiffers: 409,
    SystemUnknown: 409,
    NetworkRefused: 403,
    Unauthenticated: 401,
    Forbidden: 403,
    GuaranteeMissing: 501,
    EgressUnavailable: 501,
    DeterminismUnavailable: 501,
    WriterFenced: 503,
    HeadsUnreachable: 503,
    UnsupportedBody: 415,
    BodyTooSlow: 408,
    FilesTooLarge: 422,
    Overloaded: 504,
    StoreError: 500,
    ExecutorError: 503,
}
_NATIVE = {**_COMPATIBLE, SessionMissing: 404, Overloaded: 429}


def answer(data: object, status: int = 200, **headers: str) -> web.Response:
    """A JSON answer."""
    return web.Response(body=msgspec.json.encode(data), status=status, content_type="application/json", headers=headers)


def to_response(error: Exception, path: str) -> web.Response:
    """The answer that an error becomes on the family that `path` belongs to. No traceback, no host path."""
    native = is_native(path)
    status = _status(type(error), _NATIVE if native else _COMPATIBLE)
    if isinstance(error, web.HTTPException):
        return _own(error, native)
    if status is None:
        incident = secrets.token_hex(4)
        _log.error("incident %s", incident, exc_info=error)
        return _shape(500, "internal", f"internal error; the server's log has it as incident {incident}", native)
    if status >= 500 and not isinstance(
        error, (Overloaded, GuaranteeMissing, EgressUnavailable, DeterminismUnavailable)
    ):
        _log.error("%s: %s", type(error).__name__, error)
    if isinstance(error, InvalidField):
        return _invalid(error, native)
    if isinstance(error, RuntimeUnknown) and not native:
        location = ("body", "language")
        return _invalid(InvalidField(location, str(error), error.name, kind="literal_error"), native)
    if isinstance(error, FilesTooLarge) and native:
        return _shape(422, error.code, str(error), native, {"field": "files"})
    if isinstance(error, FilesTooLarge):
        return _invalid(InvalidField(("body", "files"), str(error), kind=error.code), native)
    response = _shape(status, getattr(error, "code", "internal"), str(error), native, _facts(error))
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Overloaded):
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def is_native(path: str) -> bool:
    """Whether a path is one of `/v1`, whose errors have another shape than those of the compatible families."""
    return path.startswith("/v1/") and path != "/v1/ping"


def refusal(kind: type[Exception], *, native: bool) -> tuple[int, str]:
    """Status and code of the answer that an error of this kind becomes. Pure."""
    if issubclass(kind, web.HTTPException):
        return kind.status_code, f"http_{kind.status_code}"
    status = _status(kind, _NATIVE if native else _COMPATIBLE)
    return (500, "internal") if status is None else (status, getattr(kind, "code", "internal"))


def _status(kind: type[Exception], table: dict[type[Any], int]) -> int | None:
    return next((table[base] for base in kind.__mro__ if base in table), None)


def _own(error: web.HTTPException, native: bool) -> web.Response:
    """aiohttp's own refusals (unknown path, wrong method, body over the cap) in our shapes."""
    words = {
        413: "the body is larger than this server takes (body_bytes_max); files are base64, a third more than their size"
    }
    response = _shape(error.status, f"http_{error.status}", words.get(error.status, error.reason), native)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def _invalid(error: InvalidField, native: bool) -> web.Response:
    location = [_short(part) for part in error.location[:LOCATION_PARTS_MAX]]
    if native:
        field = ".".join(str(part) for part in location[1:])
        return answer(ErrorAnswer(ErrorFacts(error.code, _short(str(error)), field)), 422)
    fault = FaultAnswer(error.kind, location, _short(error.message), _short(error.value))
    return answer(ValidationAnswer([fault]), 422)


def _short(value: Any) -> Any:
    """A refusal quotes what was sent, but does not send it all back; bytes of a header that are no text stand as `\\udcxx`."""
    if not isinstance(value, str):
        return value
    return value[:QUOTED_CHARACTERS_MAX].encode(errors="backslashreplace").decode()


def _facts(error: Exception) -> dict[str, Any]:
    """What a program wants to know of an error beside its code."""
    if isinstance(error, HeadMoved):
        return {"expected": error.expected, "actual": error.actual}
    if isinstance(error, MergeConflicts):
        sides = ("base", "ours", "theirs")
        conflicts = [
            ConflictAnswer(shown(b"/".join(one.path)), *(_side(getattr(one, side)) for side in sides))
            for one in error.conflicts[:CONFLICTS_MAX]
        ]
        return {"ours": error.ours, "theirs": error.theirs, "conflicts": conflicts}
    return {}


def _side(entry: Entry | None) -> SideAnswer | None:
    """What stands at a path on one side of a merge."""
    if entry is None:
        return None
    content = entry.content.decode(errors="replace") if entry.kind is EntryKind.SYMLINK else entry.content.hex()
    return SideAnswer(entry.kind.name.lower(), content, entry.size_bytes, entry.changed)


def _shape(status: int, code: str, message: str, native: bool, facts: dict[str, Any] | None = None) -> web.Response:
    body = ErrorAnswer(ErrorFacts(code, message, **(facts or {}))) if native else DetailAnswer(message)
    return answer(body, status)
