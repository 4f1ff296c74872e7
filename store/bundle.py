"""A bundle: one file that carries a session, or a range of its history, to another store.

    magic    `psfbundle\\x01`
    header   its length (4 bytes, little-endian), then msgpack: see Header
    records  each object once, after all that it needs: magic `psf1`, kind (1 byte), flags (1), zeros (2), length of the
             payload (4), id (32), and the payload
    trailer  BLAKE3 of all before it

An object longer than PART_BYTES is several records of one id: all but the last have the PART flag and PART_BYTES of payload. So no
length is ever too long for its field, and nobody needs a whole blob in memory. Other flags are refused. There is one way to write
what a bundle holds. Whoever reads one believes no length or count before having compared it with the length of the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, NoReturn

import blake3

from store.bundle_header import Header, decode_header, encode_header
from store.errors import BundleRefused, DecodeError
from store.files import CHUNK_BYTES, read_exactly
from store.ids import Kind
from store.records import Name

MAGIC = b"psfbundle\x01"
HEADER_BYTES_MAX = 64 << 20
RECORD_MAGIC = b"psf1"
RECORD = struct.Struct("<4sBBHI32s")
PART = 0x80
"""Flag of a record whose object goes on in the next one."""
PART_BYTES = 16 << 20
_LENGTH = struct.Struct("<I")
_HASH_BYTES = 32
_KINDS = (Kind.BLOB, Kind.TREE, Kind.SNAPSHOT)


def record_header(name: Name, flags: int, length: int) -> bytes:
    return RECORD.pack(RECORD_MAGIC, name[0], flags, 0, length, name[1])


class BundleWriter:
    """Writes a bundle into `stream`, from its beginning to its end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._digest = stream, blake3.blake3()
        self.size_bytes = 0

    def begin(self, header: Header) -> None:
        """Raises BundleRefused when there are too many moves for one bundle."""
        data = encode_header(header)
        if len(data) > HEADER_BYTES_MAX:
            raise BundleRefused("the header", f"of {len(header.moves)} moves would be too long; export a shorter range")
        self._write(MAGIC + _LENGTH.pack(len(data)) + data)

    def put(self, name: Name, data: bytes) -> None:
        rest = memoryview(data)
        while len(rest) > PART_BYTES:
            self._record(name, PART, rest[:PART_BYTES])
            rest = rest[PART_BYTES:]
        self._record(name, 0, rest)

    def put_file(self, name: Name, descriptor: int) -> None:
        """Put an object out of a file that holds nothing else, a part at a time."""
        offset, rest_bytes = 0, os.fstat(descriptor).st_size
        while rest_bytes > PART_BYTES:
            self._record(name, PART, memoryview(read_exactly(descriptor, PART_BYTES, offset)))
            offset, rest_bytes = offset + PART_BYTES, rest_bytes - PART_BYTES
        self._record(name, 0, memoryview(read_exactly(descriptor, rest_bytes, offset)))

    def end(self) -> None:
        self._write(self._digest.digest())

    def _record(self, name: Name, flags: int, payload: memoryview) -> None:
        self._write(record_header(name, flags, len(payload)))
        self._write(payload)

    def _write(self, data: bytes | memoryview) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self.size_bytes += len(data)


class Incoming(NamedTuple):
    """An object as a bundle brings it, not compared with its name. `chunks` must be read before the next object is asked for.

    `parted` when it is longer than PART_BYTES.
    """

    name: Name
    place: str
    parted: bool
    chunks: Iterator[bytes]


class BundleReader:
    """Reads a bundle in a seekable file, from its beginning to its end. Whatever is wrong with its form raises BundleRefused."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, blake3.blake3()
        self.size_bytes = file.seek(0, os.SEEK_END)
        self._ahead_bytes = self.size_bytes - _HASH_BYTES
        file.seek(0)

    def header(self) -> Header:
        if self._take(len(MAGIC), "its beginning") != MAGIC:
            raise BundleRefused("its beginning", "is not that of a bundle of this format")
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size, "the header"))
        if length > HEADER_BYTES_MAX:
            raise BundleRefused("the header", f"claims {length} bytes; at most {HEADER_BYTES_MAX} are read")
        try:
            header = decode_header(self._take(length, "the header"))
        except DecodeError as error:
            raise BundleRefused("the header", str(error)) from None
        if header.objects * RECORD.size > self._ahead_bytes:
            raise BundleRefused("the header", f"claims {header.objects} objects, more than the file has bytes for")
        return header

    def objects(self, count: int) -> Iterator[Incoming]:
        """The next `count` objects."""
        for number in range(1, count + 1):
            place = f"object {number} of {count}"
            name, flags, length = self._record(place)
            place = f"{place} ({name[0].word} {name[1].hex()})"
            yield Incoming(name, place, bool(flags), self._chunks(name, flags, length, place))

    def end(self) -> bytes:
        """Nothing follows but the trailer, and it is that of all that was read. Returns it: two bundles have different ones."""
        if self._ahead_bytes:
            raise BundleRefused("its end", f"has {self._ahead_bytes} bytes after the last object")
        digest: bytes = self._digest.digest()
        if self._file.read(_HASH_BYTES) != digest:
            raise BundleRefused("its trailer", "does not match what is before it")
        return digest

    def _record(self, place: str) -> tuple[Name, int, int]:
        """Name, flags and length of the record that begins here."""
        magic, kind, flags, reserved, length, identity = RECORD.unpack(self._take(RECORD.size, place))
        if magic != RECORD_MAGIC or reserved or kind not in _KINDS:
            raise BundleRefused(place, "does not begin as one")
        if flags & ~PART:
            raise BundleRefused(place, f"has flags {flags:#x}, which this psf does not know")
        if length > PART_BYTES or (flags and length != PART_BYTES):
            raise BundleRefused(place, f"has a record of {length} bytes, not parts of {PART_BYTES}")
        return (Kind(kind), identity), flags, length

    def _chunks(self, name: Name, flags: int, length: int, place: str) -> Iterator[bytes]:
        while True:
            while length:
                chunk = self._take(min(length, CHUNK_BYTES), place)
                length -= len(chunk)
                yield chunk
            if not flags:
                return
            following, flags, length = self._record(place)
            if following != name or not length:
                raise BundleRefused(place, "is not followed by its other parts")

    def _take(self, length: int, place: str) -> bytes:
        """The next `length` bytes. Asks the file for no more than it has."""
        if length > self._ahead_bytes:
            _cut_off(place)
        data = self._file.read(length)
        if len(data) < length:
            _cut_off(place)
        self._ahead_bytes -= length
        self._digest.update(data)
        return data


def _cut_off(place: str) -> NoReturn:
    raise BundleRefused(place, "is cut off")
