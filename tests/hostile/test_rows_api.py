"""The battery, psf's own API: whoever can reach it can do anything to any session. Programs that come in through it never do."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from executors.testing.confinement import own_address
from psf import runtimes
from psf.api import server
from psf.api.keys import Policy
from psf.limits import LimitRules
from psf.runtimes import Runtimes
from psf.services import compose
from psf.systems import SystemRules
from tests.hostile.battery import Attack, breaches, each, unconfined
from tests.hostile.conftest import KINDS, Doors, House

HOSTS = ("127.0.0.1", "127.8.9.10", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", own_address())
CALL = """
import urllib.error, urllib.request
for host in {hosts!r}:
    request = urllib.request.Request('http://' + host + ':@api{path}', {body!r}, {{'Content-Type': 'application/json'}})
    try:
        print('GOT', urllib.request.urlopen(request, timeout=5).status, host)
    except urllib.error.HTTPError as error:
        print('GOT', error.code, host)
    except OSError:
        pass
"""
BY_BASH = (
    "for host in {}; do (exec 3<> /dev/tcp/$host/@api; printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3 |"
    " sed 's/^/GOT /') 2> /dev/null; done; true"
)


def call(name: str, path: str, **body: Any) -> Attack:
    data = json.dumps(body).encode() if body else None
    return Attack(name, CALL.format(hosts=HOSTS, path=path, body=data), "python")


ROWS = (
    call("its health", "/healthz"),
    call("the history of its own session", "/v1/sessions/@own/log"),
    call("the history of a session of others", "/v1/sessions/@victim/log"),
    call("a rollback of a session of others", "/v1/sessions/@victim/rollback", to="0"),
    call("a fork of a session of others", "/v1/sessions/@victim/fork", names=["stolen"]),
    call("a step in a session of others", "/execute_session", session_id="@victim", language="bash", code="echo > new"),
    call("a step in its own session", "/execute_session", session_id="@own", language="bash", code="echo > new"),
    call("a session of its own", "/create_session", language="bash"),
    Attack("its health, by bash", BY_BASH.format(" ".join(host.strip("[]") for host in HOSTS))),
)


class Api:
    """psf over the sandbox of a house, open on all addresses of this machine as a server of others' is."""

    def __init__(self, url: str, client: aiohttp.ClientSession, calls: list[str]) -> None:
        self.url, self._client, self.calls = url, client, calls

    async def send(self, path: str, **body: Any) -> Any:
        how = self._client.post(self.url + path, json=body) if body else self._client.get(self.url + path)
        async with how as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def session(self) -> str:
        identity: str = (await self.send("/create_session", language="bash"))["session_id"]
        await self.send("/execute_session", session_id=identity, code="echo mine > kept", keep="all")
        return identity

    def put(self, attack: Attack, own: str, victim: str) -> Attack:
        program = attack.program.replace("@api", self.url.rpartition(":")[2])
        return Attack(attack.name, program.replace("@own", own).replace("@victim", victim), attack.language, tame=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(shared_house: House) -> AsyncIterator[Api]:
    store, capabilities = shared_house.store, shared_house.sandbox.capabilities
    services = compose(
        store.objects, store.heads, store.leases, shared_house.executor, Runtimes(runtimes.load(), "python3", None),
        folder=store.root, systems=SystemRules(capabilities.sandbox), run_facts={}, clock=time.time, rules=LimitRules(),
    )  # fmt: skip
    application = server.build(services, capabilities, Policy(LimitRules(), None), 1 << 20)
    calls: list[str] = []

    async def note(request: web.Request, _: web.StreamResponse) -> None:
        calls.append(request.path)

    application.on_response_prepare.append(note)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.SockSite(runner, socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)).start()
        async with aiohttp.ClientSession() as client:
            yield Api(f"http://127.0.0.1:{runner.addresses[0][1]}", client, calls)
    finally:
        await runner.cleanup()


@each(ROWS)
async def test_a_step_does_not_reach(house: House, api: Api, attack: Attack) -> None:
    own, victim = await api.session(), await api.session()
    before = await api.send(f"/v1/sessions/{victim}/log")
    api.calls.clear()
    (_, argv), program = api.put(attack, own, victim).source(house.places)
    language = {"bash": "bash", "python3": "python"}[argv[0]]
    step = await api.send("/execute_session", session_id=own, language=language, code=program, keep="all")
    assert (step["status"], breaches(step["run_result"]["stdout"].encode())) == ("Success", []), step
    assert api.calls == ["/execute_session"]
    assert await api.send(f"/v1/sessions/{victim}/log") == before


@each(ROWS)
@pytest.mark.parametrize("shared_house", [KINDS["bubblewrap"]], ids=["bubblewrap"], indirect=True)
async def test_unconfined_it_is_noticed_that_somebody_reaches(
    own_doors: Doors, tmp_path: Path, api: Api, attack: Attack
) -> None:
    own, victim = await api.session(), await api.session()
    api.calls.clear()
    said = await asyncio.to_thread(unconfined, api.put(attack, own, victim), own_doors.places, tmp_path)
    assert (len(said) >= len(HOSTS) - 1, len(api.calls)) == (True, len(said)), said
