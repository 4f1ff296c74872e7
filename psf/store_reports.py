"""What `psf store` prints for people, and the rows that programs get."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Iterable
from typing import Any

import msgspec
from rich import markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from psf.terminal import printable, shown_name
from store.bundle_export import Exported
from store.bundle_import import Imported
from store.capture import Path
from store.check import CheckReport
from store.diff import Change
from store.gc import GcReport
from store.interfaces import Moved, Pin
from store.stats import Stats
from store.tree import Entry, EntryKind

_SHORT = 12
_PIPE_COLUMNS = 1 << 20
TEXT_CHARACTERS_SHOWN = 1000
PATH_BYTES_SHOWN = 4096
"""No system call takes a longer one. Programs that nest directories can make paths of 64 KiB, one for each of 200,000 files."""
_LOSSES_SHOWN = 20
_MODES = {EntryKind.FILE: "-rw-r--r--", EntryKind.EXECUTABLE: "-rwxr-xr-x", EntryKind.SYMLINK: "lrwxrwxrwx", EntryKind.DIRECTORY: "drwxr-xr-x"}  # fmt: skip
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def escape(text: str) -> str:
    """Text of others, for rich; the middle of a long one is left out."""
    return markup.escape(printable(shortened(text)))


def cell(text: str) -> Text:
    """Text of others, for a column of a table."""
    return Text(printable(shortened(text)))


def shortened(text: str) -> str:
    if len(text) <= TEXT_CHARACTERS_SHOWN:
        return text
    half = TEXT_CHARACTERS_SHOWN // 2
    return f"{text[:half]} ... {text[-half:]}"


def shown_path(path: Path) -> tuple[bytes, bool]:
    """A path with slashes, and whether names in its middle were left out. Joins no more than is shown."""
    if sum(map(len, path)) + len(path) <= PATH_BYTES_SHOWN:
        return b"/".join(path), False
    first = _names_within(path, PATH_BYTES_SHOWN // 2)
    last = _names_within(path[::-1], PATH_BYTES_SHOWN // 2)[::-1]
    return b"/".join((*first, b"...", *last)), True


def _names_within(path: Path, size_bytes: int) -> Path:
    """The first names of a path that take no more than this with their slashes."""
    count = 0
    while count < len(path) and (size_bytes := size_bytes - len(path[count]) - 1) >= 0:
        count += 1
    return path[:count]


def size(size_bytes: float) -> str:
    """A size for people: 1536 is 1.5 KiB."""
    unit = 0
    while abs(size_bytes) >= 1024 and unit < len(_UNITS) - 1:
        size_bytes, unit = size_bytes / 1024, unit + 1
    return f"{size_bytes:.0f} {_UNITS[unit]}" if unit == 0 else f"{size_bytes:.1f} {_UNITS[unit]}"


class _Out(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to psf.cli, as for all else that is printed: rich would end the process itself."""
        raise BrokenPipeError


def _out() -> Console:
    # No emoji: a name may be called `:bomb:`. Programs that read a pipe want whole lines.
    return _Out(highlight=False, soft_wrap=True, emoji=False, width=None if _is_terminal() else _PIPE_COLUMNS)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def shown_id(digits: str) -> str:
    """An id: its beginning for people, all of it for a pipe."""
    return digits[:_SHORT] if _is_terminal() else digits


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


# -- rows for programs ---------------------------------------------------------------------------------------------------


def session_row(moved: Moved, now_s: float) -> dict[str, Any]:
    session = moved.session
    return {
        "session_id": session.session_id,
        "name": session.name,
        "tenant": session.tenant,
        "runtime": session.runtime,
        "limits": session.limits.given(),
        "head": session.head.hex(),
        "moves": moved.move.sequence,
        "used_at_s": session.used_at_s,
        "expires_at_s": session.expires_at_s(),
        "expired": session.expires_at_s() <= now_s,
    }


def pin_row(pin: Pin) -> dict[str, Any]:
    return {"name": pin.name, "snapshot": pin.snapshot.hex(), "at_s": pin.at_s}


def exported_row(exported: Exported) -> dict[str, Any]:
    prerequisites = [snapshot.hex() for snapshot in exported.prerequisites]
    return {**msgspec.to_builtins(exported), "prerequisites": prerequisites}


