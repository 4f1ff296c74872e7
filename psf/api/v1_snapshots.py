"""The native family: snapshots and what they hold, their differences, tags, archives and bundles."""

from __future__ import annotations

import base64
import mimetypes
from itertools import islice
from typing import Any, BinaryIO, get_args

import msgspec
from aiohttp import web

from executors.errors import Overloaded
from psf import recorded, text_diff
from psf.api import decode
from psf.api.callers import tenant_of
from psf.api.errors import answer
from psf.api.fusion import left_out_paths
from psf.api.keys import SERVICES
from psf.api.operations import FINDING, MOVING, Given, Operation, described, flag, number, text
from psf.api.streams import put_aside, send_written
from psf.api.v1 import PAGE_DEFAULT, moment
from psf.api.v1_decode import path_of, query_flag, query_number, snapshot_reference
from psf.api.v1_schemas import (
    ChangeAnswer,
    DiffAnswer,
    EntryAnswer,
    ImportedAnswer,
    ManifestAnswer,
    SnapshotAnswer,
    TagAnswer,
    TagRequest,
    TagsAnswer,
)
from psf.api.v1_steps import stages_answer
from psf.errors import InvalidField, PathMissing, SnapshotUnknown
from psf.exchange import ArchiveFormat
from psf.history import find_snapshot
from psf.turns import to_thread
from store import bundle_import
from store import tree as trees
from store.capture import Path
from store.diff import Change
from store.errors import ArchiveRefused, BundleRefused, SessionExists, SessionMissing, WriterFenced
from store.ids import Kind, SnapshotId
from store.snapshot import Merge, Run, Snapshot, Write
from store.tree import Entry, EntryKind

MANIFEST_PAGE_MAX = 10_000
CHANGES_MAX = 10_000
LINES_MAX = 20_000
_MEDIA = {"tar": "application/x-tar", "tar.gz": "application/gzip", "zip": "application/zip"}
_BUNDLE = "application/x-psf-bundle"
_CURSOR = text("cursor", "the `next` of an earlier page")

routes = web.RouteTableDef()


@routes.get("/v1/snapshots/{snapshot}")
@described(Operation(answer=SnapshotAnswer))
async def get(request: web.Request) -> web.Response:
    """One record of a history: what was asked for, what was seen, where it led."""
    services = request.app[SERVICES]

    def read() -> SnapshotAnswer:
        identity, snapshot = _found(request)
        step = snapshot.step
        stages = {}
        if isinstance(step, Run) and snapshot.outcome is not None:
            stages = stages_answer(recorded.result_of(services.objects, snapshot, b""))
        left_out = left_out_paths(snapshot.outcome.left_out) if snapshot.outcome else []
        parents = [parent.hex() for parent in snapshot.parents]
        kind = type(step).__name__.lower() if step is not None else "base"
        return SnapshotAnswer(
            identity.hex(),
            snapshot.depth,
            parents,
            snapshot.tree.hex(),
            kind,
            _did(request, snapshot),
            stages,
            left_out,
        )

    return answer(await to_thread(read))


@routes.get("/v1/snapshots/{snapshot}/manifest")
@described(
    Operation(
        answer=ManifestAnswer,
        query=(number("limit", MANIFEST_PAGE_MAX, "entries of a page; 1000 when nothing is said"), _CURSOR),
    )
)
async def manifest(request: web.Request) -> web.Response:
    """All entries of a snapshot's tree, by path, in pages."""
    limit = query_number(request, "limit", 1000, MANIFEST_PAGE_MAX) or PAGE_DEFAULT
    after = _cursor_path(request)

    def read() -> ManifestAnswer:
        _, snapshot = _found(request)
        found = request.app[SERVICES].reading.manifest(snapshot, after=after, limit=limit + 1)
        page = [_entry(path, entry) for path, entry in found[:limit]]
        following = base64.urlsafe_b64encode(b"/".join(found[limit - 1][0])).decode() if len(found) > limit else None
        return ManifestAnswer(page, following)

    return answer(await to_thread(read))


