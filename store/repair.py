"""Mending a store folder as far as what is left allows. Nothing is deleted: what is damaged is moved to `damaged/`.

Packs with damage are written anew without it; indexes are made from packs; heads from what packs say of them. What no copy
holds any more stays lost, and `check` names every session and path that misses it.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

from store import journalled
from store.check import Progress, no_progress
from store.errors import StoreUnusable
from store.files import Files
from store.head_tables import HeadsDamaged, UnknownVersion
from store.heads import SqliteHeads
from store.journalled import KeptHeads
from store.layout import HEADS, HEADS_FILES, is_directory, is_file, open_file, strangers
from store.pack_folder import INDEX, OPEN, SealedPack, lock, packs_in
from store.pack_writer import PackCopy
from store.packs import PackObjects
from store.records import PACK_HEADER, compress, decode_pack_header, scan
from store.verify import Findings

FOLDER = "damaged"
ALL = 1 << 62
_FORMAT = re.compile(rb"psf store [0-9]+\n")


def repair_objects(
    root: Path, objects: PackObjects, findings: Findings, files: Files, progress: Progress = no_progress
) -> list[str]:
    """Cut the damage that `findings` names out of packs and large blobs; says what was done. Raises OSError."""
    done = []
    own = objects.own_pack()
    flawed = {flaw.pack for flaw in findings.flaws} | {fault.pack for fault in findings.faults}
    if own is not None and own.number in flawed:
        objects.seal()
    packs = [pack for pack in objects.folder.sealed() if pack.number in flawed]
    if packs:
        objects.open_highest_pack()  # or the number of one that goes could be given to another
    for number, pack in enumerate(packs, 1):
        kept = _rewrite(objects, pack, files)
        _put_aside(root, pack.path, files)
        with contextlib.suppress(FileNotFoundError):  # there was no room for it
            files.unlink(str(pack.path.with_suffix(INDEX)))
        done.append(f"pack {pack.number} was written anew with its {kept} whole records")
        progress("rewriting packs", number, len(packs))
    for flaw in findings.flaws:
        if flaw.pack is None and flaw.name is not None:
            _put_aside(root, objects.large.path(flaw.name[1]), files)
            done.append(f"a damaged large file was put aside: {flaw.name[1].hex()}")
    objects.folder.refresh()
    return done


def repair_heads(objects: PackObjects, heads: KeptHeads) -> list[str]:
    """Bring back the sessions, moves and pins that packs know and the database does not; says what was done. Raises OSError."""
    done = []
    missing = journalled.compare(heads, lambda: journalled.read_all(objects)).missing
    for life in missing.lives:
        name = life.session.session_id
        # Moves that the packs do not know yet stay as the database has them.
        known = {move.sequence: move for move in heads.log(name, before=None, limit=ALL)} | life.moves
        newest = max(known)
        session = life.session if newest == life.last else heads.get(name, life.session.tenant)
        heads.rebuild(session, [known[sequence] for sequence in sorted(known)])
        done.append(f"session {name} was brought to its move {newest}")
    for pin in missing.pins:
        heads.rebuild_pin(pin)
        done.append(f"pin {pin.name} was set again")
    return done


def refuse_running(root: Path) -> None:
    """Raise StoreUnusable when another psf holds a pack of this store: what lies in it can be mended only when that has ended."""
    packs = root / "packs"
    for path in sorted(packs_in(packs)) if is_directory(packs) else ():
        if path.suffix != OPEN or not is_file(path):
            continue
        descriptor = open_file(path, os.O_RDONLY, f"packs/{path.name}")
        try:
            if not lock(descriptor):
                raise StoreUnusable(
                    f"packs/{path.name} is held by a psf that is running: stop the servers on this store, then repair it"
                )
        finally:
            os.close(descriptor)


def put_strangers_aside(root: Path, files: Files) -> list[str]:
    """Before a store is opened: move away what is no file, or no directory, where the store must have one; says what was done."""
    if not _read_format(root) and not _has_own_packs(root):
        return []  # whoever asks for another folder by mistake finds it as it was
    done = []
    found = [(path, stranger) for path, stranger in strangers(root) if stranger.movable]
    for path, stranger in found:
        if path == root / FOLDER:
            _make_folder(root, files)
        else:
            _put_aside(root, path, files)
        done.append(f"{stranger.place} was put aside: {stranger.reason}")
    return done


class FormatLost(StoreUnusable):
    """The file that says what a folder is, is lost or damaged; the packs are a store's."""

    mendable = True

    def __init__(self) -> None:
        super().__init__("the file FORMAT of the store is lost or damaged; `psf store check --repair` writes it again")


