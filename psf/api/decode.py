"""From bytes of a request to values, or to one clear error that names the field. Pure but for reading the body."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, TypeVar, get_args

import msgspec
from aiohttp import web

from executors import guarantees, paths
from executors.interfaces import Capabilities
from executors.paths import WORK, Place
from psf.errors import GuaranteeMissing, InvalidField
from store.capture import DEPTH_MAX
from store.snapshot import Network

CODE_BYTES_MAX = 16 << 20
FILES_MAX = 10_000
DIRECTORIES_MAX = 10_000
BODY_PATIENCE_S = 60.0
ASIDE_BYTES = 256 << 10
EXPLAINED_BYTES_MAX = 64 << 10
"""Of a longer body that is no JSON it is said where, not which field: looking for it would keep others waiting."""
_CONTINUATION = b"\\\n"
IGNORED_FILE = "IGNORE_THIS_FILE"
_CHOICES: dict[str, tuple[str, ...]] = {"keep": ("fetched", "all"), "network": get_args(Network)}
_NOT_THERE = ("outside", "reserved")
_NO_JSON = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

_Body = TypeVar("_Body")
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>[^`]+)`")
_EXPECTED = re.compile(r"Expected `(?P<kinds>[^`]+)`(?: (?P<sign>[<>]=?) (?P<bound>\S+))?(?:, got `(?P<got>[^`]+)`)?")
_KINDS = {
    "int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "array": "a list", "object": "an object",
}  # fmt: skip
_SIGNS = {">=": "at least", "<=": "at most", ">": "greater than", "<": "less than"}


class UnsupportedBody(Exception):
    """The body is not JSON by its headers: 415."""

    code = "unsupported_body"


class BodyTooSlow(Exception):
    """The body did not come within BODY_PATIENCE_S: 408."""

    code = "body_too_slow"


async def read_body(request: web.Request, kind: type[_Body], *, optional: bool = False) -> _Body:
    """The request's JSON body as `kind`.

    Raises InvalidField, UnsupportedBody, BodyTooSlow; aiohttp's own 413 over the cap.
    """
    if any(coding.lower() != "identity" for coding in request.headers.getall("Content-Encoding", ())):
        raise UnsupportedBody("send the body without Content-Encoding")
    data = await received(request)
    if not data and optional:
        data = b"{}"
    elif request.content_type != "application/json":
        raise UnsupportedBody("send JSON, with Content-Type: application/json")
    return await aside(lambda: decode(data, kind), len(data))


async def received(request: web.Request) -> bytes:
    """The whole body. Raises BodyTooSlow, InvalidField; aiohttp's own 413 over the cap."""
    try:
        async with asyncio.timeout(BODY_PATIENCE_S):
            return await request.read()
    except TimeoutError:
        raise BodyTooSlow(f"the body did not arrive within {BODY_PATIENCE_S:g} s") from None
    except web.RequestPayloadError as error:
        raise InvalidField(("body",), f"cannot be read: {error}", kind="body_malformed") from None


async def aside(act: Callable[[], _Body], size_bytes: int) -> _Body:
    """Do something with so many bytes: at once, or in a thread when others would have to wait for it."""
    return act() if size_bytes <= ASIDE_BYTES else await asyncio.to_thread(act)


def decode(data: bytes, kind: type[_Body]) -> _Body:
    """A body as `kind`. Raises InvalidField.

    A backslash before a line break, which valid JSON never holds, is taken as the line continuation that people mean when they
    break a quoted `curl -d` over lines; the quick start that psf implements is written so.
    """
    try:
        return _decode(data, kind)
    except _NO_JSON as error:
        if _CONTINUATION not in data:
            raise _malformed(data, error) from None
    joined = data.replace(_CONTINUATION, b"")
    try:
        return _decode(joined, kind)
    except _NO_JSON as error:
        raise _malformed(joined, error) from None


def _decode(data: bytes, kind: type[_Body]) -> _Body:
    # Where unknown fields are refused, a number in quotes is too: such a body is what its description says.
    strict = bool(getattr(getattr(kind, "__struct_config__", None), "forbid_unknown_fields", False))
    try:
        return msgspec.json.decode(data, type=kind, strict=strict)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind) from None


