"""Records: how objects stand in a pack, and reading them one after the other.

A pack is a header (magic, marker, check) and then records. A record is a header (marker, kind, flags, length of what follows, id)
and the object's bytes, as they are or, with the COMPRESSED flag, as one zstd frame (RFC 8878). The id is that of the bytes themselves.

The marker is random, one for each store, and never leaves it. So a program can write nothing that looks like a record, and what is
found behind damage by its marker is one (docs/adr/0009).
"""

from __future__ import annotations

import os
import struct
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import NamedTuple

import blake3
import zstandard

from store.files import read_exactly
from store.ids import ID_BYTES, Kind, object_id
from store.tree import TREE_BYTES_MAX

MARKER_BYTES = 8
PACK_MAGIC = b"psfpack\x03"
"""Of a pack that was written commit by commit: its records are as they were put."""
COMPACTED_MAGIC = b"psfpack\x04"
"""Of a pack that gc wrote: its records are compressed."""
PACK_HEADER = struct.Struct("<8s8s8s")
"""Pack header: magic, marker, the first bytes of the BLAKE3 of both."""
RECORD = struct.Struct("<8sBBHI32s")
"""Record header: marker, kind, flags, reserved (0), stored bytes, id. What is stored follows."""
COMPRESSED = 1
COMPRESSION_LEVEL = 1
OBJECT_BYTES_MAX = 64 << 20
"""The longest object that a record may hold: no tree is longer, nor anything else but blobs that are files of their own."""
WINDOW_BYTES = 1 << 20

Name = tuple[Kind, bytes]


class Record(NamedTuple):
    """A record as its header has it: the object's name, and offset and length, in bytes, of what is stored of it."""

    name: Name
    flags: int
    offset: int
    length: int

    @property
    def start(self) -> int:
        return self.offset - RECORD.size

    @property
    def end(self) -> int:
        return self.offset + self.length


class RecordsByName(Mapping[Name, Record]):
    """The records of a pack by the names of their objects. One thread adds while others look: what they iterate is of one moment."""

    def __init__(self, records: Mapping[Name, Record] | None = None) -> None:
        self._records = dict(records or {})

    def add(self, records: Mapping[Name, Record]) -> None:
        """Nothing is taken out again, so a copy is one act for the interpreter, and no addition comes in between."""
        self._records.update(records)

    def __getitem__(self, name: Name) -> Record:
        return self._records[name]

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Name]:
        return iter(self._records.copy())

    def keys(self) -> KeysView[Name]:
        return self._records.copy().keys()

    def items(self) -> ItemsView[Name, Record]:
        return self._records.copy().items()

    def values(self) -> ValuesView[Record]:
        return self._records.copy().values()


class PackHeader(NamedTuple):
    """What a pack's first bytes say. Records of a compacted pack are compressed."""

    compacted: bool
    marker: bytes


def encode_pack_header(header: PackHeader) -> bytes:
    magic = COMPACTED_MAGIC if header.compacted else PACK_MAGIC
    return PACK_HEADER.pack(magic, header.marker, _check(magic + header.marker))


def decode_pack_header(data: bytes) -> PackHeader | None:
    """What the first bytes of a pack say; None when they are damaged, or of another format."""
    if len(data) < PACK_HEADER.size:
        return None
    magic, marker, check = PACK_HEADER.unpack_from(data)
    if magic not in (PACK_MAGIC, COMPACTED_MAGIC) or check != _check(magic + marker):
        return None
    return PackHeader(magic == COMPACTED_MAGIC, marker)


def encode_marker(marker: bytes) -> bytes:
    """The content of a store's marker file."""
    return marker + _check(marker)


def decode_marker(data: bytes) -> bytes | None:
    """The marker that a marker file holds; None when it is damaged."""
    marker = data[:MARKER_BYTES]
    return marker if len(marker) == MARKER_BYTES and data == encode_marker(marker) else None


def _check(data: bytes) -> bytes:
    return blake3.blake3(data).digest()[:MARKER_BYTES]


def encode_record_header(marker: bytes, name: Name, flags: int, length: int) -> bytes:
    return RECORD.pack(marker, name[0], flags, 0, length, name[1])


def compress(data: bytes) -> tuple[int, bytes]:
    """Flags and stored bytes of an object in a sealed pack: compressed when that makes it shorter."""
    frame = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_checksum=False).compress(data)
    return (COMPRESSED, frame) if len(frame) < len(data) else (0, data)


def restore(name: Name, flags: int, stored: bytes) -> bytes | None:
    """The object's bytes, out of what a record stores of it; None when they are not what its name says."""
    data = _decompress(stored) if flags & COMPRESSED else stored
    return data if data is not None and object_id(name[0], data) == name[1] else None


