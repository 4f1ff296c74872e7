"""The seam to a Redis, or Valkey: its address, what it must promise, and patience with it. Everything that it refuses is StoreUnusable.

A server that ends, is paused or begins again is asked again for a while. Whoever asks says each time which attempt it is, since one
that was not answered may have been carried out, or be carried out yet (store/lua/writing.lua).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry

from store import redis_scripts
from store.errors import HeadsUnreachable, StoreUnusable
from store.redis_address import RedisSettings, shown

_log = logging.getLogger(__name__)
_PAUSE_S_MIN, _PAUSE_S_MAX = 0.01, 0.5
_CONNECTIONS_MAX = 1024
_PROMISES = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}
_EVICTION = {"maxmemory-policy": "noeviction"}

Argument = bytes | str | int | float


class RedisServer:
    """One Redis, for any number of threads. Connects with the first call."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self.told_s = settings.told_s
        self.name = f"the Redis at {shown(settings.url)}"
        try:
            self._client: Any = redis.Redis.from_url(
                settings.url,
                socket_timeout=settings.answer_s,
                socket_connect_timeout=settings.answer_s,
                # We ask again ourselves, and say so: the library would send the same attempt twice.
                retry=Retry(NoBackoff(), 0),
                redis_connect_func=self._connected,
                protocol=2,
                max_connections=_CONNECTIONS_MAX,
            )
        except (ValueError, exceptions.RedisError):
            # Without what the library says: that may quote the password.
            raise StoreUnusable(
                "redis_url is no address of a Redis: it must be like redis://HOST:6379/0, rediss://USER:PASSWORD@HOST:6379"
                " or unix:///run/redis/redis.sock"
            ) from None
        self._scripts = {name: Script(self._client, text) for name, text in redis_scripts.load().items()}
        self._key = f"{{{settings.prefix}}}:store"
        self._was_promised = False
        self._warned = ""

    def run(self, name: str, arguments: Callable[[int], Sequence[Argument]], *, patience_s: float | None = None) -> Any:
        """What a script answers. `arguments` is called for each attempt, with its number from 0 on.

        Raises HeadsUnreachable when the outcome is not known, or nothing was done; StoreUnusable.
        """
        deadline_s = time.monotonic() + (self._settings.patience_s if patience_s is None else patience_s)
        attempt, pause_s = 0, _PAUSE_S_MIN
        while True:
            try:
                return self._scripts[name](keys=[self._key], args=list(arguments(attempt)))
            except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
                if isinstance(error, (exceptions.AuthenticationError, exceptions.AuthorizationError)):
                    self._refuse(error)
                if time.monotonic() >= deadline_s:
                    raise self._unreachable(name, error) from None
            except _PromisesLess as error:
                raise StoreUnusable(str(error)) from None
            except exceptions.RedisError as error:
                self._refuse(error)
            attempt += 1
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S_MAX)

    def close(self) -> None:
        self._client.close()

    def _unreachable(self, name: str, error: Exception) -> HeadsUnreachable:
        if isinstance(error, exceptions.BusyLoadingError):
            reason = "is still reading its data, or writing its append-only file for the first time"
        elif isinstance(error, exceptions.TimeoutError):
            reason = "takes too long"
        else:
            reason = f"cannot be reached ({_cause(error)})"
        outcome = (
            "; whether the change was made can be seen when it answers again: it was made whole, or not at all"
            if name in redis_scripts.CHANGES
            else ""
        )
        return HeadsUnreachable(
            f"{self.name} {reason}: tried for {self._settings.patience_s:g} s; is it running?{outcome}"
        )

    def _refuse(self, error: Exception) -> NoReturn:
        # Our own words for it: what a server says about a script of ours is long.
        raise StoreUnusable(f"{self.name} refuses: {str(error).partition(' script: ')[0][:200]}") from None

    def _connected(self, connection: Any) -> None:
        """Begin a connection; raises unless Redis keeps what it acknowledges. Each one is asked: behind it there may be another server, or one
        that was started otherwise.
        """
        connection.on_connect()
        found = _configuration(connection, (*_PROMISES, *_EVICTION))
        lacks = {name: wanted for name, wanted in _EVICTION.items() if found.get(name, wanted) != wanted}
        broken = {name: wanted for name, wanted in _PROMISES.items() if found.get(name) != wanted}
        if self._settings.durability == "always":
            lacks |= broken
        elif broken:
            self._warn(", ".join(f"{name} {found.get(name, 'not told')}" for name in broken))
        if lacks:
            raise _PromisesLess(self.name, found, lacks)
        if self._settings.durability == "always" and not self._was_promised and _is_rewriting(connection):
            # Perhaps for the first time: what it acknowledges before that has ended does not outlast it.
            raise exceptions.BusyLoadingError
        self._was_promised = True

    def _warn(self, has: str) -> None:
        if has != self._warned:
            _log.warning("%s may lose what it has acknowledged (%s); redis_durability accepts that", self.name, has)
            self._warned = has


class _PromisesLess(exceptions.RedisError):
    """As an error of the library's, which then closes the connection."""

    def __init__(self, name: str, found: dict[str, str], lacks: dict[str, str]) -> None:
        has = ", ".join(f"{each} {found.get(each, 'not told: CONFIG GET is not allowed')}" for each in lacks)
        commands = " ".join(f"`redis-cli CONFIG SET {each} {wanted}`" for each, wanted in lacks.items())
        accept = (
            "" if lacks.keys() <= _EVICTION.keys() else ', or set redis_durability = "server" to accept what it does'
        )
        super().__init__(
            f"{name} does not promise to keep what it acknowledges ({has}): {commands} and the same in its redis.conf{accept}"
        )


def _configuration(connection: Any, names: Sequence[str]) -> dict[str, str]:
    """Those settings of the server that it tells."""
    for name in names:  # one at a time, for servers older than 7
        connection.send_command("CONFIG", "GET", name)
    found: dict[str, str] = {}
    for _ in names:
        # If we may not ask: what is not told is not promised.
        with contextlib.suppress(exceptions.ResponseError):
            words = [word.decode(errors="replace") for word in connection.read_response()]
            found |= dict(zip(words[::2], words[1::2], strict=True))
    return found


def _is_rewriting(connection: Any) -> bool:
    """Whether the append-only file is being written anew, or will be at once. Not known where we may not ask."""
    connection.send_command("INFO", "persistence")
    with contextlib.suppress(exceptions.ResponseError):
        told = connection.read_response()
        return b"aof_rewrite_in_progress:1" in told or b"aof_rewrite_scheduled:1" in told
    return False


def _cause(error: BaseException | None) -> str:
    """What the operating system said, which is in no way secret; the library also says to whom."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__cause__ or error.__context__
    return "the connection was closed"
