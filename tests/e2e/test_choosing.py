"""A real server takes the sandbox it is told to take, says so everywhere, and keeps it with its sessions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.e2e.conftest import Server


def test_a_server_runs_programs_in_the_sandbox_that_is_named(start_server: Callable[..., Server]) -> None:
    server = start_server("--executor", "nsjail")
    session = server.session()
    answer = server.execute(session, "import os; print(os.getuid(), os.getcwd())", require=["network", "system_calls"])
    assert answer["run_result"]["stdout"] == "1000 /work\n"
    assert server.call("GET", "/healthz")[1]["sandbox"]["sandbox"] == "nsjail"
    assert server.log(session)[0]["run"]["sandbox"] == "nsjail"
    assert "sandbox nsjail" in server.log_text()
    server.stop()

    other = start_server("--executor", "bubblewrap", store=server.store)
    status, refusal = other.call("POST", "/execute_session", {"session_id": session, "code": "1"})
    assert (status, "--executor nsjail" in refusal["detail"]) == (409, True)
    _, forked = other.call("POST", f"/v1/sessions/{session}/fork")
    assert other.execute(forked["sessions"][0]["session_id"], "print(1)")["run_result"]["stdout"] == "1\n"


def test_a_plug_in_that_breaks_or_takes_anothers_name_costs_a_server_nothing(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    information = tmp_path / "site" / "cuckoo-1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: cuckoo\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[psf.sandboxes]\nbubblewrap = cuckoo:start\nbroken = cuckoo:start\n")
    (tmp_path / "site" / "cuckoo.py").write_text("raise RuntimeError('cannot be imported')")
    search = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    server = start_server("--executor", "bubblewrap", environment={"PYTHONPATH": search})
    assert server.execute(server.session("bash"), "echo 1")["status"] == "Success"
    assert "the one of cuckoo is left out" in server.log_text()
