"""The blocks of a tar stream that are not contents: headers and extended headers, both ways. Pure.

Read are the forms of V7, POSIX (ustar and pax) and GNU. Written is POSIX: one form for one entry, on every machine.
"""

from __future__ import annotations

import re

import msgspec

from store.errors import ArchiveRefused

BLOCK_BYTES = 512
FIELD_NAME_BYTES = 100
_POSIX_MAGIC = b"ustar\0"
_CHECKSUM = slice(148, 156)
_OCTAL = re.compile(rb"[0-7]*\Z")
_DECIMAL = re.compile(rb"[0-9]{1,19}\Z")
_LENGTH_DIGITS_MAX = 10
_SIZE_BELOW = 8**11
"""What eleven octal digits cannot say is said in an extended header."""


class Header(msgspec.Struct, frozen=True):
    """One header. `goes_on` is whether more blocks of an old GNU sparse map follow it."""

    name: bytes
    link: bytes
    kind: bytes
    mode: int
    size_bytes: int
    goes_on: bool


class Described(msgspec.Struct, frozen=True):
    """What a header is to say. `kind` is the type's byte; `size_bytes` the length of the contents that follow."""

    name: bytes
    kind: bytes
    mode: int
    size_bytes: int
    time_s: int
    link: bytes = b""


def is_header(block: bytes) -> bool:
    """Whether a block has the length and the checksum of a header."""
    if len(block) != BLOCK_BYTES:
        return False
    checksum = _octal(block[_CHECKSUM])
    # Blanks stand for the checksum while it is computed. Old programs summed signed characters.
    blanked = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    return checksum == sum(blanked) or checksum == sum(memoryview(blanked).cast("b"))


def parse_header(block: bytes) -> Header:
    """Raises ArchiveRefused for a block that is no header, or has fields that are no numbers."""
    if not is_header(block):
        raise ArchiveRefused("a header's checksum is wrong: the archive is damaged, or not a tar archive")
    name = _text(block[:100])
    if block[257:263] == _POSIX_MAGIC and (prefix := _text(block[345:500])):
        name = prefix + b"/" + name
    mode, size_bytes = _number(block[100:108]), _number(block[124:136])
    if mode is None or size_bytes is None:
        raise ArchiveRefused("its header holds a mode or size that is no number", name)
    return Header(name, _text(block[157:257]), block[156:157], mode, size_bytes, bool(block[482]))


def parse_records(data: bytes) -> dict[bytes, bytes]:
    """The records of an extended header: `length key=value\\n`, the length being that of the record. Later ones win."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + _LENGTH_DIGITS_MAX + 1)
        digits = data[position:space] if space > 0 else b""
        end = position + int(digits) if _DECIMAL.match(digits) else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if data[end - 1 : end] != b"\n" or not equals or not key:
            raise ArchiveRefused("an extended header is not made of records")
        records[key] = value
        position = end
    return records


def parse_decimal(text: bytes) -> int | None:
    """A number of an extended header; None when it is none."""
    return int(text) if _DECIMAL.match(text) else None


def encode_headers(entry: Described) -> bytes:
    """The blocks that stand before an entry's contents."""
    texts = {b"path": entry.name, b"linkpath": entry.link}
    records = {key: text for key, text in texts.items() if not _fits_field(text)}
    if any(not _is_utf8(text) for text in records.values()):
        records = {b"hdrcharset": b"BINARY"} | records
    for key, number in ((b"size", entry.size_bytes), (b"mtime", entry.time_s)):
        if number >= _SIZE_BELOW:
            records[key] = b"%d" % number
    data = b"".join(_record(key, value) for key, value in records.items())
    if not data:
        return _block(entry)
    extended = Described(b"././@PaxHeader", b"x", 0o644, len(data), 0)
    return _block(extended) + padded(data) + _block(entry)


def padding_bytes(size_bytes: int) -> int:
    """How many bytes fill the last block of contents."""
    return -size_bytes % BLOCK_BYTES


def padded(data: bytes) -> bytes:
    return data + bytes(padding_bytes(len(data)))


def _block(entry: Described) -> bytes:
    fields = (
        entry.name[:FIELD_NAME_BYTES].ljust(FIELD_NAME_BYTES, b"\0"),
        b"%07o\0" % entry.mode,
        b"%07o\0%07o\0" % (0, 0),
        b"%011o\0" % (entry.size_bytes if entry.size_bytes < _SIZE_BELOW else 0),
        b"%011o\0" % (entry.time_s if entry.time_s < _SIZE_BELOW else 0),
        b" " * 8,
        entry.kind,
        entry.link[:FIELD_NAME_BYTES].ljust(FIELD_NAME_BYTES, b"\0"),
        _POSIX_MAGIC + b"00",
        bytes(64),
        b"%07o\0%07o\0" % (0, 0),
    )
    block = b"".join(fields).ljust(BLOCK_BYTES, b"\0")
    return block[: _CHECKSUM.start] + b"%06o\0 " % sum(block) + block[_CHECKSUM.stop :]


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int | None:
    """A field's number: octal digits, or GNU's binary form, which a high bit announces; None when it is none or negative."""
    if field[0] & 0x80:
        return None if field[0] & 0x40 else int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return _octal(field)


def _octal(field: bytes) -> int | None:
    digits = _text(field).strip(b" ")
    return int(digits or b"0", 8) if _OCTAL.match(digits) else None


def _fits_field(text: bytes) -> bool:
    return len(text) <= FIELD_NAME_BYTES and text.isascii() and b"\0" not in text


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
