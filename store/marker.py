"""The store's marker: random bytes with which each of its records begins (store.records).

    marker   the marker (8 bytes), the first 8 bytes of its BLAKE3

Nothing that leaves the store has it, so nothing that comes in can. Each pack's header has it too: where the file is lost or
damaged, it is made again from any of them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from store.errors import StoreUnusable
from store.files import Files, read_exactly
from store.records import MARKER_BYTES, PACK_HEADER, decode_marker, decode_pack_header, encode_marker

MARKER = "marker"
_FILE_BYTES_MAX = 64
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


class HeldMarker(NamedTuple):
    """The marker, and whether its file was lost or damaged and has been made again."""

    marker: bytes
    mended: bool


def hold_marker(root: Path, packs: Iterable[Path], files: Files) -> HeldMarker:
    """The marker of the store at `root`, which is made with the first opening. Its name is durable with the folder's next sync.

    Raises StoreUnusable when it is lost and none of `packs` has it, OSError.
    """
    path = root / MARKER
    found = decode_marker(_beginning(path, _FILE_BYTES_MAX, files))
    if found is not None:
        return HeldMarker(found, mended=False)
    packs = list(packs)
    headers = (decode_pack_header(_beginning(pack, PACK_HEADER.size, files)) for pack in packs)
    marker = next((header.marker for header in headers if header is not None), None)
    if marker is None and packs:
        raise StoreUnusable("the store's marker is lost, and no pack has it: its packs cannot be read")
    if os.path.lexists(path):
        files.unlink(str(path))
    _write(path, marker or files.random(MARKER_BYTES), files)
    written = decode_marker(_beginning(path, _FILE_BYTES_MAX, files))  # or that of another who was first
    if written is None:
        raise StoreUnusable("the store's marker cannot be written")
    return HeldMarker(written, mended=bool(packs))


def _beginning(path: Path, length: int, files: Files) -> bytes:
    """What a file begins with; nothing when it is not there, or is no file."""
    try:
        descriptor = files.open(str(path), _READING)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return b""
        raise
    try:
        return read_exactly(descriptor, length, 0) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def _write(path: Path, marker: bytes, files: Files) -> None:
    descriptor = files.unnamed(str(path.parent))
    try:
        files.write(descriptor, encode_marker(marker))
        files.sync(descriptor)
        files.link(descriptor, str(path))
    finally:
        os.close(descriptor)
