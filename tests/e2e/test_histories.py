"""What histories promise, on real servers: replays are exact, searches short, forks cheap and free, heads linear, also of two servers."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from store import snapshot as snapshots
from store.ids import BlobId, Kind, SnapshotId
from store.local import LocalStore
from store.snapshot import Run
from tests.e2e.conftest import Server
from tests.faults.linear import Read, Swap, violations

LANGUAGES = """
[perl]
title = "Perl"
file = "_psf_main.pl"
run = ["/usr/bin/perl", "_psf_main.pl"]
[awk]
title = "AWK"
file = "_psf_main.awk"
run = ["/usr/bin/awk", "-f", "_psf_main.awk"]
[sed]
title = "sed"
file = "_psf_main.sed"
run = ["/bin/sh", "-c", "exec sed -n -f _psf_main.sed"]
[sh]
title = "POSIX shell"
file = "_psf_main.posix"
run = ["/bin/sh", "_psf_main.posix"]
"""
PROGRAMS = {
    "python": "import json, hashlib; open('py{n}', 'w').write(json.dumps({{'n': {n}, 'id': id(object()) % 64}})); print({{'a', 'b', 'c'}})",
    "bash": "echo {n} >> log; mkdir -p d{m}; printf '%s' $((RANDOM * 0 + {n})) > d{m}/f; ls | wc -l",
    "pybash": "python3 -c 'print(sorted(set(range({m}))))' > sets; rm -f py{p}; cat sets",
    "perl": "open(my $f, '>>', 'perl'); print $f {n}; my %h = map {{ $_ => 1 }} (1..9); print scalar(keys %h), qq(\\n);",
    "awk": 'BEGIN {{ print "awk", {n} > "awk{m}"; print {n} * 2; exit }}',
    "sed": "1,3p",
    "sh": "cp log copy{m} 2>/dev/null; date +%Y > /dev/null; echo $TZ $LANG",
}
"""{n}: the step's number; {m}, {p}: small numbers that come again."""


def history(server: Server, steps: int) -> tuple[str, list[str]]:
    """A session of so many steps in all languages under the profile that makes programs repeat, and its heads."""
    status, session = server.call("POST", "/v1/sessions", {"runtime": "bash"})
    assert status == 201
    heads = []
    choose = random.Random(7)
    for number in range(steps):
        runtime = choose.choice(list(PROGRAMS)) if number >= len(PROGRAMS) else list(PROGRAMS)[number]
        code = PROGRAMS[runtime].format(n=number, m=number % 5, p=number - 3)
        body = {"code": code, "runtime": runtime, "deterministic": True, "stdin": "one\ntwo\n"}
        status, answer = server.call("POST", f"/v1/sessions/{session['session_id']}/execute", body)
        assert (status, answer["exit_code"]) == (200, 0), (runtime, answer)
        heads.append(answer["snapshot"])
    return session["session_id"], heads


