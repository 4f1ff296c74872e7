"""Trees: one directory each, and their canonical encoding.

A tree is a tuple of entries sorted by name. Its encoding is msgpack of `[version, entries]` with entries as arrays; equal
trees have equal bytes, hence equal ids. Decoding refuses everything that encoding would not have produced.
Names are bytes: file systems know no characters, and a name that is not UTF-8 must round-trip.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Collection, Iterable
from itertools import pairwise
from typing import Annotated

import msgspec

from store.errors import DecodeError
from store.ids import ID_BYTES, BlobId, Kind, TreeId, object_id

VERSION = 1
ENTRIES_MAX = 1_000_000
TREE_BYTES_MAX = 64 << 20
"""What an encoded tree may take (see `bytes_max`)."""
NAME_BYTES_MAX = 255
TARGET_BYTES_MAX = 4096
_ENTRY_BYTES_MAX = 25
"""What an entry takes beside its name and its content, with all numbers as long as they can be."""
_HEADER_BYTES_MAX = 7
EPOCH_S = 946_684_800
"""2000-01-01T00:00:00Z: the time of an entry with `changed` 0 (see `logical_time_s`)."""


class EntryKind(enum.IntEnum):
    """What a directory entry is; part of the format."""

    FILE = 0
    EXECUTABLE = 1
    SYMLINK = 2
    DIRECTORY = 3


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One name in a directory.

    `content` is a blob id (files), the target's bytes (symlinks) or a tree id (directories). `size_bytes` is the length of
    the file or target, 0 for directories. `changed` is the number of the step that last changed content or kind.
    """

    name: bytes
    kind: EntryKind
    content: bytes
    size_bytes: int
    changed: int

    @property
    def is_file(self) -> bool:
        return self.kind in (EntryKind.FILE, EntryKind.EXECUTABLE)

    def same_content(self, other: Entry) -> bool:
        """Equal but for the step that wrote it: what diff, merge and `changed` itself look at."""
        return self.kind == other.kind and self.content == other.content


class _Encoded(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    entries: Annotated[tuple[Entry, ...], msgspec.Meta(max_length=ENTRIES_MAX)]


Tree = tuple[Entry, ...]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Encoded)


def encode(entries: Iterable[Entry]) -> bytes:
    """Canonical bytes of a tree. Raises DecodeError for entries that may not stand in a tree."""
    tree = tuple(sorted(entries, key=_name))
    _check(tree)
    return _encoder.encode(_Encoded(VERSION, tree))


def decode(data: bytes) -> Tree:
    """The tree that `data` encodes. Raises DecodeError unless `data` is exactly what `encode` gives for it."""
    if len(data) > TREE_BYTES_MAX:
        raise DecodeError(f"not a tree: it is longer than {TREE_BYTES_MAX} bytes")
    try:
        encoded = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"not a tree: {error}") from None
    if encoded.version != VERSION:
        raise DecodeError(f"tree format {encoded.version} is not known; this psf reads {VERSION}")
    _check(encoded.entries)
    if _encoder.encode(encoded) != data:
        raise DecodeError("not a tree: its encoding is not the canonical one")
    return encoded.entries


def entry_bytes_max(entry: Entry) -> int:
    """What an entry takes in an encoded tree at most. It does not depend on `changed`: what fits, fits after any step."""
    return _ENTRY_BYTES_MAX + len(entry.name) + len(entry.content)


def bytes_max(entries: Collection[Entry]) -> int:
    """What a tree of these entries takes encoded at most."""
    contents = sum(len(entry.name) + len(entry.content) for entry in entries)
    return _HEADER_BYTES_MAX + _ENTRY_BYTES_MAX * len(entries) + contents


def tree_id(data: bytes) -> TreeId:
    return TreeId(object_id(Kind.TREE, data))


def entry_blob(entry: Entry) -> BlobId:
    return BlobId(entry.content)


def entry_tree(entry: Entry) -> TreeId:
    return TreeId(entry.content)


def directory_tree(entry: Entry | None) -> TreeId | None:
    """The tree of an entry that is a directory; None for every other, and for none."""
    return entry_tree(entry) if entry is not None and entry.kind is EntryKind.DIRECTORY else None


def logical_time_s(changed: int) -> int:
    """Modification time, in seconds since 1970, that an entry has wherever it is materialized."""
    return EPOCH_S + changed


def tree_time_s(tree: Tree) -> int:
    """Modification time of a root directory, which has no entry of its own: that of its latest change."""
    return logical_time_s(max((entry.changed for entry in tree), default=0))


def is_name(name: bytes) -> bool:
    """Whether a directory may hold this name."""
    return 0 < len(name) <= NAME_BYTES_MAX and name not in (b".", b"..") and b"/" not in name and b"\0" not in name


def _name(entry: Entry) -> bytes:
    return entry.name


def _check(tree: Tree) -> None:
    """Raises DecodeError for what may not stand in a tree. Every tree that is read or written comes by here: no call per entry."""
    if len(tree) > ENTRIES_MAX:
        raise DecodeError(f"a directory holds {len(tree)} entries; at most {ENTRIES_MAX} are kept")
    if len(tree) > _ALWAYS_FIT and bytes_max(tree) > TREE_BYTES_MAX:
        raise DecodeError(f"a directory's names and links take more than the {TREE_BYTES_MAX} bytes that are kept")
    names = [entry.name for entry in tree]
    if not (all(map(operator.lt, names, names[1:])) and _are_names(names)):
        wrong = next(name for before, name in pairwise([b"", *names]) if name <= before or not is_name(name))
        raise DecodeError(f"directory entry {wrong!r} is out of order, repeated or not a name")
    misfit = _first_misfit(tree)
    if misfit is not None:
        raise DecodeError(f"directory entry {misfit.name!r} has content that does not fit its kind")


_ALWAYS_FIT = TREE_BYTES_MAX // (_ENTRY_BYTES_MAX + NAME_BYTES_MAX + TARGET_BYTES_MAX) - 1
"""So many entries fit into a tree, whatever they are."""


def _are_names(names: list[bytes]) -> bool:
    """`is_name` of all of them at once."""
    if not names:
        return True
    joined = b"/".join(names)
    return (
        joined.count(b"/") == len(names) - 1
        and b"\0" not in joined
        and b"." not in names
        and b".." not in names
        and min(map(len, names)) > 0
        and max(map(len, names)) <= NAME_BYTES_MAX
    )


def _first_misfit(tree: Tree) -> Entry | None:
    symlink, directory = EntryKind.SYMLINK, EntryKind.DIRECTORY
    for entry in tree:
        kind, length = entry.kind, len(entry.content)
        if kind is symlink:
            fits = 0 < length <= TARGET_BYTES_MAX and entry.size_bytes == length
        else:
            fits = length == ID_BYTES and not (kind is directory and entry.size_bytes)
        if not fits or entry.changed < 0 or entry.size_bytes < 0:
            return entry
    return None


EMPTY_TREE_BYTES = encode(())
EMPTY_TREE = tree_id(EMPTY_TREE_BYTES)
