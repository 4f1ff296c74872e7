"""Limits as callers of a real server meet them: a session's own, a call's beyond them, in forks and after a restart; each ending with its numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Server

MIB = 1 << 20
NAP = "import time; time.sleep(30)"


def stage(server: Server, session: str, code: str, **fields: Any) -> dict[str, Any]:
    """What became of a program in a session."""
    result: dict[str, Any] = server.execute(session, code, **fields)["run_result"]
    return result


def test_a_session_is_limited_in_calls_in_forks_and_after_a_restart(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server(store=tmp_path / "store")
    session = server.session("python", limits={"wall_time_s": 1, "open_files": 40})
    assert stage(server, session, NAP)["ending"] == "timed_out"
    assert (
        stage(server, session, "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[1])")["stdout"]
        == "40\n"
    )
    # A call may ask for more than its session, up to what the server gives, and not for more than that.
    beyond = stage(server, session, "import time; time.sleep(1.5); print('slept')", limits={"wall_time_s": 20})
    assert (beyond["ending"], beyond["stdout"]) == ("exited", "slept\n")
    body = {"session_id": session, "code": "print(1)", "limits": {"wall_time_s": 3601}}
    status, answer = server.call("POST", "/execute_session", body)
    assert (status, answer["detail"][0]["loc"]) == (422, ["body", "limits", "wall_time_s"])
    status, answer = server.call("POST", f"/v1/sessions/{session}/fork", {})
    assert status == 201
    fork = answer["sessions"][0]["session_id"]
    assert server.stop() == 0

    server = start_server("--wall-time-s-max", "0.3", store=tmp_path / "store")
    for one in (session, fork):
        # A server that gives less by now cuts what the session asked for.
        ended = stage(server, one, NAP)
        assert ended["ending"] == "timed_out"
        assert 0.3 <= ended["usage"]["wall_time_s"] < 1
        assert (
            stage(server, one, "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[1])")["stdout"]
            == "40\n"
        )


FILL = "open('x', 'wb').write(bytes(9 << 20)); import time; time.sleep(30)"
ENDINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "exited": ("open('x', 'wb').write(bytes(3 << 20)); print('done')", {}),
    "signalled": ("import os; os.kill(os.getpid(), 11)", {}),
    "timed_out": (NAP, {"wall_time_s": 0.5}),
    "out_of_memory": ("data = bytearray(b'x') * (512 << 20)", {"memory_bytes": 64 * MIB}),
    "output_limit": ("while True: print('x' * 4096)", {"output_flood_bytes": MIB, "output_kept_bytes": 1000}),
    "disk_limit": (FILL, {"disk_bytes": 4 * MIB}),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_each_ending_is_reported_as_itself_with_its_numbers(server: Server, ending: str) -> None:
    session = server.session("python", limits={"wall_time_s": 20})
    code, limits = ENDINGS[ending]
    answer = server.execute(session, code, limits=limits)
    run, usage = answer["run_result"], answer["run_result"]["usage"]
    if ending == "out_of_memory" and usage["memory_peak_bytes"] is None:
        pytest.skip("memory of a run as a whole cannot be limited here")
    assert run["ending"] == ending, answer
    newest = server.log(session)[0]
    assert newest["endings"] == {"run": ending}
    assert newest["run"]["stages"]["run"] == usage
    assert 0 < usage["wall_time_s"] < 20
    for name in ("cpu_time_s", "memory_peak_bytes"):
        assert usage[name] is None or usage[name] > 0
    if ending in ("exited", "disk_limit") and usage["disk_bytes"] is not None:
        written = 3 if ending == "exited" else 9
        assert written * MIB <= usage["disk_bytes"] < (written + 1) * MIB
    expected = {"out_of_memory": ["memory"], "output_limit": ["output"], "disk_limit": ["disk"]}
    assert run["hit"] == expected.get(ending, [])


def test_without_a_network_nothing_is_reached_and_egress_needs_leave(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server()
    call = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname(), 5); print('reached')"
    session = server.session("python")
    assert stage(server, session, call)["stdout"] == "reached\n"
    alone = stage(server, session, call, limits={"network": "none"})
    assert (alone["stdout"], "OSError" in alone["stderr"]) == ("", True)
    for path, body in (
        ("/create_session", {"limits": {"network": "egress"}}),
        ("/execute_session", {"session_id": session, "code": call, "limits": {"network": "egress"}}),
    ):
        status, answer = server.call("POST", path, body)
        assert (status, "allow_egress" in answer["detail"]) == (403, True)


def test_a_share_of_a_processor_is_all_that_a_run_gets_or_the_call_is_refused(server: Server) -> None:
    spin = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass"
    began_s = time.monotonic()
    status, answer = server.call("POST", "/run_code", {"language": "python", "code": spin, "limits": {"cpus": 0.2}})
    _, health = server.call("GET", "/healthz")
    if "cpus" not in health["sandbox"]["enforced"]:
        assert (status, "cpus (" in answer["detail"]) == (501, True)
        return
    assert time.monotonic() - began_s >= 1
    assert answer["run_result"]["usage"]["cpu_time_s"] < 0.5
