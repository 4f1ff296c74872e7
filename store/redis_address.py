"""Where heads are when they are in Redis, as a value: known also where the client of Redis is not installed."""

from __future__ import annotations

import os
from typing import Literal
from urllib.parse import urlsplit

import msgspec


class RedisSettings(msgspec.Struct, frozen=True):
    """Where heads are, and what is expected there. Times in seconds.

    `durability` is "always" when Redis must have on disk what it acknowledges, "server" when whatever it does is good enough. A call is given
    up after `patience_s`; `answer_s` is how long one answer may take before it is asked for again. A server asks for the epoch every `told_s`, and
    makes durable what its packs were told of moves; gc gives the others twice as long to hear of a new one.
    """

    url: str
    prefix: str = "psf"
    durability: Literal["always", "server"] = "always"
    patience_s: float = 20.0
    answer_s: float = 5.0
    told_s: float = 1.0

    def __repr__(self) -> str:
        return f"RedisSettings({shown(self.url)})"


def shown(url: str) -> str:
    """The address without what is secret in it: no user, no password, no path on this machine."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return f"unix socket {os.path.basename(parts.path)}"
        port = f":{parts.port}" if parts.port is not None else ""
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host or 'localhost'}{port}{parts.path}"
    except ValueError:
        return "its address"
