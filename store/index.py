"""Where each object lies in the packs. Derived data: made by reading the packs, never the only copy of anything."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from store.files import CHUNK_BYTES, read_exactly
from store.ids import ID_BYTES, Kind, object_id

PACK_HEADER = b"psfpack\x01"
RECORD_MAGIC = b"psf1"
RECORD = struct.Struct("<4sBBHI32s")
"""Record header: magic, kind, flags (0), reserved (0), payload bytes, id. The payload follows."""

Name = tuple[Kind, bytes]


class Place(NamedTuple):
    """A record's payload: the pack's number, and offset and length in bytes."""

    pack: int
    offset: int
    length: int


def record_header(kind: Kind, name: bytes, length: int) -> bytes:
    return RECORD.pack(RECORD_MAGIC, kind, 0, 0, length, name)


class Record(NamedTuple):
    """A record as its header has it: the object's name, and offset and length of its payload in bytes."""

    name: Name
    offset: int
    length: int

    @property
    def start(self) -> int:
        return self.offset - RECORD.size

    @property
    def end(self) -> int:
        return self.offset + self.length


def read_records(descriptor: int, start: int, *, verify: bool) -> Iterator[Record]:
    """Yield the records from `start` up to the first invalid one.

    A record is invalid when its header is not one, when it is not all there, or, with `verify`, when its bytes do not match
    its id: such is the torn tail of a pack whose writer died. Reads, and maps nothing: a file that another process cuts, or a
    sector that is gone, must not end us.
    """
    size, offset = os.fstat(descriptor).st_size, start
    while (record := record_at(descriptor, offset, size)) is not None and not (
        verify and not is_whole(descriptor, record)
    ):
        yield record
        offset = record.end


def record_at(descriptor: int, offset: int, size: int) -> Record | None:
    """The record whose header stands at `offset` of a file of `size` bytes; None when there is none."""
    header = read_exactly(descriptor, RECORD.size, offset)
    if len(header) < RECORD.size:
        return None
    magic, kind, flags, reserved, length, name = RECORD.unpack(header)
    record = Record((kind, name), offset + RECORD.size, length)
    if magic != RECORD_MAGIC or flags or reserved or kind not in _KINDS or record.end > size:
        return None
    return record._replace(name=(Kind(kind), name))


def is_whole(descriptor: int, record: Record) -> bool:
    """Whether a record's bytes match its id."""
    kind, name = record.name
    return object_id(kind, read_exactly(descriptor, record.length, record.offset)) == name


def next_whole_record(descriptor: int, start: int) -> int | None:
    """Where the first whole record at or after `start` stands: beyond damage. None when nothing whole follows."""
    size, offset = os.fstat(descriptor).st_size, start
    while offset + RECORD.size <= size:
        chunk = read_exactly(descriptor, CHUNK_BYTES, offset)
        found = chunk.find(RECORD_MAGIC)
        if found < 0:
            offset += max(1, len(chunk) - len(RECORD_MAGIC) + 1)
            continue
        offset += found
        record = record_at(descriptor, offset, size)
        if record is not None and is_whole(descriptor, record):
            return offset
        offset += 1
    return None


_KINDS = frozenset(int(kind) for kind in Kind)
assert RECORD.size == 12 + ID_BYTES
