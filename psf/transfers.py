"""`psf export` and `psf import`: trees to and from other tools."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from psf import progress
from psf.errors import PsfError
from psf.pins import PinTaken, checked_name, pinned, refuse_session_id
from psf.references import resolve
from psf.sources import Resumed, can_go_back, copied, readable
from psf.store_commands import opened, print_result, turn
from psf.store_reports import bytes_row, show_imported_tree
from psf.targets import written
from store import snapshot as snapshots
from store.archives.members import Imported
from store.archives.read_folder import import_folder
from store.archives.read_tar import import_tar
from store.archives.read_zip import import_zip
from store.archives.write_tar import export_tar
from store.archives.write_zip import export_zip
from store.archives.writing import Gzipping
from store.check import Progress
from store.files import Files
from store.ids import Kind, SnapshotId, TreeId
from store.interfaces import Pin
from store.local import LocalStore
from store.snapshot import Snapshot

_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
_MAGIC_BYTES = 4
INCOMPLETE = 3
"""Exit status of an import that was done but for what no tree holds."""
FORMATS = ("tar", "tar.gz", "zip")
_ENDINGS = {".tar.gz": "tar.gz", ".tgz": "tar.gz", ".tar": "tar", ".zip": "zip"}


class FormatUnknown(PsfError):
    """The name of an archive does not say what it is to be."""

    code = "format_unknown"

    def __init__(self, name: str) -> None:
        endings = ", ".join(_ENDINGS)
        super().__init__(
            f"{name!r} says no format; let it end in one of {endings}, or give --format {'|'.join(FORMATS)}"
        )


def export_tree(parsed: argparse.Namespace) -> int:
    """Write an archive of a snapshot's tree."""
    form = parsed.format or _format(parsed.file)
    with opened(parsed) as store, progress.shown(wanted=True) as told:
        snapshot = resolve(store, parsed.reference).snapshot
        tree = snapshots.decode(store.objects.get(Kind.SNAPSHOT, snapshot)).tree
        with written(parsed.file, to_terminal=parsed.force) as file:
            _export(store, tree, file, form, _bytes(told, "writing"))
    return 0


def _export(store: LocalStore, tree: TreeId, file: BinaryIO, form: str, told: Callable[[int], None]) -> None:
    if form == "zip":
        export_zip(store.objects, tree, file, progress=told)
    elif form == "tar":
        export_tar(store.objects, tree, file, progress=told)
    else:
        gzipping = Gzipping(file)
        export_tar(store.objects, tree, gzipping, progress=told)
        gzipping.finish()


def _format(name: str) -> str:
    """The format that the name of a file asks for; tar for stdout, pipes and devices, and folders, which are refused later.

    Raises FormatUnknown.
    """
    form = next((form for ending, form in _ENDINGS.items() if name.lower().endswith(ending)), None)
    if form is None and name != "-" and (os.path.isfile(name) or not (os.path.exists(name) or name.endswith("/"))):
        raise FormatUnknown(name)
    return form or "tar"


def import_tree(parsed: argparse.Namespace) -> int:
    """Take in a tree, make a snapshot of it that a session can start from, and pin it."""
    name = checked_name(_name(parsed.path) if parsed.pin is None else parsed.pin)
    with (
        _source(parsed.path) as source, opened(parsed, make=True) as store, turn(store) as lease,
        progress.shown(not parsed.json) as told,
    ):  # fmt: skip
        refuse_session_id(store, name)
        imported = _take_in(store, source, parsed.path, _bytes(told, "reading"))
        base = Snapshot(snapshots.VERSION, 0, (), imported.tree, None, None)
        snapshot = SnapshotId(store.objects.put(Kind.SNAPSHOT, snapshots.encode(base)))
        before = pinned(store, name)
        if before is not None and before.snapshot != snapshot:
            raise PinTaken(before, "--pin chooses another name")
        store.objects.sync()
        store.heads.pin(Pin(name, snapshot, time.time()), epoch=lease.epoch)
    left_out = [{**bytes_row("path", lost.path), "reason": lost.reason} for lost in imported.left_out]
    row = {"snapshot": snapshot.hex(), "pin": name, "files": imported.files, "total_bytes": imported.total_bytes, "left_out": left_out}  # fmt: skip
    print_result(parsed, row, show_imported_tree)
    return INCOMPLETE if left_out else 0


@contextmanager
def _source(path: str) -> Iterator[BinaryIO | None]:
    """What an archive is read from; None for a folder. Raises CannotRead."""
    if path != "-" and os.path.isdir(path):
        yield None
        return
    with readable(path) as file:
        yield file


def _take_in(store: LocalStore, source: BinaryIO | None, path: str, told: Callable[[int], None]) -> Imported:
    if source is None:
        return import_folder(path, store.objects, progress=told)
    files = Files()
    lies_there = can_go_back(source)
    stream = Resumed(source, _MAGIC_BYTES)
    if stream.beginning not in _ZIP_MAGICS:
        return import_tar(stream, store.objects, files, store.root, progress=told)
    with nullcontext(source) if lies_there else copied(stream, path, store.root) as file:
        return import_zip(file, store.objects, files, store.root, progress=told)


def _name(path: str) -> str:
    """What a pin is called when nobody says: as the folder or archive is."""
    if path == "-":
        return "stdin"
    place = Path(path)
    # What a pipe is called where its link ends means nothing.
    name = (place.resolve() if place.is_file() or place.is_dir() else place).name
    ending = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")
    return name.removesuffix(name[len(name) - len(ending) :]) or "root"


def _bytes(told: Progress, what: str) -> Callable[[int], None]:
    return lambda done_bytes: told(f"{what} bytes", done_bytes, 0)
