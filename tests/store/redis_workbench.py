"""Heads in a Redis, for tests."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from store.interfaces import Journal
from store.redis_address import RedisSettings
from store.redis_heads import RedisHeads, claim
from store.redis_server import RedisServer
from tests.redisd.server import TestRedis

IDENTITY = "1" * 32


def settings(redis: TestRedis, **changed: object) -> RedisSettings:
    """As a store would have them, with less patience."""
    given: dict[str, object] = {
        "url": redis.url,
        "prefix": secrets.token_hex(4),
        "patience_s": 10.0,
        "answer_s": 2.0,
        "told_s": 0.05,
    }
    return RedisSettings(**{**given, **changed})  # type: ignore[arg-type]


def claimed(asked: RedisSettings, identity: str = IDENTITY) -> str:
    """Whose heads a Redis holds, after a store has asked for it."""
    with contextlib.closing(RedisServer(asked)) as server:
        return claim(server, identity)


@contextmanager
def heads_in(asked: RedisSettings, *, journal: Journal | None = None) -> Iterator[RedisHeads]:
    """Heads of the one store that this module knows of."""
    assert claimed(asked) == IDENTITY
    heads = RedisHeads(RedisServer(asked), IDENTITY, journal=journal)
    try:
        yield heads
    finally:
        heads.close()
