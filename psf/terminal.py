"""What may be shown on a terminal."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec


def printable(text: str) -> str:
    """`text` without anything that a terminal would obey: programs choose the names of files, and strangers those of sessions."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


_ESCAPE = re.compile(rb"\\(?:([\\nrt])|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")
_SHORT_ESCAPES = {b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def shown_name(name: bytes) -> str:
    """The name of a file, so that no other name is shown the same: a backslash as two, what is not printable or not UTF-8 as an escape."""
    text = name.decode(errors="surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_shown_character, text))


def _shown_character(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte that is no UTF-8
    if character != "\\" and character.isprintable():
        return character
    return f"\\u{code:04x}" if 0x80 <= code <= 0xFF else ascii(character)[1:-1]


def named(shown: bytes) -> bytes:
    """The name that `shown_name` shows so. What is no escape of its stays as it is."""
    return _ESCAPE.sub(_unescaped, shown)


def _unescaped(found: re.Match[bytes]) -> bytes:
    short, byte, *character = found.groups()
    if short is not None:
        return _SHORT_ESCAPES[short]
    if byte is not None:
        return bytes.fromhex(byte.decode())
    code = int(character[0] or character[1], 16)
    return chr(code).encode(errors="surrogatepass") if code <= 0x10FFFF else found[0]


def as_json(value: Any) -> bytes:
    """JSON that a terminal shows as it is, too: what it might obey stands in it as an escape, which any reader undoes."""
    text = msgspec.json.encode(value).decode()
    if not text.isprintable():
        # Outside of its strings JSON has nothing but printable ASCII.
        text = "".join(character if character.isprintable() else json.dumps(character)[1:-1] for character in text)
    return text.encode()
