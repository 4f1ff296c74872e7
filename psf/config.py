"""Settings: one table of fields, from which flags, PSF_* variables and the TOML file all follow. Flags win, then variables, then the file."""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from psf.errors import ConfigurationError
from store import asked
from store.redis_address import RedisSettings

_MIB = 1 << 20


class Doc(msgspec.Struct, frozen=True):
    """The sentence that `--help` and the documentation show for a setting."""

    text: str


def _default_store() -> str:
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(data, "psf")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of a server, with their defaults."""

    host: Annotated[str, Doc("address to listen on")] = "127.0.0.1"
    port: Annotated[int, Doc("port to listen on; 0 takes a free one")] = 8080
    store: Annotated[str, Doc("folder of the store")] = msgspec.field(default_factory=_default_store)
    redis_url: Annotated[
        str | None,
        Doc("the Redis that holds sessions, such as redis://localhost:6379/0 (or REDIS_URL); none: the store"),
    ] = None
    redis_prefix: Annotated[str, Doc("what the store's keys in Redis begin with, in braces")] = "psf"
    redis_durability: Annotated[
        Literal["always", "server"],
        Doc("always: refuse a Redis that may lose what it acknowledges; server: accept what it does"),
    ] = "always"
    tokens: Annotated[
        str | None, Doc("TOML file of the tokens that are let in; none: whoever can reach the server")
    ] = None
    audit_log: Annotated[
        str | None, Doc("file to which each change that is asked for is written, a line of JSON each")
    ] = None
    allow_unauthenticated: Annotated[bool, Doc("serve other machines although anybody could then run code here")] = (
        False
    )
    allowed_hosts: Annotated[tuple[str, ...], Doc("further names by which requests may call a loopback server")] = ()
    slots: Annotated[int, Doc("steps at once; 0 means two for each processor")] = 0
    queue_patience_s: Annotated[float, Doc("how long a step waits for a slot before it is refused")] = 8.0
    body_bytes_max: Annotated[int, Doc("largest request body")] = 64 * _MIB
    retention_s: Annotated[float, Doc("how long an expired session is kept")] = 7 * 86400.0
    gc_period_s: Annotated[float, Doc("time between removals of what nothing needs; 0: only by `psf store gc`")] = (
        86400.0
    )
    interpreter: Annotated[str | None, Doc("the Python that programs get, an absolute path")] = None
    runtimes: Annotated[str | None, Doc("TOML file with further languages")] = None
    read_only_paths: Annotated[tuple[str, ...], Doc("host folders that programs may read, where they are")] = ()
    executor: Annotated[
        str,
        Doc(
            "the sandbox to use: docker, bubblewrap, nsjail, or a plug-in by its name; auto: the first of these three that works here"
        ),
    ] = "auto"
    bubblewrap: Annotated[str | None, Doc("the bwrap to use (0.11 or newer)")] = None
    nsjail: Annotated[str | None, Doc("the nsjail to use")] = None
    sandbox_options: Annotated[
        tuple[str, ...], Doc("what else to tell a sandbox, as NAME.OPTION=VALUE, such as docker.image=psf/pybash")
    ] = ()
    sandbox_uid: Annotated[int | None, Doc("user id of programs when psf runs as root")] = None
    workspace: Annotated[Literal["auto", "overlay", "copy"], Doc("how trees become directories")] = "auto"
    workspace_bytes_max: Annotated[int, Doc("disk that directories kept between steps may take together")] = (
        16384 * _MIB
    )
    wall_time_s: Annotated[float, Doc("time of a stage that asks for none")] = 10.0
    wall_time_s_max: Annotated[float, Doc("longest time a stage may ask for")] = 3600.0
    cpu_time_s: Annotated[int, Doc("processor time of a stage")] = 3600
    cpu_time_s_max: Annotated[int, Doc("most processor time a stage may ask for")] = 36_000
    memory_bytes: Annotated[int, Doc("memory of a run that asks for none")] = 2048 * _MIB
    memory_bytes_max: Annotated[int, Doc("most memory a run may ask for")] = 16384 * _MIB
    processes: Annotated[int, Doc("processes of a run")] = 128
    processes_max: Annotated[int, Doc("most processes a run may ask for")] = 1024
    output_kept_bytes: Annotated[int, Doc("bytes kept of each output stream")] = 8 * _MIB
    output_kept_bytes_max: Annotated[int, Doc("most bytes to be kept that a run may ask for")] = 32 * _MIB
    output_flood_bytes: Annotated[int, Doc("bytes of output after which a program is killed")] = 256 * _MIB
    output_flood_bytes_max: Annotated[int, Doc("most bytes of output a run may ask for")] = 4096 * _MIB
    file_bytes: Annotated[int, Doc("largest file a program may write")] = 1024 * _MIB
    file_bytes_max: Annotated[int, Doc("largest file a run may ask for")] = 16384 * _MIB
    scratch_bytes: Annotated[int, Doc("size of a run's scratch folders together")] = 512 * _MIB
    scratch_bytes_max: Annotated[int, Doc("most scratch a run may ask for")] = 4096 * _MIB
    scratch_inodes: Annotated[int, Doc("files and folders in scratch")] = 100_000
    scratch_inodes_max: Annotated[int, Doc("most files in scratch a run may ask for")] = 1_000_000
    open_files: Annotated[int, Doc("files that each process may have open")] = 1024
    open_files_max: Annotated[int, Doc("most open files a run may ask for")] = 4096
    disk_bytes: Annotated[int, Doc("what a run may add to the work directory")] = 8192 * _MIB
    disk_bytes_max: Annotated[int, Doc("most disk a run may ask for")] = 65536 * _MIB
    disk_inodes: Annotated[int, Doc("files and folders that a run may add to the work directory")] = 200_000
    disk_inodes_max: Annotated[int, Doc("most files in the work directory a run may ask for")] = 1_000_000
    cpus: Annotated[float | None, Doc("how many processors' time a run gets")] = None
    cpus_max: Annotated[float | None, Doc("most processors a run may ask for")] = None
    tenant_sessions_max: Annotated[int, Doc("sessions that each tenant may have")] = 1_000_000
    tenant_steps_max: Annotated[int, Doc("steps of each tenant that run or wait at once")] = 10_000
    memo_audit_rate: Annotated[
        float, Doc("share of steps that the memo knows and that run all the same, to be compared")
    ] = 0.01
    docker_images: Annotated[
        tuple[str, ...], Doc("images that sessions may ask for beside the server's own (docker)")
    ] = ()
    allow_egress: Annotated[bool, Doc("let calls ask for a network that leads beyond this machine")] = False
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Doc("what the log on stderr shows")] = "info"

    def slots_here(self) -> int:
        return self.slots or 2 * (os.cpu_count() or 1)

    def heads_in_redis(self) -> RedisSettings | None:
        """Where heads are, unless they are in the store."""
        if self.redis_url is None:
            return None
        return RedisSettings(self.redis_url, self.redis_prefix, self.redis_durability)


_COMMON_REDIS_URL = "REDIS_URL"
"""As many programs have it; our own variable, a flag and the file come before it."""
_REDIS_PREFIX = re.compile(r"[\w.:-]{1,100}")
_NUMBER_MAX = 1 << 50
_MAXIMA = {"port": 65535, "sandbox_uid": (1 << 32) - 2}
_MEMORY_BYTES_MIN = 16 * _MIB
_MEMORIES = ("memory_bytes", "memory_bytes_max")
_PATHS = ("store", "tokens", "audit_log", "interpreter", "runtimes", "read_only_paths", "bubblewrap", "nsjail")
_NO_SETTINGS = frozenset({"PSF_CONFIG", "PSF_URL", "PSF_TOKEN"})
"""Where settings are, and what clients are told: which server, and by what token."""
_OPTION = re.compile(r"[\w-]+\.[\w-]+=.+", re.DOTALL)
_BEFORE_OPTION = r",(?=[\w-]+\.[\w-]+=)"
_BOOLEANS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_POSITIVE = ("sandbox_uid", "workspace_bytes_max", "queue_patience_s", "body_bytes_max")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each setting, and `--config`."""
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings (or PSF_CONFIG)")
    defaults = Settings()
    for name, kind in _kinds().items():
        default = getattr(defaults, name)
        shown = f"{_doc(name)} (default: {default})" if default not in (None, (), False) else _doc(name)
        flag = "--" + name.replace("_", "-")
        if kind is bool:
            parser.add_argument(flag, dest=name, action="store_const", const="true", help=shown)
        else:
            parser.add_argument(flag, dest=name, metavar=_word(kind), help=shown)


