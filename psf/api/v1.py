"""The native family: sessions, and moves of their heads that run nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from aiohttp import web

from executors.interfaces import System
from psf import limits
from psf.api import decode
from psf.api.callers import concerns, tenant_of
from psf.api.errors import answer
from psf.api.fusion import TTL_S_MAX, left_out_paths
from psf.api.keys import POLICY, SERVICES
from psf.api.operations import FINDING, MOVING, STARTING, Operation, described, flag, number, text
from psf.api.repeating import keyed_of, to_the_end
from psf.api.schemas import ForkAnswer, ForkedSession, ForkRequest, LogAnswer, LogEntry
from psf.api.v1_decode import cursor_of, edits, expected_of, query_flag, query_number, snapshot_reference
from psf.api.v1_schemas import (
    CreateRequest,
    HeadAnswer,
    MoveRequest,
    SessionAnswer,
    SessionsAnswer,
    SettingsRequest,
    UndeleteRequest,
)
from psf.errors import InvalidField, NetworkRefused, QuotaReached, SnapshotUnknown
from psf.sessions import FORKS_MAX
from psf.turns import to_thread
from store import snapshot as snapshots
from store.ids import Kind, SnapshotId
from store.interfaces import Move, Session, SessionSettings
from store.snapshot import EMPTY_SNAPSHOT_ID, Run, Snapshot

PAGE_DEFAULT, PAGE_MAX = 50, 500
NAME_CHARACTERS_MAX = 200
_LIMIT = number("limit", PAGE_MAX, f"entries of a page; {PAGE_DEFAULT} when nothing is said")
_CURSOR = text("cursor", "the `next` of an earlier page")

routes = web.RouteTableDef()


@routes.post("/v1/sessions")
@described(
    Operation(
        answer=SessionAnswer,
        status=201,
        body=CreateRequest,
        body_optional=True,
        keyed=True,
        errors=(*STARTING, SnapshotUnknown),
    )
)
async def create(request: web.Request) -> web.Response:
    """Make a session, empty or from a snapshot, with files."""
    body = await decode.read_body(request, CreateRequest, optional=True)
    services, tenant, keyed = request.app[SERVICES], tenant_of(request), await keyed_of(request)
    ttl_s = decode.seconds("ttl_s", body.ttl_s, TTL_S_MAX)
    limits.check(body.limits, request.app[POLICY].rules, ("body", "limits"))
    written = await decode.aside(lambda: edits("files", body.files), request.content_length or 0)

    def begin() -> SnapshotId:
        start = EMPTY_SNAPSHOT_ID if body.start is None else services.reading.find(tenant, body.start)
        if not written:
            return start
        after = services.changes.written(start, written)
        return SnapshotId(services.objects.put(Kind.SNAPSHOT, snapshots.encode(after)))

    name = _name(("body", "name"), body.name) if body.name is not None else None
    creating = services.sessions.create(
        body.runtime, ttl_s, tenant, name, body.limits, System(body.image, body.work_dir), begin=begin, keyed=keyed
    )
    session = await to_the_end(request, creating, keyed)
    concerns(request, session.session_id)
    return answer(await _shown(request, session), 201)


@routes.get("/v1/sessions")
@described(Operation(answer=SessionsAnswer, query=(_LIMIT, _CURSOR, flag("expired", "those that are retained too"))))
async def list_all(request: web.Request) -> web.Response:
    """The caller's sessions, created last first; `expired=true`: those that are retained too."""
    limit = query_number(request, "limit", PAGE_DEFAULT, PAGE_MAX) or PAGE_DEFAULT
    before, expired = cursor_of(request), query_flag(request, "expired")
    sessions = request.app[SERVICES].sessions
    found = await sessions.all(tenant_of(request), before=before, limit=limit + 1, expired=expired)
    page = [_session(session, snapshot, sessions.is_expired(session)) for session, snapshot in found[:limit]]
    following = None
    if len(found) > limit:
        last = found[limit - 1][0]
        following = f"{last.created_at_s!r}_{last.session_id}"
    return answer(SessionsAnswer(page, following))


@routes.get("/v1/sessions/{session_id}")
@described(Operation(answer=SessionAnswer))
async def get(request: web.Request) -> web.Response:
    """A session, also one that has expired and is retained."""
    session = await request.app[SERVICES].sessions.get(_id(request), tenant_of(request), retained=True)
    return answer(await _shown(request, session))


@routes.patch("/v1/sessions/{session_id}")
@described(Operation(answer=SessionAnswer, body=SettingsRequest, keyed=True, errors=(*MOVING, NetworkRefused)))
async def change(request: web.Request) -> web.Response:
    """Change a session's name, ttl or limits."""
    body = await decode.read_body(request, SettingsRequest)
    tenant, keyed = tenant_of(request), await keyed_of(request)
    name, asked = body.name, body.limits
    if isinstance(name, str):
        name = _name(("body", "name"), name)
    ttl_s = body.ttl_s if body.ttl_s is msgspec.UNSET else decode.seconds("ttl_s", body.ttl_s, TTL_S_MAX)
    if asked is not msgspec.UNSET:
        limits.check(asked, request.app[POLICY].rules, ("body", "limits"))

    def changed(session: Session) -> SessionSettings:
        return SessionSettings(
            session.name if name is msgspec.UNSET else name,
            session.ttl_s if ttl_s is msgspec.UNSET else ttl_s,
            session.limits if asked is msgspec.UNSET else asked,
        )

    changing = request.app[SERVICES].lifetimes.change(_id(request), tenant, changed, keyed=keyed)
    return answer(await _shown(request, await to_the_end(request, changing, keyed)))


