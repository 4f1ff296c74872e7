"""The audit log: who asked for what change, a line of JSON each, in a file that only the server's user may read.

Neither code nor files nor secrets stand in it. The file may be renamed away while the server runs: it is made anew.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

import msgspec

from psf.errors import ConfigurationError

_log = logging.getLogger("psf.audit")
FILE_MODE = 0o600


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request that would change something. `token` and `tenant` are None where it was not known who asked."""

    token: str | None
    tenant: str | None
    method: str
    route: str
    status: int
    session: str | None = None


class _Line(Asked, frozen=True, kw_only=True):
    at: str


def write_down(asked: Asked) -> None:
    """A line in the log, if there is one."""
    if _log.isEnabledFor(logging.INFO):
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        _log.info("%s", msgspec.json.encode(_Line(**msgspec.structs.asdict(asked), at=at)).decode())


@contextmanager
def kept_in(path: Path | None) -> Iterator[None]:
    """Have the log written to a file. Raises ConfigurationError when it cannot be."""
    _log.propagate = False
    _log.setLevel(logging.CRITICAL)
    if path is None:
        yield
        return
    try:
        handler = _Private(path)
    except OSError as error:
        raise ConfigurationError(f"audit_log: {path}: {error.strerror}") from None
    handler.setFormatter(logging.Formatter("%(message)s"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(logging.CRITICAL)
        handler.close()


class _Private(WatchedFileHandler):
    def _open(self):  # type: ignore[no-untyped-def]  # noqa: ANN202 - as the class that it extends has it
        return open(self.baseFilename, "a", encoding="utf-8", opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, FILE_MODE)
