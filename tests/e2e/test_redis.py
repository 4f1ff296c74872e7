"""Two servers on one store whose sessions are in one Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import Server
from tests.redisd.server import TestRedis

CALLS = 12
APPEND = "open('seen', 'a').write('%d ')"


@pytest.fixture
def two_servers(start_server: Callable[..., Server], redis_server: TestRedis, tmp_path: Path) -> list[Server]:
    """One is told of Redis by a flag, the other as many programs are."""
    first = start_server("--redis-url", redis_server.url, store=tmp_path / "store")
    return [first, start_server(store=tmp_path / "store", environment={"REDIS_URL": redis_server.url})]


def test_two_servers_share_a_session_and_lose_no_step(two_servers: list[Server]) -> None:
    session_id = two_servers[0].session()

    def execute(number: int) -> None:
        answer = two_servers[number % 2].execute(session_id, APPEND % number, fetch_files=["seen"])
        assert answer["status"] == "Success", answer

    with ThreadPoolExecutor(CALLS) as pool:
        list(pool.map(execute, range(CALLS)))
    logs = [server.log(session_id) for server in two_servers]
    assert logs[0] == logs[1]
    assert len(logs[0]) == CALLS + 1
    answer = two_servers[1].execute(session_id, "print(open('seen').read())")
    assert sorted(map(int, answer["run_result"]["stdout"].split())) == list(range(CALLS))
    status, forked = two_servers[0].call("POST", f"/v1/sessions/{session_id}/fork", {"count": 2})
    assert status == 201
    fork = forked["sessions"][1]["session_id"]
    assert two_servers[1].execute(fork, "print(len(open('seen').read().split()))")["run_result"]["stdout"] == "12\n"


def test_steps_wait_for_a_redis_that_begins_again(two_servers: list[Server], redis_server: TestRedis) -> None:
    session_id = two_servers[0].session()
    two_servers[0].execute(session_id, APPEND % 1, fetch_files=["seen"])
    redis_server.kill()
    with ThreadPoolExecutor(1) as pool:
        step = pool.submit(two_servers[1].execute, session_id, APPEND % 2, fetch_files=["seen"])
        time.sleep(0.5)
        status, health = two_servers[1].call("GET", "/healthz")
        assert status == 200, health
        redis_server.start()
        assert step.result(60)["status"] == "Success"
    assert len(two_servers[0].log(session_id)) == 3


def test_a_server_on_an_emptied_redis_says_so(two_servers: list[Server], redis_server: TestRedis) -> None:
    session_id = two_servers[0].session()
    redis_server.command("FLUSHALL")
    status, answer = two_servers[0].call("POST", "/execute_session", {"session_id": session_id, "code": "print(1)"})
    assert status == 500
    assert "holds nothing of this store" in str(answer)
    assert str(redis_server.folder) not in str(answer)
    assert str(redis_server.folder) not in two_servers[0].log_text()
