"""What the commands for histories print for people."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from psf.client.models import Diff, Entry, SessionInfo, Snapshot, Stage, Tag
from psf.store_reports import _out, _table, cell, shown_id, size
from psf.terminal import printable, shown_name

HEADLINE_CHARACTERS = 60
_SHOWN_ID = 12
_STYLES = {"+": "green", "-": "red", "@": "cyan"}
_MODES = {"file": "-rw-r--r--", "executable": "-rwxr-xr-x", "symlink": "lrwxrwxrwx", "directory": "drwxr-xr-x"}


def out() -> Console:
    return _out()


def short_id(digits: str) -> str:
    return digits[:_SHOWN_ID]


def headline(snapshot: Snapshot) -> str:
    """What a step was, in a few words."""
    did = snapshot.did
    if snapshot.kind == "run":
        lines = [line.strip() for line in str(did.get("code", "")).splitlines() if line.strip()]
        text = lines[0] if lines else ""
        more = " ..." if len(lines) > 1 or len(text) > HEADLINE_CHARACTERS else ""
        return printable(f"{did.get('runtime', '')}: {text[:HEADLINE_CHARACTERS]}{more}")
    if snapshot.kind == "write":
        names = [*did.get("written", {}), *(f"-{name}" for name in did.get("deleted", ()))]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return printable(f"write: {', '.join(names[:3])[:HEADLINE_CHARACTERS]}{more}")
    return printable(snapshot.kind if snapshot.kind != "base" else "(beginning)")


def ending_of(snapshot: Snapshot) -> str:
    """How a step's last stage ended; '' when well."""
    stage = list(snapshot.stages.values())[-1] if snapshot.stages else None
    if stage is None or stage.ok:
        return ""
    return printable(f"{stage.ending} {stage.exit_code}" if stage.exit_code is not None else _signalled(stage))


def _signalled(stage: Stage) -> str:
    return f"{stage.ending} by signal {stage.signal}" if stage.signal is not None else stage.ending


def show_snapshot(snapshot: Snapshot, diff: Diff | None, names: list[str]) -> None:
    console = out()
    called = f" ({printable(', '.join(names))})" if names else ""
    console.print(Text("snapshot ").append(shown_id(snapshot.id), "yellow").append(called, "bold green"))
    console.print(Text(f"step     {snapshot.step}, {printable(snapshot.kind)}"))
    for parent in snapshot.parents:
        console.print(Text(f"parent   {shown_id(parent)}"))
    for name in ("runtime", "args", "env", "secrets", "files", "deterministic", "on_conflict", "deleted"):
        if value := snapshot.did.get(name):
            console.print(Text(f"{name:<8} {printable(_worded(value))}"))
    if "code" in snapshot.did:
        console.print()
        for line in str(snapshot.did["code"]).splitlines():
            console.print(Text(f"    {printable(line)}"))
    for name, stage in snapshot.stages.items():
        _show_stage(console, name, stage)
    for left in snapshot.left_out:
        console.print(Text(f"left out {printable(left.path)}: {printable(left.reason)}", "dim"))
    if diff is not None and diff.changes:
        console.print()
        show_diff(diff)


def _worded(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={text}" for name, text in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _show_stage(console: Console, name: str, stage: Stage) -> None:
    console.print()
    ending = f"exited {stage.exit_code}" if stage.exit_code is not None else _signalled(stage)
    style = "green" if stage.ok else "red"
    hit = f", at its limit of {', '.join(stage.hit)}" if stage.hit else ""
    console.print(Text(f"{printable(name)}: ").append(printable(ending + hit), style))
    for stream, text in (("stdout", stage.stdout), ("stderr", stage.stderr)):
        for line in text.splitlines():
            console.print(Text(f"  {stream} ", "dim").append(printable(line)))


def show_diff(diff: Diff, *, names: bool = False) -> None:
    console = out()
    if names or diff.unified is None:
        marks = {"added": ("A", "green"), "removed": ("D", "red"), "changed": ("M", "yellow")}
        for change in diff.changes:
            mark, style = marks.get(change.change, ("?", ""))
            console.print(Text(f"{mark} ", style).append(printable(change.path)))
    else:
        for line in diff.unified:
            bold = "bold" if line.startswith(("---", "+++")) else _STYLES.get(line[:1], "")
            console.print(Text(printable(line.rstrip("\n")), bold))
    if diff.truncated:
        sys.stderr.write("psf: there is more than is shown\n")


def show_sessions(sessions: list[SessionInfo], tags: list[Tag]) -> None:
    if not sessions and not tags:
        sys.stderr.write("psf: there are no sessions yet; `psf new` makes one, `psf run` runs a program in one\n")
        return
    table = _table("session", "name", "runtime", "step", "head", "used", right=("step",))
    for info in sessions:
        used = "expired" if info.expired else printable(info.used_at[:19].replace("T", " "))
        table.add_row(
            shown_id(info.session_id),
            cell(info.name or ""),
            cell(info.runtime),
            str(info.steps),
            shown_id(info.head),
            used,
        )
    out().print(table)
    if tags:
        out().print()
        show_tags(tags)


def show_tags(tags: list[Tag]) -> None:
    table = _table("tag", "snapshot", "since")
    for tag in tags:
        table.add_row(cell(tag.name), shown_id(tag.snapshot), printable(tag.at[:19].replace("T", " ")))
    out().print(table)


def show_entries(entries: list[Entry], below: str) -> None:
    table: Table = _table("mode", "size", "changed", "name", right=("size", "changed"))
    for entry in entries:
        name = shown_name(entry.path[len(below) :].lstrip("/").encode())
        target = (
            f" -> {shown_name(entry.target.encode())}"
            if entry.target is not None
            else "/"
            if entry.kind == "directory"
            else ""
        )
        shown_size = size(entry.size_bytes) if entry.kind in ("file", "executable") else ""
        table.add_row(_MODES.get(entry.kind, entry.kind), shown_size, str(entry.changed), Text(name + target))
    out().print(table)
