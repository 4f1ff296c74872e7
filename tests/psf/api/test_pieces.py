"""Output as events tell it while a program prints: no byte is lost, and no character is cut."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from psf.api import v1_steps


def told(data: bytes, size: int) -> tuple[list[dict[str, Any]], bytes]:
    found, rest = [], b""
    for at in range(0, len(data), size):
        printed, rest = v1_steps._pieces(rest + data[at : at + size])
        if printed:
            found.append(printed)
    return found, rest


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_characters_are_whole_however_they_come(size: int) -> None:
    found, rest = told("aü€𝄞b".encode(), size)
    assert "".join(piece["text"] for piece in found) == "aü€𝄞b"
    assert (rest, [piece for piece in found if "base64" in piece]) == (b"", [])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_what_is_no_text_comes_as_its_bytes_too(size: int) -> None:
    data = bytes(range(256)) * 2 + "ü".encode()[:1]
    found, rest = told(data, size)
    whole = b"".join(
        base64.b64decode(piece["base64"]) if "base64" in piece else piece["text"].encode() for piece in found
    )
    assert whole + rest == data
