"""Who may call: bearer tokens, each with a tenant and scopes, from a file that holds no token itself, only digests.

    [[token]]
    name = "trainer"
    sha256 = "..."                    # of the token; `psf token` makes both
    tenant = "team-a"
    scopes = ["read", "execute"]

A token is 256 random bits, so that its plain SHA-256 cannot be turned back.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from psf.errors import ConfigurationError, PsfError

Scope = Literal["read", "execute", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "execute", "admin")
"""Looking; running and changing one's own sessions; what concerns a whole server. Each includes those before it."""
TENANT_OF_ALL = "local"
"""Whose everything is where nobody must say who he is."""
PREFIX = "psf_"
TOKEN_BYTES = 32
FILE_BYTES_MAX = 1 << 20
_NAME = re.compile(r"[\w.@-]{1,64}")


class Caller(msgspec.Struct, frozen=True):
    """Who calls: the token's name, its tenant, and all that it may."""

    name: str
    tenant: str
    scopes: frozenset[Scope]


ANYBODY = Caller("anybody", TENANT_OF_ALL, frozenset(SCOPES))


class Unauthenticated(PsfError):
    """No token, or none that is known."""

    code = "unauthenticated"


class Forbidden(PsfError):
    """The token is known and may not do this."""

    code = "forbidden"


class NewToken(NamedTuple):
    """A token, which nobody can tell again, and the lines that make it known to a server."""

    token: str
    lines: str


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    tenant: str
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1)]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: tuple[_Row, ...] = ()


class Tokens:
    """All tokens of a server. Made by `load`."""

    def __init__(self, callers: dict[bytes, Caller]) -> None:
        self._callers = callers

    def authenticate(self, header: str | None) -> Caller:
        """Who an `Authorization` header speaks for. Raises Unauthenticated.

        How long it takes does not depend on how much of a token is right: digests are compared, and all of them.
        """
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("this server wants a token: send the header `Authorization: Bearer TOKEN`")
        digest = hashlib.sha256(token.strip().encode(errors="surrogateescape")).digest()
        found: Caller | None = None
        for known, caller in self._callers.items():
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise Unauthenticated("this token is not known to the server")
        return found


def require(caller: Caller, scope: Scope) -> None:
    """Raises Forbidden when the caller lacks the scope."""
    if scope not in caller.scopes:
        raise Forbidden(
            f"the token {caller.name!r} lacks the scope {scope!r}; it has {', '.join(sorted(caller.scopes))}"
        )


def load(path: Path) -> Tokens:
    """The tokens in a file. Raises ConfigurationError, naming the entry and what is wrong with it."""
    given = _read(path)
    callers: dict[bytes, Caller] = {}
    for position, row in enumerate(given.token, 1):
        for field, text in (("name", row.name), ("tenant", row.tenant)):
            if not _NAME.fullmatch(text):
                raise ConfigurationError(f"{path}: token {position}: `{field}` must be 1 to 64 of a-z, 0-9, _ . @ -")
        digest = bytes.fromhex(row.sha256)
        if digest in callers:
            raise ConfigurationError(f"{path}: token {position} ({row.name}) is the same as {callers[digest].name}")
        if row.name in {caller.name for caller in callers.values()}:
            raise ConfigurationError(
                f"{path}: two tokens are called {row.name}; the audit log could not tell them apart"
            )
        highest = max(SCOPES.index(scope) for scope in row.scopes)
        callers[digest] = Caller(row.name, row.tenant, frozenset(SCOPES[: highest + 1]))
    if not callers:
        raise ConfigurationError(f"{path} has no [[token]]; `psf token NAME` makes one")
    return Tokens(callers)


def new(name: str, tenant: str, scopes: tuple[Scope, ...]) -> NewToken:
    """A new token. Raises ConfigurationError for a name or tenant that may not be."""
    for text in (name, tenant):
        if not _NAME.fullmatch(text):
            raise ConfigurationError(f"{text!r}: names and tenants are 1 to 64 of a-z, 0-9, _ . @ -")
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    words = ", ".join(f'"{scope}"' for scope in scopes)
    digest = hashlib.sha256(token.encode()).hexdigest()
    lines = f'[[token]]\nname = "{name}"\nsha256 = "{digest}"\ntenant = "{tenant}"\nscopes = [{words}]\n'
    return NewToken(token, lines)


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IWOTH:
                raise ConfigurationError(f"{path} can be written by everybody; chmod o-w it")
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ConfigurationError(f"{path} is longer than {FILE_BYTES_MAX} bytes")
        return msgspec.convert(tomllib.loads(data.decode()), _File)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"{path}: {error}") from None
