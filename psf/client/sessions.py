"""A session as its user holds it: every call is one request, and each that changes something takes a `key` (default: a new one)."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, Protocol
from urllib.parse import quote

import msgspec

from psf.client import copying, places
from psf.client.calling import Asked, Caller, asking, new_key, query
from psf.client.models import (
    Bisection,
    Blame,
    Diff,
    Entry,
    Fork,
    Limits,
    Move,
    NewFile,
    Replay,
    Result,
    SessionInfo,
)
from psf.client.snapshots import Snapshots
from psf.client.streaming import Stream

PAGE = 500
Place = str | int
"""In a history: a snapshot id or a unique beginning of one, a tag, the number of a step, or "-n" for n steps back."""
Content = bytes | str | NewFile


class Named(Protocol):
    """Something that is a session to whoever asks for its id."""

    @property
    def session_id(self) -> str: ...


class Session:
    """A session by its id. Nothing of it is held here: what changes it meanwhile, this one sees too.

    Raises, from any call: Refused and what is below it, Unreachable, NotPsf. A program that fails is a Result.
    """

    def __init__(self, caller: Caller, session_id: str) -> None:
        self.session_id = session_id
        self._caller, self._path = caller, f"/v1/sessions/{quote(session_id, safe='')}"
        self._snapshots = Snapshots(caller)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r})"

    # -- the session itself ---------------------------------------------------------------------------------------------

    async def info(self) -> SessionInfo:
        """What it is now."""
        return await self._caller.answer(asking("GET", self._path), SessionInfo)

    async def change(
        self,
        *,
        name: str | None = None,
        ttl_s: float | None = None,
        limits: Limits | None = None,
        key: str | None = None,
    ) -> SessionInfo:
        """Change its settings; what is None stays."""
        body = given(name=name, ttl_s=ttl_s, limits=limits)
        return await self._caller.answer(asking("PATCH", self._path, body, key=key or new_key()), SessionInfo)

    async def delete(self) -> None:
        """Let it expire now. While it is retained it can be undeleted."""
        await self._caller.data(asking("DELETE", self._path, removes=True))

    async def undelete(self, *, ttl_s: float | None = None, key: str | None = None) -> SessionInfo:
        """Let it live again, with `ttl_s` or as long as before."""
        asked = asking("POST", f"{self._path}/undelete", given(ttl_s=ttl_s), key=key or new_key())
        return await self._caller.answer(asked, SessionInfo)

    # -- steps ----------------------------------------------------------------------------------------------------------

    async def run(
        self,
        code: str,
        *,
        runtime: str | None = None,
        stdin: str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        files: Mapping[str, Content] | None = None,
        fetch: Sequence[str] = (),
        keep: Literal["fetched", "all"] | None = None,
        limits: Limits | None = None,
        compile_limits: Limits | None = None,
        deterministic: bool = False,
        memo: bool = False,
        require: Sequence[str] = (),
        expected: str | None = None,
        note: str | None = None,
        key: str | None = None,
    ) -> Result:
        """Run a step, whose snapshot becomes the head. However often this is asked for under one key, it is in the history once."""
        body = _step(
            code, files, runtime=runtime, stdin=stdin, args=args, env=env, secrets=secrets, fetch=fetch, keep=keep, limits=limits,
            compile_limits=compile_limits, deterministic=deterministic, memo=memo, require=require, expected=expected, note=note,
        )  # fmt: skip
        asked = asking("POST", f"{self._path}/execute", body, key=key or new_key(), silence_s=None)
        return await self._caller.answer(asked, Result)

    def stream(
        self,
        code: str,
        *,
        runtime: str | None = None,
        stdin: str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        files: Mapping[str, Content] | None = None,
        fetch: Sequence[str] = (),
        keep: Literal["fetched", "all"] | None = None,
        limits: Limits | None = None,
        compile_limits: Limits | None = None,
        deterministic: bool = False,
        memo: bool = False,
        require: Sequence[str] = (),
        expected: str | None = None,
        note: str | None = None,
        key: str | None = None,
    ) -> Stream:
        """As `run`, with what its programs print as they print it. Nothing is asked for before the stream is read."""
        body = _step(
            code, files, runtime=runtime, stdin=stdin, args=args, env=env, secrets=secrets, fetch=fetch, keep=keep, limits=limits,
            compile_limits=compile_limits, deterministic=deterministic, memo=memo, require=require, expected=expected, note=note,
            stream=True,
        )  # fmt: skip
        return Stream(self._caller, asking("POST", f"{self._path}/execute", body, key=key or new_key()))

    async def cancel(self) -> bool:
        """Stop the step that runs in the session; False when none does, or it is past stopping."""
        answer = await self._caller.answer(asking("DELETE", f"{self._path}/execute", once=True), dict[str, bool])
        return answer.get("cancelled", False)

    # -- history --------------------------------------------------------------------------------------------------------

    async def log(self, *, page: int = PAGE) -> AsyncIterator[Move]:
        """Moves of the head, newest first; pages are asked for as they are needed."""
        cursor: str | None = None
        while True:
            asked = Asked("GET", f"{self._path}/log", query(limit=page, cursor=cursor))
            found = await self._caller.answer(asked, _Log)
            for move in found.moves:
                yield move
            if (cursor := found.next) is None:
                return

    async def find(self, place: Place | None = None) -> str:
        """The id of the snapshot at a place of the history; None: the head. Raises Misused when there is none."""
        return await places.find(self, self._snapshots, place)

    async def rollback(self, to: Place, *, expected: str | None = None, key: str | None = None) -> str:
        """Move the head to another snapshot of the history, which is a move like any other; gives the new head."""
        return await self._moved("rollback", {"to": to, **given(expected=expected)}, key)

    async def fork(self, *, start: Place | None = None, name: str | None = None, key: str | None = None) -> Session:
        """Another session, that goes on from here or from `start`."""
        names = [name] if name is not None else None
        (made,) = await self._forked(given(**{"from": start, "names": names}), key)
        return Session(self._caller, made.session_id)

    async def fork_many(
        self,
        count: int | None = None,
        *,
        names: Sequence[str] | None = None,
        start: Place | None = None,
        key: str | None = None,
    ) -> list[Session]:
        """So many sessions, or one of each name, that all go on from one snapshot; made in one transaction, no bytes copied."""
        listed = list(names) if names is not None else None
        made = await self._forked(given(**{"from": start, "count": count, "names": listed}), key)
        return [Session(self._caller, one.session_id) for one in made]

    async def merge(
        self,
        other: Named | str,
        *,
        at: Place | None = None,
        on_conflict: Literal["report", "ours", "theirs"] = "report",
        expected: str | None = None,
        key: str | None = None,
    ) -> str:
        """Bring in what another session changed since both were one; gives the new head. Raises MergeConflicts."""
        start = other if isinstance(other, str) else other.session_id
        body = {"from": start, "on_conflict": on_conflict, **given(at=at, expected=expected)}
        return await self._moved("merge", body, key)

    async def replay(
        self,
        *,
        start: Place | None = None,
        to: Place | None = None,
        parallel: int = 1,
        change: Mapping[int, Mapping[str, str]] | None = None,
    ) -> Replay:
        """Run recorded steps again, and tell which come out otherwise. `change`: by step number, other `code` or `runtime`."""
        changed = {str(number): dict(one) for number, one in (change or {}).items()}
        return await self._replay(**{"from": start, "to": to, "parallel": parallel, "change": changed or None})

    async def verify(self, *, start: Place | None = None, to: Place | None = None) -> Replay:
        """See that all that is recorded is there and whole. Runs nothing."""
        return await self._replay(**{"from": start, "to": to, "verify": True})

    async def bisect(
        self,
        code: str,
        *,
        runtime: str | None = None,
        good: Place | None = None,
        bad: Place | None = None,
        limits: Limits | None = None,
    ) -> Bisection:
        """The first step after which `code` fails, found by trying few of them."""
        body = {"code": code, **given(runtime=runtime, good=good, bad=bad, limits=limits)}
        return await self._caller.answer(asking("POST", f"{self._path}/bisect", body, silence_s=None), Bisection)

    async def blame(self, path: str, *, at: Place | None = None) -> Blame:
        """The step that last changed what stands at a path."""
        asked = Asked("GET", f"{self._path}/blame/{_quoted(path)}", query(at=at))
        return await self._caller.answer(asked, Blame)

    # -- files ----------------------------------------------------------------------------------------------------------

    async def write(
        self,
        files: Mapping[str, Content] | None = None,
        *,
        delete: Sequence[str] = (),
        expected: str | None = None,
        key: str | None = None,
    ) -> str:
        """Write and delete files in one step that runs nothing; gives the new head."""
        body = given(write=files_body(files), delete=list(delete) or None, expected=expected)
        return await self._moved("files", body, key)

    async def write_file(
        self,
        path: str,
        data: bytes | str,
        *,
        executable: bool = False,
        expected: str | None = None,
        key: str | None = None,
    ) -> str:
        """Write one file, whose bytes go as they are; gives the new head."""
        content = data.encode() if isinstance(data, str) else data
        asked = Asked(
            "PUT", f"{self._path}/files/{_quoted(path)}", query(executable=executable, expected=expected), lambda: content,
            "application/octet-stream", key=key or new_key(),
        )  # fmt: skip
        return (await self._caller.answer(asked, _Head)).head

    async def delete_file(self, path: str, *, expected: str | None = None, key: str | None = None) -> str:
        """Delete a file, or a directory with all in it; gives the new head."""
        asked = Asked("DELETE", f"{self._path}/files/{_quoted(path)}", query(expected=expected), key=key or new_key())
        return (await self._caller.answer(asked, _Head)).head

    async def read_file(
        self, path: str, *, at: Place | None = None, start: int | None = None, stop: int | None = None
    ) -> bytes:
        """The bytes of a file, or those from `start` up to `stop`."""
        return await self._snapshots.read_file(await self.find(at), path, start=start, stop=stop)

    async def files(self, *, at: Place | None = None) -> AsyncIterator[Entry]:
        """All entries of the work directory, by path, directories too."""
        async for entry in self._snapshots.manifest(await self.find(at)):
            yield entry

    async def put(self, local: str | os.PathLike[str], path: str, *, key: str | None = None) -> str:
        """Write a file, or a folder with all in it, of this machine to `path`; gives the new head. Raises OSError, Misused."""
        return await copying.put(self, os.fspath(local), path, key or new_key())

    async def get(self, path: str, local: str | os.PathLike[str], *, at: Place | None = None) -> tuple[str, ...]:
        """Write a file, or a folder with all in it, to `local` on this machine; gives the paths that could not be. Raises OSError, Misused."""
        return await self._snapshots.get(await self.find(at), path, local)

    async def diff(self, before: Place, after: Place | None = None, *, unified: bool = False) -> Diff:
        """What differs between two places of the history; `after` None: the head."""
        return await self._snapshots.diff(await self.find(before), await self.find(after), unified=unified)

    # -- parts ----------------------------------------------------------------------------------------------------------

    async def _moved(self, action: str, body: object, key: str | None) -> str:
        asked = asking("POST", f"{self._path}/{action}", body, key=key or new_key())
        return (await self._caller.answer(asked, _Head)).head

    async def _forked(self, body: object, key: str | None) -> list[Fork]:
        asked = asking("POST", f"{self._path}/fork", body, key=key or new_key())
        return (await self._caller.answer(asked, _Forks)).sessions

    async def _replay(self, **fields: Any) -> Replay:
        asked = asking("POST", f"{self._path}/replay", given(**fields), silence_s=None)
        return await self._caller.answer(asked, Replay)


class _Log(msgspec.Struct):
    moves: list[Move]
    next: str | None = None


class _Head(msgspec.Struct):
    head: str


class _Forks(msgspec.Struct):
    sessions: list[Fork]


def given(**fields: Any) -> dict[str, Any]:
    """A body, or part of one, without what is None."""
    return {name: value for name, value in fields.items() if value is not None}


def _step(code: str, files: Mapping[str, Content] | None, **fields: Any) -> dict[str, Any]:
    """The body of a step, without what is not said."""
    said = {name: value for name, value in fields.items() if value is not None and value is not False and value != ()}
    return {"code": code, **given(files=files_body(files)), **said}


def files_body(files: Mapping[str, Content] | None) -> dict[str, dict[str, Any]] | None:
    """Files as requests have them."""
    return {name: _file(content) for name, content in files.items()} if files else None


def _file(content: Content) -> dict[str, Any]:
    if isinstance(content, str):
        return {"text": content}
    if isinstance(content, bytes):
        content = NewFile(content)
    executable = {"executable": True} if content.executable else {}
    return {"base64": base64.b64encode(content.data).decode(), **executable}


def _quoted(path: str) -> str:
    return quote(path, safe="/", errors="surrogateescape")
