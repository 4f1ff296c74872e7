"""Heads in Redis: the contracts, on a server of our own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from store.redis_heads import RedisHeads
from store.testing import HeadsContract
from store.testing.keyed import KeyedContract
from store.testing.pins import PinsContract
from store.testing.restoring import RestorerContract
from tests.redisd.server import TestRedis
from tests.store.redis_workbench import heads_in, settings


@pytest.fixture
def heads(shared_redis: TestRedis) -> Iterator[RedisHeads]:
    with heads_in(settings(shared_redis)) as opened:
        yield opened


class TestRedisHeads(HeadsContract):
    pass


class TestRedisPins(PinsContract):
    pass


class TestRedisKeyed(KeyedContract):
    pass


class TestRedisRestorer(RestorerContract):
    pass