@routes.delete("/v1/sessions/{session_id}")
@described(Operation(status=204, errors=MOVING))
async def delete(request: web.Request) -> web.Response:
    """Let a session expire now; while it is retained it can be undeleted."""
    await request.app[SERVICES].lifetimes.delete(_id(request), tenant_of(request))
    return web.Response(status=204)


@routes.post("/v1/sessions/{session_id}/undelete")
@described(Operation(answer=SessionAnswer, body=UndeleteRequest, body_optional=True, keyed=True, errors=MOVING))
async def undelete(request: web.Request) -> web.Response:
    """Let a session live again that was deleted or has expired."""
    body = await decode.read_body(request, UndeleteRequest, optional=True)
    keyed = await keyed_of(request)
    ttl_s = None if body.ttl_s is None else decode.seconds("ttl_s", body.ttl_s, TTL_S_MAX)
    reviving = request.app[SERVICES].lifetimes.undelete(_id(request), tenant_of(request), ttl_s=ttl_s, keyed=keyed)
    return answer(await _shown(request, await to_the_end(request, reviving, keyed)))


@routes.post("/v1/sessions/{session_id}/rollback")
@described(Operation(answer=HeadAnswer, body=MoveRequest, keyed=True, errors=(*MOVING, *FINDING)))
async def rollback(request: web.Request) -> web.Response:
    """Move the head to another snapshot of the session's history."""
    body = await decode.read_body(request, MoveRequest)
    services, tenant, keyed = request.app[SERVICES], tenant_of(request), await keyed_of(request)
    to = await to_thread(lambda: services.tags.resolved(tenant, body.to))
    rolling = services.sessions.rollback(_id(request), tenant, to, keyed=keyed, expected=expected_of(body.expected))
    return answer(HeadAnswer((await to_the_end(request, rolling, keyed)).hex()))


@routes.post("/v1/sessions/{session_id}/fork")
@described(
    Operation(
        answer=ForkAnswer,
        status=201,
        body=ForkRequest,
        body_optional=True,
        keyed=True,
        errors=(*MOVING, *FINDING, QuotaReached),
    )
)
async def fork(request: web.Request) -> web.Response:
    """Make sessions that go on from a snapshot of this one's history."""
    body = await decode.read_body(request, ForkRequest, optional=True)
    services, tenant, keyed = request.app[SERVICES], tenant_of(request), await keyed_of(request)
    names = _names(body)
    start = await snapshot_reference(request, body.start)
    forking = services.sessions.fork(_id(request), tenant, start=start, names=names, keyed=keyed)
    forks = await to_the_end(request, forking, keyed)
    return answer(ForkAnswer([ForkedSession(one.session_id, one.head.hex(), one.name) for one in forks]), 201)


@routes.get("/v1/sessions/{session_id}/log")
@described(Operation(answer=LogAnswer, query=(_LIMIT, _CURSOR)))
async def log(request: web.Request) -> web.Response:
    """Moves of the head, newest first."""
    limit = query_number(request, "limit", PAGE_DEFAULT, PAGE_MAX) or PAGE_DEFAULT
    before = query_number(request, "cursor", None, 2**62)
    # One more than asked for tells whether there is another page.
    moves = await request.app[SERVICES].sessions.log(_id(request), tenant_of(request), before=before, limit=limit + 1)
    page = moves[:limit]
    following = str(page[-1][0].sequence) if len(moves) > limit else None
    return answer(LogAnswer([_entry(move, snapshot) for move, snapshot in page], following))


def moment(at_s: float) -> str:
    """A time in answers."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")


async def _shown(request: web.Request, session: Session) -> SessionAnswer:
    sessions = request.app[SERVICES].sessions
    snapshot = await to_thread(lambda: sessions.snapshot(session.head))
    return _session(session, snapshot, sessions.is_expired(session))


def _session(session: Session, snapshot: Snapshot, expired: bool) -> SessionAnswer:
    return SessionAnswer(
        session.session_id, session.name, session.head.hex(), snapshot.depth, session.runtime, session.sandbox, session.ttl_s,
        session.limits, session.image, session.work_dir, moment(session.created_at_s), moment(session.used_at_s),
        moment(min(session.expires_at_s(), 253_370_764_799.0)), expired,
    )  # fmt: skip


def _entry(move: Move, snapshot: Snapshot) -> LogEntry:
    step = snapshot.step
    return LogEntry(
        sequence=move.sequence,
        kind=move.kind,
        start=move.from_snapshot.hex() if move.from_snapshot else None,
        to=move.to_snapshot.hex(),
        at=moment(move.at_s),
        step=snapshot.depth,
        runtime=step.runtime if isinstance(step, Run) else None,
        endings={stage.name: str(stage.ending) for stage in snapshot.outcome.stages} if snapshot.outcome else {},
        left_out=left_out_paths(snapshot.outcome.left_out) if snapshot.outcome else [],
        run=msgspec.Raw(move.run_record) if move.kind == "execute" and move.run_record else None,
    )


def _id(request: web.Request) -> str:
    return request.match_info["session_id"]


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
    return tuple(_name(("body", "names", position), name) for position, name in enumerate(body.names))


def _name(location: tuple[str | int, ...], name: str) -> str:
    if not 0 < len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
        raise InvalidField(location, f"must be 1 to {NAME_CHARACTERS_MAX} printable characters", name)
    return name
