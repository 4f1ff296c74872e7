"""What is written down of a step: all that its result may depend on in the snapshot, what may differ beside it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from executors.interfaces import Output, Result, RunResult, Usage
from psf import record
from psf.limits import StageLimits
from psf.record import Order
from psf.runtimes import Runtime, Runtimes
from store.ids import Kind, blob_id
from store.memory import MemoryObjects
from store.snapshot import EMPTY_SNAPSHOT, Ending, LeftOut, Limits, Run
from store.tree import EMPTY_TREE

PYTHON = Runtime("Python", "_psf_main.py", ("python3", "_psf_main.py"), name="python")
ENVIRONMENT = b"e" * 32
USAGE = Usage(0.25)
ORDER = Order(
    code=b"print(1)",
    runtime="python",
    stdin=b"in",
    args=("a",),
    env=(("A", "1"),),
    files=(("b", b"2"), ("a", b"1")),
    fetch=("x", "y"),
    keep="all",
)
LIMITS = (("run", Limits(wall_time_s=7.0)),)


def ran(usage: Usage = USAGE, **fields: Any) -> RunResult:
    return RunResult(**{
        "ending": Ending.EXITED, "exit_code": 0, "signal": None, "stdout": Output(b"out", 3), "stderr": Output(), "hit": (),
        "usage": usage, **fields,
    })  # fmt: skip


def result(*stages: tuple[str, RunResult], warm: bool = False, left_out: tuple[LeftOut, ...] = ()) -> Result:
    return Result(EMPTY_TREE, stages, {}, left_out, warm)


def test_a_step_names_its_bytes_which_lie_in_the_store() -> None:
    objects = MemoryObjects()
    step = record.put_step(objects, PYTHON, ENVIRONMENT, ORDER, LIMITS)
    assert (step.code, step.stdin) == (blob_id(b"print(1)"), blob_id(b"in"))
    assert step.files == (("a", blob_id(b"1")), ("b", blob_id(b"2")))
    assert {objects.get(*name) for name in objects} == {b"print(1)", b"in", b"1", b"2"}
    assert (step.runtime, step.environment, step.args, step.env) == ("python", ENVIRONMENT, ("a",), (("A", "1"),))
    assert (step.fetch, step.keep, step.limits) == (("x", "y"), "all", LIMITS)


def test_the_order_in_which_files_were_sent_makes_no_difference() -> None:
    turned = msgspec.structs.replace(ORDER, files=ORDER.files[::-1])
    objects = MemoryObjects()
    steps = {
        msgspec.msgpack.encode(record.put_step(objects, PYTHON, ENVIRONMENT, order, LIMITS))
        for order in (ORDER, turned)
    }
    assert len(steps) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"code": b"print(2)"},
        {"stdin": b""},
        {"args": ()},
        {"env": (("A", "2"),)},
        {"files": (("a", b"1"),)},
        {"files": (("b", b"1"), ("a", b"2"))},
        {"fetch": ("y", "x")},
        {"keep": "fetched"},
        {"deterministic": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_a_result_may_depend_on_makes_another_step(change: dict[str, Any]) -> None:
    def step(order: Order, limits: StageLimits = LIMITS) -> Run:
        return record.put_step(MemoryObjects(), PYTHON, ENVIRONMENT, order, limits)

    assert step(ORDER) != step(msgspec.structs.replace(ORDER, **change))
    assert step(ORDER) != step(ORDER, (("run", Limits(wall_time_s=7.5)),))


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_step_is_asked_for_again_as_it_was(deterministic: bool) -> None:
    objects = MemoryObjects()
    order = msgspec.structs.replace(ORDER, files=ORDER.files[::-1], deterministic=deterministic)
    again = record.order_of(objects, record.put_step(objects, PYTHON, ENVIRONMENT, order, LIMITS))
    assert again == order
    runtimes = Runtimes({"python": PYTHON}, "python3", None)
    request = record.to_request(runtimes, PYTHON, EMPTY_SNAPSHOT, again, LIMITS)
    assert request.deterministic == deterministic


def test_an_outcome_tells_each_stage_and_its_output_lies_in_the_store() -> None:
    objects = MemoryObjects()
    compiled, killed = (
        ran(),
        ran(ending=Ending.OUTPUT_LIMIT, exit_code=None, stdout=Output(b"cut", 999, True), hit=("output",)),
    )
    left_out = (LeftOut(b"fifo", "is no file"),)
    outcome = record.put_outcome(objects, result(("compile", compiled), ("run", killed), left_out=left_out))
    first, second = outcome.stages
    assert (first.name, first.ending, first.exit_code, first.hit) == ("compile", Ending.EXITED, 0, ())
    assert (second.name, second.ending, second.exit_code, second.hit) == ("run", Ending.OUTPUT_LIMIT, None, ("output",))
    assert (second.stdout.blob, second.stdout.total_bytes, second.stdout.truncated) == (blob_id(b"cut"), 999, True)
    assert objects.get(Kind.BLOB, first.stdout.blob) == b"out"
    assert outcome.left_out == left_out


def test_an_outcome_holds_nothing_that_differs_between_two_equal_runs() -> None:
    slow = Usage(9.0, 8.0, 1 << 30)
    results = [result(("run", ran(usage)), warm=warm) for usage, warm in ((Usage(0.1), False), (slow, True))]
    assert len({msgspec.msgpack.encode(record.put_outcome(MemoryObjects(), one)) for one in results}) == 1


def test_the_run_record_holds_what_may_differ() -> None:
    usage = Usage(0.25, 0.125, None, 4096)
    facts: dict[str, object] = {"sandbox": "fake", "enforced": {"network": "namespace"}}
    written = record.run_record(result(("compile", ran(usage)), ("run", ran(usage)), warm=True), 1234.5, facts)
    stage = {"wall_time_s": 0.25, "cpu_time_s": 0.125, "memory_peak_bytes": None, "disk_bytes": 4096}
    assert json.loads(written) == {
        "started_at_s": 1234.5,
        "stages": {"compile": stage, "run": stage},
        "warm": True,
        "sandbox": "fake",
        "enforced": {"network": "namespace"},
    }
