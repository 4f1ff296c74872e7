"""The native family: what only psf can do with a session."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from aiohttp import web

from psf.api import decode
from psf.api.callers import tenant_of
from psf.api.errors import answer
from psf.api.fusion import left_out_paths
from psf.api.keys import SERVICE
from psf.api.schemas import (
    ForkAnswer,
    ForkedSession,
    ForkRequest,
    LogAnswer,
    LogEntry,
    RollbackAnswer,
    RollbackRequest,
)
from psf.errors import InvalidField
from psf.sessions import FORKS_MAX
from store.interfaces import Move
from store.snapshot import Run, Snapshot

LOG_PAGE_DEFAULT, LOG_PAGE_MAX = 50, 500
NAME_CHARACTERS_MAX = 200

routes = web.RouteTableDef()


@routes.post("/v1/sessions/{session_id}/rollback")
async def rollback(request: web.Request) -> web.Response:
    body = await decode.read_body(request, RollbackRequest)
    head = await request.app[SERVICE].rollback(request.match_info["session_id"], tenant_of(request), body.to)
    return answer(RollbackAnswer(head.hex()))


@routes.post("/v1/sessions/{session_id}/fork")
async def fork(request: web.Request) -> web.Response:
    body = await decode.read_body(request, ForkRequest, optional=True)
    names = _names(body)
    forks = await request.app[SERVICE].fork(
        request.match_info["session_id"], tenant_of(request), start=body.start, names=names
    )
    return answer(ForkAnswer([ForkedSession(one.session_id, one.head.hex(), one.name) for one in forks]), 201)


@routes.get("/v1/sessions/{session_id}/log")
async def log(request: web.Request) -> web.Response:
    limit = _query_number(request, "limit", LOG_PAGE_DEFAULT, LOG_PAGE_MAX)
    before = _query_number(request, "cursor", None, 2**62)
    assert limit is not None
    # One more than asked for tells whether there is another page.
    moves = await request.app[SERVICE].log(
        request.match_info["session_id"], tenant_of(request), before=before, limit=limit + 1
    )
    page = moves[:limit]
    following = str(page[-1][0].sequence) if len(moves) > limit else None
    return answer(LogAnswer([_entry(move, snapshot) for move, snapshot in page], following))


def _entry(move: Move, snapshot: Snapshot) -> LogEntry:
    executed = move.kind == "execute"
    return LogEntry(
        sequence=move.sequence,
        kind=move.kind,
        start=move.from_snapshot.hex() if move.from_snapshot else None,
        to=move.to_snapshot.hex(),
        at=datetime.fromtimestamp(move.at_s, UTC).isoformat(timespec="milliseconds"),
        step=snapshot.depth,
        runtime=snapshot.step.runtime if isinstance(snapshot.step, Run) else None,
        endings={stage.name: str(stage.ending) for stage in snapshot.outcome.stages} if snapshot.outcome else {},
        left_out=left_out_paths(snapshot.outcome.left_out) if snapshot.outcome else [],
        run=msgspec.Raw(move.run_record) if executed and move.run_record else None,
    )


def _names(body: ForkRequest) -> tuple[str | None, ...]:
    if body.names is None:
        count = 1 if body.count is None else body.count
        if not 1 <= count <= FORKS_MAX:
            raise InvalidField(("body", "count"), f"must be between 1 and {FORKS_MAX}", count)
        return (None,) * count
    if not 1 <= len(body.names) <= FORKS_MAX:
        raise InvalidField(("body", "names"), f"must be between 1 and {FORKS_MAX} names", len(body.names))
    if body.count is not None and body.count != len(body.names):
        raise InvalidField(("body", "count"), f"is {body.count}, but there are {len(body.names)} names", body.count)
    for position, name in enumerate(body.names):
        if not 0 < len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
            raise InvalidField(
                ("body", "names", position), f"must be 1 to {NAME_CHARACTERS_MAX} printable characters", name
            )
    return tuple(body.names)


def _query_number(request: web.Request, field: str, default: int | None, maximum: int) -> int | None:
    text = request.query.get(field)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:20]) <= maximum or len(text) > 19:
        raise InvalidField(("query", field), f"must be a whole number from 1 to {maximum}", text[:100])
    return int(text)