def _invalid(text: str, kind: type[Any]) -> InvalidField:
    # The last one: what comes before may quote the client.
    message, _, path = text.rpartition(" - at `$")
    location = ("body", *_parts(path)) if message else ("body",)
    message = message or text
    if missing := _MISSING.match(message):
        return InvalidField((*location, missing["field"]), "Field required", kind="missing")
    if message.startswith("Invalid enum value") and (known := _CHOICES.get(str(location[-1]))):
        return InvalidField(location, f"{message}; there are {', '.join(known)}", kind="type_error")
    if unknown := _UNKNOWN.match(message):
        known_fields = ", ".join(_fields(kind, location[1:]))
        words = f"There is no such field; there are {known_fields}"
        return InvalidField((*location, unknown["field"]), words, kind="extra_forbidden")
    return InvalidField(location, _expected(message), kind="type_error")


def _fields(kind: type[Any], path: tuple[str | int, ...]) -> list[str]:
    """Names of the fields that an object has which `path` leads to."""
    struct = _struct_in(kind)
    for name in path:
        if isinstance(name, str) and struct is not None:
            struct = next(
                _struct_in(field.type) for field in msgspec.structs.fields(struct) if field.encode_name == name
            )
    return [field.encode_name for field in msgspec.structs.fields(struct)] if struct is not None else []


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    """The struct that a value of this kind is, or may be, or holds many of."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return next((found for inner in get_args(kind) if (found := _struct_in(inner)) is not None), None)


def _expected(message: str) -> str:
    """What a value must be, in words of JSON instead of Python's; other messages as they are."""
    told = _EXPECTED.fullmatch(message)
    if told is None:
        return message
    if told["sign"]:
        return f"must be {_SIGNS[told['sign']]} {told['bound'].removesuffix('.0')}"
    kinds = told["kinds"].split(" | ")
    must = " or ".join(_KINDS.get(kind, kind) for kind in kinds)
    got = "one like 1.5 or 1e9" if told["got"] == "float" and "int" in kinds else _KINDS.get(told["got"], told["got"])
    return f"must be {must}, not {got}"


def _parts(path: str) -> list[str | int]:
    """`.files[...]` -> files; `.names[3]` -> names, 3."""
    parts: list[str | int] = []
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        parts.append(int(index) if index else name)
    return parts


def _malformed(data: bytes, error: Exception) -> InvalidField:
    """What is not JSON at all; and what some clients write in JSON although it has no word for it, by the field it is in."""
    if not data:
        return InvalidField(("body",), "is empty; send a JSON object", kind="json_invalid")
    try:
        value = json.loads(data) if len(data) <= EXPLAINED_BYTES_MAX else None
    except (ValueError, RecursionError):
        value = None
    found = _unspeakable(value) if isinstance(value, dict) else None
    if found is None:
        return InvalidField(("body",), f"JSON decode error: {error}", kind="json_invalid")
    path, message, kind = found
    return InvalidField(("body", *path), message, kind=kind)


def _unspeakable(body: dict[str, Any]) -> tuple[tuple[str | int, ...], str, str] | None:
    """Where the first NaN, infinity or lone surrogate is, and what to say of it. Needs no more stack for deeper bodies."""
    ahead: list[tuple[tuple[str | int, ...], Any]] = [((), body)]
    while ahead:
        path, value = ahead.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return path, f"is {value}, which JSON has no number for; give a finite one", "finite_number"
        if isinstance(value, str) and not _is_unicode(value):
            return path, "contains a lone surrogate, which is no character", "string_unicode"
        items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        inner: list[tuple[tuple[str | int, ...], Any]] = []
        for key, below in items:
            if isinstance(key, str) and not _is_unicode(key):
                return (*path, ascii(key)), "contains a lone surrogate, which is no character", "string_unicode"
            inner.append(((*path, key), below))
        ahead += reversed(inner)
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
        given = value if math.isfinite(value) else str(value)
        raise InvalidField(("body", field), "must be a finite number of seconds greater than 0", given)
    return min(value, maximum)


def memory(field: str, value: int, maximum_bytes: int) -> int | None:
    """A memory limit in MiB as clients send it; -1 (or 0) asks for none. More than the maximum is cut to it."""
    if value < -1:
        raise InvalidField(("body", field), "must be positive, or -1 for the server's own limit", value)
    return None if value <= 0 else min(value << 20, maximum_bytes)


def depend_on_work_dir(names: Iterable[str]) -> bool:
    """Whether it takes the work directory to know where one of these names leads."""
    return any(name.startswith("/") or ".." in name for name in names)


