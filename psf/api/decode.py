"""From bytes of a request to values, or to one clear error that names the field. Pure but for reading the body."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from executors import paths
from psf.errors import InvalidField

CODE_BYTES_MAX = 16 << 20
FILES_MAX = 10_000
_CONTINUATION = b"\\\n"
IGNORED_FILE = "IGNORE_THIS_FILE"

_Body = TypeVar("_Body")
_PATH = re.compile(r" - at `\$(?P<path>.*?)`$")
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>[^`]+)`")


class UnsupportedBody(Exception):
    """The body is not JSON by its headers: 415."""


async def read_body(request: web.Request, kind: type[_Body], *, optional: bool = False) -> _Body:
    """The request's JSON body as `kind`. Raises InvalidField, UnsupportedBody; aiohttp's own 413 over the cap."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedBody("send the body without Content-Encoding")
    data = await request.read()
    if not data and optional:
        data = b"{}"
    elif request.content_type != "application/json":
        raise UnsupportedBody("send JSON, with Content-Type: application/json")
    return decode(data, kind)


def decode(data: bytes, kind: type[_Body]) -> _Body:
    """A body as `kind`. Raises InvalidField.

    A backslash before a line break, which valid JSON never holds, is taken as the line continuation that people mean when they
    break a quoted `curl -d` over lines; the quick start that psf implements is written so.
    """
    try:
        return msgspec.json.decode(data, type=kind, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        if _CONTINUATION in data:
            return decode(data.replace(_CONTINUATION, b""), kind)
        raise _malformed(data, error) from None


def _invalid(text: str) -> InvalidField:
    path = _PATH.search(text)
    location: tuple[str | int, ...] = ("body", *_parts(path["path"])) if path else ("body",)
    message = _PATH.sub("", text)
    if missing := _MISSING.search(message):
        return InvalidField((*location, missing["field"]), "Field required", kind="missing")
    if unknown := _UNKNOWN.search(message):
        return InvalidField((*location, unknown["field"]), "There is no such field", kind="extra_forbidden")
    return InvalidField(location, message, kind="type_error")


def _parts(path: str) -> list[str | int]:
    """`.files[...]` -> files; `.names[3]` -> names, 3."""
    parts: list[str | int] = []
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", path):
        parts.append(int(index) if index else name)
    return parts


def _malformed(data: bytes, error: Exception) -> InvalidField:
    """What is not JSON at all; and strings that JSON can spell but Unicode cannot hold, by the field they are in."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    field = _surrogate_field(value) if isinstance(value, dict) else None
    if field is not None:
        return InvalidField(("body", *field), "contains a lone surrogate, which is no character", kind="string_unicode")
    return InvalidField(("body",), f"JSON decode error: {error}", kind="json_invalid")


def _surrogate_field(value: Any, path: tuple[str | int, ...] = ()) -> tuple[str | int, ...] | None:
    if isinstance(value, str):
        return path if not _is_unicode(value) else None
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(key, str) and not _is_unicode(key):
            return (*path, ascii(key))
        if (found := _surrogate_field(inner, (*path, key))) is not None:
            return found
    return None


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def code(text: str) -> bytes:
    """A program's text. Raises InvalidField for what no interpreter takes."""
    if "\0" in text:
        raise InvalidField(("body", "code"), "contains a NUL character, which no program text may")
    encoded = text.encode()
    if len(encoded) > CODE_BYTES_MAX:
        raise InvalidField(("body", "code"), f"is {len(encoded)} bytes; at most {CODE_BYTES_MAX}")
    return encoded


def seconds(field: str, value: float, maximum: float) -> float:
    """A time limit: finite, positive, at most the server's maximum (a longer one is cut to it)."""
    if not math.isfinite(value) or value <= 0:
        raise InvalidField(("body", field), "must be a finite number of seconds greater than 0", str(value))
    return min(value, maximum)


def memory(field: str, value: int, default_bytes: int, maximum_bytes: int) -> int:
    """A memory limit in MiB as clients send it; -1 (or 0) leaves it to the server."""
    if value < -1:
        raise InvalidField(("body", field), "must be positive, or -1 for the server's own limit", value)
    return default_bytes if value <= 0 else min(value << 20, maximum_bytes)


def files(field: str, given: Mapping[str, str | None]) -> tuple[tuple[str, bytes], ...]:
    """Files to place: base64 by name. Raises InvalidField, naming the file."""
    if len(given) > FILES_MAX:
        raise InvalidField(("body", field), f"holds {len(given)} files; at most {FILES_MAX}")
    decoded = []
    for name, content in given.items():
        if content is None or IGNORED_FILE in name:
            continue
        place = paths.resolve(name)
        if isinstance(place, str):
            raise InvalidField(("body", field, _shown(name)), f"the name {paths.FAULTS[place]}", _shown(name))
        try:
            decoded.append((name, base64.b64decode(content, validate=True)))
        except (binascii.Error, ValueError):
            raise InvalidField(("body", field, _shown(name)), "the content is not base64") from None
    return tuple(decoded)


def fetch(field: str, names: list[str]) -> tuple[str, ...]:
    """Names of files to return. One that is no name at all is refused; one outside the sandbox's places is simply not there."""
    if len(names) > FILES_MAX:
        raise InvalidField(("body", field), f"holds {len(names)} names; at most {FILES_MAX}")
    for position, name in enumerate(names):
        place = paths.resolve(name)
        if isinstance(place, str) and place not in ("outside", "reserved"):
            raise InvalidField(("body", field, position), f"the name {paths.FAULTS[place]}", _shown(name))
    return tuple(dict.fromkeys(names))


def _shown(name: str) -> str:
    return name if len(name) <= 200 else name[:200] + "..."
