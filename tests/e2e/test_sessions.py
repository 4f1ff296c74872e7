"""What users of a real server see: the seed's quick start, sessions, files, histories."""

from __future__ import annotations

import base64
import concurrent.futures
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Server

CREATE = 'sid=$(curl -sX POST {url}/create_session -H "Content-Type: application/json" -d \'{{"language":"{language}"}}\' | jq -r .session_id)'


def shell(server: Server, language: str, body: str) -> dict[str, object]:
    """Run one of the quick start's curl commands, as a person would paste it."""
    import json

    script = CREATE.format(url=server.url, language=language) + "\n" + body.replace("localhost:8080", server.url)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_the_quick_start_works_as_it_is_written_with_its_line_continuations(server: Server) -> None:
    answer = shell(
        server,
        "python",
        """curl -sX POST localhost:8080/execute_session \\
     -H 'Content-Type: application/json' \\
     -d '{"session_id":"'$sid'",\\
          "code":"with open(\\"note.txt\\", \\"w\\") as f: f.write(\\"hello\\")",\\
          "fetch_files":["note.txt"]}' > /dev/null
curl -sX POST localhost:8080/execute_session \\
     -H 'Content-Type: application/json' \\
     -d '{"session_id":"'$sid'",\\
          "code":"print(open(\\"note.txt\\").read())"}'""",
    )
    assert answer["status"] == "Success"
    assert answer["run_result"]["stdout"] == "hello\n"  # type: ignore[index]


def test_the_misquoted_awk_line_of_the_quick_start_is_answered_honestly(server: Server) -> None:
    """The shell expands $1 to nothing before awk sees it, so awk finds a syntax error."""
    answer = shell(
        server,
        "pybash",
        """curl -sX POST localhost:8080/execute_session -H 'Content-Type: application/json' \\
     -d '{"session_id":"'$sid'",\\
          "code":"echo 1 2 3 | awk \\"{print $1+$2+$3}\\" && python3 -c \\"print(2**8)\\""}'""",
    )
    assert answer["status"] == "Failed"
    assert "awk" in answer["run_result"]["stderr"]  # type: ignore[index]


def test_an_answer_has_the_compatible_shape_and_names_session_and_snapshot(server: Server) -> None:
    session = server.session("python")
    answer = server.execute(session, "print(1)")
    assert set(answer) == {
        "status", "message", "compile_result", "run_result", "executor_pod_name", "files", "session_id", "snapshot", "left_out",
    }  # fmt: skip
    assert answer["session_id"] == session
    assert len(bytes.fromhex(answer["snapshot"])) == 32
    assert len(session) >= 32


def test_a_language_given_with_a_call_becomes_the_sessions(server: Server) -> None:
    session = server.session("python")
    server.execute(session, "echo 1", language="bash")
    assert server.execute(session, "echo $((6*7))")["run_result"]["stdout"] == "42\n"


def test_only_fetched_files_persist_by_default(server: Server) -> None:
    session = server.session("bash")
    answer = server.execute(
        session,
        "echo a > kept; echo b > gone; rm -f sent",
        fetch_files=["kept", "missing"],
        files={"sent": encoded("x")},
    )
    assert answer["files"] == {"kept": encoded("a\n")}
    assert server.execute(session, "ls")["run_result"]["stdout"] == "_psf_main.sh\nkept\n"


def test_a_file_that_an_answer_cannot_carry_is_named(server: Server) -> None:
    session = server.session("bash")
    answer = server.execute(session, "head -c 65M /dev/zero > large; echo 1 > small", fetch_files=["large", "small"])
    assert answer["files"] == {"small": encoded("1\n")}
    assert [left["path"] for left in answer["left_out"]] == ["large"]
    assert "67108864" in answer["left_out"][0]["reason"]


def test_keep_all_keeps_the_work_directory_with_deletions_and_renamings(server: Server) -> None:
    session = server.session("bash")
    server.execute(session, "mkdir -p d/e; echo 1 > d/e/f; echo 2 > g; ln -s g link", keep="all")
    server.execute(session, "rm g; mv d moved", keep="all")
    listing = server.execute(session, "find . | sort; readlink link")["run_result"]["stdout"]
    assert listing.split() == [".", "./_psf_main.sh", "./link", "./moved", "./moved/e", "./moved/e/f", "g"]


def test_scratch_can_be_given_and_fetched_and_is_not_kept(server: Server) -> None:
    session = server.session("bash")
    names = {"/tmp/in": encoded("tmp"), "/mnt/data/x": encoded("mnt")}
    answer = server.execute(
        session, "cat /tmp/in /mnt/data/x > /var/tmp/out; cp /var/tmp/out ~/out", files=names,
        fetch_files=["/var/tmp/out", "/home/sandbox/out", "/etc/passwd", "../escape"],
    )  # fmt: skip
    assert answer["files"] == {"/var/tmp/out": encoded("tmpmnt"), "/home/sandbox/out": encoded("tmpmnt")}
    assert server.execute(session, "ls /tmp /mnt /var/tmp ~ | grep -c .")["run_result"]["stdout"].strip() == "4"


def test_the_same_steps_in_two_sessions_give_the_same_snapshots(server: Server) -> None:
    chains = []
    for _ in range(2):
        session = server.session("python")
        steps = ["open('a', 'w').write('1')", "import os; os.makedirs('d/e'); print(sorted(os.listdir()))"]
        chains.append([server.execute(session, step, keep="all")["snapshot"] for step in steps])
    assert chains[0] == chains[1]


