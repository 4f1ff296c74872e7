"""Taking in a bundle (store.bundle): all of it is verified, then its objects are stored, then its session can be seen.

Whatever goes wrong on the way leaves heads as they were. Objects without a head are garbage, which a sweep removes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import msgspec

from store.bundle import BundleReader, Incoming
from store.bundle_header import TEXT_CHARACTERS_MAX, Header, is_session_id
from store.bundle_plan import Plan, make_plan
from store.bundle_verify import verify_bundle
from store.check import Progress, no_progress
from store.errors import BundleRefused, HeadMoved, SessionExists, SessionMissing
from store.ids import Kind
from store.interfaces import HeadRestorer, Heads, HeadSweeper, ListedObjects, Objects, Session

ATTEMPTS = 10
TTL_S_MAX = 10 * 365 * 86400.0
"""A session that would stay idle for longer is given so long, as when it is created here."""


class ImportHeads(Heads, HeadSweeper, HeadRestorer, Protocol):
    """What an import needs of the heads."""


class Imported(msgspec.Struct, frozen=True):
    """What became of a bundle: `unchanged` when the session had all its moves already. `moves` and `objects`: how many it brought."""

    session_id: str
    change: Literal["created", "extended", "unchanged"]
    moves: int
    objects: int


def import_bundle(
    source: Path | BinaryIO,
    objects: ListedObjects,
    heads: ImportHeads,
    *,
    tenant: str,
    now_s: float,
    epoch: int | None,
    as_session: str | None = None,
    extend: bool = False,
    admit: Callable[[], None] = lambda: None,
    progress: Progress = no_progress,
) -> Imported:
    """Bring the session of a bundle, a path or a seekable file, into a store.

    A session that is not there is created with its log. One that has all the moves is left as it is. One whose log the bundle
    continues is extended when `extend` says so: whoever has seen the ids of a session can make a bundle that continues it. Any other
    is refused. The session must be `tenant`'s; with `as_session` it becomes a session of that id and
    of `tenant`. It counts as used, and when new as created, at `now_s`, seconds since 1970.

    `admit` is asked before a new session is made, and raises what speaks against it.

    `epoch` is that of a turn which the caller holds meanwhile (see store.gc); it should be that of the session. Raises BundleRefused,
    WriterFenced and OSError.
    """
    with _opened(source) as file:
        verified = verify_bundle(file, objects, heads, tenant, progress)
        header = verified.header
        session = _as_imported(header.session, tenant, as_session, now_s)
        if session.session_id != header.session.session_id:
            verified = verified._replace(header=_without_keys(header))
        plan = make_plan(objects, heads, session, verified, extend=extend)
        if not plan.moves:
            return Imported(session.session_id, "unchanged", 0, 0)
        if not plan.after:
            admit()
        if _store_objects(file, objects, progress) != verified.digest:
            raise BundleRefused("its file", "changed while it was read")
        objects.sync()
    for _ in range(ATTEMPTS):
        plan = make_plan(objects, heads, session, verified, extend=extend)
        try:
            return _make_visible(heads, plan, header.objects, epoch)
        except (SessionExists, SessionMissing, HeadMoved):
            continue  # somebody was faster: perhaps with this very bundle
    raise BundleRefused(f"session {session.session_id}", "is another tenant's, or changes all the time")


@contextmanager
def _opened(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(source, os.PathLike):
        with source.open("rb") as file:
            yield file
    else:
        yield source


def _as_imported(session: Session, tenant: str, as_session: str | None, now_s: float) -> Session:
    if as_session is None and session.tenant != tenant:
        raise BundleRefused(
            "its session", f"is of tenant {session.tenant!r}, not {tenant!r}; import it as another session"
        )
    if as_session is not None and not is_session_id(as_session):
        raise BundleRefused(
            "it",
            f"cannot become session {as_session[:80]!a}: use 1 to {TEXT_CHARACTERS_MAX} of 0-9A-Za-z_-, not - first",
        )
    # Created now: an id that was used here and dropped begins a new life, which the journal tells by its time (store.moves).
    return msgspec.structs.replace(
        session, session_id=as_session if as_session is not None else session.session_id, tenant=tenant, ttl_s=min(session.ttl_s, TTL_S_MAX),
        created_at_s=now_s, used_at_s=now_s,
    )  # fmt: skip


def _without_keys(header: Header) -> Header:
    """Of a log that becomes another session's: the requests that made it made the first one's moves, and are not done twice."""
    moves = tuple(msgspec.structs.replace(move, key=b"", asked=b"") for move in header.moves)
    return msgspec.structs.replace(header, moves=moves)


def _store_objects(file: BinaryIO, objects: Objects, progress: Progress) -> bytes:
    """Put all objects of a bundle, each under the name that its bytes have; returns the bundle's hash."""
    reader = BundleReader(file)
    count = reader.header().objects
    for number, incoming in enumerate(reader.objects(count), 1):
        _put(incoming, objects)
        progress("storing", number, count)
    return reader.end()


def _put(incoming: Incoming, objects: Objects) -> None:
    kind = incoming.name[0]
    if kind is not Kind.BLOB or not incoming.parted:
        objects.put(kind, b"".join(incoming.chunks))
        return
    with tempfile.TemporaryFile() as whole:
        for chunk in incoming.chunks:
            whole.write(chunk)
        whole.flush()
        objects.put_file(whole.fileno(), whole.tell())


def _make_visible(heads: ImportHeads, plan: Plan, objects: int, epoch: int | None) -> Imported:
    session, moves = plan.session, plan.moves
    if not moves:
        return Imported(session.session_id, "unchanged", 0, 0)
    if not plan.after:
        heads.restore(session, moves, epoch=epoch)
        return Imported(session.session_id, "created", len(moves), objects)
    heads.extend(
        session.session_id, plan.after, moves, runtime=session.runtime, used_at_s=session.used_at_s, epoch=epoch
    )
    return Imported(session.session_id, "extended", len(moves), objects)
