"""The asynchronous client: sessions, and all that belongs to no one session."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import quote

import msgspec

from psf.client.calling import Asked, Caller, asking, new_key, query
from psf.client.models import BundleTaken, Health, Limits, Runtime, SessionInfo, Tag, Uploaded
from psf.client.retrying import Retries
from psf.client.sessions import Content, Named, Place, Session, files_body, given
from psf.client.snapshots import PIECE_BYTES, Snapshots, download

SESSIONS_PAGE = 500
Source = str | os.PathLike[str] | bytes | BinaryIO
"""What is sent: a path, bytes, or a file that can seek if it is to be sent again."""


class Client(Snapshots):
    """A server by its address (`url`, or PSF_URL), with a token (`token`, or PSF_TOKEN) where it wants one.

    `async with` closes its connections at the end; they are made when they are needed. `retries`: how often what fails for a while is
    asked for again. `silence_s`: how long nothing may come from the server (default: a minute, and any time for steps).
    All calls raise Refused and what is below it, Unreachable, NotPsf.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        retries: Retries = Retries(),  # noqa: B008 - a frozen value
        silence_s: float | None = None,
    ) -> None:
        super().__init__(Caller(url, token, retries, silence_s))
        self._holders = 0

    @property
    def url(self) -> str:
        return self._caller.url

    async def __aenter__(self) -> Self:
        self._holders += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._holders -= 1
        if self._holders == 0:
            await self.close()

    async def close(self) -> None:
        """Close its connections. What is asked for later makes new ones."""
        await self._caller.close()

    # -- sessions -------------------------------------------------------------------------------------------------------

    def session(
        self,
        runtime: str = "python",
        *,
        name: str | None = None,
        ttl_s: float | None = None,
        limits: Limits | None = None,
        image: str | None = None,
        work_dir: str | None = None,
        start: str | None = None,
        files: Mapping[str, Content] | None = None,
        delete: bool = False,
        key: str | None = None,
    ) -> Opening:
        """A new session: `await` it, or use it with `async with`, which closes the connections if nobody else holds them.

        `start`: a snapshot id or tag to begin with. `delete`: let the session expire at the end of the `async with`.
        """
        body = {
            "runtime": runtime,
            **given(
                name=name, ttl_s=ttl_s, limits=limits, image=image, work_dir=work_dir, files=files_body(files), **{"from": start}
            ),
        }  # fmt: skip

        async def create() -> Session:
            made = await self._caller.answer(asking("POST", "/v1/sessions", body, key=key or new_key()), SessionInfo)
            return Session(self._caller, made.session_id)

        return Opening(self, create, delete)

    def attach(self, session_id: str) -> Session:
        """A session that is there, by its id. Asks nothing."""
        return Session(self._caller, session_id)

    async def sessions(self, *, expired: bool = False, page: int = SESSIONS_PAGE) -> AsyncIterator[SessionInfo]:
        """The caller's sessions, created last first; pages are asked for as they are needed. `expired`: the retained ones too."""
        cursor: str | None = None
        while True:
            asked = Asked("GET", "/v1/sessions", query(limit=page, cursor=cursor, expired=expired))
            found = await self._caller.answer(asked, _Sessions)
            for session in found.sessions:
                yield session
            if (cursor := found.next) is None:
                return

    # -- bundles and archives -------------------------------------------------------------------------------------------

    async def upload(self, source: Source, tag: str) -> Uploaded:
        """Make a snapshot of a tar (compressed or not) or zip; its tag keeps it. Sessions can begin with it."""
        return await self._caller.answer(_sending("/v1/snapshots", source, tag=tag), Uploaded)

    async def export_bundle(self, session_id: str, file: BinaryIO, *, since: int | None = None) -> int:
        """Write a session with its history into a file; `since`: only moves after that number. Gives its size."""
        asked = Asked("GET", f"/v1/sessions/{quote(session_id, safe='')}/bundle", query(since=since))
        return await download(self._caller, asked, file)

    async def import_bundle(
        self, source: Source, *, session_id: str | None = None, extend: bool = False
    ) -> BundleTaken:
        """Take in a session, under another id if given; `extend`: go on with one that is there."""
        asked = _sending("/v1/bundles", source, session=session_id, extend=extend)
        return await self._caller.answer(asked, BundleTaken)

    # -- tags, and the server -------------------------------------------------------------------------------------------

    async def tags(self) -> list[Tag]:
        """The caller's names for snapshots."""
        return (await self._caller.answer(Asked("GET", "/v1/tags"), _Tags)).tags

    async def tag(
        self,
        name: str,
        snapshot: str | None = None,
        *,
        session: Named | str | None = None,
        at: Place | None = None,
    ) -> Tag:
        """Name a snapshot by its id, or where a session stands or stood (`at`). A name that is there is moved."""
        session_id = session if session is None or isinstance(session, str) else session.session_id
        asked = asking("PUT", f"/v1/tags/{quote(name, safe='')}", given(snapshot=snapshot, session=session_id, at=at))
        return await self._caller.answer(asked, Tag)

    async def untag(self, name: str) -> None:
        """Let go of a name."""
        await self._caller.data(Asked("DELETE", f"/v1/tags/{quote(name, safe='')}", removes=True))

    async def runtimes(self) -> list[Runtime]:
        """The languages that steps can be written in."""
        return (await self._caller.answer(Asked("GET", "/v1/runtimes"), _Runtimes)).runtimes

    async def health(self) -> Health:
        """The server: its version, its sandbox, and what that guarantees."""
        return await self._caller.answer(Asked("GET", "/healthz"), Health)


class Opening:
    """A session that is about to be made."""

    def __init__(self, client: Client, create: Callable[[], Coroutine[Any, Any, Session]], delete: bool) -> None:
        self._client, self.make, self.delete = client, create, delete
        self._session: Session | None = None

    def __await__(self) -> Generator[Any, Any, Session]:
        return self.make().__await__()

    async def __aenter__(self) -> Session:
        await self._client.__aenter__()
        try:
            self._session = await self.make()
        except BaseException:
            await self._client.__aexit__()
            raise
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.delete and self._session is not None:
                await self._session.delete()
        finally:
            await self._client.__aexit__()


class _Sessions(msgspec.Struct):
    sessions: list[SessionInfo]
    next: str | None = None


class _Tags(msgspec.Struct):
    tags: list[Tag]


class _Runtimes(msgspec.Struct):
    runtimes: list[Runtime]


def _sending(path: str, source: Source, **parameters: object) -> Asked:
    """A request whose body is a file. One that cannot seek is sent once."""
    if isinstance(source, (bytes, str, os.PathLike)):
        once, begin = False, 0
    else:
        once = not source.seekable()
        begin = 0 if once else source.tell()

    def pieces() -> AsyncIterator[bytes]:
        return _pieces(source, None if once else begin)

    return Asked("POST", path, query(**parameters), pieces, "application/octet-stream", silence_s=None, once=once)


async def _pieces(source: Source, begin: int | None) -> AsyncIterator[bytes]:
    own = isinstance(source, (bytes, str, os.PathLike))
    file = _opened(source)
    try:
        if begin is not None:
            file.seek(begin)
        while piece := file.read(PIECE_BYTES):
            yield piece
    finally:
        if own:
            file.close()


def _opened(source: Source) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return open(source, "rb") if isinstance(source, (str, os.PathLike)) else source
