"""`psf new`, `psf run`, `psf exec`: programs as steps. What they print is printed as it comes, and they end as it does."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from psf.client import Client, ClientError, Event, Limits, Misused, Result, Session, Stream
from psf.desk import CommandFailed, session_of, snapshot_of, work
from psf.terminal import as_json, printable

TTL_S = 30 * 86400.0
"""Who works by commands comes back after days, not minutes."""
CANCEL_PATIENCE_S = 10.0
_BY_SUFFIX = {".py": "python", ".sh": "bash", ".bash": "bash"}


@work
async def new(parsed: argparse.Namespace, client: Client) -> int:
    session = await _begin(parsed, client, parsed.runtime, limits_of(parsed))
    if parsed.json:
        print_json(await session.info())
    else:
        sys.stdout.write(f"{session.session_id}\n")
    return 0


@work
async def run(parsed: argparse.Namespace, client: Client) -> int:
    code, runtime = program_of(parsed)
    session = await _begin(parsed, client, runtime or "python", None)
    status = await _step(parsed, session, code, runtime)
    if parsed.rm:
        await session.delete()
    elif sys.stderr.isatty() and not parsed.json:
        sys.stderr.write(
            f"psf: session {session.session_id[:12]}; `psf exec {session.session_id[:12]} ...` goes on in it\n"
        )
    return status


@work
async def execute(parsed: argparse.Namespace, client: Client) -> int:
    code, runtime = program_of(parsed)
    return await _step(parsed, await session_of(client, parsed.session), code, runtime)


async def _begin(parsed: argparse.Namespace, client: Client, runtime: str, limits: Limits | None) -> Session:
    start = (await snapshot_of(client, parsed.start)).snapshot if parsed.start else None
    ttl_s = parsed.ttl_s if parsed.ttl_s is not None else TTL_S
    return await client.session(runtime, name=parsed.name, ttl_s=ttl_s, start=start, limits=limits, image=parsed.image)


async def _step(parsed: argparse.Namespace, session: Session, code: str, runtime: str | None) -> int:
    fields: dict[str, Any] = {
        "runtime": runtime, "args": parsed.arguments, "stdin": _stdin(parsed), "env": dict(_pairs("--env", parsed.env)),
        "secrets": _secrets(parsed.secret), "keep": parsed.keep, "limits": limits_of(parsed), "note": parsed.note, "key": parsed.key,
        "files": _files(parsed.file),
        "deterministic": parsed.deterministic, "memo": parsed.memo,
    }  # fmt: skip
    stream = session.stream(code, **fields)
    try:
        result = await (stream.finish() if parsed.json else _print(stream))
    except asyncio.CancelledError:
        await _cancel(session)
        raise
    if parsed.json:
        print_json({"session_id": session.session_id, **msgspec.to_builtins(result), "status": result.status})
    else:
        _say_ending(result)
    return result.status


async def _print(stream: Stream) -> Result:
    async for event in stream:
        _print_event(event)
    return stream.result


def _print_event(event: Event) -> None:
    if event.kind == "restarted":
        sys.stderr.write("psf: the server lost the step, which runs anew; what it printed before does not count\n")
        return
    target = sys.stdout if event.kind == "stdout" else sys.stderr
    target.flush()
    target.buffer.write(event.data)
    target.buffer.flush()


def _say_ending(result: Result) -> None:
    """How a program was ended that did not end by itself, since its status alone does not tell."""
    last = result.last
    if last.truncated:
        sys.stderr.write("psf: there is more output than is kept (limit output_kept_bytes)\n")
    if last.ending != "exited" or last.hit:
        hit = f", at its limit of {printable(', '.join(last.hit))}" if last.hit else ""
        sys.stderr.write(f"psf: the program's ending: {printable(last.ending)}{hit}\n")


async def _cancel(session: Session) -> None:
    """Who interrupts the command means the step, which would go on otherwise."""
    try:
        await asyncio.wait_for(session.cancel(), CANCEL_PATIENCE_S)
    except (ClientError, TimeoutError):
        sys.stderr.write("psf: the step could not be cancelled; it may go on\n")


# -- what is asked for ------------------------------------------------------------------------------------------------------


def program_of(parsed: argparse.Namespace) -> tuple[str, str | None]:
    """The program, and its language if that is known. Raises CommandFailed, OSError."""
    if parsed.code is not None:
        if parsed.program is not None and hasattr(parsed, "arguments"):
            parsed.arguments.insert(0, parsed.program)
        return parsed.code, parsed.runtime
    if parsed.program is None:
        raise CommandFailed("there is no program: name its file, or - for stdin, or give it with -c")
    if parsed.program == "-":
        data, suffix = sys.stdin.buffer.read(), ""
    else:
        data, suffix = Path(parsed.program).read_bytes(), Path(parsed.program).suffix
    try:
        return data.decode(), parsed.runtime or _BY_SUFFIX.get(suffix)
    except UnicodeDecodeError:
        raise CommandFailed(f"{parsed.program}: the program is not UTF-8") from None


def limits_of(parsed: argparse.Namespace) -> Limits | None:
    """The limits that were named. Raises CommandFailed."""
    given = dict(_pairs("--limit", parsed.limit))
    for name in given:
        if name not in Limits.__struct_fields__:
            raise CommandFailed(f"--limit: there is no limit {name!r}; there are {', '.join(Limits.__struct_fields__)}")
    try:
        limits = msgspec.convert(given, Limits, strict=False) if given else None
    except msgspec.ValidationError as error:
        raise CommandFailed(f"--limit: {error}") from None
    for name in given:
        value = getattr(limits, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise CommandFailed(f"--limit: {name} must be a number, not {value}")
    return limits


def _pairs(flag: str, given: list[str]) -> list[tuple[str, str]]:
    for text in given:
        if not text.partition("=")[0] or "=" not in text:
            raise CommandFailed(f"{flag}: must be like NAME=VALUE, not {text[:80]!r}")
    return [(text.partition("=")[0], text.partition("=")[2]) for text in given]


def _files(given: list[str]) -> dict[str, bytes]:
    return {name: Path(path).read_bytes() for name, path in _pairs("--file", given)}


def _secrets(names: list[str]) -> dict[str, str]:
    for name in names:
        if name not in os.environ:
            raise CommandFailed(f"--secret: there is no variable {name!r} here; export it first")
    return {name: os.environ[name] for name in names}


def _stdin(parsed: argparse.Namespace) -> str | None:
    if parsed.stdin is None:
        return None
    if parsed.stdin == "-" and parsed.code is None and parsed.program == "-":
        raise Misused("stdin cannot be both the program and what it reads")
    data = sys.stdin.buffer.read() if parsed.stdin == "-" else Path(parsed.stdin).read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise CommandFailed(
            f"{parsed.stdin}: what a program reads on stdin must be UTF-8; send a file with --file"
        ) from None


def print_json(value: Any) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(as_json(value) + b"\n")
    sys.stdout.buffer.flush()
