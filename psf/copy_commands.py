"""`psf cat` and `psf cp`: files between this machine and sessions."""

from __future__ import annotations

import argparse
import os
import sys

from psf.client import Client
from psf.client.copying import left_behind
from psf.desk import BROKEN, CommandFailed, session_of, snapshot_of, with_path, work
from psf.progress import waiting
from psf.run_commands import print_json
from psf.terminal import printable


@work
async def cat(parsed: argparse.Namespace, client: Client) -> int:
    reference, path = parsed.reference, parsed.path
    if path is None:
        parts = with_path(reference)
        if parts is None:
            raise CommandFailed(f"which file? psf cat {printable(reference)}:PATH")
        reference, path = parts
    data = await client.read_file((await snapshot_of(client, reference)).snapshot, path)
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return 0


@work
async def cp(parsed: argparse.Namespace, client: Client) -> int:
    source, target = with_path(parsed.source), with_path(parsed.target)
    if (source is None) == (target is None):
        raise CommandFailed(
            "one of the two must be in a session: psf cp FILE SESSION:PATH, or psf cp SESSION:PATH FILE"
        )
    with waiting("copying", wanted=not parsed.json):
        if target is not None:
            return await _put(parsed, client, *target)
        assert source is not None
        return await _get(parsed, client, *source)


async def _put(parsed: argparse.Namespace, client: Client, name: str, path: str) -> int:
    if "@" in name:
        raise CommandFailed("what has been is not written to; name the session alone, or `psf fork` it from there")
    session = await session_of(client, name)
    if (not path or path.endswith("/")) and not _is_folder(parsed.source):
        path += os.path.basename(parsed.source)
    head = await session.put(parsed.source, path)
    if parsed.json:
        print_json({"session_id": session.session_id, "head": head})
    left = list(left_behind(parsed.source))
    for file in left:
        sys.stderr.write(f"psf: not copied: {printable(file)} (a link, or no file)\n")
    return BROKEN if left else 0


async def _get(parsed: argparse.Namespace, client: Client, reference: str, path: str) -> int:
    found = await snapshot_of(client, reference)
    left = await client.get(found.snapshot, path, parsed.target)
    if parsed.json:
        print_json({"snapshot": found.snapshot, "left_out": left})
    for name in left:
        sys.stderr.write(f"psf: not copied: {printable(name)} (its name, or where its link leads, has no place here)\n")
    return BROKEN if left else 0


def _is_folder(path: str) -> bool:
    return os.path.isdir(path)
