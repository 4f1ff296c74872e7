"""`psf store ...`: what it prints for people and programs, its exit statuses, and what it says to what makes no sense."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from psf.api import fusion, v1
from store import bundle_header, bundle_import
from store.capture import put_tree
from store.gc import alone as alone_in
from store.ids import Kind, SnapshotId, TreeId, blob_id
from store.interfaces import Pin
from store.local import LocalStore
from store.snapshot import Snapshot, encode
from store.stats import stats
from store.tree import Entry, EntryKind
from tests.store.history import LARGE_TAIL, begin, step

SESSION, OTHER = "a1b2c3d4e5f6", "f00dbeef0123"
Heads = dict[str, list[SnapshotId]]


def psf(*arguments: str, store: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "psf.cli", *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, env={**os.environ, "PSF_STORE": str(store)})


def told(*arguments: str, store: Path, status: int = 0) -> str:
    done = psf(*arguments, store=store)
    assert done.returncode == status, done
    assert done.stderr == b""
    return done.stdout.decode()


def asked(*arguments: str, store: Path, status: int = 0) -> Any:
    return json.loads(told(*arguments, "--json", store=store, status=status))


def refused(*arguments: str, store: Path, status: int = 1) -> str:
    done = psf(*arguments, store=store)
    assert done.returncode == status, done
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("psf: ")
    return lines[0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def heads(root: Path) -> Heads:
    """Two sessions of some steps; the snapshots of each."""
    store = LocalStore(root, seal_bytes=2000)
    made: Heads = {}
    for name in (SESSION, OTHER):
        made[name] = [begin(store, name, used_at_s=1.7e9 if name == SESSION else 10.0)]
        for number in range(1, 6):
            files = {b"text": b"%s %d\n" % (name.encode(), number), b"same": b"same\n"}
            if number == 3:
                files[b"large"] = name.encode() + LARGE_TAIL
            made[name].append(step(store, name, files, at_s=1.7e9 if name == SESSION else 10.0))
    store.close()
    return made


@pytest.mark.parametrize(
    "command", [["ls"], ["stats"], ["check", "--fast"], ["gc", "--dry-run"], ["check", "--repair"]], ids=" ".join
)
def test_a_store_of_more_packs_than_files_may_be_open_at_first_is_read(root: Path, command: list[str]) -> None:
    store = LocalStore(root, seal_bytes=100)
    for number in range(100):
        store.objects.put(Kind.BLOB, b"%d" % number * 100)
        store.objects.sync()
    store.close()
    assert len(list((root / "packs").glob("*.pack"))) > 90
    few = ["sh", "-c", 'ulimit -S -n 80 && exec "$@"', "sh"]
    psf_store = [sys.executable, "-m", "psf.cli", "store", *command, "--store", str(root)]
    done = subprocess.run([*few, *psf_store], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_sessions_and_pins_are_listed(root: Path, heads: Heads) -> None:
    told("store", "pin", f"{SESSION}@2", "base", store=root)
    listed = asked("store", "ls", store=root)
    assert {row["session_id"]: (row["head"], row["moves"]) for row in listed["sessions"]} == {
        name: (snapshots[-1].hex(), 6) for name, snapshots in heads.items()
    }
    assert [(pin["name"], pin["snapshot"]) for pin in listed["pins"]] == [("base", heads[SESSION][2].hex())]
    text = told("store", "ls", store=root)
    assert SESSION in text
    assert "base" in text
    told("store", "unpin", "base", store=root)
    assert asked("store", "ls", store=root)["pins"] == []


@pytest.mark.parametrize(
    "reference", [f"{SESSION}@3", f"{SESSION[:6]}@3", f"{SESSION}@-2", f"{SESSION}@{{id}}", "{id}", "{short}", "base"]
)
def test_a_snapshot_has_many_names(root: Path, heads: Heads, reference: str) -> None:
    identity = heads[SESSION][3].hex()
    told("store", "pin", identity, "base", store=root)
    named = reference.format(id=identity, short=identity[:10])
    assert told("store", "cat", named, "d/text", store=root) == f"{SESSION} 3\n"


def test_what_lies_in_a_snapshot_is_listed(root: Path, heads: Heads) -> None:
    rows = asked("store", "ls", f"{SESSION}@3", "d", store=root)
    assert [(row["name"], row["kind"], row["changed"]) for row in rows] == [
        ("large", "file", 3),
        ("same", "file", 3),
        ("text", "file", 3),
    ]
    assert "d/" in told("store", "ls", SESSION, store=root)
    assert "text" in told("store", "ls", SESSION, "./d/", store=root)


def test_a_whole_tree_is_listed_path_by_path(root: Path, heads: Heads) -> None:
    rows = asked("store", "ls", "-r", f"{SESSION}@3", store=root)
    assert [(row["path"], row["kind"]) for row in rows] == [
        ("d", "directory"),
        ("d/large", "file"),
        ("d/same", "file"),
        ("d/text", "file"),
    ]
    lines = told("store", "ls", "-r", f"{SESSION}@3", store=root).splitlines()
    assert [line.split()[-1] for line in lines] == ["d/", "d/large", "d/same", "d/text"]
    assert [row["path"] for row in asked("store", "ls", "-r", SESSION, "d", store=root)] == ["same", "text"]


def test_the_moves_of_a_session_are_listed_newest_first(root: Path, heads: Heads) -> None:
    rows = asked("store", "log", SESSION, store=root)
    assert [(row["move"], row["snapshot"]) for row in rows] == [
        (number + 1, heads[SESSION][number].hex()) for number in (5, 4, 3, 2, 1, 0)
    ]
    assert rows[-1]["kind"] == "create"
    (line,) = told("store", "log", SESSION, "--limit", "1", store=root).splitlines()
    assert line.split()[0] == "6"
    assert line.split()[-1] == heads[SESSION][-1].hex()
    assert asked("store", "log", SESSION, "--limit", "2", store=root) == rows[:2]
    assert "no session" in refused("store", "log", "nobody", store=root)


def test_sessions_that_have_expired_are_marked(root: Path, heads: Heads) -> None:
    store = LocalStore(root)
    begin(store, "young", used_at_s=time.time())
    store.close()
    expired = {row["session_id"]: row["expired"] for row in asked("store", "ls", store=root)["sessions"]}
    assert expired == {SESSION: True, OTHER: True, "young": False}
    lines = told("store", "ls", store=root).splitlines()
    assert {line.split()[0] for line in lines if line.endswith("expired")} == {SESSION, OTHER}


def test_a_file_comes_out_byte_for_byte(root: Path, heads: Heads) -> None:
    done = psf("store", "cat", f"{SESSION}@3", "d/large", store=root)
    assert done.stdout == SESSION.encode() + LARGE_TAIL


def test_a_pipe_gets_each_thing_whole_in_one_line(root: Path, heads: Heads) -> None:
    name = "n" * 200
    told("store", "pin", SESSION, name, store=root)
    lines = told("store", "ls", store=root).splitlines()
    assert [line.split() for line in lines if line.startswith("n")] == [[name, heads[SESSION][-1].hex()]]
    assert sum(SESSION in line and heads[SESSION][-1].hex() in line for line in lines) == 1


def test_a_difference_is_told_path_by_path(root: Path, heads: Heads) -> None:
    rows = asked("store", "diff", f"{SESSION}@2", f"{SESSION}@3", store=root)
    assert [(row["path"], row["what"]) for row in rows] == [("d/large", "added"), ("d/text", "changed")]
    assert told("store", "diff", f"{SESSION}@2", f"{SESSION}@3", store=root) == "+ d/large\n~ d/text\n"
    told("store", "diff", SESSION, SESSION, "--exit-code", store=root)
    told("store", "diff", SESSION, OTHER, "--exit-code", store=root, status=1)


def test_garbage_is_told_and_then_removed(root: Path, heads: Heads) -> None:
    store = LocalStore(root)
    store.heads.drop_unused_since(1e6, is_running=lambda _: False)
    store.close()
    dry = asked("store", "gc", "--dry-run", store=root)
    assert (dry["dry"], dry["large_dropped"]) == (True, 1)
    assert asked("store", "stats", store=root)["large"] == 2
    line = told("store", "gc", "--dry-run", store=root).splitlines()[0]
    assert re.fullmatch(r"would free [0-9.]+ \w+: [^()]* \d+ of \d+ objects are in use", line)
    wet = asked("store", "gc", store=root)
    assert (wet["dry"], wet["large_dropped"], wet["packs"] != []) == (False, 1, True)
    left = asked("store", "stats", store=root)
    assert (left["sessions"], left["large"]) == (1, 1)
    assert "freed 0 bytes" in told("store", "gc", store=root)
    assert told("store", "cat", f"{SESSION}@1", "d/text", store=root) == f"{SESSION} 1\n"


def test_a_whole_store_is_clean(root: Path, heads: Heads) -> None:
    for arguments in ([], ["--fast"], ["--full"], ["--repair"]):
        assert asked("store", "check", *arguments, store=root)["verdict"] == "clean"
    assert told("store", "check", store=root).startswith("clean")


def test_a_lost_database_is_repaired_and_the_exit_status_says_so(root: Path, heads: Heads) -> None:
    for path in root.glob("heads.sqlite*"):
        path.unlink()
    found = asked("store", "check", "--fast", store=root, status=3)
    assert found["verdict"] == "repairable"
    assert len(found["behind"]) == 2
    assert "--repair" in told("store", "check", store=root, status=3)
    assert "2 moves" not in told("store", "check", "--repair", store=root, status=3)
    assert asked("store", "check", store=root)["verdict"] == "clean"
    assert told("store", "cat", SESSION, "d/text", store=root) == f"{SESSION} 5\n"


def test_what_is_lost_is_named_with_session_and_path(root: Path, heads: Heads) -> None:
    name = blob_id(SESSION.encode() + LARGE_TAIL).hex()
    (root / "large" / name[:2] / name[2:]).unlink()
    for arguments in (["--fast"], ["--full"], ["--repair"]):
        found = asked("store", "check", *arguments, store=root, status=4)
        assert found["verdict"] == "lost"
        assert found["broken"] == {SESSION: [f"step 3: d/large: blob {name} is missing"]}
    text = told("store", "check", store=root, status=4)
    assert "d/large" in text
    assert SESSION in text


def test_a_session_travels_in_a_bundle(root: Path, heads: Heads, tmp_path: Path) -> None:
    bundle, target = str(tmp_path / "bundle"), tmp_path / "target"
    exported = asked("store", "export", SESSION, bundle, store=root)
    assert (exported["first_move"], exported["last_move"], exported["prerequisites"]) == (1, 6, [])
    imported = asked("store", "import", bundle, "--tenant", "alice", store=target)
    assert (imported["session_id"], imported["change"], imported["moves"]) == (SESSION, "created", 6)
    assert asked("store", "import", bundle, "--tenant", "alice", store=target)["change"] == "unchanged"
    assert told("store", "cat", SESSION, "d/text", store=target) == f"{SESSION} 5\n"
    assert told("store", "import", bundle, "--as", "copy", store=target).startswith("session copy created")
    assert "0-9A-Za-z_-" in refused("store", "import", bundle, "--as", "no@name", store=target)
    assert asked("store", "check", store=target)["verdict"] == "clean"
    piped = psf("store", "export", SESSION, "-", store=root)
    assert piped.stdout == Path(bundle).read_bytes()


@pytest.mark.parametrize("command", ["cat {} | {} -", "{1} - < {0}", "cat {} | {} /dev/stdin", "{1} <(cat {0})"])
def test_a_bundle_comes_through_a_pipe(root: Path, heads: Heads, tmp_path: Path, command: str) -> None:
    bundle, target = str(tmp_path / "bundle"), tmp_path / "target"
    told("store", "export", OTHER, bundle, store=root)
    line = command.format(bundle, f"{sys.executable} -m psf.cli store import --store {target} --tenant alice")
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b""), done
    assert told("store", "cat", OTHER, "d/text", store=target) == f"{OTHER} 5\n"


def test_what_comes_through_a_pipe_and_is_no_bundle_is_not_read_to_its_end(root: Path, heads: Heads) -> None:
    line = f"{sys.executable} -m psf.cli store import --store {root} - < /dev/zero"
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=60)
    assert done.returncode == 1
    assert b"not that of a bundle" in done.stderr


def test_the_rest_of_a_session_follows(root: Path, heads: Heads, tmp_path: Path) -> None:
    first, rest, target = str(tmp_path / "first"), str(tmp_path / "rest"), tmp_path / "target"
    told("store", "export", SESSION, first, "--until", "4", store=root)
    asked("store", "import", first, "--tenant", "alice", store=target)
    whole = asked("store", "export", SESSION, str(tmp_path / "whole"), store=root)
    part = asked("store", "export", SESSION, rest, "--since", "4", "--have", f"{SESSION}@3", store=root)
    assert part["objects"] < whole["objects"]
    assert "--extend" in refused("store", "import", rest, "--tenant", "alice", store=target)
    assert asked("store", "import", rest, "--tenant", "alice", "--extend", store=target)["change"] == "extended"
    assert told("store", "cat", SESSION, "d/text", store=target) == f"{SESSION} 5\n"


def test_a_bundle_brings_no_more_than_can_be_asked_for_here() -> None:
    assert bundle_import.TTL_S_MAX == fusion.TTL_S_MAX
    assert bundle_header.TEXT_CHARACTERS_MAX == v1.NAME_CHARACTERS_MAX


def test_a_damaged_bundle_changes_nothing(root: Path, heads: Heads, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    told("store", "export", SESSION, str(bundle), store=root)
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.write_bytes(data)
    assert "refused" in refused("store", "import", str(bundle), "--as", "new", store=root)
    assert len(asked("store", "ls", store=root)["sessions"]) == 2


def test_an_export_that_fails_leaves_no_file(root: Path, heads: Heads, tmp_path: Path) -> None:
    refused("store", "export", SESSION, str(tmp_path / "bundle"), "--since", "99", store=root)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("stats",), "--store"),
        (("ls", "nobody"), "--store"),
        (("check",), "--store"),
        (("check", "--repair"), "no store in"),
        (("import", "/nowhere/at/all"), "No such file"),
        (("gc",), "--store"),
    ],
)
def test_looking_for_a_store_does_not_make_one(root: Path, arguments: tuple[str, ...], hint: str) -> None:
    assert hint in refused("store", *arguments, store=root)
    assert not root.exists()
    root.mkdir()
    assert hint in refused("store", *arguments, store=root)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("ls", "nobody"), "psf store ls"),
        (("ls", SESSION, "nowhere"), "nowhere"),
        (("cat", SESSION, "d"), "no file"),
        (("cat", SESSION, ""), "no file"),
        (("cat", f"{SESSION}@77", "d/text"), "history"),
        (("cat", "nobody@1", "d/text"), "no session"),
        (("diff", SESSION, "abcdef123"), "no session, pin or snapshot"),
        (("unpin", "base"), "no pin"),
        (("import", "/nowhere/at/all"), "No such file"),
        (("export", "nobody", "/tmp/never"), "no session"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(root: Path, heads: Heads, arguments: tuple[str, ...], hint: str) -> None:
    assert hint in refused("store", *arguments, store=root)


def test_two_depths_of_a_check_make_no_sense(root: Path) -> None:
    done = psf("store", "check", "--fast", "--full", store=root)
    assert done.returncode == 2
    assert b"usage: psf store check" in done.stderr


def test_a_name_in_a_tree_cannot_command_a_terminal(root: Path) -> None:
    store = LocalStore(root)
    begin(store, SESSION)
    step(
        store,
        SESSION,
        {
            b"\x1b]0;owned\x07": b"x",
            b"[red]markup[": b"x",
            b"two\nlines": b"x",
            b"\xe2\x80\xaegpj": b"x",
            b"back\\slash": b"x",
            b"odd\xff": b"x",
        },
    )
    store.close()
    for arguments in (("ls", SESSION, "d"), ("diff", f"{SESSION}@0", SESSION)):
        shown = told("store", *arguments, store=root)
        assert not [character for character in shown if not character.isprintable() and character != "\n"]
        assert "[red]markup[" in shown
        assert "two\\nlines" in shown
        assert "back\\\\slash" in shown
        assert "odd\\xff" in shown
    for name in (r"two\nlines", r"back\\slash", r"back\slash", r"odd\xff", os.fsdecode(b"odd\xff")):
        assert told("store", "cat", SESSION, f"d/{name}", store=root) == "x"
    row = next(row for row in asked("store", "ls", SESSION, "d", store=root) if row["name"].startswith("odd"))
    assert (row["name"], row["name_b64"]) == ("odd\ufffd", "b2Rk/w==")
    row = next(row for row in asked("store", "diff", f"{SESSION}@0", SESSION, store=root) if "odd" in row["path"])
    assert (row["path"], row["path_b64"]) == ("d/odd\ufffd", "ZC9vZGT/")
    assert "\x1b" not in refused("store", "cat", SESSION, "no\x1b[31m", store=root)


def test_nobody_takes_the_place_of_a_snapshot_or_a_pin_by_a_name(root: Path, heads: Heads) -> None:
    """Whoever makes a session may name it."""
    identity = heads[SESSION][2].hex()
    told("store", "pin", identity, "golden", store=root)
    store = LocalStore(root)
    for number, name in enumerate((identity, "golden", "shared", "shared")):
        impostor = msgspec.structs.replace(
            store.heads.get(OTHER, "alice"), session_id=f"impostor{number}", name=name, created_at_s=2e9
        )
        store.heads.create([impostor], "create")
    store.close()
    for reference in (identity, "golden"):
        assert told("store", "cat", reference, "d/text", store=root) == f"{SESSION} 2\n"
    assert "names 2" in refused("store", "ls", "shared", store=root)


@pytest.mark.parametrize(
    "name", ["", "a\nb", "\x1b[31m", "a@b", "x" * 201, os.fsdecode(b"\xff"), "-1", OTHER, "ab" * 20, "ab" * 32]
)
def test_what_cannot_be_a_name_is_none(root: Path, heads: Heads, name: str) -> None:
    assert "cannot be a name" in refused("store", "pin", SESSION, "--", name, store=root)


def test_a_pin_is_moved_only_by_force_and_what_it_let_go_is_told(root: Path, heads: Heads) -> None:
    one, two = (heads[SESSION][number].hex() for number in (1, 2))
    assert told("store", "pin", one, "base", store=root) == f"{one}\n"
    assert told("store", "pin", one, "base", store=root) == f"{one}\n"
    line = refused("store", "pin", two, "base", store=root)
    assert one in line
    assert "--force" in line
    moved = psf("store", "pin", two, "base", "--force", store=root)
    assert (moved.returncode, moved.stdout.decode(), one in moved.stderr.decode()) == (0, f"{two}\n", True)
    assert told("store", "unpin", "base", store=root) == f"{two}\n"


def test_what_a_pin_let_go_can_be_named_until_it_is_swept(root: Path, heads: Heads) -> None:
    store = LocalStore(root)
    tree = put_tree(store.objects, [Entry(b"alone", EntryKind.FILE, blob_id(b"alone"), 5, 0)])
    store.objects.put(Kind.BLOB, b"alone")
    alone = store.objects.put(Kind.SNAPSHOT, encode(Snapshot(1, 0, (), tree, None, None))).hex()
    half = store.objects.put(Kind.SNAPSHOT, encode(Snapshot(1, 0, (), TreeId(b"x" * 32), None, None))).hex()
    store.objects.sync()
    store.close()
    assert told("store", "cat", alone, "alone", store=root) == "alone"
    assert "swept" in refused("store", "pin", half, "half", store=root)
    told("store", "pin", alone, "kept", store=root)
    told("store", "unpin", "kept", store=root)
    told("store", "pin", alone, "again", store=root)
    told("store", "gc", store=root)
    assert told("store", "cat", "again", "alone", store=root) == "alone"
    told("store", "unpin", "again", store=root)
    with alone_in(root):
        assert "sweep" in refused("store", "pin", alone, "late", store=root)


def test_an_id_means_the_session_whatever_pin_was_called_so_before(root: Path, heads: Heads) -> None:
    store = LocalStore(root)
    store.heads.pin(Pin(SESSION, heads[OTHER][1], 1.0))
    store.close()
    assert told("store", "cat", SESSION, "d/text", store=root) == f"{SESSION} 5\n"


def test_whatever_the_terminal_can_show_there_is_no_traceback(root: Path, heads: Heads, tmp_path: Path) -> None:
    store = LocalStore(root)
    store.heads.create([msgspec.structs.replace(store.heads.get(SESSION, "alice"), session_id="é⚠")], "create")
    store.close()
    (root / "large" / "notes.txt").write_text("not ours")
    environment = {**os.environ, "PSF_STORE": str(root), "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    for arguments in (["ls"], ["ls", "--json"], ["check"], ["stats"], ["gc"]):
        done = subprocess.run(
            [sys.executable, "-m", "psf.cli", "store", *arguments], capture_output=True, env=environment
        )
        assert (done.returncode, done.stderr) == (0, b""), done
    assert "no move" in refused("store", "export", SESSION, str(tmp_path / "b"), "--until", str(2**70), store=root)
    told("store", "export", SESSION, str(tmp_path / "b"), store=root)
    assert (tmp_path / "b").stat().st_mode & 0o077 == 0


def test_holes_in_a_large_file_take_nothing_and_come_out_as_zeros(root: Path, heads: Heads, tmp_path: Path) -> None:
    """Nor is the file held in memory on its way out."""
    size_bytes = 64 << 20
    store = LocalStore(root)
    before_bytes = stats(store).large_bytes
    with (tmp_path / "holes").open("w+b") as file:
        file.truncate(size_bytes)
        blob = store.objects.put_file(file.fileno(), size_bytes)
    assert stats(store).large_bytes - before_bytes < size_bytes // 8
    tree = put_tree(store.objects, [Entry(b"holes", EntryKind.FILE, blob, size_bytes, 0)])
    snapshot = SnapshotId(store.objects.put(Kind.SNAPSHOT, encode(Snapshot(1, 0, (), tree, None, None))))
    store.objects.sync()
    store.heads.pin(Pin("holes", snapshot, 1.0))
    store.close()
    program = (
        "import sys, resource, psf.cli; status = psf.cli.main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(status)"
    )
    told("export", "holes", str(tmp_path / "out"), "--format", "tar", store=root)
    status = (tmp_path / "out").stat()
    assert status.st_size > size_bytes
    assert status.st_blocks * 512 < size_bytes // 8
    peaks_kib = []
    for reference, path in ((SESSION, "d/text"), ("holes", "holes")):
        command = [sys.executable, "-c", program, "store", "cat", reference, path, "--store", str(root)]
        done = subprocess.run(command, capture_output=True, timeout=60)
        assert done.returncode == 0
        peaks_kib.append(int(done.stderr))
    assert len(done.stdout) == done.stdout.count(b"\0") == size_bytes
    assert peaks_kib[1] - peaks_kib[0] < size_bytes >> 11
