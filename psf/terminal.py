"""What may be shown on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` without anything that a terminal would obey: programs choose the names of files, and strangers those of sessions."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
