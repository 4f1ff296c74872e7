"""Who calls, found before anything else is looked at; and a log of all that callers change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from psf import audit
from psf.tokens import ANYBODY, Caller, Tokens, require

_CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
_SESSION: web.RequestKey[str] = web.RequestKey("session", str)
OPEN = frozenset({"/healthz", "/v1/ping", "/openapi.json", "/docs", "/docs/{file}"})
"""For whoever watches over the server, and for browsers: they say nothing of anybody."""
_LOOKING = frozenset({"GET", "HEAD"})

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def authenticating(tokens: Tokens | None) -> Middleware:
    """Lets nobody through whose token is not known or lacks the scope: `read` for looking, `execute` for all else.

    Without tokens everybody is the one tenant there is.
    """

    @web.middleware
    async def authenticated(request: web.Request, handler: _Handler) -> web.StreamResponse:
        caller = ANYBODY
        resource = request.match_info.route.resource
        if tokens is not None and (resource is None or resource.canonical not in OPEN):
            caller = tokens.authenticate(request.headers.get("Authorization"))
        request[_CALLER] = caller
        require(caller, "read" if request.method in _LOOKING else "execute")
        return await handler(request)

    return authenticated


@web.middleware
async def audited(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Writes down what would change something, also when it is refused. Stands before what makes answers of errors."""
    response = await handler(request)
    if request.method not in _LOOKING:
        caller, resource = request.get(_CALLER), request.match_info.route.resource
        asked = audit.Asked(
            caller.name if caller else None,
            caller.tenant if caller else None,
            request.method,
            resource.canonical if resource is not None else "unknown",
            response.status,
            request.get(_SESSION, request.match_info.get("session_id")),
        )
        audit.write_down(asked)
    return response


def tenant_of(request: web.Request) -> str:
    """Whose sessions the request may see."""
    return request[_CALLER].tenant


def concerns(request: web.Request, session_id: str) -> None:
    """Say which session a request is about whose path does not."""
    request[_SESSION] = session_id
