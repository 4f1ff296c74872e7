"""Archives made for tests, and short ways to take them in."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from typing import NamedTuple

from store.archives.members import DEFAULT_LIMITS, ArchiveLimits, Imported
from store.archives.read_tar import import_tar
from store.archives.read_zip import import_zip
from store.archives.write_tar import export_tar
from store.archives.write_zip import export_zip
from store.capture import put_tree
from store.files import Files
from store.ids import Kind, TreeId
from store.interfaces import Objects
from store.memory import MemoryObjects
from store.tree import Entry, EntryKind
from tests.store.workbench import contents

Made = dict[bytes, "bytes | tuple[bytes, EntryKind] | Made"]
"""A tree to make: a file's bytes, bytes with their kind, or a directory."""


class Member(NamedTuple):
    """One member of an archive to be made, as little checked as an attacker would."""

    name: str
    kind: bytes = tarfile.REGTYPE
    data: bytes = b""
    link: str = ""
    mode: int = 0o644
    pax: dict[str, str] | None = None


class Taken(NamedTuple):
    """What was taken in: paths and contents (see `workbench.contents`), and what was left out, with reasons."""

    contents: dict[bytes, bytes | None]
    left_out: dict[bytes, str]
    imported: Imported
    objects: MemoryObjects


def tar_of(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form, errors="surrogateescape") as archive:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.type, info.linkname, info.mode = member.kind, member.link, member.mode
            info.size, info.pax_headers = len(member.data), dict(member.pax or {})
            archive.addfile(info, io.BytesIO(member.data))
    return stream.getvalue()


def zip_of(*members: tuple[str, bytes, int], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Members by name, contents and Unix mode; 0 for an archive that was not made on Unix."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data, mode in members:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = (3 if mode else 0), mode << 16
            archive.writestr(info, data, compression)
    return stream.getvalue()


def take_tar(data: bytes, limits: ArchiveLimits = DEFAULT_LIMITS) -> Taken:
    objects = MemoryObjects()
    return _taken(import_tar(io.BytesIO(data), objects, Files(), tempfile.gettempdir(), limits), objects)


def take_zip(data: bytes, limits: ArchiveLimits = DEFAULT_LIMITS) -> Taken:
    objects = MemoryObjects()
    return _taken(import_zip(io.BytesIO(data), objects, Files(), tempfile.gettempdir(), limits), objects)


def as_tar(objects: Objects, tree: TreeId) -> bytes:
    stream = io.BytesIO()
    export_tar(objects, tree, stream)
    return stream.getvalue()


def as_zip(objects: Objects, tree: TreeId) -> bytes:
    stream = io.BytesIO()
    export_zip(objects, tree, stream)
    return stream.getvalue()


def make_tree(objects: Objects, made: Made, changed: int = 0) -> TreeId:
    return put_tree(objects, [_entry(objects, name, node, changed) for name, node in made.items()])


def _entry(objects: Objects, name: bytes, node: bytes | tuple[bytes, EntryKind] | Made, changed: int) -> Entry:
    if isinstance(node, dict):
        return Entry(name, EntryKind.DIRECTORY, make_tree(objects, node, changed), 0, changed)
    data, kind = node if isinstance(node, tuple) else (node, EntryKind.FILE)
    content = data if kind is EntryKind.SYMLINK else objects.put(Kind.BLOB, data)
    return Entry(name, kind, content, len(data), changed)


def _taken(imported: Imported, objects: MemoryObjects) -> Taken:
    left_out = {item.path: item.reason for item in imported.left_out}
    return Taken(contents(objects, imported.tree), left_out, imported, objects)
