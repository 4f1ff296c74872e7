"""Requests with an Idempotency-Key: what they ask for is done once and to its end, whether their sender is still there or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from aiohttp import web

from psf import repeats
from psf.api.callers import tenant_of
from psf.errors import InvalidField
from store.interfaces import UNKEYED, Keyed

HEADER = "Idempotency-Key"
KEY_CHARACTERS_MAX = 200
_UNDER_WAY: web.AppKey[set[asyncio.Task[Any]]] = web.AppKey("under_way", set)
_Value = TypeVar("_Value")


async def keyed_of(request: web.Request) -> Keyed:
    """What stands with all that the request does. Raises InvalidField for a key that is none."""
    key = request.headers.get(HEADER)
    if key is None:
        return UNKEYED
    if not 0 < len(key) <= KEY_CHARACTERS_MAX or not key.isprintable():
        raise InvalidField(("header", HEADER), f"must be 1 to {KEY_CHARACTERS_MAX} printable characters", key)
    resource = request.match_info.route.resource
    route = f"{request.method} {resource.canonical if resource is not None else ''}"
    # The body was read before, and is kept.
    asked = (request.path, request.query_string, await request.read())
    return repeats.keyed(tenant_of(request), route, key, asked)


async def to_the_end(request: web.Request, work: Coroutine[Any, Any, _Value], keyed: Keyed) -> _Value:
    """Do what a request asks for. One without a key ends with its sender's going; one with a key does not."""
    if not keyed.key:
        return await work
    task = asyncio.ensure_future(work)
    tasks = request.app[_UNDER_WAY]
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return await asyncio.shield(task)


def finish_all(application: web.Application) -> None:
    """Have the application wait, when it ends, for what is still done for requests that may be repeated."""
    application[_UNDER_WAY] = set()
    application.cleanup_ctx.append(_waiting)


async def _waiting(application: web.Application) -> AsyncIterator[None]:
    yield
    await asyncio.gather(*application[_UNDER_WAY], return_exceptions=True)