@pytest.fixture(params=[42, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def steps(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


def test_a_replay_leaves_every_tree_and_names_the_one_step_whose_record_is_false(
    start_server: Callable[..., Server], tmp_path: Path, steps: int
) -> None:
    table = tmp_path / "languages.toml"
    table.write_text(LANGUAGES)
    server = start_server("--runtimes", str(table))
    session, heads = history(server, steps)
    path = f"/v1/sessions/{session}/replay"
    status, report = server.call("POST", path, {"parallel": 4})
    assert (status, report["steps"], report["same"]) == (200, steps, True), report["different"][:1]
    assert server.call("POST", path, {"verify": True})[1]["same"]
    server.stop()
    false_step = steps // 2
    falsify(server.store, session, heads, false_step)
    server = start_server("--runtimes", str(table))
    _, report = server.call("POST", "/v1/sessions/false/replay", {"parallel": 4})
    assert [step["step"] for step in report["different"]] == [false_step]
    (difference,) = report["different"][0]["differences"]
    assert (difference["what"], difference["stage"]) == ("stdout", "run")


def falsify(root: Path, session_id: str, heads: list[str], number: int) -> None:
    """Make a session `false` with the same history, but that step `number` is recorded to have printed something else."""
    store = LocalStore(root)
    try:
        objects = store.objects
        head: SnapshotId | None = None
        for position, identity in enumerate(heads[number - 1 :], start=number):
            snapshot = snapshots.decode(objects.get(Kind.SNAPSHOT, bytes.fromhex(identity)))
            if position == number:
                assert snapshot.outcome is not None
                (stage,) = snapshot.outcome.stages
                printed = msgspec.structs.replace(stage.stdout, blob=BlobId(objects.put(Kind.BLOB, b"never printed")))
                outcome = msgspec.structs.replace(
                    snapshot.outcome, stages=(msgspec.structs.replace(stage, stdout=printed),)
                )
                snapshot = msgspec.structs.replace(snapshot, outcome=outcome)
            else:
                assert head is not None
                snapshot = msgspec.structs.replace(snapshot, parents=(head,))
            assert isinstance(snapshot.step, Run)
            head = SnapshotId(objects.put(Kind.SNAPSHOT, snapshots.encode(snapshot)))
        session = store.heads.get(session_id, "local")
        assert head is not None
        store.heads.create([msgspec.structs.replace(session, session_id="false", head=head, name=None)], "create")
    finally:
        store.close()


def test_a_bisection_finds_a_planted_regression_within_its_bound(server: Server) -> None:
    _, session = server.call("POST", "/v1/sessions", {"runtime": "bash"})
    path = f"/v1/sessions/{session['session_id']}"
    steps, planted = 40, 27
    for number in range(1, steps + 1):
        code = "echo broken > part" if number == planted else f"echo {number} > f{number}"
        assert server.call("POST", f"{path}/execute", {"code": code})[0] == 200
    _, found = server.call("POST", f"{path}/bisect", {"code": "! grep -q broken part 2>/dev/null"})
    assert found["step"] == planted
    assert found["runs"] <= math.log2(steps) + 1
    _, blamed = server.call("GET", f"{path}/blame/part")
    assert blamed["step"] == planted


def test_each_of_very_many_forks_goes_its_own_way_and_needs_its_parent_no_more(server: Server) -> None:
    count = 10_000
    _, session = server.call(
        "POST", "/v1/sessions", {"runtime": "bash", "files": {"shared": {"text": "from the beginning"}}}
    )
    status, answer = server.call("POST", f"/v1/sessions/{session['session_id']}/fork", {"count": count})
    assert status == 201
    ids = [fork["session_id"] for fork in answer["sessions"]]
    assert len(set(ids)) == count
    assert server.call("DELETE", f"/v1/sessions/{session['session_id']}/files/shared")[0] == 200
    code = "cat shared; echo $1 > own; cat own"
    heads = set()
    for position in (0, 1, count // 2, count - 1):
        _, step = server.call("POST", f"/v1/sessions/{ids[position]}/execute", {"code": code, "args": [str(position)]})
        assert step["stages"]["run"]["stdout"] == f"from the beginning{position}\n"
        heads.add(step["snapshot"])
    assert len(heads) == 4


@pytest.mark.parametrize("servers", [1, 2])
def test_what_twelve_callers_do_to_one_session_is_one_chain(
    start_server: Callable[..., Server], tmp_path: Path, servers: int
) -> None:
    running = [start_server(store=tmp_path / "store") for _ in range(servers)]
    _, session = running[0].call("POST", "/v1/sessions", {"runtime": "bash"})
    path, base = f"/v1/sessions/{session['session_id']}", session["head"]

    def caller(number: int) -> list[Read | Swap]:
        server, seen = running[number % servers], []
        for turn in range(4):
            called = time.monotonic()
            _, answer = server.call("GET", path)
            seen.append(Read(answer["head"], called, time.monotonic()))
            # Some say where they take the head to be, and may be refused.
            expected = answer["head"] if turn % 2 else None
            body: dict[str, Any] = {"code": f"echo {number}.{turn} >> log"} | (
                {"expected": expected} if expected else {}
            )
            called = time.monotonic()
            status, answer = server.call("POST", f"{path}/execute", body)
            answered = time.monotonic()
            if status == 200:
                _, snapshot = server.call("GET", f"/v1/snapshots/{answer['snapshot']}")
                seen.append(Swap(snapshot["parents"][0], answer["snapshot"], True, None, called, answered))
            else:
                assert (status, answer["error"]["code"]) == (409, "head_moved")
                seen.append(Read(answer["error"]["actual"], called, answered))
        return seen

    with ThreadPoolExecutor(12) as pool:
        seen = [operation for one in pool.map(caller, range(12)) for operation in one]
    moves = running[0].log(session["session_id"])[::-1]
    chain = [move["to"] for move in moves]
    assert violations(seen, chain) == []
    accepted = [operation.value for operation in seen if isinstance(operation, Swap)]
    assert sorted(accepted) == sorted(chain[1:]), "each acknowledged step stands in the chain once, and no other"
    assert chain[0] == base
    _, answer = running[0].call("POST", f"{path}/execute", {"code": "wc -l < log"})
    assert int(answer["stages"]["run"]["stdout"]) == len(accepted)
