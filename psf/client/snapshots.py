"""Snapshots by their id or a tag: what they hold, how two differ, and archives of them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import BinaryIO, Literal
from urllib.parse import quote

import aiohttp
import msgspec

from psf.client import copying
from psf.client.calling import Asked, Caller, query
from psf.client.errors import Misused, Refused
from psf.client.models import Diff, Entry, Snapshot

MANIFEST_PAGE = 10_000
PIECE_BYTES = 256 << 10
ArchiveFormat = Literal["tar", "tar.gz", "zip"]
_NOT_THERE = 416


class Snapshots:
    """Reading, which changes nothing. `snapshot`: a whole id, or the name of a tag."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def snapshot(self, snapshot: str) -> Snapshot:
        """One record of a history: what was asked for, what was seen, where it led."""
        return await self._caller.answer(Asked("GET", _path(snapshot)), Snapshot)

    async def manifest(self, snapshot: str, *, page: int = MANIFEST_PAGE) -> AsyncIterator[Entry]:
        """All entries of its tree, in the order of their paths; pages are asked for as they are needed."""
        cursor: str | None = None
        while True:
            asked = Asked("GET", f"{_path(snapshot)}/manifest", query(limit=page, cursor=cursor))
            found = await self._caller.answer(asked, _Manifest)
            for entry in found.entries:
                yield entry
            if (cursor := found.next) is None:
                return

    async def read_file(self, snapshot: str, path: str, *, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` (below 0: from its end) up to `stop`; none where it has none."""
        asked = Asked(
            "GET",
            f"{_path(snapshot)}/files/{quote(path, safe='/', errors='surrogateescape')}",
            headers=_range(start, stop),
        )
        if stop is not None and stop <= (start or 0):
            return b""
        try:
            return await self._caller.data(asked)
        except Refused as error:
            if error.status == _NOT_THERE:
                return b""
            raise

    async def diff(self, before: str, after: str, *, unified: bool = False) -> Diff:
        """What differs between two; with `unified` as a text diff too."""
        asked = Asked("GET", "/v1/diff", query(from_=before, to=after, unified=unified))
        return await self._caller.answer(asked, Diff)

    async def archive(self, snapshot: str, file: BinaryIO, *, format: ArchiveFormat = "tar") -> int:  # noqa: A002 - the API's word
        """Write the whole tree into a file; gives its size. Into one that cannot seek it is written in one attempt."""
        return await download(self._caller, Asked("GET", f"{_path(snapshot)}/archive", query(format=format)), file)

    async def get(self, snapshot: str, path: str, local: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write a file, or a folder with all in it, to `local` on this machine; gives the paths that could not be. Raises OSError, Misused."""
        return await copying.get(self, snapshot, path, os.fspath(local))


async def download(caller: Caller, asked: Asked, file: BinaryIO) -> int:
    """Write an answer into a file; gives how many bytes. A retry begins where the first attempt did. Raises OSError of the file's."""
    begin = file.tell() if file.seekable() else None

    async def read(response: aiohttp.ClientResponse) -> int:
        if begin is not None:
            file.seek(begin)
            file.truncate()
        size_bytes = 0
        async for piece in response.content.iter_chunked(PIECE_BYTES):
            try:
                file.write(piece)
            except OSError as error:
                raise _FileFailed(error) from error
            size_bytes += len(piece)
        return size_bytes

    try:
        if begin is None:
            async with caller.opened(asked) as response:
                return await read(response)
        return await caller.each(asked, read)
    except _FileFailed as failed:
        raise failed.error from None


class _FileFailed(Exception):
    """The file, not the connection: a broken pipe is one of both kinds."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _Manifest(msgspec.Struct):
    entries: list[Entry]
    next: str | None = None


def _path(snapshot: str) -> str:
    return f"/v1/snapshots/{quote(snapshot, safe='')}"


def _range(start: int | None, stop: int | None) -> dict[str, str]:
    if start is None and stop is None:
        return {}
    if start is not None and start < 0:
        if stop is not None:
            raise Misused("a range from the end has no stop; give both from the beginning")
        return {"Range": f"bytes={start}"}
    return {"Range": f"bytes={start or 0}-{stop - 1 if stop is not None else ''}"}
