"""What requests of `/v1` say, as values of psf's own."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from aiohttp import web

from executors import paths
from psf.api import decode
from psf.api.callers import tenant_of
from psf.api.keys import SERVICES
from psf.api.v1_schemas import FileContent
from psf.errors import InvalidField
from psf.turns import to_thread
from store.capture import DEPTH_MAX, Path
from store.edit import FileEdit
from store.ids import ID_BYTES, SnapshotId, is_prefix

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}", re.ASCII)
VARIABLES_MAX = 1000
ARGUMENTS_MAX = 10_000
_CURSOR = re.compile(r"(?P<at_s>[0-9]{1,12}(\.[0-9]{1,17})?)_(?P<session_id>[\w-]{1,100})", re.ASCII)


def query_number(request: web.Request, field: str, default: int | None, maximum: int) -> int | None:
    """A whole number of the query. Raises InvalidField."""
    text = request.query.get(field)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:20]) <= maximum or len(text) > 19:
        raise InvalidField(("query", field), f"must be a whole number from 1 to {maximum}", text[:100])
    return int(text)


def query_flag(request: web.Request, field: str) -> bool:
    """A yes or no of the query; no when nothing is said. Raises InvalidField."""
    text = request.query.get(field, "false")
    if text not in ("true", "false"):
        raise InvalidField(("query", field), "must be true or false", text[:100])
    return text == "true"


def cursor_of(request: web.Request) -> tuple[float, str] | None:
    """Where a page of sessions goes on. Raises InvalidField."""
    text = request.query.get("cursor")
    if text is None:
        return None
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise InvalidField(("query", "cursor"), "must be the `next` of an earlier page", text[:100])
    return float(match["at_s"]), match["session_id"]


def expected_of(text: str | None) -> SnapshotId | None:
    """Where a caller takes the head to stand. Raises InvalidField."""
    if text is None:
        return None
    if len(text) != 2 * ID_BYTES or not is_prefix(text):
        raise InvalidField(
            ("body", "expected"), f"must be a whole snapshot id, {2 * ID_BYTES} hexadecimal digits", text
        )
    return SnapshotId(bytes.fromhex(text))


async def snapshot_reference(request: web.Request, reference: str | int | None) -> str | int | None:
    """A place in a history, in which a tag is the snapshot that it names."""
    if reference is None:
        return None
    tags, tenant = request.app[SERVICES].tags, tenant_of(request)
    return await to_thread(lambda: tags.resolved(tenant, reference))


def content(location: tuple[str | int, ...], given: FileContent) -> bytes:
    """The bytes of a file. Raises InvalidField."""
    if (given.base64 is None) == (given.text is None):
        raise InvalidField(location, "must have either base64 or text")
    if given.text is not None:
        return given.text.encode()
    try:
        return base64.b64decode(given.base64 or "", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidField((*location, "base64"), "the content is not base64") from None


def path_of(location: tuple[str | int, ...], name: str) -> Path:
    """A path in a work directory, from its root. Raises InvalidField."""
    place = paths.resolve(name)
    if isinstance(place, str):
        raise InvalidField(location, f"the name {paths.explained(place)}", name[:200])
    if place.scratch is not None:
        raise InvalidField(location, "leaves the work directory; use a relative name", name[:200])
    if len(place.path) > DEPTH_MAX:
        raise InvalidField(location, f"leads through {len(place.path)} directories; at most {DEPTH_MAX}", name[:200])
    return place.path


def edits(field: str, given: Mapping[str, FileContent]) -> dict[Path, FileEdit]:
    """Files to be put into a tree. Raises InvalidField, naming the file."""
    decode.check_count(field, len(given))
    found: dict[Path, FileEdit] = {}
    for name, file in given.items():
        location = ("body", field, name[:200])
        path = path_of(location, name)
        if path in found:
            raise InvalidField(location, "is the same file as another one", name[:200])
        found[path] = FileEdit(content(location, file), file.executable)
    for path in found:
        if any(path[:length] in found for length in range(1, len(path))):
            raise InvalidField(("body", field), f"{b'/'.join(path).decode(errors='replace')!r} lies below a file")
    return found


def files(field: str, given: Mapping[str, FileContent], work_dir: str) -> tuple[tuple[str, bytes], ...]:
    """Files that a run finds, by names as programs see them. Raises InvalidField, naming the file."""
    contents = {name: content(("body", field, name[:200]), file) for name, file in given.items()}
    return decode.placed(field, contents, work_dir)


def variables(field: str, given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Environment variables. Raises InvalidField, naming the variable."""
    if len(given) > VARIABLES_MAX:
        raise InvalidField(("body", field), f"holds {len(given)} variables; at most {VARIABLES_MAX}")
    for name, value in given.items():
        if not _VARIABLE.fullmatch(name):
            raise InvalidField(
                ("body", field, name[:200]),
                "is no name of a variable: letters, digits and _, not beginning with a digit",
            )
        if "\0" in value:
            raise InvalidField(("body", field, name), "contains a NUL character, which no variable may")
    return tuple(sorted(given.items()))


def arguments(field: str, given: list[str]) -> tuple[str, ...]:
    """Arguments of a program. Raises InvalidField."""
    if len(given) > ARGUMENTS_MAX:
        raise InvalidField(("body", field), f"holds {len(given)} arguments; at most {ARGUMENTS_MAX}")
    for position, argument in enumerate(given):
        if "\0" in argument:
            raise InvalidField(("body", field, position), "contains a NUL character, which no argument may")
    return tuple(given)
