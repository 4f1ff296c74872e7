"""Heads in Redis for a store folder, and the file in the folder that says so.

    heads.redis   `psf heads in redis 1`, and the store's id, which Redis has too: 32 hexadecimal digits; a line each

A folder is told of Redis once, when it holds no sessions yet, and is never opened without it again. Ids are random: an emptied Redis, another one
and one of another store are none that has this id.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path

from store.errors import StoreUnusable
from store.files import Files
from store.ids import Kind
from store.layout import HEADS, REDIS, open_file
from store.packs import PackObjects
from store.redis_address import RedisSettings
from store.redis_heads import HeadsLost, RedisHeads, claim
from store.redis_journal import RedisJournal
from store.redis_server import RedisServer

_log = logging.getLogger(__name__)
_IDENTITY_BYTES = 16
_FILE_BYTES_MAX = 100
_FORM = re.compile(rb"psf heads in redis 1\n([0-9a-f]{32})\n")


def open_heads(root: Path, objects: PackObjects, settings: RedisSettings, files: Files, *, mending: bool) -> RedisHeads:
    """The heads of a store folder. `mending`: an empty Redis may hold them from now on, although the store has sessions.

    Raises StoreUnusable; HeadsLost when the Redis has nothing of them and mending would help. OSError.
    """
    server = RedisServer(settings)
    try:
        heads = _opened(root, objects, server, files, mending=mending)
        _log.info("sessions are in %s", server.name)
        return heads
    except BaseException:
        server.close()
        raise


def _opened(root: Path, objects: PackObjects, server: RedisServer, files: Files, *, mending: bool) -> RedisHeads:
    def sync() -> None:
        objects.sync()
        _settle(objects)

    def heads_of(identity: str) -> RedisHeads:
        return RedisHeads(server, identity, sync=sync, journal=RedisJournal(objects, files.tick))

    objects.taken_over.clear()  # Redis knows more than they do
    identity = read_identity(root)
    if identity is None:
        _refuse_other_heads(root, objects, server, mending=mending)
        return heads_of(_begin(root, server, files))
    try:
        return heads_of(identity)
    except HeadsLost:
        if not mending:
            raise
        return heads_of(_begin(root, server, files))


def _settle(objects: PackObjects) -> None:
    """Full packs with moves may be sealed at any time: nothing is made from them while Redis is there."""
    if objects.waits_for_settling:
        with contextlib.suppress(OSError):  # tried again with the next change
            objects.seal_settled()


def read_identity(root: Path) -> str | None:
    """The id that a store has in Redis; None when its heads are not there. Raises StoreUnusable, OSError."""
    if not os.path.lexists(root / REDIS):
        return None
    descriptor = open_file(root / REDIS, os.O_RDONLY, REDIS)
    try:
        found = _FORM.fullmatch(os.pread(descriptor, _FILE_BYTES_MAX, 0))
    finally:
        os.close(descriptor)
    if found is None:
        raise StoreUnusable(
            f"the file {REDIS} of the store is damaged: it must say which id the store has in Redis, the field `id` of the"
            " hash `{PREFIX}:store` there"
        )
    return found[1].decode()


def _refuse_other_heads(root: Path, objects: PackObjects, server: RedisServer, *, mending: bool) -> None:
    """A store that has heads elsewhere must not look as if it had no sessions."""
    if os.path.lexists(root / HEADS):
        raise StoreUnusable(
            f"the heads of the store {root} are in {HEADS}, not in {server.name}. To leave them there, set neither redis_url"
            f" nor REDIS_URL. To move them, stop the servers on this store, put {HEADS} away with all files whose names begin so,"
            " and run `psf store check --repair`, which makes them in Redis from the packs"
        )
    if not mending and any(kind is Kind.MOVE for kind, _ in objects):
        raise HeadsLost(
            f"the store {root} has sessions, and does not know of {server.name}; `psf store check --repair` makes its heads"
            " there from what the packs know of them"
        )


def _begin(root: Path, server: RedisServer, files: Files) -> str:
    """Have Redis hold the heads of this store under a new id. First Redis hears of it: one without changes counts as empty."""
    identity = files.random(_IDENTITY_BYTES).hex()
    if claim(server, identity) != identity:
        raise StoreUnusable(
            f"{server.name} holds the heads of another store: give this one another redis_prefix, or another Redis"
        )
    _write(root / REDIS, f"psf heads in redis 1\n{identity}\n".encode(), files)
    return identity


def _write(path: Path, content: bytes, files: Files) -> None:
    aside = path.with_name(f"{REDIS}.new")
    with contextlib.suppress(FileNotFoundError):
        files.unlink(str(aside))
    descriptor = files.unnamed(str(path.parent))
    try:
        files.write(descriptor, content)
        files.sync(descriptor)
        files.link(descriptor, str(aside))
    finally:
        os.close(descriptor)
    files.rename(str(aside), str(path), source_directory=None, target_directory=None)
    files.sync_directory(str(path.parent))
