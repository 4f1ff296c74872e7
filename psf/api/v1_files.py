"""The native family: files of sessions, written and deleted without running anything, and histories that are merged."""

from __future__ import annotations

from aiohttp import web

from psf.api import decode
from psf.api.callers import tenant_of
from psf.api.errors import answer
from psf.api.keys import SERVICES
from psf.api.operations import FINDING, MOVING, Operation, described, flag, text
from psf.api.repeating import keyed_of, to_the_end
from psf.api.v1_decode import edits, expected_of, path_of, query_flag, snapshot_reference
from psf.api.v1_schemas import FilesRequest, HeadAnswer, MergeRequest
from psf.errors import InvalidField, MergeConflicts, NoCommonStep, PathMissing
from store.edit import FileEdit

routes = web.RouteTableDef()
_EXPECTED = text("expected", "the snapshot that the head must stand at")


@routes.post("/v1/sessions/{session_id}/files")
@described(Operation(answer=HeadAnswer, body=FilesRequest, keyed=True, errors=(*MOVING, PathMissing)))
async def write_many(request: web.Request) -> web.Response:
    """Write and delete many files in one step."""
    body = await decode.read_body(request, FilesRequest)
    keyed = await keyed_of(request)
    written = await decode.aside(lambda: edits("write", body.write), request.content_length or 0)
    decode.check_count("delete", len(body.delete))
    deleted = {path_of(("body", "delete", position), name) for position, name in enumerate(body.delete)}
    if not written and not deleted:
        raise InvalidField(("body",), "writes nothing and deletes nothing; give `write` or `delete`")
    writing = request.app[SERVICES].changes.write(
        request.match_info["session_id"], tenant_of(request), written, deleted,
        keyed=keyed, expected=expected_of(body.expected),
    )  # fmt: skip
    return answer(HeadAnswer((await to_the_end(request, writing, keyed)).hex()))


@routes.put("/v1/sessions/{session_id}/files/{path:.+}")
@described(
    Operation(
        answer=HeadAnswer,
        body_media=("application/octet-stream",),
        query=(flag("executable", "whether it is a program"), _EXPECTED),
        keyed=True,
        errors=(*MOVING, web.HTTPRequestEntityTooLarge),
    )
)
async def write_one(request: web.Request) -> web.Response:
    """Write one file: the body is its content, of any type. `executable=true` makes it a program."""
    path = path_of(("path", "path"), request.match_info["path"])
    data = await decode.received(request)
    keyed = await keyed_of(request)
    edit = FileEdit(data, query_flag(request, "executable"))
    expected = expected_of(request.query.get("expected"))
    writing = request.app[SERVICES].changes.write(
        request.match_info["session_id"], tenant_of(request), {path: edit}, keyed=keyed, expected=expected
    )
    return answer(HeadAnswer((await to_the_end(request, writing, keyed)).hex()))


@routes.delete("/v1/sessions/{session_id}/files/{path:.+}")
@described(Operation(answer=HeadAnswer, query=(_EXPECTED,), keyed=True, errors=(*MOVING, PathMissing)))
async def delete_one(request: web.Request) -> web.Response:
    """Delete a file, or a directory with all in it."""
    path = path_of(("path", "path"), request.match_info["path"])
    keyed = await keyed_of(request)
    expected = expected_of(request.query.get("expected"))
    deleting = request.app[SERVICES].changes.write(
        request.match_info["session_id"], tenant_of(request), {}, {path}, keyed=keyed, expected=expected
    )
    return answer(HeadAnswer((await to_the_end(request, deleting, keyed)).hex()))


@routes.post("/v1/sessions/{session_id}/merge")
@described(
    Operation(
        answer=HeadAnswer, body=MergeRequest, keyed=True, errors=(*MOVING, *FINDING, MergeConflicts, NoCommonStep)
    )
)
async def merge(request: web.Request) -> web.Response:
    """Bring in what another session changed since both were one."""
    body = await decode.read_body(request, MergeRequest)
    keyed = await keyed_of(request)
    merging = request.app[SERVICES].changes.merge(
        request.match_info["session_id"], tenant_of(request), body.start,
        at=await snapshot_reference(request, body.at), on_conflict=body.on_conflict,
        keyed=keyed, expected=expected_of(body.expected),
    )  # fmt: skip
    return answer(HeadAnswer((await to_the_end(request, merging, keyed)).hex()))
