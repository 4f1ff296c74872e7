"""What may be shown on a terminal."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def printable(text: str) -> str:
    """`text` without anything that a terminal would obey: programs choose the names of files, and strangers those of sessions."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def as_json(value: Any) -> bytes:
    """JSON that a terminal shows as it is, too: what it might obey stands in it as an escape, which any reader undoes."""
    text = msgspec.json.encode(value).decode()
    if not text.isprintable():
        # Outside of its strings JSON has nothing but printable ASCII.
        text = "".join(character if character.isprintable() else json.dumps(character)[1:-1] for character in text)
    return text.encode()