def refuse_lost_format(root: Path) -> None:
    """Raise FormatLost when that is what is wrong with a folder."""
    if not _read_format(root) and _has_own_packs(root):
        raise FormatLost


def restore_format(root: Path, content: bytes, files: Files) -> list[str]:
    """Before a store is opened: write its FORMAT again when that is lost and the packs are ours; says what was done."""
    path = root / "FORMAT"
    if _read_format(root) or not _has_own_packs(root):
        return []  # opening refuses what is whole and of another format
    if os.path.lexists(path):
        _put_aside(root, path, files)
    descriptor = files.unnamed(str(root))
    try:
        files.write(descriptor, content)
        files.sync(descriptor)
        files.link(descriptor, str(path))
    finally:
        os.close(descriptor)
    return ["FORMAT was written again"]  # its name is made durable when the store is opened


def put_damaged_heads_aside(root: Path, files: Files, connect: Callable[[Path], sqlite3.Connection]) -> list[str]:
    """Before a store is opened: move a damaged database of heads away; says what was done.

    Raises StoreUnusable when nobody can say whether it is damaged, since it is in use, say; OSError.
    """
    path = root / HEADS
    if not os.path.lexists(path) or _is_sound(path, connect):
        return []
    for name in HEADS_FILES:
        if os.path.lexists(root / name):
            _put_aside(root, root / name, files)
    return ["the damaged database of heads was put aside"]


def _rewrite(objects: PackObjects, pack: SealedPack, files: Files) -> int:
    """Copy what is whole in a pack to a new one; returns how many records."""
    reading = pack.file.reading()
    copy = PackCopy(objects.folder, files, objects.seal_bytes)
    kept = 0
    for record in scan(reading, verify=True).records:
        data = reading.object(record)
        if data is not None:
            copy.append([(record.name, *compress(data))])
            kept += 1
    copy.seal()
    return kept


def _is_sound(path: Path, connect: Callable[[Path], sqlite3.Connection]) -> bool:
    # SQLite takes one that a later form should write for one that nobody may write.
    if not set(_beginning(path)[18:20]) <= {1, 2}:
        return False
    try:
        heads = SqliteHeads(path, connect=connect)
    except UnknownVersion:
        return True  # opening refuses it, and another psf may read it
    except HeadsDamaged:
        return False
    try:
        return not heads.problems()
    finally:
        heads.close()


def _read_format(root: Path) -> bool:
    """Whether the folder says that it is a store, of whatever format."""
    path = root / "FORMAT"
    return is_file(path) and _FORMAT.fullmatch(_beginning(path)) is not None


def _has_own_packs(root: Path) -> bool:
    packs = root / "packs"
    return is_directory(packs) and any(
        decode_pack_header(_beginning(pack)) is not None for pack in packs_in(packs) if is_file(pack)
    )


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(PACK_HEADER.size)


def _put_aside(root: Path, path: Path, files: Files) -> None:
    folder = _make_folder(root, files)
    files.rename(str(path), str(_free(folder / path.name)), source_directory=None, target_directory=None)
    files.sync_directory(str(folder))


def _make_folder(root: Path, files: Files) -> Path:
    """The folder for what is put aside. Another thing of its name gets another name: what it leads to is not the store's."""
    folder = root / FOLDER
    if not is_directory(folder):
        if os.path.lexists(folder):
            files.rename(str(folder), str(_free(folder)), source_directory=None, target_directory=None)
        files.make_directory(str(folder), 0o700)
        files.sync_directory(str(root))
    return folder


def _free(path: Path) -> Path:
    target, number = path, 0
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{path.name}.{number}")
    return target
