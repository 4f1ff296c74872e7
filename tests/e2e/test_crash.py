"""kill -9 of the server in the middle of its work, again and again."""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from store.check import check
from store.local import LocalStore
from tests.e2e.conftest import Server, descendants, eventually, is_alive

SESSIONS = 20
ROUNDS = 10


class Client(threading.Thread):
    """Executes on one session, one step after the other, and remembers what was acknowledged."""

    def __init__(self, server: Server, session_id: str, first: int) -> None:
        super().__init__()
        self._server, self._session_id, self.number = server, session_id, first
        self.acknowledged: list[str] = []

    def run(self) -> None:
        while True:
            code = f"echo {self.number} >> steps.txt; head -c 3000 /dev/urandom > noise.bin; sleep 0.0{self.number % 5}"
            fields = {"fetch_files": ["steps.txt", "noise.bin"]} if self.number % 2 else {"keep": "all"}
            try:
                answer = self._server.execute(self._session_id, code, **fields)
            except (OSError, ValueError):
                return
            self.acknowledged.append(answer["snapshot"])
            self.number += 1


def abandoned_groups() -> set[str]:
    """Control groups whose launcher is gone. Each is called after its launcher's pid and start time."""
    found = set()
    for path in Path("/sys/fs/cgroup").rglob("psf-*-*-*"):
        pid, start = path.name.split("-")[2:]
        if not is_alive((int(pid), start)):
            found.add(str(path))
    return found


def mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


@pytest.mark.timeout(300)
def test_kill_9_amid_twenty_concurrent_executions_loses_nothing_acknowledged_and_leaves_nothing_behind(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    groups_before, mounts_before = abandoned_groups(), mounts()
    server = start_server()
    sessions = [server.session("bash") for _ in range(SESSIONS)]
    acknowledged: dict[str, list[str]] = {session: [] for session in sessions}
    for round_number in range(ROUNDS):
        clients = [Client(server, session, len(acknowledged[session])) for session in sessions]
        for client in clients:
            client.start()
        time.sleep(random.uniform(0.4, 1.2))
        running = descendants(server.process.pid)
        server.kill()
        for client, session in zip(clients, sessions, strict=True):
            client.join()
            acknowledged[session] += client.acknowledged
        assert running, "nothing was running when the server was killed"
        assert eventually(lambda running=running: not any(map(is_alive, running))), "a process outlived the server"
        assert mounts() == mounts_before

        server = start_server()
        for session in sessions:
            chain = [move["to"] for move in reversed(server.log(session))]
            positions = [chain.index(snapshot) for snapshot in acknowledged[session]]
            assert positions == sorted(positions), f"round {round_number}: acknowledged steps out of order"
            # What was not acknowledged may be there whole, but every step stands on the one before it.
            moves = server.log(session)
            assert all(later["from"] == earlier["to"] for later, earlier in itertools.pairwise(moves))
        own = [folder for folder in (server.store / "workspaces").iterdir() if folder.is_dir()]
        assert len(own) == 1, "folders of dead servers were left"
        assert not list(server.store.glob("probe-*"))
    assert sum(map(len, acknowledged.values())) > ROUNDS
    assert server.stop() == 0
    assert eventually(lambda: abandoned_groups() <= groups_before), "control groups were left"
    _verify(tmp_path / "store", acknowledged)


def _verify(folder: Path, acknowledged: dict[str, list[str]]) -> None:
    store = LocalStore(folder)
    try:
        report = check(store.objects, store.heads)
        assert report.clean, report
        assert report.snapshots >= sum(map(len, acknowledged.values()))
    finally:
        store.close()


def test_sessions_survive_a_restart_with_their_files_their_language_and_their_history(
    start_server: Callable[..., Server],
) -> None:
    first = start_server()
    session = first.session("python")
    first.execute(session, "open('a.txt', 'w').write('kept')", fetch_files=["a.txt"])
    snapshot = first.execute(session, "echo hi", language="bash")["snapshot"]
    assert first.stop() == 0
    second = start_server()
    answer = second.execute(session, "cat a.txt")
    assert answer["run_result"]["stdout"] == "kept"
    assert second.log(session)[0]["from"] == snapshot


def test_a_stopping_server_finishes_the_step_it_is_running(start_server: Callable[..., Server]) -> None:
    server = start_server()
    session = server.session("bash")
    answers: list[dict[str, object]] = []
    step = threading.Thread(target=lambda: answers.append(server.execute(session, "sleep 1; echo done")))
    step.start()
    time.sleep(0.4)
    assert server.stop() == 0
    step.join()
    assert answers[0]["run_result"]["stdout"] == "done\n"  # type: ignore[index]


def test_told_twice_a_server_stops_at_once(start_server: Callable[..., Server]) -> None:
    server = start_server()
    session = server.session("bash")
    answers: list[str] = []

    def execute() -> None:
        try:
            answers.append(server.execute(session, "echo x > f; sleep 600", keep="all", run_timeout=900)["status"])
        except OSError:
            answers.append("none")

    step = threading.Thread(target=execute)
    step.start()
    time.sleep(0.5)
    running = descendants(server.process.pid)
    server.process.terminate()
    time.sleep(0.5)
    began_s = time.monotonic()
    server.process.terminate()
    assert server.wait() == 128 + signal.SIGTERM
    assert time.monotonic() - began_s < 10
    step.join()
    assert answers[0] in ("none", "SandboxError")
    assert eventually(lambda: not any(map(is_alive, running)))
    assert "Traceback" not in server.log_text()
    again = start_server()
    assert len(again.log(session)) == 1