@routes.get("/v1/snapshots/{snapshot}/files/{path:.+}")
@described(
    Operation(
        answer_media=("*/*",),
        other_answers={206: "Partial Content", 304: "Not Modified", 416: "Range Not Satisfiable"},
        headers=(Given("Range", str, "which bytes"), Given("If-None-Match", str, "the ETag of what is there already")),
        errors=(PathMissing,),
    )
)
async def read_file(request: web.Request) -> web.Response:
    """One file's bytes; a range of them with `Range`."""
    path = path_of(("path", "path"), request.match_info["path"])

    def read() -> tuple[SnapshotId, bytes, Entry]:
        identity, snapshot = _found(request)
        services = request.app[SERVICES]
        entry = services.reading.entry(snapshot, path)
        if not entry.is_file:
            raise InvalidField(("path", "path"), f"is a {_kind(entry)}, not a file", request.match_info["path"][:200])
        return identity, services.objects.get(Kind.BLOB, trees.entry_blob(entry)), entry

    identity, data, entry = await to_thread(read)
    media = mimetypes.guess_type(path[-1].decode(errors="replace"))[0] or "application/octet-stream"
    # A tag may name another snapshot tomorrow.
    lasts = "immutable, max-age=31536000" if request.match_info["snapshot"] == identity.hex() else "no-cache"
    # What a program wrote is shown by nobody's browser as a page of this server's.
    headers = {
        "ETag": f'"{entry.content.hex()}"', "Accept-Ranges": "bytes", "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox", "Cache-Control": f"private, {lasts}",
    }  # fmt: skip
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return web.Response(status=304, headers=headers)
    return _ranged(request, data, media, headers)


@routes.get("/v1/snapshots/{snapshot}/archive")
@described(
    Operation(
        answer_media=tuple(_MEDIA.values()),
        query=(Given("format", ArchiveFormat, "tar when nothing is said"),),
        errors=(ArchiveRefused, Overloaded),
    )
)
async def archive(request: web.Request) -> web.StreamResponse:
    """The whole tree as a tar, tar.gz or zip (`format`)."""
    form: Any = request.query.get("format", "tar")
    if form not in get_args(ArchiveFormat):
        raise InvalidField(("query", "format"), f"must be one of {', '.join(get_args(ArchiveFormat))}", form)
    identity, snapshot = await to_thread(lambda: _found(request))
    exchange = request.app[SERVICES].exchange
    headers = {
        "Content-Type": _MEDIA[form],
        "Content-Disposition": f'attachment; filename="{identity.hex()[:12]}.{form}"',
    }
    return await send_written(request, lambda stream: exchange.export_archive(snapshot, form, stream), headers)


@routes.post("/v1/snapshots")
@described(
    Operation(
        answer=ImportedAnswer,
        status=201,
        body_media=(*_MEDIA.values(), "application/octet-stream"),
        query=(text("tag", "its name", required=True),),
        errors=(ArchiveRefused, WriterFenced),
    )
)
async def take_in(request: web.Request) -> web.Response:
    """A snapshot of a tar or zip, which is the body; `tag` names it, and keeps it."""
    tag = request.query.get("tag")
    if tag is None:
        raise InvalidField(("query", "tag"), "must name the snapshot: what has no name and no session is not kept")
    exchange = request.app[SERVICES].exchange
    async with put_aside(request, exchange.folder) as file:
        snapshot, imported = await exchange.import_archive(tenant_of(request), tag, file)
    left_out = left_out_paths(imported.left_out)
    return answer(ImportedAnswer(snapshot.hex(), tag, imported.files, imported.total_bytes, left_out), 201)


