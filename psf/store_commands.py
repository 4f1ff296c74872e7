"""`psf store ...`, `psf export` and `psf import`: looking into a store, keeping it in order, taking things in and out.

All work on a store folder while servers use it; only mending wants it for itself. What is printed goes to stdout, as lines for people
or with --json for programs; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from psf import config, progress, store_reports
from psf.descriptors import raise_descriptor_limit
from psf.errors import PsfError
from psf.references import resolve, resolve_session
from psf.sources import readable, whole
from psf.sweeper import describe, patience
from psf.targets import written
from psf.terminal import as_json, named, shown_name
from store import bundle_export, bundle_import
from store import diff as differences
from store.archives.members import DEFAULT_LIMITS
from store.archives.writing import walk
from store.bundle import MAGIC
from store.capture import load_tree
from store.check import CheckReport, Progress
from store.errors import StoreUnusable
from store.files import CHUNK_BYTES
from store.ids import Kind, TreeId
from store.interfaces import Lease, Objects
from store.known import KnownTrees
from store.large import LARGE_BYTES
from store.local import LocalStore
from store.redis_address import RedisSettings
from store.snapshot import decode
from store.stats import stats as count
from store.tree import Entry, EntryKind, entry_blob

REPAIRED, LOST = 3, 4
"""Exit statuses of `psf store check`: nothing is lost, but something was or can be mended; something is lost."""


class NotThere(PsfError):
    """A command was asked for something that is not there. The text says what to type."""

    code = "not_there"


# -- keeping in order -------------------------------------------------------------------------------------------------------


def stats(parsed: argparse.Namespace) -> int:
    with opened(parsed) as store:
        print_result(parsed, count(store), store_reports.show_stats)
    return 0


def check(parsed: argparse.Namespace) -> int:
    with progress.shown(not parsed.json) as told:
        if parsed.repair:
            raise_descriptor_limit()
            root, redis = _store_place(parsed)
            mended = LocalStore.mend(root, progress=told, redis=redis)
            report, done = mended.report, mended.done
        else:
            report, done = _look(parsed, told), ()
    status = check_status(report, done)
    verdict = {0: "clean", REPAIRED: "repaired" if parsed.repair else "repairable", LOST: "lost"}[status]
    found = {"verdict": verdict, "done": done, **msgspec.to_builtins(report)}
    print_result(parsed, found, lambda _: store_reports.show_check(verdict, report, done))
    return status


def _look(parsed: argparse.Namespace, told: Progress) -> CheckReport:
    try:
        with opened(parsed) as store:
            return store.check(full=not parsed.fast, progress=told)[0]
    except StoreUnusable as error:
        if not error.mendable:
            raise
        # What lies in it nobody can say before that is mended.
        return CheckReport(0, 0, 0, (), {}, derived=(str(error),))


def check_status(report: CheckReport, done: tuple[str, ...]) -> int:
    """The exit status that says how a store is."""
    if report.broken or report.damaged:
        return LOST
    return 0 if report.clean and not done else REPAIRED


def gc(parsed: argparse.Namespace) -> int:
    with opened(parsed) as store, progress.shown(not parsed.json) as told:
        report = store.sweep(dry=parsed.dry_run, pause=patience(parsed.patience_s), progress=told)
    freed = store_reports.size(report.freed_bytes)
    print_result(parsed, report, lambda _: store_reports.show_gc(report, describe(report, freed)))
    return 0


# -- bundles ----------------------------------------------------------------------------------------------------------------


def export_bundle(parsed: argparse.Namespace) -> int:
    with (
        opened(parsed) as store, written(parsed.file, to_terminal=parsed.force) as file,
        progress.shown(not parsed.json) as told,
    ):  # fmt: skip
        session = resolve_session(store, parsed.session)
        have = [resolve(store, text).snapshot for text in parsed.have]
        exported = bundle_export.export_bundle(
            store.objects, store.heads, session, file, have=have, since=parsed.since, until=parsed.until, progress=told
        )
    if parsed.file != "-":
        print_result(parsed, store_reports.exported_row(exported), lambda _: store_reports.show_exported(exported))
    return 0


def import_bundle(parsed: argparse.Namespace) -> int:
    with (
        readable(parsed.file) as source, opened(parsed, make=True) as store,
        whole(source, parsed.file, store.root, MAGIC) as file, turn(store) as lease,
        progress.shown(not parsed.json) as told,
    ):  # fmt: skip
        imported = bundle_import.import_bundle(
            file, store.objects, store.heads, tenant=parsed.tenant, now_s=time.time(), epoch=lease.epoch,
            as_session=parsed.as_session, extend=parsed.extend, progress=told,
        )  # fmt: skip
    print_result(parsed, imported, store_reports.show_imported)
    return 0


# -- looking ----------------------------------------------------------------------------------------------------------------


def ls(parsed: argparse.Namespace) -> int:
    with opened(parsed) as store:
        if parsed.reference is None:
            now_s = time.time()
            sessions = [store_reports.session_row(moved, now_s) for moved in store.heads.last_moves()]
            print_result(
                parsed,
                {"sessions": sessions, "pins": [store_reports.pin_row(pin) for pin in store.heads.pins()]},
                store_reports.show_sessions,
            )
            return 0
        tree = _tree_at(store, parsed.reference, parsed.path)
        if parsed.recursive:
            _list_all(parsed, store, tree)
        else:
            rows = [store_reports.entry_row(entry) for entry in load_tree(store.objects, tree)]
            print_result(parsed, rows, store_reports.show_entries)
    return 0


def _list_all(parsed: argparse.Namespace, store: LocalStore, tree: TreeId) -> None:
    rows = (store_reports.listed_row(path, entry) for path, entry in walk(store.objects, tree, DEFAULT_LIMITS))
    if parsed.json:
        print_array(rows)
    else:
        store_reports.show_listed(rows)


def cat(parsed: argparse.Namespace) -> int:
    with opened(parsed) as store:
        entry = _find(store.objects, _root_tree(store, parsed.reference), _parts(parsed.path))
        if entry is None or not entry.is_file:
            raise NotThere(
                f"{parsed.path!r} is no file of {parsed.reference}; `psf store ls {parsed.reference}` lists it"
            )
        sys.stdout.flush()
        _copy(store.objects, entry, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return 0


def diff(parsed: argparse.Namespace) -> int:
    with opened(parsed) as store:
        before, after = (_root_tree(store, text) for text in (parsed.before, parsed.after))
        changes = differences.diff(store.objects, before, after)
        first = next(changes, None)
        rows = (store_reports.change_row(change) for change in chain([first] if first is not None else [], changes))
        if parsed.json:
            print_array(rows)
        else:
            store_reports.show_changes(rows)
    return int(first is not None and parsed.exit_code)


# -- parts ------------------------------------------------------------------------------------------------------------------


def _store_place(parsed: argparse.Namespace, *, make: bool = False) -> tuple[Path, RedisSettings | None]:
    """Where the store is, and its heads if they are not in it. Raises NotThere, unless `make`, when nothing is there: looking for a
    store must not make one.
    """
    settings = config.load(vars(parsed), os.environ)
    root, redis = Path(settings.store), settings.heads_in_redis()
    if make:
        return root, redis
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if any(root.iterdir()):
            return root, redis
    raise NotThere(f"there is no store in {root}; --store names another folder")


@contextmanager
def opened(parsed: argparse.Namespace, *, make: bool = False) -> Iterator[LocalStore]:
    """The store, which is made if need be when `make` says so. Raises NotThere, StoreUnusable."""
    raise_descriptor_limit()
    root, redis = _store_place(parsed, make=make)
    store = LocalStore(root, redis=redis)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def turn(store: LocalStore) -> Iterator[Lease]:
    """A turn of this command's own: what is put under it is not swept before it has a name."""
    lease = store.leases.try_acquire(f"command {os.getpid()}")
    assert lease is not None, "nobody else has this process's number"
    try:
        yield lease
    finally:
        lease.release()


