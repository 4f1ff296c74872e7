"""What goes wrong between a client and its server. How a program ends is never one of these: that is a `Result`."""

from __future__ import annotations

from typing import Any

import msgspec


class ClientError(Exception):
    """Base of all. `code` is stable; the text is for people."""

    code = "client_error"


class Misused(ClientError):
    """The client was asked for something that cannot be asked of a server. The text says what would do."""

    code = "misused"


class Unreachable(ClientError):
    """No whole answer came, however often it was tried. A request with a key may be made again under the same key."""

    code = "unreachable"


class NotPsf(ClientError):
    """Something answered that is no psf server, or one that this client does not understand."""

    code = "not_psf"


class Refused(ClientError):
    """The server said no. `status` is that of HTTP, `code` psf's own word, `field` what is to blame, `facts` all that was said."""

    def __init__(self, status: int, code: str, message: str, facts: dict[str, Any]) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.facts = status, code, message, facts
        self.field: str | None = facts.get("field")
        self.retry_after_s: float | None = None
        self.again = False
        """Whether the request had been made before."""


class Invalid(Refused):
    """A field is wrong (422 and the like): asked again it will be refused again."""


class KeyReused(Invalid):
    """The key was that of another request, which asked for something else."""


class Unauthenticated(Refused):
    """The server wants a token, or does not know this one (401)."""


class Forbidden(Refused):
    """The token, or the server's configuration, does not allow it (403)."""


class NotFound(Refused):
    """There is no such session, snapshot, file or tag, or it is not the caller's (404)."""


class Expired(Refused):
    """The session was idle for too long, or was deleted; while it is retained it can be undeleted (410)."""


class Conflict(Refused):
    """It does not go with what has happened meanwhile (409)."""


class HeadMoved(Conflict):
    """The session's head is not where it was expected: `expected`, `actual`."""

    @property
    def expected(self) -> str:
        return str(self.facts.get("expected", ""))

    @property
    def actual(self) -> str:
        return str(self.facts.get("actual", ""))


class Cancelled(Conflict):
    """The step was cancelled by request. The head has not moved."""


class MergeConflicts(Conflict):
    """Both sides changed the same paths. `paths` names them; `facts["conflicts"]` tells what stands there on each side."""

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(str(one.get("path", "")) for one in self.facts.get("conflicts", ()))


class GuaranteeMissing(Refused):
    """What the call requires cannot be given on the server's machine (501)."""


class Overloaded(Refused):
    """The server has too much to do (429, 504), also after all retries. Nothing was done."""


class ServerFailed(Refused):
    """psf could not do its own work (5xx). The head has not moved."""


_BY_CODE: dict[str, type[Refused]] = {
    "head_moved": HeadMoved,
    "merge_conflicts": MergeConflicts,
    "step_cancelled": Cancelled,
    "key_reused": KeyReused,
}
_BY_STATUS: dict[int, type[Refused]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    429: Overloaded,
    501: GuaranteeMissing,
    504: Overloaded,
}


def refusal(status: int, body: bytes) -> Refused:
    """The error that an answer stands for. Also for answers of what stands before a server, which have no code. Pure."""
    facts: dict[str, Any] = {}
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        given = None
    if isinstance(given, dict) and isinstance(given.get("error"), dict):
        facts = given["error"]
    code = str(facts.get("code", f"http_{status}"))
    message = str(facts.get("message", "")) or f"the server answered with status {status}"
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status) or (ServerFailed if status >= 500 else Invalid)
    return kind(status, code, message, facts)
