"""A tar stream as it comes, plain or gzipped, without seeking: how much of it is unpacked is bounded."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

from store.archives.headers import BLOCK_BYTES, is_header, padding_bytes
from store.archives.members import CHUNK_BYTES
from store.errors import ArchiveRefused

_GZIP_MAGIC = b"\x1f\x8b"
_OTHERS = {
    b"PK": "a zip archive",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
}
_GZIP_WINDOW = 31
"""zlib's word for gzip's header and trailer."""
_TRAILING_BYTES_MAX = 16 << 20
"""Zeros after the end of an archive: tar fills a record with them, of 10 KiB if nothing else was said."""


class Readable(Protocol):
    """A binary stream. `read` may give fewer bytes than asked for, and none only at the end."""

    def read(self, size: int, /) -> bytes | None: ...


class Blocks:
    """The unpacked stream, read block by block. Raises ArchiveRefused where it ends early or is more than `bytes_max`.

    A member's contents are read by `chunks`; `skip` passes what is left of them.
    """

    def __init__(self, stream: Readable, bytes_max: int) -> None:
        first = _read_up_to(stream, BLOCK_BYTES)
        if not first:
            raise ArchiveRefused("the archive is empty: not even an end-of-archive mark is in it")
        self._stream: Readable = _Rejoined(first, stream)
        self._bytes_max, self._read_bytes, self._left_bytes, self._padding_bytes = bytes_max, 0, 0, 0
        if not is_header(first):
            self._stream = _opened(self._stream, first)

    def next_block(self) -> bytes | None:
        """The next block; None at the stream's end."""
        data = self._up_to(BLOCK_BYTES)
        if 0 < len(data) < BLOCK_BYTES:
            raise ArchiveRefused("the archive is truncated: it ends within a block")
        return data or None

    def exactly(self, size_bytes: int) -> bytes:
        data = self._up_to(size_bytes)
        if len(data) < size_bytes:
            raise ArchiveRefused("the archive is truncated: it ends within a member")
        return data

    def begin(self, size_bytes: int) -> None:
        """Contents of `size_bytes` come now."""
        if self._read_bytes + size_bytes > self._bytes_max:
            raise self._too_much()
        self._left_bytes, self._padding_bytes = size_bytes, padding_bytes(size_bytes)

    def chunks(self) -> Iterator[bytes]:
        while self._left_bytes:
            data = self.exactly(min(CHUNK_BYTES, self._left_bytes))
            self._left_bytes -= len(data)
            yield data

    def skip(self) -> None:
        for _ in self.chunks():
            pass
        self.exactly(self._padding_bytes)
        self._padding_bytes = 0

    def finish(self) -> None:
        """Read to the stream's end, so that its checksum is checked and a writer at a pipe's other end is not cut off."""
        total = 0
        while data := self._up_to(CHUNK_BYTES):
            total += len(data)
            if data.count(0) != len(data):
                raise ArchiveRefused("something other than zeros follows the archive's end")
            if total > _TRAILING_BYTES_MAX:
                raise ArchiveRefused(f"more than {_TRAILING_BYTES_MAX} bytes of zeros follow the archive's end")

    def _up_to(self, size_bytes: int) -> bytes:
        data = _read_up_to(self._stream, size_bytes)
        self._read_bytes += len(data)
        if self._read_bytes > self._bytes_max:
            raise self._too_much()
        return data

    def _too_much(self) -> ArchiveRefused:
        return ArchiveRefused(f"the archive is, unpacked, more than {self._bytes_max} bytes")


class _Rejoined:
    """A stream of which the beginning was read already."""

    def __init__(self, first: bytes, stream: Readable) -> None:
        self._first, self._stream = first, stream

    def read(self, size: int, /) -> bytes | None:
        if not self._first:
            return self._stream.read(size)
        data, self._first = self._first[:size], self._first[size:]
        return data


class _Gunzipped:
    """What a gzip stream holds: all its parts, one after the other. Never unpacks more than it is asked for."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._packed = b""
        self._decoder = zlib.decompressobj(_GZIP_WINDOW)

    def read(self, size: int, /) -> bytes:
        while True:
            packed = self._packed or self._stream.read(CHUNK_BYTES) or b""
            if self._decoder.eof:
                if not packed:
                    return b""
                self._decoder = zlib.decompressobj(_GZIP_WINDOW)
            try:
                data = self._decoder.decompress(packed, size)
            except zlib.error as error:
                raise ArchiveRefused(f"the archive is damaged: its gzip compression is broken ({error})") from None
            self._packed = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
            if data:
                return data
            if not packed:
                raise ArchiveRefused("the archive is truncated: its gzip compression ends early")


def _opened(stream: Readable, first: bytes) -> Readable:
    """The tar stream inside, when a stream does not begin with a header: gzipped, or with nothing in it."""
    if first.startswith(_GZIP_MAGIC):
        return _Gunzipped(stream)
    for magic, word in _OTHERS.items():
        if first.startswith(magic):
            raise ArchiveRefused(f"this is {word}; psf reads tar archives, plain or compressed with gzip")
    return stream


def _read_up_to(stream: Readable, size_bytes: int) -> bytes:
    """`size_bytes`, fewer only at the stream's end: pipes and sockets give what they have."""
    parts: list[bytes] = []
    while size_bytes and (part := stream.read(size_bytes)):
        parts.append(part)
        size_bytes -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
