"""The client against real servers: what its documentation shows, and servers that are killed in the middle of a step."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from psf.client import Client, Session
from tests.e2e.conftest import Server

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs/client.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
EXPECTED = "# => "


def test_each_snippet_prints_what_the_page_says(server: Server) -> None:
    assert len(SNIPPETS) == 6
    for snippet in SNIPPETS:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", snippet],
            capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PSF_URL": server.url},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = [line.removeprefix(EXPECTED) for line in snippet.splitlines() if line.startswith(EXPECTED)]
        assert done.stdout.splitlines() == lines, snippet
        assert done.stderr == ""


def test_a_notebook_whose_loop_is_running_can_use_the_plain_client(server: Server) -> None:
    cell = """
import asyncio
from psf.client import SyncClient
async def notebook():
    with SyncClient().session("bash") as session:
        return session.run("echo from a cell").stdout
print(asyncio.run(notebook()), end="")
"""
    done = subprocess.run(
        [sys.executable, "-c", cell],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PSF_URL": server.url},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("from a cell\n", "")


KILLED_AFTER_S = (0.0, 0.02, 0.1, 0.25, 0.45, 0.55, 0.7)
"""Before a step of half a second has come, while it runs, as it is committed, and after it has been answered."""


async def test_a_step_whose_server_is_killed_and_started_again_is_in_the_history_once(
    start_server: Callable[..., Server],
) -> None:
    server = start_server()
    port = str(urlsplit(server.url).port)
    async with Client(server.url) as client:
        session = await client.session("bash")
        for number, after_s in enumerate(KILLED_AFTER_S):
            code = f"echo {number} >> steps; sleep 0.4; cat steps"
            streams = bool(number % 2)
            step = asyncio.create_task(run(session, code, streams=streams))
            await asyncio.sleep(after_s)
            server.kill()
            server = await asyncio.to_thread(start_server, "--port", port)
            assert await step == "".join(f"{line}\n" for line in range(number + 1))
            kinds = [move.kind async for move in session.log()]
            assert kinds == ["execute"] * (number + 1) + ["create"], f"killed after {after_s} s"
        assert await session.read_file("steps") == b"".join(b"%d\n" % line for line in range(len(KILLED_AFTER_S)))


async def run(session: Session, code: str, *, streams: bool) -> str:
    """Run a step; its output, of a stream as its events tell it."""
    if not streams:
        return (await session.run(code)).stdout
    text = ""
    async for event in session.stream(code):
        text = "" if event.kind == "restarted" else text + event.text
    return text


@pytest.mark.parametrize("killed_after_s", [0.05, 0.3, 0.6])
def test_a_client_that_is_killed_and_started_again_with_the_same_key_runs_its_step_once(
    server: Server, killed_after_s: float
) -> None:
    session_id = server.session("bash")
    code = f"""
from psf.client import SyncClient
with SyncClient({server.url!r}) as client:
    print("ready", flush=True)
    print(client.attach({session_id!r}).run("echo x >> f; sleep 0.4; cat f", key="mine").stdout, end="")
"""
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == b"ready\n"
    time.sleep(killed_after_s)
    first.kill()  # it may be done by then, which is a point like any other
    first.wait()
    first.stdout.close()
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert again.stdout == "ready\nx\n"
    assert [move["kind"] for move in server.log(session_id)] == ["execute", "create"]
