"""What was seen of a step, from its record: for whoever asks for the same again."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from executors import paths
from executors.interfaces import Output, Result, RunResult, Usage
from executors.local import FETCHED_BYTES_MAX
from executors.paths import WORK
from store.ids import Kind
from store.interfaces import Objects
from store.known import KnownTrees
from store.snapshot import LeftOut, Run, Snapshot, Stage, Stream
from store.view import Patience, Regular, TreeView, follow

SCRATCH_FILES = "scratch_files"
"""In a run record: files that were fetched from outside of the work directory, which no tree holds, as base64 by name."""
SCRATCH_FILES_LEFT = "scratch_files_left"
"""In a run record: how many of them it has no room for."""
SCRATCH_BYTES_MAX = 384 << 10
"""Run records stand in the heads, are listed by the hundred, and go into bundles, which take a MiB of each (store.bundle_header)."""


MEMO = "memo"
"""In a run record: the snapshot of the equal step whose record was taken instead of a run."""


def is_of_memo(run_record: bytes) -> bool:
    """Whether a step was taken from an equal one's record."""
    return bool(run_record) and MEMO in msgspec.json.decode(run_record)


def result_of(objects: Objects, snapshot: Snapshot, run_record: bytes, work_dir: str = WORK) -> Result:
    """The result that a Run's snapshot records; what may differ between equal runs is from its run record.

    Raises ObjectMissing, ObjectDamaged.
    """
    facts: dict[str, Any] = msgspec.json.decode(run_record) if run_record else {}
    outcome, step = snapshot.outcome, snapshot.step
    assert outcome is not None
    assert isinstance(step, Run)
    usages: dict[str, Any] = facts.get("stages", {})
    stages = tuple((stage.name, _run(objects, stage, usages.get(stage.name))) for stage in outcome.stages)
    fetched = _fetched(objects, snapshot, step.fetch, work_dir)
    fetched |= {name: base64.b64decode(data) for name, data in facts.get(SCRATCH_FILES, {}).items()}
    kept = {name: fetched[name] for name in step.fetch if name in fetched}
    left_out = outcome.left_out
    if left := facts.get(SCRATCH_FILES_LEFT):
        left_out = (
            *left_out,
            LeftOut(b"", f"and {left} files from outside of the work directory, too long to be kept"),
        )
    return Result(snapshot.tree, stages, kept, left_out, warm=bool(facts.get("warm", False)))


def scratch_files(result: Result, work_dir: str) -> dict[str, object]:
    """Those of the files fetched that no tree holds, as facts of a run record; as many as it has room for."""
    outside = [name for name in result.fetched if not _is_kept(name, work_dir)]
    room = SCRATCH_BYTES_MAX
    kept: dict[str, str] = {}
    for name in outside:
        data = result.fetched[name]
        if (size := len(name.encode()) + len(data)) <= room:
            room -= size
            kept[name] = base64.b64encode(data).decode()
    facts: dict[str, object] = {SCRATCH_FILES: kept} if kept else {}
    return facts | ({SCRATCH_FILES_LEFT: len(outside) - len(kept)} if len(kept) < len(outside) else {})


def leads_to_scratch(names: tuple[str, ...], work_dir: str) -> bool:
    """Whether one of the files that are asked for lies where no tree holds it."""
    places = (paths.resolve(name, work_dir) for name in names)
    return any(not isinstance(place, str) and place.scratch is not None for place in places)


def _is_kept(name: str, work_dir: str) -> bool:
    place = paths.resolve(name, work_dir)
    return not isinstance(place, str) and place.scratch is None


def _fetched(objects: Objects, snapshot: Snapshot, names: tuple[str, ...], work_dir: str) -> dict[str, bytes]:
    view, patience = TreeView(KnownTrees(objects), snapshot.tree), Patience()
    fetched: dict[str, bytes] = {}
    room = FETCHED_BYTES_MAX
    for name in names:
        place = paths.resolve(name, work_dir)
        if isinstance(place, str) or place.scratch is not None:
            continue
        found = follow(view, place.path, room, place.mount, patience)
        if isinstance(found, Regular):
            fetched[name] = found.data
            room -= len(found.data)
    return fetched


def _run(objects: Objects, stage: Stage, usage: object) -> RunResult:
    seen = msgspec.convert(usage, Usage) if usage is not None else Usage(0.0)
    out, err = (_output(objects, stream) for stream in (stage.stdout, stage.stderr))
    return RunResult(stage.ending, stage.exit_code, stage.signal, out, err, stage.hit, seen)


def _output(objects: Objects, stream: Stream) -> Output:
    return Output(objects.get(Kind.BLOB, stream.blob), stream.total_bytes, stream.truncated)
