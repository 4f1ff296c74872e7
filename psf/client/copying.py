"""Files and folders between this machine and a session. What a program made is never followed here: links are written last, as text."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from psf.client.errors import Misused
from psf.client.models import Entry, NewFile

if TYPE_CHECKING:
    from psf.client.sessions import Session
    from psf.client.snapshots import Snapshots

BATCH_BYTES = 24 << 20
"""Of files in one request: a third more as base64, and servers take 64 MiB."""
BATCH_FILES = 5000
FILE_BYTES_MAX = 48 << 20


async def put(session: Session, local: str, path: str, key: str) -> str:
    """Write a file, or a folder in as few steps as its size allows; gives the new head. Raises OSError, Misused."""
    if (single := _single(local)) is not None:
        return await session.write_file(path, single.data, executable=single.executable, key=key)
    head, count = "", 0
    for number, batch in enumerate(_batches(local, path)):
        # Keys of their own that a retry of the whole makes again.
        own = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{key} {number}")) if number else key
        head = await session.write(dict(batch), key=own)
        count += len(batch)
    if not count:
        raise Misused(f"{local} holds no file; sessions keep no empty folders that no program made")
    return head


def _single(local: str) -> NewFile | None:
    """A file; None when it is a folder."""
    if os.path.isdir(local):
        return None
    with open(local, "rb") as file:
        return NewFile(file.read(), os.access(local, os.X_OK))


def _batches(local: str, path: str) -> Iterator[dict[str, NewFile]]:
    batch: dict[str, NewFile] = {}
    size_bytes = 0
    for name, file in _files_below(local):
        length = os.path.getsize(file)
        if length > FILE_BYTES_MAX:
            raise Misused(f"{file} has {length} bytes; copy files of more than {FILE_BYTES_MAX} one by one")
        if batch and (size_bytes + length > BATCH_BYTES or len(batch) >= BATCH_FILES):
            yield batch
            batch, size_bytes = {}, 0
        with open(file, "rb") as opened:
            batch["/".join(part for part in (path.rstrip("/"), name) if part)] = NewFile(
                opened.read(), os.access(file, os.X_OK)
            )
        size_bytes += length
    if batch:
        yield batch


def _files_below(folder: str) -> Iterator[tuple[str, str]]:
    """Regular files by their names from the folder, sorted; what links lead to is left alone."""
    for above, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = os.path.join(above, name)
            if os.path.isfile(file) and not os.path.islink(file):
                yield os.path.relpath(file, folder).replace(os.sep, "/"), file


def left_behind(folder: str) -> Iterator[str]:
    """What `put` does not send of a folder: links, and what is no file."""
    for above, folders, names in os.walk(folder):
        for name in sorted([*folders, *names]):
            file = os.path.join(above, name)
            if os.path.islink(file) or not (os.path.isfile(file) or os.path.isdir(file)):
                yield file


async def get(snapshots: Snapshots, snapshot: str, path: str, local: str) -> tuple[str, ...]:
    """Write a file or a folder to this machine; gives what could not be. Raises OSError, Misused."""
    wanted = "/".join(part for part in path.split("/") if part not in ("", "."))
    found = [entry async for entry in snapshots.manifest(snapshot) if _lies_in(entry.path, wanted)]
    if not found and wanted:
        raise Misused(f"there is nothing at {path!r} in the session; `psf ls` lists what there is")
    if len(found) == 1 and found[0].path == wanted and found[0].kind != "directory":
        return await _get_one(snapshots, snapshot, found[0], _target(local, wanted))
    os.makedirs(local, exist_ok=True)
    left: list[str] = []
    for entry in sorted(found, key=lambda entry: entry.kind == "symlink"):
        name = entry.path[len(wanted) :].lstrip("/")
        if not name:
            continue
        if not _is_safe(name) or entry.path_b64 is not None:
            left.append(entry.path)
            continue
        left += await _get_one(snapshots, snapshot, entry, os.path.join(local, *name.split("/")))
    return tuple(left)


def _target(local: str, wanted: str) -> str:
    return os.path.join(local, os.path.basename(wanted)) if os.path.isdir(local) else local


def _lies_in(path: str, wanted: str) -> bool:
    return not wanted or path == wanted or path.startswith(f"{wanted}/")


def _is_safe(name: str) -> bool:
    """Whatever a server says, nothing is written beside the folder that was named."""
    return "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))


async def _get_one(snapshots: Snapshots, snapshot: str, entry: Entry, target: str) -> tuple[str, ...]:
    if entry.kind == "directory":
        os.makedirs(target, exist_ok=True)
        return ()
    if entry.kind == "symlink":
        if os.path.isabs(entry.target or "") or ".." in (entry.target or "").split("/"):
            return (entry.path,)  # would lead out of what was copied
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        os.symlink(entry.target or "", target)
        return ()
    data = await snapshots.read_file(snapshot, entry.path)
    _write(target, data, executable=entry.kind == "executable")
    return ()


def _write(target: str, data: bytes, *, executable: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(target, flags, 0o777 if executable else 0o666), "wb") as file:
        file.write(data)
