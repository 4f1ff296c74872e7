"""The aiohttp application: routes of all families, and what stands before each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import ClientConnectionResetError, web
from aiohttp.typedefs import Middleware

import psf
from executors.errors import Overloaded
from executors.interfaces import Capabilities
from psf.api import docs, fusion, v1, v1_files, v1_snapshots, v1_steps
from psf.api.callers import audited, authenticating
from psf.api.errors import answer, is_native, to_response
from psf.api.keys import CAPABILITIES, POLICY, SERVICES, Policy
from psf.api.operations import Operation, described, operation_of
from psf.api.repeating import finish_all
from psf.api.schemas import HealthAnswer
from psf.api.streams import ASIDE, send_long
from psf.errors import InvalidField
from psf.services import Services
from psf.tokens import Tokens

BODIES_MAX = 16
"""So many bodies of the largest size may be held at once, or more of smaller ones."""
SMALL_BODY_BYTES = 64 << 10
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

routes = web.RouteTableDef()


@routes.get("/healthz")
@described(Operation(answer=HealthAnswer))
async def healthz(request: web.Request) -> web.Response:
    """That the server runs, and what its sandbox enforces."""
    return answer(HealthAnswer("ok", psf.__version__, request.app[CAPABILITIES]))


TABLES = (v1.routes, v1_steps.routes, v1_files.routes, v1_snapshots.routes, fusion.routes, routes, docs.routes)


def build(
    services: Services,
    capabilities: Capabilities,
    policy: Policy,
    body_bytes_max: int,
    tokens: Tokens | None = None,
) -> web.Application:
    """The application, ready to be served. Without `tokens` whoever can reach it may do everything."""
    before = [audited, _errors, _same_site, authenticating(tokens), _known_query, _bounded_bodies(body_bytes_max)]
    application = web.Application(client_max_size=body_bytes_max, middlewares=before)
    application[SERVICES] = services
    finish_all(application)
    send_long(application)
    application[CAPABILITIES] = capabilities
    application[POLICY] = policy
    for table in TABLES:
        application.add_routes(table)
    docs.describe(application)
    return application


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ClientConnectionResetError:
        return web.Response(status=499)  # who asked has gone away while the answer was written; nobody gets this one
    except Exception as error:  # noqa: BLE001 - the last line: everything becomes an answer
        return to_response(error, request.path)


@web.middleware
async def _same_site(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """On loopback only the machine itself may call, under its own names: no rebound DNS name, no page from elsewhere."""
    allowed = request.app[POLICY].allowed_hosts
    if allowed is not None:
        if _host_name(f"//{request.headers.get('Host', '')}") not in allowed:
            raise web.HTTPForbidden(reason="this Host is not one of the server's names; set allowed_hosts to add it")
        origin = request.headers.get("Origin")
        if origin is not None and _host_name(origin) not in allowed:
            raise web.HTTPForbidden(reason="requests from pages of another origin are refused")
    return await handler(request)


@web.middleware
async def _known_query(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """What a route of `/v1` does not know, it refuses: in the query as in the body."""
    said = operation_of(request.match_info.handler)
    if said is not None and request.query and is_native(request.path):
        known = [given.name for given in said.query]
        for name in request.query:
            if name not in known:
                words = f"there are {', '.join(known)}" if known else "there is none here"
                raise InvalidField(("query", name), f"There is no such parameter; {words}", kind="extra_forbidden")
    return await handler(request)


def _bounded_bodies(body_bytes_max: int) -> Middleware:
    """Bodies are held in memory, while they come and while their steps wait: so much of them and no more."""
    room = BODIES_MAX * body_bytes_max

    @web.middleware
    async def bounded(request: web.Request, handler: _Handler) -> web.StreamResponse:
        nonlocal room
        size = request.content_length
        if size is None:
            size = body_bytes_max if request.can_read_body else 0
        resource = request.match_info.route.resource
        if resource is not None and resource.canonical in ASIDE:
            size = 0
        # Small ones always go by: a few that never come must not keep everybody out.
        size = min(size, body_bytes_max) if size > SMALL_BODY_BYTES else 0
        if size > room:
            raise Overloaded("the bodies of other requests take all the room there is")
        room -= size
        try:
            return await handler(request)
        finally:
            room += size

    return bounded


def _host_name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
