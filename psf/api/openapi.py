"""The OpenAPI document: what operations say, with the schemas of their Structs and the one table of errors. Pure."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

import psf
from executors.errors import Overloaded
from psf.api.callers import OPEN
from psf.api.decode import BodyTooSlow, UnsupportedBody
from psf.api.errors import is_native, refusal
from psf.api.operations import Errors, Given, Operation, operation_of
from psf.api.repeating import HEADER, KEY_CHARACTERS_MAX
from psf.api.schemas import DetailAnswer, ErrorAnswer, ValidationAnswer
from psf.errors import InvalidField, KeyReused, SessionExpired, SnapshotUnknown
from psf.tokens import Forbidden, Unauthenticated
from store.errors import HeadsUnreachable, ObjectDamaged, ObjectMissing, SessionMissing

_REFERENCE = "#/components/schemas/{name}"
_JSON = "application/json"
_ABOUT = """Runs untrusted code in sandboxes and keeps every step as an immutable snapshot: sessions, rollback, fork, merge, replay.

Three families on one server: `/v1`, SandboxFusion's endpoints, and sessions as SandboxFusion would have them. A server that has
tokens wants one; see `docs/api.md` for what no schema says."""
_FAMILIES = {
    "psf.api.v1": "Sessions",
    "psf.api.v1_steps": "Steps",
    "psf.api.v1_files": "Files and merges",
    "psf.api.v1_snapshots": "Snapshots",
    "psf.api.fusion": "SandboxFusion",
}
_SERVER = "Server"
_PATH_PARAMETERS = {
    "session_id": "the session's id",
    "snapshot": "a snapshot's id, or the name of a tag",
    "path": "a path in the work directory; its slashes may stand as they are",
    "name": "the name of a tag",
    "file": "a file of the page",
}
_ERROR_HEADERS: dict[int, tuple[str, type]] = {
    401: ("WWW-Authenticate", str),
    429: ("Retry-After", int),
    504: ("Retry-After", int),
}

_WITH_CONTENT = frozenset({200, 201, 206})


def document(routes: Iterable[web.AbstractRoute]) -> dict[str, Any]:
    """What is answered to GET /openapi.json. Raises LookupError as `said_of_all` does."""
    found = said_of_all(routes)
    kinds = list(dict.fromkeys([*_kinds(said for _, said in found), ErrorAnswer, DetailAnswer, ValidationAnswer]))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for route, said in found:
        assert route.resource is not None
        path = route.resource.canonical
        paths[path][route.method.lower()] = _operation(route.method, path, route.handler, said, schema_of)
    tags = [*_FAMILIES.values(), _SERVER]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "psf", "version": psf.__version__, "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name} for name in tags],
        "security": [{}, {"bearer": []}],
        "paths": dict(paths),
        "components": {
            "schemas": {name: _tidied(schema) for name, schema in components.items()},
            "parameters": {"IdempotencyKey": _key_parameter()},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }  # fmt: skip


def said_of_all(routes: Iterable[web.AbstractRoute]) -> list[tuple[web.AbstractRoute, Operation]]:
    """Routes and what is said of them. Raises LookupError for one of which nothing is said."""
    found = []
    for route in routes:
        if route.method == "HEAD":
            continue  # aiohttp's own, for each GET
        said = operation_of(route.handler)
        if said is None:
            raise LookupError(f"nothing is said of {route.method} {route.resource}: its handler needs @described")
        found.append((route, said))
    return found


def _kinds(operations: Iterable[Operation]) -> Iterator[Any]:
    """All types whose schemas are needed."""
    for said in operations:
        yield from (given.kind for given in (*said.query, *said.headers))
        yield from (kind for kind in (said.body, said.answer) if kind is not None)


def _operation(method: str, path: str, handler: Any, said: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    explained = inspect.getdoc(handler) or ""
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "summary": explained.partition("\n")[0].replace("`", ""),
        "description": explained,
        "tags": [_FAMILIES.get(handler.__module__, _SERVER)],
        "parameters": list(_parameters(path, said, schema_of)),
        "responses": {**_answers(said, schema_of), **_refusals(path, said)},
    }
    if path in OPEN:
        operation["security"] = []
    if said.body is not None:
        content: dict[str, Any] = {_JSON: {"schema": schema_of[said.body]}}
        operation["requestBody"] = {"required": not said.body_optional, "content": content}
    elif said.body_media:
        operation["requestBody"] = {"required": True, "content": {media: {} for media in said.body_media}}
    return operation


def _parameters(path: str, said: Operation, schema_of: dict[Any, Any]) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", path):
        schema = {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "description": _PATH_PARAMETERS[name], "schema": schema}
    for place, all_given in (("query", said.query), ("header", said.headers)):
        for given in all_given:
            yield _parameter(place, given, schema_of[given.kind])
    if said.keyed:
        yield {"$ref": "#/components/parameters/IdempotencyKey"}


def _parameter(place: str, given: Given, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": given.name,
        "in": place,
        "required": given.required,
        "description": given.about,
        "schema": schema,
    }


def _key_parameter() -> dict[str, Any]:
    about = "What is asked for under one key is done once; who asks again gets the first answer. Remembered as long as the session's log."
    schema = {"type": "string", "minLength": 1, "maxLength": KEY_CHARACTERS_MAX, "pattern": "^[ -~]+$"}
    return {"name": HEADER, "in": "header", "required": False, "description": about, "schema": schema}


# -- answers --------------------------------------------------------------------------------------------------------------


def _answers(said: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {media: {} for media in said.answer_media}
    if said.answer is not None:
        content = {_JSON: {"schema": schema_of[said.answer]}, **content}
    answers = {}
    for status, about in {said.status: HTTPStatus(said.status).phrase, **said.other_answers}.items():
        answers[str(status)] = {
            "description": about,
            **({"content": content} if content and status in _WITH_CONTENT else {}),
        }
    return answers


def _refusals(path: str, said: Operation) -> dict[str, Any]:
    """Errors by status, each with the codes that it may have."""
    native = is_native(path)
    codes: defaultdict[int, dict[str, type[Exception]]] = defaultdict(dict)
    for kind in (*_implied(path, said), *said.errors):
        status, code = refusal(kind, native=native)
        codes[status][code] = kind
    return {str(status): _refusal(status, codes[status], native=native) for status in sorted(codes)}


def _implied(path: str, said: Operation) -> Errors:
    """What can be said of any route of its kind."""
    kinds: list[type[Exception]] = [web.HTTPForbidden, Exception]
    if path not in OPEN:
        kinds += [Unauthenticated, Forbidden, ObjectMissing, ObjectDamaged, HeadsUnreachable]
    if said.body is not None:
        kinds += [BodyTooSlow, UnsupportedBody, web.HTTPRequestEntityTooLarge]
    if said.body is not None or said.body_media:
        kinds += [InvalidField, Overloaded]
    if said.keyed or is_native(path):
        kinds += [InvalidField]
    if said.keyed:
        kinds += [KeyReused]
    if "{session_id}" in path:
        kinds += [SessionMissing, SessionExpired]
    if "{snapshot}" in path:
        kinds += [SnapshotUnknown]
    return tuple(kinds)


def _refusal(status: int, codes: dict[str, type[Exception]], *, native: bool) -> dict[str, Any]:
    lines = [f"- `{code}`: {_first_sentence(kind)}" for code, kind in codes.items()]
    names = ["ErrorAnswer"] if native else ["DetailAnswer"]
    if not native and status == HTTPStatus.UNPROCESSABLE_ENTITY:
        names = ["ValidationAnswer", "DetailAnswer"]
    references = [{"$ref": _REFERENCE.format(name=name)} for name in names]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    response: dict[str, Any] = {
        "description": "\n".join(lines),
        "content": {_JSON: {"schema": schema}},
        "x-codes": sorted(codes),
    }
    if status in _ERROR_HEADERS:
        header, value = _ERROR_HEADERS[status]
        response["headers"] = {header: {"schema": msgspec.json.schema(value)}}
    return response


def _first_sentence(kind: type[Exception]) -> str:
    if issubclass(kind, web.HTTPException):
        return HTTPStatus(kind.status_code).phrase
    if kind is Exception:
        return "psf failed; the number in the message is in the server's log."
    return re.split(r"(?<=[.?!])\s", inspect.getdoc(kind) or "", maxsplit=1)[0]


def _tidied(schema: Any) -> Any:
    """Docstrings without the indentation that they have in the code."""
    if isinstance(schema, dict):
        return {
            name: inspect.cleandoc(value) if name == "description" and isinstance(value, str) else _tidied(value)
            for name, value in schema.items()
        }
    return [_tidied(item) for item in schema] if isinstance(schema, list) else schema
