"""The rows about histories: each a function from a server to answers. Times are those of whole requests over loopback, client included."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.measure import Answer, Arm, Context, in_turn
from benchmarks.served import Served

FILES = {f"d{number // 100}/f{number}": {"text": f"file {number}\n" * 20} for number in range(1000)}
STEP = {"code": "echo $1 > changed", "runtime": "bash"}


class Scene(msgspec.Struct):
    """A server, and a session of 1,000 files with some steps behind it."""

    context: Context
    served: Served
    session: str
    numbers: Any = msgspec.field(default_factory=count)

    def step(self, session: str | None = None, **fields: object) -> dict[str, Any]:
        body = {**STEP, "args": [str(next(self.numbers))], **fields}
        answer: dict[str, Any] = self.served.call("POST", f"/v1/sessions/{session or self.session}/execute", body)
        return answer

    def fork(self, **fields: object) -> list[str]:
        answer = self.served.call("POST", f"/v1/sessions/{self.session}/fork", fields)
        return [one["session_id"] for one in answer["sessions"]]

    def ask(self, question: str, what: str, arms: list[Arm], rounds: int, patience_s: float) -> Answer:
        self.context.tell(what)
        series = in_turn(arms, rounds, patience_s=self.context.patience_s(patience_s), warm_up=1)
        return Answer(question, "1,000 files", what, series)


def set_up(context: Context, served: Served) -> Scene:
    session = served.call("POST", "/v1/sessions", {"runtime": "bash", "files": FILES})["session_id"]
    scene = Scene(context, served, session)
    for _ in range(5):
        scene.step()
    return scene


def _floor(scene: Scene) -> Arm:
    return Arm("aiohttp echo", lambda: scene.served.echoed(STEP))


def moves(scene: Scene) -> list[Answer]:
    """What is done with histories, beside a bare request and beside a step."""
    served, session = scene.served, scene.session
    path = f"/v1/sessions/{session}"
    heads = [scene.step()["snapshot"] for _ in range(2)]

    def rolled() -> None:
        served.call("POST", f"{path}/rollback", {"to": "-1"})
        scene.step()

    arms = [
        _floor(scene),
        Arm("step", scene.step),
        Arm("rollback + step", rolled),
        Arm("fork", scene.fork),
        Arm("diff", lambda: served.call("GET", f"/v1/diff?from={heads[0]}&to={heads[1]}&unified=true")),
        Arm("log, 50 moves", lambda: served.call("GET", f"{path}/log")),
        Arm("read a file", lambda: served.call("GET", f"/v1/snapshots/{heads[0]}/files/d1/f101")),
    ]
    answer = scene.ask("moves", "one request each", arms, scene.context.rounds(100, 10), 60)
    beside_s = answer.series["rollback + step"].wall_median_s - answer.series["step"].wall_median_s
    rollback = Answer(
        "rollback", answer.tree, "a rollback beside the step after it", {}, {"rollback": beside_s * 1e3}, "ms"
    )
    return [answer, rollback]


def memo(scene: Scene) -> list[Answer]:
    """An equal step on an equal tree: from the record, and run."""
    body = {"args": ["fixed"], "memo": True}
    scene.step(scene.fork()[0], **body)
    ahead: list[str] = []

    def fresh() -> None:
        ahead[:] = scene.fork()

    def known() -> None:
        if not scene.step(ahead[0], **body)["memo"]:
            raise RuntimeError("the memo did not know the step")

    arms = [
        _floor(scene),
        Arm("memo hit", known, before=fresh),
        Arm("the same, run", lambda: scene.step(ahead[0], args=["fixed"], deterministic=True), before=fresh),
    ]
    return [scene.ask("memo", "an equal step on an equal tree", arms, scene.context.rounds(100, 10), 60)]


def again(scene: Scene) -> list[Answer]:
    """Steps run again and verified, by the second."""
    steps = scene.context.rounds(200, 20)
    session = scene.fork()[0]
    for _ in range(steps):
        scene.step(session, deterministic=True)
    path, values = f"/v1/sessions/{session}/replay", {}
    start = f"-{steps}"
    for name, body in (("replayed", {}), ("replayed, two at once", {"parallel": 2}), ("verified", {"verify": True})):
        began_s = time.perf_counter()
        report = scene.served.call("POST", path, {"from": start, **body})
        values[name] = report["steps"] / (time.perf_counter() - began_s)
        if not report["same"]:
            raise RuntimeError(f"not the same: {report['different'][:1]}")
    return [Answer("again", "1,000 files", f"steps per second, of {steps}", {}, values, "steps/s")]


def many(scene: Scene) -> list[Answer]:
    """Very many forks: what each takes, and a log of very many moves."""
    forks = scene.context.rounds(10_000, 1000)
    store = Path(scene.served.folder)
    before, began_s = _allocated(store), time.perf_counter()
    scene.fork(count=forks)
    took_s = time.perf_counter() - began_s
    values = {"µs for each fork": took_s / forks * 1e6, "bytes for each fork": (_allocated(store) - before) / forks}
    session = scene.fork()[0]
    moves = scene.context.rounds(10_000, 500)
    for _ in range(moves // 2):
        for to in (2, 3):
            scene.served.call("POST", f"/v1/sessions/{session}/rollback", {"to": to})
    began_s, cursor, seen = time.perf_counter(), "", 0
    while True:
        page = scene.served.call("GET", f"/v1/sessions/{session}/log?limit=500{cursor}")
        seen += len(page["moves"])
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    values[f"ms for a log of {seen:,} moves"] = (time.perf_counter() - began_s) * 1e3
    return [Answer("many", "1,000 files", f"{forks:,} forks in one call, {moves:,} moves", {}, values, "")]


def parked(scene: Scene) -> list[Answer]:
    """Sessions that nobody uses: what the server's memory grows by, and how long the first step of one takes."""
    sessions = scene.context.rounds(100_000, 2000)
    before, made = _resident_bytes(), []
    while len(made) < sessions:
        made += scene.fork(count=min(10_000, sessions - len(made)))
    grown = (_resident_bytes() - before) / sessions
    firsts, usual = [], []
    for position in range(0, sessions, sessions // 20):
        began_s = time.perf_counter()
        scene.step(made[position])
        firsts.append(time.perf_counter() - began_s)
        began_s = time.perf_counter()
        scene.step(made[position])
        usual.append(time.perf_counter() - began_s)
    values = {
        "bytes of memory for each": grown,
        "ms for the first step of one": sorted(firsts)[len(firsts) // 2] * 1e3,
        "ms for its second": sorted(usual)[len(usual) // 2] * 1e3,
    }
    return [Answer("parked", "1,000 files", f"{sessions:,} sessions that nobody uses", {}, values, "")]


ROWS: dict[str, Callable[[Scene], list[Answer]]] = {
    "moves": moves,
    "memo": memo,
    "again": again,
    "many": many,
    "parked": parked,
}


def _allocated(folder: Path) -> int:
    return sum(
        path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file() and "workspaces" not in path.parts
    )


def _resident_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