def test_fork_and_rollback_show_earlier_states_and_harm_no_other(server: Server) -> None:
    session = server.session("bash")
    first = server.execute(session, "echo 1 > n", keep="all")["snapshot"]
    server.execute(session, "echo 2 > n", keep="all")
    status, answer = server.call("POST", f"/v1/sessions/{session}/fork", {"from": first[:8], "count": 2})
    assert status == 201
    forks = [fork["session_id"] for fork in answer["sessions"]]
    assert [server.execute(fork, "cat n")["run_result"]["stdout"] for fork in forks] == ["1\n", "1\n"]
    assert server.execute(session, "cat n")["run_result"]["stdout"] == "2\n"
    assert server.call("POST", f"/v1/sessions/{session}/rollback", {"to": 1}) == (200, {"head": first})
    assert server.execute(session, "cat n")["run_result"]["stdout"] == "1\n"
    assert [move["kind"] for move in server.log(session)][:2] == ["execute", "rollback"]


def test_many_sessions_and_many_steps_of_one_session_at_once_stay_in_order(server: Server) -> None:
    session = server.session("bash")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        step = "echo x >> n; wc -l < n"
        answers = list(pool.map(lambda _: server.execute(session, step, keep="all"), range(12)))
    assert sorted(int(answer["run_result"]["stdout"]) for answer in answers) == list(range(1, 13))
    chain = [move["to"] for move in server.log(session)]
    assert {answer["snapshot"] for answer in answers} <= set(chain)
    assert len(chain) == 13


def test_nothing_of_the_server_is_visible_to_a_program(start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server(environment={"SECRET_CANARY": "canary-5f1e"})
    other = server.session("bash")
    server.execute(other, "echo other-canary > secret", fetch_files=["secret"])
    probe = f"""
import os, socket, pathlib
print(dict(os.environ))
for path in ["/proc/self/environ", "/proc/1/environ", "{server.store}", "{server.store}/heads.sqlite", "{tmp_path}",
             "/etc/shadow", "/root", "/proc/1/root/etc/shadow", "{Path(__file__).parent}", "/var/run/docker.sock"]:
    try:
        print(path, os.listdir(path) if os.path.isdir(path) else pathlib.Path(path).read_bytes()[:200])
    except OSError as error:
        print(path, "refused")
for pid in [p for p in os.listdir("/proc") if p.isdigit()]:
    print(pid, open(f"/proc/{{pid}}/cmdline").read())
for host in ("127.0.0.1", "10.0.0.1", "::1"):
    try:
        socket.create_connection((host, {server.url.rsplit(":", 1)[1]}), 1)
        print("CONNECTED", host)
    except OSError as error:
        pass
"""
    printed = server.execute(server.session("python"), probe)["run_result"]["stdout"]
    assert "canary" not in printed
    assert "CONNECTED" not in printed
    assert str(tmp_path) + " refused" in printed
    assert "/etc/shadow refused" in printed
    assert "psf.cli" not in printed


def test_outputs_that_are_not_regular_files_are_left_out_and_host_files_stay_unread(server: Server) -> None:
    session = server.session("python")
    code = "import os; os.symlink('/etc/shadow', 's'); os.mkfifo('f'); os.symlink('/proc/1/environ', 'e')"
    answer = server.execute(session, code, fetch_files=["s", "f", "e"], keep="all")
    assert answer["files"] == {}
    assert answer["left_out"] == [{"path": "f", "reason": "a FIFO"}]
    assert server.log(session)[0]["left_out"] == answer["left_out"]
    assert server.execute(session, "import os; print(sorted(os.listdir()))")["run_result"]["stdout"] == (
        "['_psf_main.py', 'e', 's']\n"
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"code": "1", "language": "cobol"}, "language"),
        ({"code": "a\0"}, "code"),
        ({"code": "1", "files": {"../x": ""}}, "../x"),
        ({"code": "1", "files": {"x": "!!!"}}, "x"),
        ({"code": "1", "run_timeout": -1}, "run_timeout"),
        ({"code": "1", "fetch_files": ["a\0"]}, "fetch_files"),
        ({"code": 5}, "code"),
        ({}, "code"),
    ],
)
def test_bad_input_names_the_field_and_changes_nothing(server: Server, body: dict[str, object], field: str) -> None:
    session = server.session("python")
    status, answer = server.call("POST", "/execute_session", {"session_id": session, **body})
    assert status == 422
    assert field in answer["detail"][0]["loc"]
    assert len(server.log(session)) == 1


def test_unknown_and_expired_sessions_are_410(server: Server) -> None:
    gone = (410, {"detail": "Session expired or not found"})
    assert server.call("POST", "/execute_session", {"session_id": "0" * 40, "code": "1"}) == gone
    short = server.session(ttl=0.05)
    import time

    time.sleep(0.1)
    assert server.call("POST", "/execute_session", {"session_id": short, "code": "1"}) == gone


def test_a_client_that_goes_away_cancels_its_step_and_the_head_stays(server: Server) -> None:
    session = server.session("bash")
    host, port = server.url.removeprefix("http://").split(":")
    body = f'{{"session_id": "{session}", "code": "sleep 30; echo x > f", "keep": "all", "run_timeout": 60}}'
    with socket.create_connection((host, int(port))) as connection:
        request = (
            f"POST /execute_session HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
        connection.sendall(request.encode())
        import time

        time.sleep(0.5)
    # The turn is free at once, not after 30 seconds.
    assert server.execute(session, "ls; echo next")["run_result"]["stdout"] == "_psf_main.sh\nnext\n"
    assert len(server.log(session)) == 2


def test_a_server_on_another_address_is_refused_unless_told_so() -> None:
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "psf.cli", "serve", "--host", "0.0.0.0", "--port", "0"],
        capture_output=True,
        text=True,
        env={**os.environ},
        check=False,
    )
    assert done.returncode == 2
    assert "--allow-unauthenticated" in done.stderr