@routes.get("/v1/diff")
@described(
    Operation(
        answer=DiffAnswer,
        query=(
            text("from", "a snapshot's id, or a tag", required=True),
            text("to", "the same", required=True),
            flag("unified", "the lines of a text diff, too"),
        ),
        errors=(SnapshotUnknown,),
    )
)
async def diff(request: web.Request) -> web.Response:
    """What differs between two snapshots (`from`, `to`: ids or tags); with `unified=true` as a text diff too."""
    names = [request.query.get(field) for field in ("from", "to")]
    for field, name in zip(("from", "to"), names, strict=True):
        if not name:
            raise InvalidField(("query", field), "must name a snapshot: an id or a tag")
    unified = query_flag(request, "unified")

    def read() -> DiffAnswer:
        services, tenant = request.app[SERVICES], tenant_of(request)
        before, after = (services.reading.snapshot(services.reading.find(tenant, name or "")) for name in names)
        changes = list(islice(services.reading.changes(before, after), CHANGES_MAX + 1))
        shown = changes[:CHANGES_MAX]
        lines = list(islice(text_diff.unified(services.objects, shown), LINES_MAX + 1)) if unified else []
        truncated = len(changes) > CHANGES_MAX or len(lines) > LINES_MAX
        return DiffAnswer([_change(change) for change in shown], truncated, lines[:LINES_MAX] if unified else None)

    return answer(await to_thread(read))


# -- tags -----------------------------------------------------------------------------------------------------------------


@routes.get("/v1/tags")
@described(Operation(answer=TagsAnswer))
async def tags(request: web.Request) -> web.Response:
    """The caller's names for snapshots."""
    found = await to_thread(lambda: request.app[SERVICES].tags.all(tenant_of(request)))
    return answer(TagsAnswer([TagAnswer(name, pin.snapshot.hex(), moment(pin.at_s)) for name, pin in found.items()]))


@routes.put("/v1/tags/{name}")
@described(
    Operation(answer=TagAnswer, body=TagRequest, errors=(*FINDING, SnapshotUnknown, SessionMissing, WriterFenced))
)
async def tag(request: web.Request) -> web.Response:
    """Name a snapshot, or move the name to it. What has a name stays."""
    body = await decode.read_body(request, TagRequest)
    services, tenant, name = request.app[SERVICES], tenant_of(request), request.match_info["name"]
    if (body.snapshot is None) == (body.session is None):
        raise InvalidField(("body",), "must have either snapshot or session")
    at = await snapshot_reference(request, body.at)

    def find() -> SnapshotId:
        if body.snapshot is not None:
            return services.reading.find(tenant, body.snapshot)
        session = services.heads.get(body.session or "", tenant)
        return session.head if at is None else find_snapshot(services.objects, services.heads, session, at)

    pin = await services.tags.set(tenant, name, find)
    return answer(TagAnswer(name, pin.snapshot.hex(), moment(pin.at_s)))


@routes.delete("/v1/tags/{name}")
@described(Operation(status=204, errors=(SnapshotUnknown,)))
async def untag(request: web.Request) -> web.Response:
    """Let go of a name."""
    await request.app[SERVICES].tags.remove(tenant_of(request), request.match_info["name"])
    return web.Response(status=204)


# -- bundles --------------------------------------------------------------------------------------------------------------


@routes.get("/v1/sessions/{session_id}/bundle")
@described(
    Operation(
        answer_media=(_BUNDLE,),
        query=(number("since", 2**62, "only the moves after this number"),),
        errors=(*FINDING, Overloaded),
    )
)
async def bundle(request: web.Request) -> web.StreamResponse:
    """A session with its whole history, to be taken in elsewhere; `since`: only moves after that number."""
    since = query_number(request, "since", None, 2**62)
    services = request.app[SERVICES]
    session = await services.sessions.get(request.match_info["session_id"], tenant_of(request), retained=True)

    def write(stream: BinaryIO) -> None:
        services.exchange.export_bundle(session, stream, since=since, have=[])

    name = session.session_id[:12]
    headers = {"Content-Type": _BUNDLE, "Content-Disposition": f'attachment; filename="{name}.psf"'}
    return await send_written(request, write, headers)