def bytes_row(key: str, value: bytes) -> dict[str, Any]:
    """Bytes as text, and beside it as base64 when they are not UTF-8, as the API has it."""
    try:
        return {key: value.decode()}
    except UnicodeDecodeError:
        return {key: value.decode(errors="replace"), f"{key}_b64": base64.b64encode(value).decode()}


def row_bytes(row: dict[str, Any], key: str) -> bytes:
    """What `bytes_row` made a row of."""
    return base64.b64decode(row[f"{key}_b64"]) if f"{key}_b64" in row else row[key].encode()


def entry_row(entry: Entry) -> dict[str, Any]:
    row = {
        **bytes_row("name", entry.name),
        "kind": entry.kind.name.lower(),
        "size_bytes": entry.size_bytes,
        "changed": entry.changed,
    }
    if entry.kind is EntryKind.SYMLINK:
        return {**row, **bytes_row("target", entry.content)}
    return {**row, "id": entry.content.hex()}


def listed_row(path: bytes, entry: Entry) -> dict[str, Any]:
    """An entry with its path instead of its name, for lists of whole trees."""
    shown, cut = shown_path(tuple(path.split(b"/")))
    row = {key: value for key, value in entry_row(entry).items() if not key.startswith("name")}
    return {**bytes_row("path", shown), **({"shortened": True} if cut else {}), **row}


def change_row(change: Change) -> dict[str, Any]:
    what = "added" if change.before is None else "removed" if change.after is None else "changed"
    path, cut = shown_path(change.path)
    row: dict[str, Any] = {**bytes_row("path", path), "what": what}
    if cut:
        row["shortened"] = True
    for side, entry in (("before", change.before), ("after", change.after)):
        if entry is not None:
            row[side] = {"kind": entry.kind.name.lower(), "size_bytes": entry.size_bytes}
    return row


# -- for people ----------------------------------------------------------------------------------------------------------


def show_stats(found: Stats) -> None:
    table = _table("", "number", "size", right=("number", "size"))
    table.add_row("sessions", f"{found.sessions}", "")
    table.add_row("moves of heads", f"{found.moves}", size(found.heads_bytes))
    table.add_row("pins", f"{found.pins}", "")
    for kind, count in found.objects.items():
        table.add_row(f"{kind} objects", f"{count}", "")
    table.add_row("packs", f"{found.packs}", size(found.packs_bytes))
    table.add_row("  of them compressed", f"{found.packs_compressed}", "")
    table.add_row("indexes of packs", "", size(found.indexes_bytes))
    table.add_row("large files", f"{found.large}", size(found.large_bytes))
    if found.put_aside_bytes:
        table.add_row("put aside by repair", "", size(found.put_aside_bytes))
    table.add_row("[bold]all", "", f"[bold]{size(found.total_bytes)}")
    _out().print(table)


def show_check(verdict: str, report: CheckReport, done: tuple[str, ...]) -> None:
    out = _out()
    colour = {"clean": "green", "lost": "red"}.get(verdict, "yellow")
    out.print(
        f"[{colour} bold]{verdict}[/]: {report.objects} objects, {report.snapshots} snapshots, {report.garbage} needed by nothing"
    )
    for text in done:
        out.print(f"  done: {escape(text)}")
    for text in (*report.derived, *report.behind):
        out.print(f"  {'found' if done else 'can be repaired'}: {escape(text)}")
    for text in report.damaged:
        out.print(f"  [red]damaged[/]: {escape(text)}")
    for session_id, losses in report.broken.items():
        out.print(f"  [red]{escape(session_id)}[/] has lost:")
        for loss in losses[:_LOSSES_SHOWN]:
            out.print(f"    {escape(loss)}")
        if len(losses) > _LOSSES_SHOWN:
            out.print(f"    and {len(losses) - _LOSSES_SHOWN} more (all with --json)")
    if report.harmless:
        out.print(f"  {len(report.harmless)} damaged objects that nothing needs; gc removes them")
    if verdict == "lost":
        out.print(
            "  to get it back: first `psf store check --repair`, with the servers on this store stopped; then bring in what"
        )
        out.print(
            "  holds the same content: a bundle (`psf store import FILE`), or a folder or an archive (`psf import PATH`)"
        )
    if verdict == "repairable":
        out.print("  to repair: stop the servers on this store, then `psf store check --repair`")