def _root_tree(store: LocalStore, reference: str) -> TreeId:
    return decode(store.objects.get(Kind.SNAPSHOT, resolve(store, reference).snapshot)).tree


def _find(objects: Objects, root: TreeId, parts: tuple[bytes, ...]) -> Entry | None:
    """The entry that has this path, else the one that `ls` shows so."""
    trees = KnownTrees(objects)
    return trees.find(root, parts) or trees.find(root, tuple(map(named, parts)))


def _tree_at(store: LocalStore, reference: str, path: str) -> TreeId:
    root, parts = _root_tree(store, reference), _parts(path)
    if not parts:
        return root
    entry = _find(store.objects, root, parts)
    if entry is None or entry.kind is not EntryKind.DIRECTORY:
        raise NotThere(f"{shown_name(b'/'.join(parts))!r} is no directory of {reference}")
    return TreeId(entry.content)


def _copy(objects: Objects, entry: Entry, target: BinaryIO) -> None:
    """Write what a file holds, a long one without holding it in memory."""
    blob = entry_blob(entry)
    if entry.size_bytes < LARGE_BYTES:
        target.write(objects.get(Kind.BLOB, blob))
        return
    with tempfile.TemporaryFile() as whole:
        objects.write_file(blob, whole.fileno())
        whole.seek(0)
        shutil.copyfileobj(whole, target, CHUNK_BYTES)


def _parts(path: str) -> tuple[bytes, ...]:
    return tuple(part for part in os.fsencode(path).split(b"/") if part not in (b"", b"."))


def print_result(parsed: argparse.Namespace, value: Any, show: Callable[[Any], None]) -> None:
    if parsed.json:
        sys.stdout.flush()
        sys.stdout.buffer.write(as_json(value) + b"\n")
    else:
        show(value)


def print_array(rows: Iterable[Any]) -> None:
    """As `print_result` prints a list as JSON, without holding it."""
    sys.stdout.flush()
    write = sys.stdout.buffer.write
    write(b"[")
    for number, row in enumerate(rows):
        write((b"," if number else b"") + as_json(row))
    write(b"]\n")
    sys.stdout.buffer.flush()
