"""One request, made until it is answered. A key goes with all that changes something, and is kept over the retries: it is done once."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

from psf.client.errors import Misused, NotPsf, Refused, Unreachable, refusal
from psf.client.retrying import AGAIN, Retries, retry_after_s

URL_DEFAULT = "http://127.0.0.1:8080"
CONNECT_S = 10.0
ERROR_BYTES_MAX = 1 << 20
_GONE = frozenset({404, 410})
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
_LOST = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError, ConnectionError)
_NEVER = (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError)
"""Asked again, these are answered the same."""

_Value = TypeVar("_Value")


class Asked(NamedTuple):
    """A request. `body` makes what is sent, anew for each attempt. `key`: it changes something, and is done once under this key.

    `silence_s`: how long nothing may come from the server; None: for ever, as TCP itself finds out whether the other side is there.
    `once`: not to be made again once it may have been received. `removes`: what is not there in a retry has been removed by the first.
    """

    method: str
    path: str
    query: Mapping[str, str] = {}
    body: Callable[[], Any] | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}
    key: str | None = None
    silence_s: float | None = 60.0
    once: bool = False
    removes: bool = False


def asking(method: str, path: str, body: object = None, **fields: Any) -> Asked:
    """A request with a JSON body, if any. Raises Misused for what JSON cannot say."""
    try:
        data = msgspec.json.encode(body) if body is not None else None
    except UnicodeEncodeError:
        raise Misused("a text holds what is no Unicode; send bytes as a file") from None
    return Asked(method, path, body=None if data is None else lambda: data, **fields)


def new_key() -> str:
    return str(uuid.uuid4())


def query(**given: object) -> dict[str, str]:
    """Parameters of a query, without those that are None or false."""
    return {
        name.rstrip("_"): "true" if value is True else str(value)
        for name, value in given.items()
        if value is not None and value is not False
    }


class Caller:
    """Connections to one server. They are made when they are first needed, in the loop that needs them, and closed by `close`."""

    def __init__(self, url: str | None, token: str | None, retries: Retries, silence_s: float | None) -> None:
        self.url = _checked(url or os.environ.get("PSF_URL") or URL_DEFAULT)
        self._token = (token if token is not None else os.environ.get("PSF_TOKEN", "")).strip()
        self.retries, self._silence_s = retries, silence_s
        self._connections: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.close()

    async def answer(self, asked: Asked, kind: type[_Value]) -> _Value:
        """What a request is answered. Raises Refused, Unreachable, NotPsf."""
        data = await self.data(asked)
        return decoded(data, kind)

    async def data(self, asked: Asked) -> bytes:
        """The bytes of an answer. Raises as `answer` does."""

        async def read(response: aiohttp.ClientResponse) -> bytes:
            return await response.read()

        try:
            return await self.each(asked, read)
        except Refused as error:
            if asked.removes and error.again and error.status in _GONE:
                return b""
            raise

    async def each(self, asked: Asked, read: Callable[[aiohttp.ClientResponse], Awaitable[_Value]]) -> _Value:
        """Make a request until `read` has read an answer to its end. Raises Refused, Unreachable."""
        attempt = 0
        while True:
            try:
                async with self.opened(asked) as response:
                    return await read(response)
            except (Unreachable, Refused) as error:
                if isinstance(error, Refused):
                    error.again = attempt > 0
                attempt += 1
                await self.pause(asked, error, attempt)

    async def pause(self, asked: Asked, error: Unreachable | Refused, attempt: int) -> None:
        """Wait until attempt number `attempt` (the first is 0), or raise what the last one ended with."""
        never = error.__cause__ is not None and isinstance(error.__cause__, _NEVER)
        if never or (isinstance(error, Refused) and error.status not in AGAIN) or _may_be_done(asked, error):
            raise error
        asked_s = error.retry_after_s if isinstance(error, Refused) else None
        pause_s = self.retries.pause_before(attempt, asked_s)
        if pause_s is None:
            raise error
        await asyncio.sleep(pause_s)

    @asynccontextmanager
    async def opened(self, asked: Asked) -> AsyncIterator[aiohttp.ClientResponse]:
        """One attempt, up to where the body of its answer begins. What breaks within is Unreachable. Raises Refused."""
        silence_s = asked.silence_s if self._silence_s is None else self._silence_s
        try:
            async with self._ready().request(
                asked.method,
                URL(self.url + asked.path, encoded=True).update_query(asked.query),
                data=asked.body() if asked.body is not None else None,
                headers=self._headers(asked),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s),
                allow_redirects=False,  # a token goes nowhere else
            ) as response:
                if not 200 <= response.status < 300:
                    error = refusal(response.status, await response.content.read(ERROR_BYTES_MAX))
                    error.retry_after_s = retry_after_s(response.headers.get("Retry-After"))
                    raise error
                yield response
        except _LOST as error:
            raise Unreachable(self._told(error)) from error
        except aiohttp.ClientError as error:
            raise NotPsf(f"{self.url} does not answer as psf does: {error}") from error

    def _headers(self, asked: Asked) -> dict[str, str]:
        headers = dict(asked.headers)
        if asked.body is not None:
            headers["Content-Type"] = asked.content_type
        if asked.key is not None:
            headers["Idempotency-Key"] = asked.key
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        for name, value in headers.items():
            if not value.isprintable():
                raise Misused(f"{name}: must be one line of printable characters")
        return headers

    def _told(self, error: BaseException) -> str:
        reason = str(error) or ("nothing came for too long" if isinstance(error, TimeoutError) else "connection lost")
        return f"{self.url} cannot be reached, or the connection broke: {reason}"

    def _ready(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._connections is not None and self._loop is not loop:
            raise Misused(
                "this client is used in another loop; close it there first, or make another one (SyncClient has its own loop)"
            )
        if self._connections is None:
            self._loop = loop
            connector = aiohttp.TCPConnector(limit=0, socket_factory=_lively_socket)
            self._connections = aiohttp.ClientSession(connector=connector)
            # It would ask again by itself what HTTP takes to be repeatable, and nobody would know.
            self._connections._retry_connection = False  # noqa: SLF001 - there is no other way to say it
        return self._connections


def decoded(data: bytes, kind: type[_Value]) -> _Value:
    """A JSON answer as a value. Raises NotPsf."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotPsf(f"the answer is not what a psf server of this version says: {error}") from None


def _may_be_done(asked: Asked, error: Unreachable | Refused) -> bool:
    """Whether to ask again might do twice what is to be done once."""
    return (
        asked.once and isinstance(error, Unreachable) and not isinstance(error.__cause__, aiohttp.ClientConnectorError)
    )


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise Misused(f"{url!r} is no address of a server; it should be like {URL_DEFAULT}")
    return url.rstrip("/")


def _lively_socket(info: Any) -> socket.socket:
    """A connection on which the other side's death is noticed while nothing is said."""
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