def files(field: str, given: Mapping[str, str | None], work_dir: str = WORK) -> tuple[tuple[str, bytes], ...]:
    """Files to place: base64 by name. Raises InvalidField, naming the file."""
    check_count(field, len(given))
    wanted = {name: content for name, content in given.items() if content is not None and IGNORED_FILE not in name}
    check_places(field, wanted, work_dir)
    return tuple((name, _from_base64(field, name, content)) for name, content in wanted.items())


def check_count(field: str, count: int) -> None:
    """Raises InvalidField for too many files."""
    if count > FILES_MAX:
        raise InvalidField(("body", field), f"holds {count} files; at most {FILES_MAX}")


def placed(field: str, given: Mapping[str, bytes], work_dir: str) -> tuple[tuple[str, bytes], ...]:
    """Files to place, decoded already. Raises InvalidField, naming the file."""
    check_count(field, len(given))
    check_places(field, given, work_dir)
    return tuple(given.items())


def _from_base64(field: str, name: str, content: str) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidField(("body", field, _shown(name)), "the content is not base64") from None


def check_places(field: str, names: Iterable[str], work_dir: str) -> None:
    """Raises InvalidField for a name that no file can have, or that two files would share."""
    places = []
    for name in names:
        place = paths.resolve(name, work_dir)
        if fault := _fault(place, work_dir):
            raise InvalidField(("body", field, _shown(name)), f"the name {fault}", _shown(name))
        assert isinstance(place, Place)
        places.append((place.scratch or b"", place.path, _shown(name)))
    _check_each_has_its_own_place(field, sorted(places))
    _check_directories(field, places)


def _check_each_has_its_own_place(field: str, places: list[tuple[bytes, tuple[bytes, ...], str]]) -> None:
    """Which of `a` and `a/b`, or of `a` and `./a`, stays would depend on an order that no history records."""
    # In this order what lies below a file comes directly after it.
    for (scratch, path, name), (next_scratch, next_path, next_name) in pairwise(places):
        if scratch == next_scratch and path == next_path[: len(path)]:
            fault = "is the same file as" if path == next_path else "lies below a file,"
            raise InvalidField(("body", field, next_name), f"{fault} {name!r}", next_name)


def _check_directories(field: str, places: list[tuple[bytes, tuple[bytes, ...], str]]) -> None:
    directories: set[tuple[bytes, tuple[bytes, ...]]] = set()
    for scratch, path, _ in places:
        while (path := path[:-1]) and (scratch, path) not in directories:
            directories.add((scratch, path))
            if len(directories) > DIRECTORIES_MAX:
                raise InvalidField(("body", field), f"lie in too many directories; at most {DIRECTORIES_MAX}")


def require(field: str, names: list[str], capabilities: Capabilities) -> None:
    """Raises InvalidField for a name that is no guarantee, GuaranteeMissing for a guarantee that is not given here."""
    for position, name in enumerate(names):
        if name not in guarantees.NAMES:
            known = ", ".join(guarantees.NAMES)
            message = f"there is no guarantee {_shown(name)!r}; there are {known}"
            raise InvalidField(("body", field, position), message, _shown(name), kind="literal_error")
    if missing := guarantees.missing_of(names, capabilities):
        raise GuaranteeMissing(capabilities.sandbox, missing, guarantees.there(capabilities))


def fetch(field: str, names: list[str], work_dir: str = WORK) -> tuple[str, ...]:
    """Names of files to return. One that is no name at all is refused; one outside the sandbox's places is simply not there."""
    if len(names) > FILES_MAX:
        raise InvalidField(("body", field), f"holds {len(names)} names; at most {FILES_MAX}")
    for position, name in enumerate(names):
        place = paths.resolve(name, work_dir)
        if place not in _NOT_THERE and (fault := _fault(place, work_dir)):
            raise InvalidField(("body", field, position), f"the name {fault}", _shown(name))
    return tuple(dict.fromkeys(names))


def _fault(place: Place | paths.Fault, work_dir: str) -> str | None:
    """What is wrong with a name that leads there, in words."""
    if isinstance(place, str):
        return paths.explained(place, work_dir)
    if len(place.path) > DEPTH_MAX:
        return f"leads through {len(place.path)} directories; at most {DEPTH_MAX}"
    return None


def _shown(name: str) -> str:
    return name if len(name) <= 200 else name[:200] + "..."
