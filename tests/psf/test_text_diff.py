"""Unified diffs: what git apply takes, and a word where there is nothing to read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psf.text_diff import FILE_BYTES_MAX, LINES_MAX, between, shown, unified
from store.capture import put_tree
from store.diff import diff
from store.ids import Kind, TreeId
from store.memory import MemoryObjects
from store.tree import EMPTY_TREE, Entry, EntryKind

Files = dict[bytes, tuple[EntryKind, bytes]]
FILE, TOOL, LINK = EntryKind.FILE, EntryKind.EXECUTABLE, EntryKind.SYMLINK


def put(objects: MemoryObjects, files: Files) -> TreeId:
    def entry(name: bytes, kind: EntryKind, data: bytes) -> Entry:
        return Entry(name, kind, data if kind is LINK else objects.put(Kind.BLOB, data), len(data), 1)

    return put_tree(objects, [entry(name, *what) for name, what in files.items()])


def lines(before: Files, after: Files) -> list[str]:
    objects = MemoryObjects()
    return list(unified(objects, diff(objects, put(objects, before), put(objects, after))))


def test_a_changed_line_is_shown_with_what_is_around_it() -> None:
    before, after = b"1\n2\n3\n4\n5\n6\n7\n8\n9\n", b"1\n2\n3\n4\nfive\n6\n7\n8\n9\n"
    assert lines({b"a.txt": (FILE, before)}, {b"a.txt": (FILE, after)}) == [
        "diff --git a/a.txt b/a.txt", "--- a/a.txt", "+++ b/a.txt",
        "@@ -2,7 +2,7 @@", " 2", " 3", " 4", "-5", "+five", " 6", " 7", " 8",
    ]  # fmt: skip


def test_new_deleted_and_re_moded_files_say_so() -> None:
    assert lines({}, {b"a": (TOOL, b"x\n")})[1:3] == ["new file mode 100755", "--- /dev/null"]
    assert lines({b"a": (FILE, b"x\n")}, {})[1:4] == ["deleted file mode 100644", "--- a/a", "+++ /dev/null"]
    assert lines({b"a": (FILE, b"x\n")}, {b"a": (TOOL, b"x\n")})[1:] == ["old mode 100644", "new mode 100755"]
    assert lines({b"a": (LINK, b"old")}, {b"a": (LINK, b"new")})[-4:] == [
        "-old",
        "\\ No newline at end of file",
        "+new",
        "\\ No newline at end of file",
    ]


@pytest.mark.parametrize("data", [b"\0", b"\xff\xfe", b"\n" * (LINES_MAX + 1)], ids=["NUL", "not UTF-8", "many lines"])
def test_what_is_no_text_is_only_said_to_differ(data: bytes) -> None:
    assert lines({b"a": (FILE, b"x")}, {b"a": (FILE, data)})[-1] == "Binary files a/a and b/a differ"


def test_long_files_are_not_compared() -> None:
    assert "too long" in lines({b"a": (FILE, b"x")}, {b"a": (FILE, b"x" * (FILE_BYTES_MAX + 1))})[-1]


def test_directories_have_no_lines_but_what_is_in_them_has() -> None:
    objects = MemoryObjects()
    inner = put(objects, {b"f": (FILE, b"x\n")})
    outer = put_tree(objects, [Entry(b"d", EntryKind.DIRECTORY, inner, 0, 1)])
    assert next(unified(objects, diff(objects, EMPTY_TREE, outer))) == "diff --git a/d/f b/d/f"


def test_paths_do_nothing_to_a_terminal() -> None:
    assert shown(b"a\x1b[31m\n\xff\xc3\xa9") == "a\\x1b[31m\\n\\xff\u00e9"


texts = st.lists(st.sampled_from(["a", "b", "c", "", "\r", "d\u2028e"]), max_size=12).map("\n".join)


@given(texts, texts)
@settings(max_examples=40)
def test_patch_makes_one_of_the_other(tmp_path_factory: pytest.TempPathFactory, before: str, after: str) -> None:
    folder = tmp_path_factory.mktemp("patched")
    (folder / "f").write_bytes(before.encode())
    told = "".join(line + "\n" for line in between(before.encode(), after.encode(), "a/f", "b/f"))
    if told:
        # git is on every machine that has this repository; patch(1) is not.
        command = ["git", "apply", "--unsafe-paths", "--whitespace=nowarn", "--unidiff-zero", "-"]
        subprocess.run(command, input=told.encode(), cwd=folder, check=True)
    found = Path(folder, "f").read_bytes() if Path(folder, "f").exists() else b""
    assert found == after.encode()
