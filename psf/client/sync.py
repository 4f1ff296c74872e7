"""The same without `await`: for scripts, and for notebooks whose loop is running. Each method is the asynchronous one, waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from psf.client.client import Client, Opening
from psf.client.models import Result
from psf.client.portal import Portal
from psf.client.retrying import Retries
from psf.client.sessions import Session
from psf.client.streaming import Event, Stream

_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")
_Shown = TypeVar("_Shown")


def _shown(
    method: Callable[Concatenate[Any, _Arguments], Coroutine[Any, Any, _Value]],
    show: Callable[[_Value, Portal], _Shown],
) -> Callable[Concatenate[Any, _Arguments], _Shown]:
    """A method that waits for an asynchronous one, and shows what that gives in another form."""

    @wraps(method)
    def call(face: Any, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Shown:
        portal: Portal = face.portal
        return show(portal.wait(method(face.inner, *args, **kwargs)), portal)

    return call


def _waited(
    method: Callable[Concatenate[Any, _Arguments], Coroutine[Any, Any, _Value]],
) -> Callable[Concatenate[Any, _Arguments], _Value]:
    return _shown(method, lambda value, _: value)


def _iterated(
    method: Callable[Concatenate[Any, _Arguments], AsyncIterator[_Value]],
) -> Callable[Concatenate[Any, _Arguments], Iterator[_Value]]:
    @wraps(method)
    def call(face: Any, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Iterator[_Value]:
        portal: Portal = face.portal
        return portal.iterate(method(face.inner, *args, **kwargs))

    return call


def _streamed(
    method: Callable[Concatenate[Any, _Arguments], Stream],
) -> Callable[Concatenate[Any, _Arguments], SyncStream]:
    @wraps(method)
    def call(face: Any, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> SyncStream:
        return SyncStream(method(face.inner, *args, **kwargs), face.portal)

    return call


def _opened(
    method: Callable[Concatenate[Any, _Arguments], Opening],
) -> Callable[Concatenate[Any, _Arguments], SyncSession]:
    @wraps(method)
    def call(face: Any, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> SyncSession:
        client: SyncClient = face
        opening = method(client.inner, *args, **kwargs)
        made = client.portal.wait(opening.make())
        return SyncSession(made, client.portal, client, delete=opening.delete)

    return call


class SyncStream:
    """A step that runs: iterate over it for its output, then `result`; or `finish()`."""

    def __init__(self, inner: Stream, portal: Portal) -> None:
        self.inner, self.portal = inner, portal

    @property
    def key(self) -> str:
        return self.inner.key

    @property
    def result(self) -> Result:
        return self.inner.result

    def __iter__(self) -> Iterator[Event]:
        return self.portal.iterate(aiter(self.inner))

    finish = _waited(Stream.finish)
    close = _waited(Stream.close)


class SyncSession:
    """As Session. One that was just made may stand in a `with`, which closes its client if nothing else holds that."""

    def __init__(
        self, inner: Session, portal: Portal, client: SyncClient | None = None, *, delete: bool = False
    ) -> None:
        self.inner, self.portal = inner, portal
        self._client, self._delete = client, delete

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._delete:
                self.delete()
        finally:
            if self._client is not None and not self._client.held:
                self._client.close()

    @property
    def session_id(self) -> str:
        return self.inner.session_id

    info = _waited(Session.info)
    change = _waited(Session.change)
    delete = _waited(Session.delete)
    undelete = _waited(Session.undelete)
    run = _waited(Session.run)
    stream = _streamed(Session.stream)
    cancel = _waited(Session.cancel)
    log = _iterated(Session.log)
    find = _waited(Session.find)
    rollback = _waited(Session.rollback)
    fork = _shown(Session.fork, lambda made, portal: SyncSession(made, portal))  # noqa: PLW0108 - not yet defined here
    fork_many = _shown(Session.fork_many, lambda made, portal: [SyncSession(one, portal) for one in made])
    merge = _waited(Session.merge)
    replay = _waited(Session.replay)
    verify = _waited(Session.verify)
    bisect = _waited(Session.bisect)
    blame = _waited(Session.blame)
    write = _waited(Session.write)
    write_file = _waited(Session.write_file)
    delete_file = _waited(Session.delete_file)
    read_file = _waited(Session.read_file)
    files = _iterated(Session.files)
    put = _waited(Session.put)
    get = _waited(Session.get)
    diff = _waited(Session.diff)


class SyncClient:
    """As Client, with a thread of its own in which a loop runs. `with` closes its connections and ends the thread."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        retries: Retries = Retries(),  # noqa: B008 - a frozen value
        silence_s: float | None = None,
    ) -> None:
        self.inner = Client(url, token, retries=retries, silence_s=silence_s)
        self.portal = Portal()
        self.held = False
        """Whether a `with` will close it."""

    @property
    def url(self) -> str:
        return self.inner.url

    def __enter__(self) -> Self:
        self.held = True
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections, and end its thread. Done again it changes nothing."""
        if self.portal.alive:
            self.portal.wait(self.inner.close())
            self.portal.close()

    def attach(self, session_id: str) -> SyncSession:
        """A session that is there, by its id. Asks nothing."""
        return SyncSession(self.inner.attach(session_id), self.portal)

    session = _opened(Client.session)
    sessions = _iterated(Client.sessions)
    snapshot = _waited(Client.snapshot)
    manifest = _iterated(Client.manifest)
    read_file = _waited(Client.read_file)
    diff = _waited(Client.diff)
    get = _waited(Client.get)
    archive = _waited(Client.archive)
    upload = _waited(Client.upload)
    export_bundle = _waited(Client.export_bundle)
    import_bundle = _waited(Client.import_bundle)
    tags = _waited(Client.tags)
    tag = _waited(Client.tag)
    untag = _waited(Client.untag)
    runtimes = _waited(Client.runtimes)
    health = _waited(Client.health)
