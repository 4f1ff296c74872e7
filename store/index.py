"""The index of a sealed pack: where each of its objects lies. Derived data, which reading the pack gives again.

    header   magic `psfidx\\x01\\n`, size of the pack (8 bytes), objects (4), bits of the fan-out (4); little-endian
    fan-out  2^bits + 1 numbers (4 bytes): how many ids begin with a lower prefix of that many bits
    entries  sorted by id: id (32), kind (1), zeros (3), stored length (4), offset (8)
    trailer  BLAKE3 of all before it

The file is written once, under a name that it gets when it is complete, and mapped. Fan-outs are as in git's pack index, but as
fine as the pack has objects: nearly every look for an object that is not there ends at the fan-out.

A right hash is no proof, since anybody can make one. What looking relies on is checked when the file is opened, where an object is
said to lie when it is looked for: an entry that points out of the pack is none. `check` compares each entry with the pack.
"""

from __future__ import annotations

import mmap
import os
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

import blake3

from store.ids import ID_BYTES, Kind
from store.records import RECORD, Name, Record

_HEADER = struct.Struct("<8sQII")
_ENTRY = struct.Struct("<32sB3xIQ")
_MAGIC = b"psfidx\x01\n"
_BITS_MAX = 16
_HASH_BYTES = 32
_FAN_BYTES = 4
_KINDS = bytes(Kind)


class IndexDamaged(ValueError):
    """The bytes are not the index of this pack."""


class PackIndex:
    """Looks up objects in an index's bytes. Raises IndexDamaged unless they are whole and of a pack of `pack_bytes`."""

    def __init__(self, data: bytes | mmap.mmap, pack_bytes: int) -> None:
        if len(data) < _HEADER.size + _HASH_BYTES:
            raise IndexDamaged("it is too short")
        magic, claimed_bytes, count, bits = _HEADER.unpack_from(data)
        self._count: int = count
        fan_bytes = ((1 << min(bits, _BITS_MAX)) + 1) * _FAN_BYTES
        self._entries = _HEADER.size + fan_bytes
        end = self._entries + self._count * _ENTRY.size
        if magic != _MAGIC or bits > _BITS_MAX or len(data) != end + _HASH_BYTES:
            raise IndexDamaged("its header is not one")
        if claimed_bytes != pack_bytes:
            raise IndexDamaged(f"it is of a pack of {claimed_bytes} bytes, not {pack_bytes}")
        self._pack_bytes = pack_bytes
        view = memoryview(data)
        if blake3.blake3(view[:end]).digest() != view[end:]:
            raise IndexDamaged("its bytes do not match its hash")
        self._data, self._shift = data, _BITS_MAX - bits
        self._fan = view[_HEADER.size : self._entries].cast("I")
        fan = self._fan.tolist()
        if fan[0] != 0 or fan[-1] != count or fan != sorted(fan):
            raise IndexDamaged("its fan-out does not lead to its entries")
        if bytes(view[self._entries + ID_BYTES : end : _ENTRY.size]).translate(None, _KINDS):
            raise IndexDamaged("it has objects of a kind that is none")

    @classmethod
    def open(cls, descriptor: int, pack_bytes: int) -> PackIndex:
        """Map an index file. Raises IndexDamaged."""
        size_bytes = os.fstat(descriptor).st_size
        if not size_bytes:
            raise IndexDamaged("it is empty")
        if size_bytes > _size_bytes_max(pack_bytes):
            raise IndexDamaged("it is too long for its pack")
        return cls(mmap.mmap(descriptor, size_bytes, access=mmap.ACCESS_READ), pack_bytes)

    def find(self, name: Name) -> tuple[int, int] | None:
        """Offset and length, in bytes, of what the pack stores of an object; None when it is not there."""
        identity = name[1]
        prefix = (identity[0] << 8 | identity[1]) >> self._shift
        first, last = self._fan[prefix], self._fan[prefix + 1]
        while first < last:  # halving: a fan-out may lead everything to one place
            middle = (first + last) // 2
            position = self._entries + middle * _ENTRY.size
            found = self._data[position : position + ID_BYTES]
            if found == identity:
                _, kind, length, offset = _ENTRY.unpack_from(self._data, position)
                return (offset, length) if kind == name[0] and self._is_within(offset, length) else None
            first, last = (middle + 1, last) if found < identity else (first, middle)
        return None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Name, int, int]]:
        """Every object with offset and length, in the order of ids."""
        for position in range(self._entries, self._entries + self._count * _ENTRY.size, _ENTRY.size):
            identity, kind, length, offset = _ENTRY.unpack_from(self._data, position)
            if self._is_within(offset, length):
                yield (Kind(kind), identity), offset, length

    def _is_within(self, offset: int, length: int) -> bool:
        """Whether a record of which this is stored can be in the pack."""
        return offset >= RECORD.size and offset + length <= self._pack_bytes


def build(records: Iterable[Record], pack_bytes: int) -> bytes:
    """The index file of a pack of `pack_bytes` that holds these records. Of equal names the last counts."""
    unique = {record.name: record for record in records}
    entries = sorted(_ENTRY.pack(name[1], name[0], record.length, record.offset) for name, record in unique.items())
    bits = min(_BITS_MAX, len(entries).bit_length() + 1)
    shift = _BITS_MAX - bits
    prefixes = [(entry[0] << 8 | entry[1]) >> shift for entry in entries]
    fan = array("I", (bisect_left(prefixes, prefix) for prefix in range((1 << bits) + 1)))
    body = b"".join([_HEADER.pack(_MAGIC, pack_bytes, len(entries), bits), fan.tobytes(), *entries])
    digest: bytes = blake3.blake3(body).digest()
    return body + digest


def _size_bytes_max(pack_bytes: int) -> int:
    """What the index of a pack can take at most: no object is in fewer bytes than its record's header."""
    fan_bytes = ((1 << _BITS_MAX) + 1) * _FAN_BYTES
    return _HEADER.size + fan_bytes + pack_bytes // RECORD.size * _ENTRY.size + _HASH_BYTES


assert array("I").itemsize == _FAN_BYTES
