"""Live workspaces for tests: mounts them as the executor will, does file operations inside, and says what is visible.

Mounting happens in a helper process with a mount namespace of its own, so nothing is ever left mounted. This file is both the
helper's program and the tests' handle on it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import select
import shutil
import socket
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

PATIENCE_S = 60.0
Operation = tuple[Any, ...]
"""A verb and its arguments; see `_OPERATIONS`. Paths are bytes below the work directory."""

_SYSCALLS = {"move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432}
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE, _MS_BIND, _AT_FDCWD = 0x20000, 0x4000, 1 << 18, 4096, -100


class Visible(NamedTuple):
    """One name as a program sees it. `content` is a file's bytes or a symlink's target; None for a directory."""

    kind: int
    content: bytes | None
    mode: int
    time_ns: int
    owner: int
    attributes: tuple[str, ...] = ()


class Mounted(NamedTuple):
    """What to mount where: an overlay (lowers, upper and work relative to `folder`), or `folder` itself without lowers."""

    folder: str
    lowers: tuple[str, ...]
    target: str
    attributes: str


class Live:
    """The handle: one helper process, one request at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=True
        )

    def run(self, mounted: Mounted, operations: list[Operation]) -> list[int]:
        """Do the operations in the mounted directory; the errno of each, 0 for success."""
        answer: list[int] = self._ask((mounted, operations, False))
        return answer

    def walk(self, mounted: Mounted) -> dict[bytes, Visible]:
        """Everything that is visible, by path; the work directory itself is b''."""
        return {path: Visible(*seen) for path, seen in self._ask((mounted, [], True)).items()}

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def _ask(self, request: tuple[Mounted, list[Operation], bool]) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        # Plain tuples only: the helper knows this module by another name.
        pickle.dump((tuple(request[0]), *request[1:]), self._process.stdin)
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], PATIENCE_S)[0]:
            self._process.kill()
            raise TimeoutError(f"the helper does not come back from {request}")
        answer = pickle.load(self._process.stdout)
        if isinstance(answer, Exception):
            raise answer
        return answer


def why_no_overlay(folder: Path) -> str | None:
    """Why overlays cannot be mounted here; None when they can."""
    if os.geteuid() != 0:
        return "overlay mounts with trusted attributes need root"
    for name in ("lower", "upper", "work", "mnt"):
        (folder / name).mkdir()
    live = Live()
    try:
        live.walk(Mounted(str(folder), ("lower",), str(folder / "mnt"), "trusted"))
    except (OSError, EOFError) as error:
        return f"no overlay can be mounted: {error}"
    finally:
        live.close()
    return None


