"""Requests that may be repeated: a key names one, and all that moves a head under it is done once.

A key is the caller's word for one intention. Its digest stands with each move that it made (store.interfaces.Move), so it is as durable as
the move, and known for as long as the move's log is kept. Who repeats a request waits for its turn like anybody else, and finds there
what the first one did.
"""

from __future__ import annotations

import blake3
import msgspec

from psf.errors import KeyReused
from store.interfaces import KEY_BYTES, Keyed, Moved, Repeats


def keyed(tenant: str, route: str, key: str, asked: object) -> Keyed:
    """What stands with a move: digests of whose key it is, and of what is asked for under it. Pure."""
    return Keyed(_digest((tenant, route, key)), _digest(asked))


def made_before(heads: Repeats, keyed: Keyed, tenant: str) -> list[Moved]:
    """What the same request has done already; nothing when it is new or has no key. Raises KeyReused when another one had this key."""
    if not keyed.key:
        return []
    made = [moved for moved in heads.made_under(keyed.key) if moved.session.tenant == tenant]
    if any(moved.move.asked != keyed.asked for moved in made):
        raise KeyReused
    return made


def _digest(value: object) -> bytes:
    return blake3.blake3(msgspec.msgpack.encode(value, order="deterministic")).digest(KEY_BYTES)