def _decompress(frame: bytes) -> bytes | None:
    try:
        if not 0 <= zstandard.frame_content_size(frame) <= OBJECT_BYTES_MAX:
            return None
        data: bytes = zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError:
        return None
    return data


class Reading:
    """Sequential reading of a pack through a window. Maps nothing: a file that another process cuts must not end us."""

    def __init__(self, descriptor: int, marker: bytes, window_bytes: int = WINDOW_BYTES) -> None:
        self._descriptor, self.marker, self._window_bytes = descriptor, marker, window_bytes
        self._window, self._start = b"", 0
        self.size_bytes = os.fstat(descriptor).st_size

    def at(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`, fewer only at the end of the file."""
        begin = offset - self._start
        if begin < 0 or begin + length > len(self._window):
            self._window = read_exactly(self._descriptor, max(length, self._window_bytes), offset)
            self._start, begin = offset, 0
        return self._window[begin : begin + length]

    def record(self, offset: int) -> Record | None:
        """The record whose header stands at `offset`, when it is one and all there."""
        header = self.at(offset, RECORD.size)
        if len(header) < RECORD.size:
            return None
        marker, kind, flags, reserved, length, identity = RECORD.unpack(header)
        end = offset + RECORD.size + length
        if marker != self.marker or flags & ~COMPRESSED or reserved or kind not in _KINDS:
            return None
        if length > OBJECT_BYTES_MAX or end > self.size_bytes:
            return None
        return Record((Kind(kind), identity), flags, offset + RECORD.size, length)

    def object(self, record: Record) -> bytes | None:
        """The object that a record holds; None when it is not what its name says."""
        return restore(record.name, record.flags, self.at(record.offset, record.length))


def read_records(reading: Reading, start: int, *, verify: bool) -> Iterator[Record]:
    """Yield the records from `start` up to the first invalid one.

    A record is invalid when its header is not one, when it is not all there, or, with `verify`, when its bytes do not match
    its id: such is the torn tail of a pack whose writer died.
    """
    offset = start
    while (record := reading.record(offset)) is not None and not (verify and reading.object(record) is None):
        yield record
        offset = record.end


def next_whole_record(reading: Reading, start: int) -> int | None:
    """Where the first whole record at or after `start` stands: beyond damage. None when nothing whole follows."""
    offset = start
    while offset + RECORD.size <= reading.size_bytes:
        chunk = reading.at(offset, min(WINDOW_BYTES, reading.size_bytes - offset))
        found = chunk.find(reading.marker)
        if found < 0:
            offset += max(1, len(chunk) - MARKER_BYTES + 1)
            continue
        offset += found
        record = reading.record(offset)
        if record is not None and reading.object(record) is not None:
            return offset
        offset += 1
    return None


class Scan(NamedTuple):
    """What a whole pack holds, in order, where the last record ends, and where damage before that begins.

    `lost` are records whose header is whole and whose bytes are not, or may not be: whoever asks for one is told that it is
    damaged, not that it never was.
    """

    records: list[Record]
    lost: list[Record]
    end: int
    damages: list[int]

    @property
    def damaged(self) -> bool:
        return bool(self.damages)


def scan(reading: Reading, *, verify: bool) -> Scan:
    """Read a pack that nobody appends to, going on beyond damage at the next whole record."""
    records: list[Record] = []
    lost: list[Record] = []
    end = PACK_HEADER.size
    damages = [0] if decode_pack_header(reading.at(0, end)) is None else []
    position: int | None = next_whole_record(reading, 0) if damages else end
    while position is not None:
        last: Record | None = None
        for last in read_records(reading, position, verify=verify):
            records.append(last)
            end = last.end
        position = _beyond_damage(reading, end, last if not verify else None)
        if position is not None:
            damages.append(end)
            torn = reading.record(end)
            if torn is not None and torn.end == position:
                lost.append(torn)
    return Scan(records, lost, end, damages)


def _beyond_damage(reading: Reading, end: int, unverified: Record | None) -> int | None:
    """Where records go on after the one that ends at `end`; None when nothing whole follows, as after a torn tail.

    `unverified` is that last record when it was not verified: a wrong length in its header leads astray.
    """
    if end == reading.size_bytes:
        return None
    if unverified is not None and reading.object(unverified) is None:
        return next_whole_record(reading, unverified.start + 1)
    return next_whole_record(reading, end)


_KINDS = frozenset(int(kind) for kind in Kind)
assert OBJECT_BYTES_MAX >= TREE_BYTES_MAX
assert RECORD.size == MARKER_BYTES + 8 + ID_BYTES