def show_gc(report: GcReport, line: str) -> None:
    out = _out()
    out.print(line)
    if report.packs:
        table = _table("pack", "size", "in use", "why", right=("pack", "size", "in use"))
        for plan in report.packs:
            table.add_row(f"{plan.number}", size(plan.size_bytes), size(plan.live_bytes), plan.reason)
        out.print(table)
    if report.fenced:
        out.print("steps that took longer than --patience-s were left behind: they fail, and can be done again")


def show_exported(exported: Exported) -> None:
    moves = f"moves {exported.first_move} to {exported.last_move}"
    _out().print(f"{moves}, {exported.objects} objects, {size(exported.size_bytes)}")
    for snapshot in exported.prerequisites:
        _out().print(f"  the receiver must have snapshot {snapshot.hex()}")


def show_imported(imported: Imported) -> None:
    _out().print(
        f"session {escape(imported.session_id)} {imported.change}: {imported.moves} moves, {imported.objects} objects"
    )


def show_imported_tree(row: dict[str, Any]) -> None:
    out = _out()
    out.print(
        f"snapshot {row['snapshot']}, pinned as {escape(row['pin'])}: {row['files']} files, {size(row['total_bytes'])}"
    )
    for lost in row["left_out"]:
        out.print(
            f"  left out: {markup.escape(shortened(shown_name(row_bytes(lost, 'path'))))}: {escape(lost['reason'])}"
        )


def show_sessions(found: dict[str, Any]) -> None:
    out = _out()
    table = _table("session", "name", "language", "moves", "head", "last used", right=("moves",))
    for row in sorted(found["sessions"], key=lambda row: -row["used_at_s"]):
        used = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["used_at_s"]))
        used += ", expired" if row["expired"] else ""
        table.add_row(cell(row["session_id"]), cell(row["name"] or ""), cell(row["runtime"]), f"{row['moves']}", shown_id(row["head"]), used)  # fmt: skip
    out.print(table if found["sessions"] else "no sessions")
    if found["pins"]:
        pins = _table("pin", "snapshot")
        for pin in found["pins"]:
            pins.add_row(cell(pin["name"]), shown_id(pin["snapshot"]))
        out.print()
        out.print(pins)


def show_entries(rows: list[dict[str, Any]]) -> None:
    table = _table("mode", "size", "step", "name", right=("size", "step"))
    for row in rows:
        table.add_row(*_entry_columns(row, "name"))
    _out().print(table if rows else "empty")


def show_listed(rows: Iterable[dict[str, Any]]) -> None:
    """The entries of a whole tree, each as soon as it is known: there may be millions."""
    for row in rows:
        mode, size_bytes, step, name = _entry_columns(row, "path")
        sys.stdout.write(f"{mode} {size_bytes:>12} {step:>6} {name}\n")


def _entry_columns(row: dict[str, Any], key: str) -> tuple[str, str, str, Text]:
    slash = "/" if row["kind"] == "directory" else ""
    target = f" -> {shortened(shown_name(row_bytes(row, 'target')))}" if "target" in row else ""
    name = shown_name(row_bytes(row, key)) + slash
    mode = _MODES[EntryKind[row["kind"].upper()]]
    return mode, f"{row['size_bytes']}", f"{row['changed']}", Text(name + target)


def show_changes(rows: Iterable[dict[str, Any]]) -> None:
    """Each as soon as it is known: there may be millions."""
    out = _out()
    marks = {"added": "[green]+[/]", "removed": "[red]-[/]", "changed": "[yellow]~[/]"}
    with out.capture() as captured:
        for mark in marks.values():
            out.print(mark)
    rendered = dict(zip(marks, captured.get().splitlines(), strict=True))
    for row in rows:
        entry = row.get("after") or row["before"]
        slash = "/" if entry["kind"] == "directory" else ""
        sys.stdout.write(f"{rendered[row['what']]} {shown_name(row_bytes(row, 'path'))}{slash}\n")
