"""Where a command works: a client of a server, or of one of psf's own for as long as the command takes; and what people call things.

There is one way to a history, the API. Without a server's address one is started in this process on a loopback port, with a token that
nobody else knows.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from executors.errors import ExecutorError
from psf import config, tokens
from psf.client import (
    Client,
    ClientError,
    Expired,
    Misused,
    NotPsf,
    Overloaded,
    Refused,
    Retries,
    ServerFailed,
    Session,
    Unauthenticated,
    Unreachable,
)
from psf.client.models import SessionInfo
from psf.errors import ConfigurationError, PsfError
from psf.terminal import printable
from store.errors import StoreError

ASKED_WRONGLY, BROKEN = 2, 3
"""Exit statuses of these commands beside their own, and beside that of a program that was run."""
BEGINNING_DIGITS_MIN = 6
RETRIES = Retries(attempts=5)
"""Somebody waits at a terminal, and may have mistyped the address."""
_SESSION_ID, _SNAPSHOT_ID = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_BEGINNING = re.compile(rf"[0-9a-f]{{{BEGINNING_DIGITS_MIN},63}}")


class CommandFailed(PsfError):
    """A command could not do what it was asked for. The text says why and what to type; `status` is to be the exit status."""

    code = "command_failed"

    def __init__(self, text: str, status: int = ASKED_WRONGLY) -> None:
        super().__init__(text)
        self.status = status


class Found(NamedTuple):
    """A snapshot, and the session it was found by."""

    snapshot: str
    session: Session | None


Work = Callable[[argparse.Namespace, Client], Awaitable[int]]


def work(act: Work) -> Callable[[argparse.Namespace], int]:
    """A command of `act`. What goes wrong becomes one line, and status 2 (asked wrongly) or 3 (psf, or the way to it, is broken)."""

    def command(parsed: argparse.Namespace) -> int:
        try:
            return asyncio.run(_at_desk(parsed, act))
        except ClientError as error:
            raise _explained(error, parsed) from None
        except ConfigurationError as error:
            raise CommandFailed(str(error)) from None
        except (StoreError, ExecutorError) as error:
            raise CommandFailed(str(error), BROKEN) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise CommandFailed(f"{where}{error.strerror or error}", BROKEN) from None

    return command


async def _at_desk(parsed: argparse.Namespace, act: Work) -> int:
    async with _connected(parsed) as client:
        status = await act(parsed, client)
        sys.stdout.flush()
        return status


@asynccontextmanager
async def _connected(parsed: argparse.Namespace) -> AsyncIterator[Client]:
    url = parsed.url or (None if parsed.store else os.environ.get("PSF_URL"))
    if url is not None:
        if parsed.store:
            raise CommandFailed("--url and --store exclude one another: a server has a store of its own")
        async with Client(url, retries=RETRIES) as client:
            yield client
        return
    from psf import app  # noqa: PLC0415 - a whole server, which with --url is not needed

    settings = config.load({"store": parsed.store, "config": parsed.config}, os.environ)
    # What a machine cannot guarantee is told by `psf doctor` and `psf serve`, not by each command.
    logging.basicConfig(level=logging.DEBUG if settings.log_level == "debug" else logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="psf-") as folder:
        token, file = _own_token(Path(folder))
        own = msgspec.structs.replace(settings, host="127.0.0.1", port=0, tokens=str(file), log_level="warning")
        async with app.serve(own) as address, Client(address, token) as client:
            yield client


def _own_token(folder: Path) -> tuple[str, Path]:
    """Other users of the machine can reach the port too."""
    made, file = tokens.new("command", tokens.TENANT_OF_ALL, ("execute",)), folder / "tokens.toml"
    file.write_text(made.lines)
    return made.token, file


def _explained(error: ClientError, parsed: argparse.Namespace) -> CommandFailed:
    """What is to be typed next, where that is known."""
    text = str(error)
    refused = isinstance(error, (Misused, Refused)) and not isinstance(error, (Overloaded, ServerFailed))
    status = ASKED_WRONGLY if refused else BROKEN
    name = getattr(error, "code", "")
    if name == "session_missing":
        text = "there is no such session; `psf ls` lists sessions"
    elif isinstance(error, Expired):
        session = getattr(parsed, "session", "SESSION")
        text = f"the session has expired; `psf undelete {printable(str(session))}` lets it live again"
    elif isinstance(error, (Unreachable, NotPsf)):
        text += "; `psf serve` starts a server, and without --url and PSF_URL the store is used without one"
    elif name == "internal" and not parsed.url:
        text = "psf failed; PSF_LOG_LEVEL=debug shows where"
    elif isinstance(error, Unauthenticated):
        text += " (these commands take it from PSF_TOKEN)"
    elif isinstance(error, Overloaded):
        text += "; try again later"
    return CommandFailed(text, status)


# -- what people call things ------------------------------------------------------------------------------------------------


async def session_of(client: Client, text: str) -> Session:
    """A session by its id, its name, or a unique beginning of its id. Raises CommandFailed."""
    if _SESSION_ID.fullmatch(text):
        return client.attach(text)
    sessions = [info async for info in client.sessions(expired=True)]
    found = [info for info in sessions if info.session_id == text] or [
        info for info in sessions if _is_called(info, text)
    ]
    if len(found) > 1:
        living = [info for info in found if not info.expired]
        found = living if len(living) == 1 else found
    if not found:
        raise CommandFailed(f"{text!r} is no session; `psf ls` lists sessions, `psf new` makes one")
    if len(found) > 1:
        ids = ", ".join(info.session_id[:12] for info in found[:5])
        raise CommandFailed(f"{text!r} names {len(found)} sessions: {ids}; give the beginning of an id")
    return client.attach(found[0].session_id)


async def session_and_place(client: Client, text: str) -> tuple[Session, str | None]:
    """SESSION or SESSION@PLACE. Raises CommandFailed."""
    name, at, place = text.partition("@")
    if at and not place:
        raise CommandFailed(f"{text!r} names no place; a step number, -n, a snapshot id or a tag stands behind the @")
    return await session_of(client, name), place or None


async def snapshot_of(client: Client, text: str) -> Found:
    """SESSION, SESSION@PLACE, a tag, or a snapshot by its id or a beginning of that. Raises CommandFailed."""
    if "@" in text:
        session, place = await session_and_place(client, text)
        return Found(await session.find(place), session)
    if _SNAPSHOT_ID.fullmatch(text):
        return Found(text, None)
    tags = {tag.name: tag.snapshot for tag in await client.tags()}
    if text in tags:
        return Found(tags[text], None)
    try:
        session = await session_of(client, text)
    except CommandFailed:
        if not _BEGINNING.fullmatch(text):
            raise CommandFailed(f"{text!r} is no session, tag or snapshot; `psf ls` lists sessions and tags") from None
        return Found(await _begins_so(client, text, set(tags.values())), None)
    return Found(await session.find(), session)


async def _begins_so(client: Client, text: str, known: set[str]) -> str:
    known |= {info.head async for info in client.sessions(expired=True)}
    found = {snapshot for snapshot in known if snapshot.startswith(text)}
    if len(found) != 1:
        count = f"names {len(found)} snapshots" if found else "is no session, tag or head"
        raise CommandFailed(f"{text!r} {count}; of an older snapshot say SESSION@{text}")
    return found.pop()


def _is_called(info: SessionInfo, text: str) -> bool:
    return info.name == text or (len(text) >= BEGINNING_DIGITS_MIN and info.session_id.startswith(text))


def with_path(text: str) -> tuple[str, str] | None:
    """REFERENCE:PATH as its two parts; None for what is a path of this machine (with a slash before the colon, or without one)."""
    reference, colon, path = text.partition(":")
    if not colon or not reference or "/" in reference:
        return None
    return reference, path
