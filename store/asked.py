"""What is asked of limits, by a session for all its steps or by a call for one: some of them, or none. Pure.

Decoding refuses what is no limit: what is negative, no number, or too small for anything to run within it. What a server allows is
not known here.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from store.errors import DecodeError
from store.snapshot import Limits, Network

AMOUNT_MAX = 1 << 50
PROCESSES_MAX, OPEN_FILES_MAX = 4_000_000, 1 << 20
"""Kernels take no more."""
_TIME_S_MAX = 1e9

_Seconds = Annotated[float, msgspec.Meta(gt=0, le=_TIME_S_MAX)]
_Amount = Annotated[int, msgspec.Meta(ge=1, le=AMOUNT_MAX)]


def _at_least(least: int, most: int = AMOUNT_MAX) -> msgspec.Meta:
    return msgspec.Meta(ge=least, le=most)


class AskedLimits(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Limits as in `Limits`, by the same names; None: not asked for."""

    wall_time_s: _Seconds | None = None
    cpu_time_s: Annotated[int, msgspec.Meta(ge=1, le=int(_TIME_S_MAX))] | None = None
    memory_bytes: _Amount | None = None
    processes: Annotated[int, _at_least(1, PROCESSES_MAX)] | None = None
    output_kept_bytes: _Amount | None = None
    output_flood_bytes: _Amount | None = None
    file_bytes: _Amount | None = None
    # A file system of less has no size at all, or no room for the folders that every program finds in it.
    scratch_bytes: Annotated[int, _at_least(4096)] | None = None
    scratch_inodes: Annotated[int, _at_least(16)] | None = None
    # What brings a program up opens files too.
    open_files: Annotated[int, _at_least(32, OPEN_FILES_MAX)] | None = None
    disk_bytes: _Amount | None = None
    disk_inodes: _Amount | None = None
    cpus: Annotated[float, msgspec.Meta(ge=0.01, le=10_000)] | None = None
    network: Network | None = None

    def given(self) -> dict[str, float | str]:
        """Those that are asked for, by name."""
        return {name: value for name in NAMES if (value := getattr(self, name)) is not None}


NAMES = AskedLimits.__struct_fields__
assert Limits.__struct_fields__ == NAMES
NOTHING_ASKED = AskedLimits()

_decoder = msgspec.json.Decoder(AskedLimits)


def to_text(asked: AskedLimits) -> str:
    """JSON of what is asked for; '' when that is nothing. Raises DecodeError for what reading would refuse."""
    if asked == NOTHING_ASKED:
        return ""
    try:
        # Anew, since Python takes 5 for 5.0 and the two have different texts.
        return msgspec.json.encode(msgspec.convert(msgspec.structs.asdict(asked), AskedLimits)).decode()
    except msgspec.ValidationError as error:
        raise DecodeError(f"not limits: {error}") from None


def from_text(text: str) -> AskedLimits:
    """What `to_text` wrote. Raises DecodeError."""
    if not text:
        return NOTHING_ASKED
    try:
        asked = _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise DecodeError(f"not limits: {error}") from None
    if to_text(asked) != text:
        raise DecodeError("not limits: their encoding is not the canonical one")
    return asked
