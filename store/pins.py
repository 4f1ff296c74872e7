"""Pins as they are written down in the packs, beside moves (store.moves) and as objects of the same kind.

A record is msgpack of `[form, name, snapshot, at_s, removed, group]`: that a pin was set, or was taken away, which moving it does to
the old one. No order is needed to know which stand: what was taken away stays away, as a pin that is set again has another time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from store.errors import DecodeError
from store.ids import ID_BYTES, SnapshotId
from store.interfaces import Pin

FORM = 3
_PREFIX = bytes([0x96, FORM])


class PinRecord(msgspec.Struct, frozen=True):
    """What one record says; see the module."""

    pin: Pin
    removed: bool
    group: int = 0


class _Encoded(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    form: int
    name: str
    snapshot: bytes
    at_s: float
    removed: bool
    group: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Encoded)


def encode(record: PinRecord) -> bytes:
    """Canonical bytes of a record."""
    pin = record.pin
    return _encoder.encode(_Encoded(FORM, pin.name, pin.snapshot, pin.at_s, record.removed, record.group))


def is_pin(data: bytes) -> bool:
    """Whether bytes begin as a record of a pin does, and not as one of a move."""
    return data.startswith(_PREFIX)


def decode(data: bytes) -> PinRecord:
    """The record that `data` encodes. Raises DecodeError."""
    try:
        encoded = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"not a pin: {error}") from None
    if encoded.form != FORM or len(encoded.snapshot) != ID_BYTES:
        raise DecodeError("not a pin of a snapshot")
    return PinRecord(Pin(encoded.name, SnapshotId(encoded.snapshot), encoded.at_s), encoded.removed, encoded.group)


def standing(records: Iterable[PinRecord]) -> list[Pin]:
    """The pins that were not taken away; of several of one name the latest."""
    records = list(records)
    removed = {record.pin for record in records if record.removed}
    set_pins = {record.pin for record in records} - removed
    return list({pin.name: pin for pin in sorted(set_pins, key=lambda pin: pin.at_s)}.values())


def missing_from(present: Collection[Pin], records: Iterable[PinRecord]) -> list[Pin]:
    """The pins that records know and heads do not, unless these have a later one of that name."""
    times = {pin.name: pin.at_s for pin in present}
    return [pin for pin in standing(records) if pin not in present and times.get(pin.name, pin.at_s) <= pin.at_s]
