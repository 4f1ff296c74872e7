"""The table of languages: data, not code. A row says how a program of a language is named, compiled and run."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

import blake3
import msgspec

from psf.errors import ConfigurationError, RuntimeUnknown
from store.capture import RESERVED_PREFIX


class Runtime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row, with its name. Words of `run` and `compile` may hold `{python}`."""

    title: str
    file: str
    run: tuple[str, ...]
    compile: tuple[str, ...] | None = None
    tools: tuple[str, ...] = ()
    pip: bool = False
    name: str = ""


class Runtimes:
    """All rows, and what they become on this machine."""

    def __init__(self, rows: dict[str, Runtime], interpreter: str, pip_path: str | None) -> None:
        self._rows, self._interpreter, self._pip_path = rows, interpreter, pip_path
        self._digests = {name: self._digest(row) for name, row in rows.items()}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._rows)

    def get(self, name: str) -> Runtime:
        """The row of a language. Raises RuntimeUnknown, naming those there are."""
        try:
            return self._rows[name]
        except KeyError:
            raise RuntimeUnknown(name, self.names) from None

    def command(self, words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(word.replace("{python}", self._interpreter) for word in words)

    def environment(self, runtime: Runtime) -> tuple[tuple[str, str], ...]:
        """Variables a runtime adds to the sandbox's own."""
        return (("PYTHONPATH", self._pip_path),) if runtime.pip and self._pip_path else ()

    def environment_digest(self, runtime: Runtime, sandbox: str, system: bytes) -> bytes:
        """What a result may depend on besides tree and step: this row, the digest of the system that programs see, the kind of sandbox."""
        return blake3.blake3(self._digests[runtime.name] + system + sandbox.encode()).digest()

    def _digest(self, row: Runtime) -> bytes:
        return blake3.blake3(msgspec.msgpack.encode([row, self._interpreter, self._pip_path])).digest()


def load(extra: Path | None = None) -> dict[str, Runtime]:
    """The rows that come with psf, and those of the file `extra`, which may replace them. Raises ConfigurationError."""
    rows = _parse(resources.files("psf").joinpath("runtimes.toml").read_text(), "runtimes.toml")
    if extra is not None:
        try:
            rows |= _parse(extra.read_text(), str(extra))
        except OSError as error:
            raise ConfigurationError(f"runtimes: {extra}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{extra}: {error}") from None
    return rows


def _parse(text: str, source: str) -> dict[str, Runtime]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{source}: {error}") from None
    return {name: _row(name, given, source) for name, given in tables.items()}


def _row(name: str, given: object, source: str) -> Runtime:
    try:
        row = msgspec.convert(given, Runtime)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{source}: [{name}]: {error}") from None
    if "/" in row.file or "\0" in row.file or not row.file.encode().startswith(RESERVED_PREFIX):
        # Else it could stand in the way of a file of the tree, and would be kept as one.
        reserved = RESERVED_PREFIX.decode()
        raise ConfigurationError(
            f"{source}: [{name}]: `file` must be a plain file name that begins with {reserved}, not {row.file!r}"
        )
    if not row.run or row.compile == ():
        raise ConfigurationError(f"{source}: [{name}]: `{'compile' if row.run else 'run'}` names no program")
    return msgspec.structs.replace(row, name=name)
