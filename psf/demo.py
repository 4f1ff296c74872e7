"""`psf demo`: the main things, over real HTTP, on a server of its own in a temporary folder."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from psf import app
from psf.config import Settings

SHORT = 12


class DemoFailed(Exception):
    """A step of the demo did not do what it shows."""


class Story:
    """Tells what is done as it is done."""

    def __init__(self, client: aiohttp.ClientSession, console: Console) -> None:
        self._client, self._console = client, console

    def chapter(self, text: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{text}", align="left")

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[dict[str, Any], float]:
        """One request: its answer and how many milliseconds it took."""
        started_s = time.perf_counter()
        async with self._client.request(method, path, json=body) as response:
            answer: dict[str, Any] = await response.json()
            if not response.ok:
                raise DemoFailed(f"{method} {path} answered {response.status}: {answer}")
        return answer, (time.perf_counter() - started_s) * 1e3

    async def create(self, language: str) -> str:
        answer, took_ms = await self.call("POST", "/create_session", {"language": language})
        session_id: str = answer["session_id"]
        self._console.print(f"a {language} session: [cyan]{session_id[:SHORT]}…[/] [dim]({took_ms:.1f} ms)")
        return session_id

    async def execute(self, session_id: str, code: str, expected: str, **fields: Any) -> dict[str, Any]:
        """Run a step, show it, and insist on what it must print."""
        body = {"session_id": session_id, "code": code, **fields}
        answer, took_ms = await self.call("POST", "/execute_session", body)
        run = answer["run_result"] or {}
        self._console.print(Syntax(code, "text", background_color="default", word_wrap=True))
        printed = run.get("stdout", "")
        for line in printed.splitlines() or ["(prints nothing)"]:
            self._console.print(f"  [green]{escape(line)}", highlight=False)
        files = ", ".join(answer["files"])
        self._console.print(
            f"  [dim]{answer['status']} in {took_ms:.1f} ms, snapshot {answer['snapshot'][:SHORT]}"
            + (f", returned and kept {files}" if files else "")
        )
        if answer["status"] != "Success" or printed != expected:
            raise DemoFailed(f"expected {expected!r}, got {answer}")
        return answer

    async def chain(self, session_id: str) -> list[dict[str, Any]]:
        answer, _ = await self.call("GET", f"/v1/sessions/{session_id}/log")
        table = Table(
            "move", "step", "runtime", "snapshot", "from", title=f"log of {session_id[:SHORT]}…, newest first"
        )
        for move in answer["moves"]:
            table.add_row(
                move["kind"],
                str(move["step"]),
                move["runtime"] or "",
                move["to"][:SHORT],
                (move["from"] or "")[:SHORT],
            )
        self._console.print(table)
        moves: list[dict[str, Any]] = answer["moves"]
        return moves

    def say(self, text: str) -> None:
        self._console.print(text)


async def run(console: Console | None = None) -> int:
    """Tell the story; 0 when every step did what it shows."""
    logging.basicConfig(level=logging.ERROR)
    console = console or Console()
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="psf-demo-") as folder:
        settings = Settings(port=0, store=str(Path(folder) / "store"), log_level="error")
        async with app.serve(settings) as url, aiohttp.ClientSession(url) as client:
            console.print(Panel(f"A server on [bold]{url}[/], its store in a temporary folder."))
            try:
                await _tell(Story(client, console))
            except DemoFailed as error:
                console.print(f"[red]The demo failed: {escape(str(error))}")
                return 1
    console.print(f"\n[bold green]Done[/] in {time.perf_counter() - started_s:.1f} s; nothing is left behind.")
    console.print("[dim]`psf serve` starts a server that stays; the README shows the same with curl.")
    return 0


async def _tell(story: Story) -> None:
    story.chapter("1 · A session keeps files between calls")
    session = await story.create("python")
    await story.execute(session, 'with open("note.txt", "w") as f: f.write("hello")', "", fetch_files=["note.txt"])
    await story.execute(session, 'print(open("note.txt").read())', "hello\n")

    story.chapter("2 · The same session in another language")
    await story.execute(session, "cat note.txt; echo; wc -c < note.txt", "hello\n5\n", language="bash")

    story.chapter("3 · pybash: shell and Python in one snippet")
    both = await story.create("pybash")
    await story.execute(both, "echo 1 2 3 | awk '{print $1+$2+$3}' && python3 -c \"print(2**8)\"", "6\n256\n")

    story.chapter("4 · Every step is a snapshot")
    moves = await story.chain(session)

    story.chapter("5 · Fork: a second session from the same snapshot, no bytes copied")
    answer, took_ms = await story.call("POST", f"/v1/sessions/{session}/fork", {})
    fork = answer["sessions"][0]["session_id"]
    story.say(f"forked to [cyan]{fork[:SHORT]}…[/] [dim]({took_ms:.1f} ms)")
    await story.execute(fork, "echo changed > note.txt; cat note.txt", "changed\n", fetch_files=["note.txt"])
    await story.execute(session, "cat note.txt; echo", "hello\n")

    story.chapter("6 · Rollback: the fork goes back, as if it had never changed")
    start = moves[0]["to"]
    answer, took_ms = await story.call("POST", f"/v1/sessions/{fork}/rollback", {"to": start[:SHORT]})
    story.say(f"head of the fork is {answer['head'][:SHORT]} again [dim]({took_ms:.1f} ms)")
    await story.execute(fork, "cat note.txt; echo", "hello\n")
    await story.chain(fork)
