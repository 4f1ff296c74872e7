"""What the API is: for programs as an OpenAPI document, for people as a page that shows it, from files that psf brings."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from psf.api import openapi
from psf.api.operations import Operation, described

_FOLDER = Path(__file__).resolve().parent / "static"
_PAGE = "docs.html"
_FILES = {
    _PAGE: "text/html",
    "docs.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
_HEADERS = {
    # The page asks this server alone.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

routes = web.RouteTableDef()


class _Description:
    """Made when somebody asks for it: most servers are never asked, and tests start many."""

    def __init__(self, described: list[web.AbstractRoute]) -> None:
        self._described = described

    @cached_property
    def document(self) -> bytes:
        return msgspec.json.encode(openapi.document(self._described))


_DESCRIPTION: web.AppKey[_Description] = web.AppKey("description", _Description)


def describe(application: web.Application) -> None:
    """Have an application tell its routes. Raises LookupError for one of which nothing is said."""
    all_routes = list(application.router.routes())
    openapi.said_of_all(all_routes)
    application[_DESCRIPTION] = _Description(all_routes)


@routes.get("/openapi.json")
@described(Operation(answer=dict[str, Any]))
async def document(request: web.Request) -> web.Response:
    """This document: OpenAPI 3.1."""
    return web.Response(body=request.app[_DESCRIPTION].document, content_type="application/json")


@routes.get("/docs")
@described(Operation(answer_media=("text/html",)))
async def page(_: web.Request) -> web.StreamResponse:
    """This document for people, by Swagger UI. The page asks nothing of any other server."""
    return _file(_PAGE)


@routes.get("/docs/{file}")
@described(Operation(answer_media=("text/html", "text/javascript", "text/css"), errors=(web.HTTPNotFound,)))
async def page_file(request: web.Request) -> web.StreamResponse:
    """A file of the page."""
    name = request.match_info["file"]
    if name not in _FILES:
        raise web.HTTPNotFound
    return _file(name)


def _file(name: str) -> web.StreamResponse:
    return web.FileResponse(_FOLDER / name, headers={**_HEADERS, "Content-Type": f"{_FILES[name]}; charset=utf-8"})
