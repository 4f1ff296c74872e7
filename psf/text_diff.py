"""Unified diffs of what changed between two trees, for people: text only, and no more than anybody reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from store import tree as trees
from store.diff import Change
from store.ids import Kind
from store.interfaces import Objects
from store.tree import Entry, EntryKind

FILE_BYTES_MAX = 1 << 20
"""Of a longer file it is only said that it differs: comparing takes time that grows with the square of the length."""
LINES_MAX = 20_000
CONTEXT_LINES = 3
_PROBED_BYTES = 8000
_MODES = {EntryKind.FILE: "100644", EntryKind.EXECUTABLE: "100755", EntryKind.SYMLINK: "120000"}


def unified(objects: Objects, changes: Iterable[Change]) -> Iterator[str]:
    """Lines without their ends, in git's form; for directories there are none. Raises ObjectMissing, ObjectDamaged.

    Text is what is UTF-8 and has no NUL in its first 8,000 bytes; of anything else, and of what is too long, one line says that it differs.
    """
    for change in changes:
        if any(entry is not None and entry.kind is EntryKind.DIRECTORY for entry in (change.before, change.after)):
            continue
        yield from _file(objects, change)


def between(before: bytes, after: bytes, name_before: str, name_after: str) -> Iterator[str]:
    """The diff of two texts; one line that says so when either is none."""
    old, new = _text(before), _text(after)
    if old is None or new is None:
        yield f"Binary files {name_before} and {name_after} differ"
        return
    lines = difflib.unified_diff(_lines(old), _lines(new), name_before, name_after, n=CONTEXT_LINES, lineterm="")
    for line in lines:
        # Each line that has no end is followed by a word about it, as diff(1) and git do.
        body, newline, rest = line.partition(_NO_END)
        yield body
        if newline:
            yield "\\ No newline at end of file" + rest


_NO_END = "\0"


def _file(objects: Objects, change: Change) -> Iterator[str]:
    path = shown(b"/".join(change.path))
    yield f"diff --git a/{path} b/{path}"
    before, after = change.before, change.after
    if before is None and after is not None:
        yield f"new file mode {_MODES[after.kind]}"
    elif after is None and before is not None:
        yield f"deleted file mode {_MODES[before.kind]}"
    elif before is not None and after is not None and before.kind is not after.kind:
        yield f"old mode {_MODES[before.kind]}"
        yield f"new mode {_MODES[after.kind]}"
        if before.content == after.content:
            return
    names = [f"a/{path}" if before is not None else "/dev/null", f"b/{path}" if after is not None else "/dev/null"]
    if any(entry is not None and entry.size_bytes > FILE_BYTES_MAX for entry in (before, after)):
        yield f"Files {names[0]} and {names[1]} differ, and are too long to be compared line by line"
        return
    yield from between(_content(objects, before), _content(objects, after), *names)


def shown(path: bytes) -> str:
    """A path as text: what is not UTF-8, or would do something to a terminal, is escaped."""
    text = path.decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _content(objects: Objects, entry: Entry | None) -> bytes:
    if entry is None:
        return b""
    return objects.get(Kind.BLOB, trees.entry_blob(entry)) if entry.is_file else entry.content


def _text(data: bytes) -> str | None:
    if b"\0" in data[:_PROBED_BYTES]:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return text if text.count("\n") <= LINES_MAX and _NO_END not in text else None


def _lines(text: str) -> list[str]:
    """Lines parted by newlines alone, as files have them; the last one marked when it has none."""
    lines = text.split("\n")
    last = lines.pop()
    return [*lines, last + _NO_END] if last else lines