def as_user(uid: int, task: Callable[[], object]) -> None:
    """Run `task` in a child as a user without any rights; what it raises becomes a failure here."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            task()
            status = 0
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        message = told.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    assert status == 0, f"as user {uid}: {message}"


# -- the helper ---------------------------------------------------------------------------------------------------------


def main() -> None:
    os.umask(0o022)
    _in_own_mount_namespace()
    while True:
        try:
            mounted, operations, walk = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: object
        try:
            answer = _serve(Mounted(*mounted), operations, walk)
        except Exception as error:
            answer = OSError(getattr(error, "errno", None) or 5, repr(error))
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _serve(mounted: Mounted, operations: list[Operation], walk: bool) -> object:
    _mount(mounted)
    try:
        os.chdir(mounted.target)
        if walk:
            return {path: tuple(seen) for path, seen in _walk(b"").items()}
        return [_attempt(operation) for operation in operations]
    finally:
        os.chdir("/")
        _check(_libc.umount2(os.fsencode(mounted.target), 0), "umount")


_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _call(name: str, *arguments: int | bytes | None) -> int:
    converted = [
        ctypes.c_char_p(value) if isinstance(value, bytes | None) else ctypes.c_long(value) for value in arguments
    ]
    return _check(_libc.syscall(ctypes.c_long(_SYSCALLS[name]), *converted), f"{name} {arguments}")


def _in_own_mount_namespace() -> None:
    if os.geteuid() == 0:
        _check(_libc.unshare(_CLONE_NEWNS), "unshare")
        _check(_libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None), "private")


def _mount(mounted: Mounted) -> None:
    if not mounted.lowers:
        source, target = os.fsencode(mounted.folder), os.fsencode(mounted.target)
        _check(_libc.mount(source, target, None, ctypes.c_ulong(_MS_BIND), None), "bind")
        return
    os.chdir(mounted.folder)
    context = _call("fsopen", b"overlay", 1)
    try:
        for lower in mounted.lowers:
            _call("fsconfig", context, 1, b"lowerdir+", os.fsencode(lower), 0)
        _call("fsconfig", context, 1, b"upperdir", b"upper", 0)
        _call("fsconfig", context, 1, b"workdir", b"work", 0)
        _call("fsconfig", context, 0, b"volatile", None, 0)
        if mounted.attributes == "user":
            _call("fsconfig", context, 0, b"userxattr", None, 0)
        else:
            _call("fsconfig", context, 1, b"redirect_dir", b"on", 0)
            _call("fsconfig", context, 1, b"metacopy", b"off", 0)
        _call("fsconfig", context, 6, None, None, 0)
        mount = _call("fsmount", context, 1, 0)
        try:
            _call("move_mount", mount, b"", _AT_FDCWD, os.fsencode(mounted.target), 4)
        finally:
            os.close(mount)
    finally:
        os.close(context)


def _walk(folder: bytes) -> dict[bytes, Visible]:
    status = os.lstat(folder or b".")
    mode = stat.S_IMODE(status.st_mode)
    attributes = tuple(os.listxattr(folder or b"."))
    found = {folder: Visible(stat.S_IFDIR, None, mode, status.st_mtime_ns, status.st_uid, attributes)}
    for name in os.listdir(folder or b"."):
        path = folder + b"/" + name if folder else name
        status = os.lstat(path)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            found |= _walk(path)
            continue
        content: bytes | None = None
        if kind == stat.S_IFREG:
            content = Path(os.fsdecode(path)).read_bytes()
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        mode = 0 if kind == stat.S_IFLNK else stat.S_IMODE(status.st_mode)
        attributes = tuple(os.listxattr(path, follow_symlinks=False))
        found[path] = Visible(kind, content, mode, status.st_mtime_ns, status.st_uid, attributes)
    return found


def _attempt(operation: Operation) -> int:
    verb, *arguments = operation
    try:
        _OPERATIONS[verb](*arguments)
    except OSError as error:
        return error.errno or -1
    return 0


_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK
"""A FIFO that an earlier operation made has no reader, and would be waited for for ever."""


def _write(path: bytes, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _SAFELY, 0o644)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _append(path: bytes, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | _SAFELY)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _remove_tree(path: bytes) -> None:
    # rmtree opens what it is given, and would wait for ever for the writer of a FIFO.
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    shutil.rmtree(path)


def _move(source: bytes, target: bytes) -> None:
    """Rename, or copy and delete as mv does where the kernel cannot rename a directory of a lower layer."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != 18 or (target + b"/").startswith(source + b"/"):
            raise
        if os.path.isdir(target) and not os.path.islink(target):
            os.rmdir(target)
        _copy(source, target)
        shutil.rmtree(source)


def _copy(source: bytes, target: bytes) -> None:
    mode = os.lstat(source).st_mode
    if stat.S_ISDIR(mode):
        os.mkdir(target)
        for name in os.listdir(source):
            _copy(source + b"/" + name, target + b"/" + name)
    elif stat.S_ISLNK(mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(mode):
        shutil.copyfile(source, target)
        os.chmod(target, stat.S_IMODE(mode))
    else:
        os.mknod(target, mode)


def _socket(path: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)


def _chmod(path: bytes, mode: int) -> None:
    if not os.path.islink(path):
        os.chmod(path, mode)


_OPERATIONS: dict[str, Any] = {
    "write": _write,
    "append": _append,
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "remove_tree": _remove_tree,
    "mkdir": os.mkdir,
    "makedirs": os.makedirs,
    "rename": os.rename,
    "move": _move,
    "chmod": _chmod,
    "symlink": lambda path, target: os.symlink(target, path),
    "link": lambda source, target: os.link(source, target, follow_symlinks=False),
    "fifo": os.mkfifo,
    "socket": _socket,
    "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "attribute": lambda path, name, value: os.setxattr(path, name, value),
    "time": lambda path, time_s: os.utime(path, (time_s, time_s)),
}

if __name__ == "__main__":
    main()