def load(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Settings from all sources. Raises ConfigurationError, naming the setting and where it came from."""
    values: dict[str, Any] = {}
    file = flags.get("config") or environment.get("PSF_CONFIG")
    if file:
        values |= _from_file(Path(file))
    if "redis_url" not in values and environment.get(_COMMON_REDIS_URL):
        values["redis_url"] = _convert("redis_url", environment[_COMMON_REDIS_URL], _COMMON_REDIS_URL)
    names = set(Settings.__struct_fields__)
    for variable, text in environment.items():
        if variable.startswith("PSF_") and variable not in _NO_SETTINGS and not variable.startswith("PSF_TEST_"):
            name = variable.removeprefix("PSF_").lower()
            if name not in names:
                raise ConfigurationError(f"{variable}: {_no_setting(name)}")
            values[name] = _convert(name, text, variable)
    for name in names:
        if flags.get(name) is not None:
            values[name] = _convert(name, flags[name], "--" + name.replace("_", "-"))
    return _checked(msgspec.convert(values, Settings))


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _from_file(path: Path) -> dict[str, Any]:
    try:
        given = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"config: {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from None
    for name, value in given.items():
        if name not in Settings.__struct_fields__:
            raise ConfigurationError(f"{path}: {_no_setting(name)}")
        given[name] = _convert(name, value, str(path))
    return given


def _no_setting(name: str) -> str:
    """That there is none of this name, and which was probably meant."""
    near = difflib.get_close_matches(name, Settings.__struct_fields__, 1)
    guess = f" (is {near[0]} meant?)" if near else ""
    return f"there is no setting {name!r}{guess}; `psf serve --help` lists them"


def _convert(name: str, value: Any, source: str) -> Any:
    kind = get_type_hints(Settings)[name]
    if isinstance(value, str) and get_origin(kind) is tuple:
        # What an option says may hold commas itself, as networks do.
        comma = _BEFORE_OPTION if name == "sandbox_options" else ","
        value = [part for part in re.split(comma, value.rstrip(",")) if part]
    if isinstance(value, str) and kind is bool:
        value = _BOOLEANS.get(value.lower(), value)
    try:
        converted = msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        raise ConfigurationError(f"{name}: must be {_expected(kind)}, not {value!r} (from {source})") from None
    if name in _PATHS:
        converted = _expanded(converted)
    if fault := _fault(name, converted):
        raise ConfigurationError(f"{name}: {fault}, not {converted!r} (from {source})")
    return converted


def _expanded(value: Any) -> Any:
    """Paths as a shell would have them: a folder called `~` is never meant."""
    if isinstance(value, tuple):
        return tuple(map(_expanded, value))
    return os.path.abspath(os.path.expanduser(value)) if value else value


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if type(None) in get_args(kind):
        kind = get_args(kind)[0]
    words = {int: "a whole number", float: "a number", bool: "true or false"}
    return words.get(kind, "a list of texts" if get_origin(kind) is tuple else "a text")


def _fault(name: str, value: Any) -> str | None:
    if name == "sandbox_options" and not all(map(_OPTION.fullmatch, value)):
        return "must be texts like docker.image=psf/pybash, NAME.OPTION=VALUE"
    if name == "redis_prefix" and not _REDIS_PREFIX.fullmatch(value):
        return "must be letters, digits, and the characters . _ : -"
    if value == "":
        return "must say something"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    maximum = _MAXIMA.get(name, _NUMBER_MAX)
    if name in _MEMORIES and value < _MEMORY_BYTES_MIN:
        return f"must be at least {_MEMORY_BYTES_MIN}: no program starts in less"
    if name.removesuffix("_max") in asked.NAMES:
        return _limit_fault(name.removesuffix("_max"), value)
    if name in _POSITIVE and not 0 < value <= maximum:
        return f"must be greater than 0 and at most {maximum}"
    return None if 0 <= value <= maximum else f"must be at least 0 and at most {maximum}"


def _limit_fault(name: str, value: float) -> str | None:
    try:
        msgspec.convert({name: value}, asked.AskedLimits)
    except msgspec.ValidationError as error:
        return re.sub(r"Expected `[^`]+` (.*) - at .*", r"must be \1", str(error))
    return None


def _checked(settings: Settings) -> Settings:
    if not is_loopback(settings.host) and settings.tokens is None and not settings.allow_unauthenticated:
        raise ConfigurationError(
            f"host: {settings.host} would let other machines run code here without a password;"
            " add --tokens FILE (`psf token NAME` makes one), or --allow-unauthenticated if that is meant"
        )
    return settings


def _kinds() -> dict[str, Any]:
    return get_type_hints(Settings)


def _doc(name: str) -> str:
    hint = get_type_hints(Settings, include_extras=True)[name]
    return next(part.text for part in get_args(hint) if isinstance(part, Doc))


def _word(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if get_origin(kind) is tuple:
        return "A,B"
    return "NUMBER" if {int, float} & {kind, *get_args(kind)} else "TEXT"
