"""Where each object lies in the packs. Derived data: made by reading the packs, never the only copy of anything."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

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


def read_records(descriptor: int, start: int, *, verify: bool) -> Iterator[tuple[Name, int, int]]:
    """Yield ((kind, id), payload offset, length) of each record from `start` up to the first invalid one.

    A record is invalid when its header is not one, when it is not all there, or, with `verify`, when its bytes do not match
    its id: such is the torn tail of a pack whose writer died.
    """
    size = os.fstat(descriptor).st_size
    if size <= start:
        return
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as pages:
        offset = start
        while offset + RECORD.size <= size:
            magic, kind, flags, reserved, length, name = RECORD.unpack_from(pages, offset)
            payload = offset + RECORD.size
            if magic != RECORD_MAGIC or flags or reserved or kind not in _KINDS or payload + length > size:
                return
            if verify:
                with memoryview(pages) as view, view[payload : payload + length] as data:
                    if object_id(Kind(kind), data) != name:
                        return
            yield (Kind(kind), name), payload, length
            offset = payload + length


_KINDS = frozenset(int(kind) for kind in Kind)
assert RECORD.size == 12 + ID_BYTES