@routes.post("/v1/bundles")
@described(
    Operation(
        answer=bundle_import.Imported,
        status=201,
        body_media=(_BUNDLE,),
        query=(text("session", "another id for it"), flag("extend", "go on with a session that is there")),
        errors=(BundleRefused, SessionExists, *MOVING),
    )
)
async def take_in_bundle(request: web.Request) -> web.Response:
    """Take in a bundle, which is the body; `session`: under another id; `extend=true`: go on with a session that is there."""
    services = request.app[SERVICES]
    extend = query_flag(request, "extend")
    async with put_aside(request, services.exchange.folder) as file:
        imported = await services.exchange.import_bundle(
            tenant_of(request), file, as_session=request.query.get("session"), extend=extend
        )
    return answer(imported, 201)


# -- parts ----------------------------------------------------------------------------------------------------------------


def _found(request: web.Request) -> tuple[SnapshotId, Snapshot]:
    """In a thread. Raises SnapshotUnknown."""
    reading = request.app[SERVICES].reading
    identity = reading.find(tenant_of(request), request.match_info["snapshot"])
    return identity, reading.snapshot(identity)


def _cursor_path(request: web.Request) -> Path:
    text = request.query.get("cursor", "")
    try:
        data = base64.urlsafe_b64decode(text.encode())
    except ValueError:
        raise InvalidField(("query", "cursor"), "must be the `next` of an earlier page", text[:100]) from None
    return tuple(data.split(b"/")) if data else ()


def _ranged(request: web.Request, data: bytes, media: str, headers: dict[str, str]) -> web.Response:
    try:
        wanted = request.http_range
    except ValueError:
        wanted = slice(None)  # what is no range is passed over (RFC 9110, 14.2)
    start, stop, _ = wanted.indices(len(data))
    if wanted == slice(None) or wanted == slice(None, None, 1):
        return web.Response(body=data, content_type=media, headers=headers)
    if start >= stop:
        return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"})
    headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
    return web.Response(body=data[start:stop], status=206, content_type=media, headers=headers)


def _entry(path: Path, entry: Entry) -> EntryAnswer:
    whole = b"/".join(path)
    try:
        text, encoded = whole.decode(), None
    except UnicodeDecodeError:
        text, encoded = whole.decode(errors="replace"), base64.b64encode(whole).decode()
    target = entry.content.decode(errors="replace") if entry.kind is EntryKind.SYMLINK else None
    identity = None if target is not None else entry.content.hex()
    return EntryAnswer(text, _kind(entry), entry.size_bytes, entry.changed, identity, target, encoded)


def _kind(entry: Entry) -> str:
    return entry.kind.name.lower()


def _change(change: Change) -> ChangeAnswer:
    word = "added" if change.before is None else "removed" if change.after is None else "changed"
    before, after = (
        _entry(change.path, entry) if entry is not None else None for entry in (change.before, change.after)
    )
    return ChangeAnswer(text_diff.shown(b"/".join(change.path)), word, before, after)


def _did(request: web.Request, snapshot: Snapshot) -> dict[str, Any]:
    step = snapshot.step
    if isinstance(step, Run):
        objects = request.app[SERVICES].objects
        code = objects.get(Kind.BLOB, step.code).decode(errors="replace")
        return {
            "runtime": step.runtime, "code": code, "stdin": objects.get(Kind.BLOB, step.stdin).decode(errors="replace"), "args": step.args,
            "env": dict(step.env), "secrets": step.secrets, "files": {name: blob.hex() for name, blob in step.files}, "fetch": step.fetch,
            "keep": step.keep, "deterministic": step.deterministic, "environment": step.environment.hex(),
            "limits": {name: msgspec.structs.asdict(given) for name, given in step.limits},
        }  # fmt: skip
    if isinstance(step, Write):
        written = {text_diff.shown(file.path): file.size_bytes for file in step.files}
        return {"written": written, "deleted": [text_diff.shown(path) for path in step.deleted]}
    if isinstance(step, Merge):
        return {"base": step.base.hex(), "on_conflict": step.on_conflict}
    return {}
