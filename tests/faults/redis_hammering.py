"""As tests.faults.hammering, on heads in a Redis: python -m tests.faults.redis_hammering URL PREFIX WORKER THREADS ROUNDS."""

from __future__ import annotations

import json
import sys

from store.redis_address import RedisSettings
from store.redis_heads import RedisHeads
from store.redis_server import RedisServer
from tests.faults.hammering import hammer
from tests.store.redis_workbench import IDENTITY

if __name__ == "__main__":
    url, prefix, worker, threads, rounds = sys.argv[1:]
    heads = RedisHeads(RedisServer(RedisSettings(url, prefix)), IDENTITY)
    print(json.dumps(hammer(heads, worker, int(threads), int(rounds))))
    heads.close()
