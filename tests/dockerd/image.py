"""An image without a registry: this machine's own Python, shell, tools and their libraries, as a tar for `docker import`.

Deterministic: the same machine gives the same bytes. Times are the machine's own, since Python's compiled caches name them.
"""

from __future__ import annotations

import glob
import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

NAME = "psf-test:machine"
PYTHON = "/usr/bin/python3"
_PROGRAMS = [
    "awk", "basename", "bash", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "diff", "dirname", "du", "echo", "env", "expr", "false", "find", "getent", "grep", "head", "hostname", "id", "kill",
    "ln", "ls", "make", "mkdir", "mkfifo", "mknod", "mktemp", "mount", "mv", "nohup", "od", "printf", "ps", "pwd", "readlink", "realpath", "rm", "rmdir", "sed", "seq", "setsid", "sh", "sha256sum",
    "sleep", "sort", "stat", "stty", "sync", "tail", "tar", "tee", "test", "timeout", "touch", "tr", "true", "truncate", "tty", "umount", "uname", "uniq", "unshare", "wc", "which", "xargs", "yes",
]  # fmt: skip
_LIBRARIES = ("libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1")
"""Loaded by name while programs run (threads that end, wheels), so that no program lists them."""
_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "ensurepip", "tkinter", "dist-packages", "pydoc_data", "turtledemo"}
_FOLDERS = ("usr/sbin", "dev", "proc", "sys", "run", "tmp", "var/tmp", "mnt", "etc", "home")
_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/:/bin/false\nsandbox:x:1000:1000:sandbox:/home/sandbox:/bin/bash\n"
    "nobody:x:65534:65534::/:/bin/false\n",
    "etc/group": "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


def write(target: Path, programs: Sequence[str] = (), files: Iterable[str] = ()) -> None:
    """Write the image's tar, with these programs and files of the machine beside its own."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, link in _merged_folders():
            _add_link(archive, name, link)
        folders: set[str] = set()
        for name in _FOLDERS:
            _add_folders(archive, folders, name)
        for name, text in _TEXTS.items():
            _add_text(archive, name, text)
        for path in sorted(_paths([*_PROGRAMS, *programs], files)):
            name = path.lstrip("/")
            _add_folders(archive, folders, os.path.dirname(name))
            _add_file(archive, path, name)


def _paths(names: list[str], files: Iterable[str]) -> set[str]:
    found: set[str] = {"/etc/ld.so.cache", "/etc/os-release"} & set(map(str, Path("/etc").iterdir()))
    programs = [path for name in names if (path := shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin"))]
    for path in [*programs, PYTHON, *files]:
        _add_with_links(found, path)
    library = Path(os.path.realpath(PYTHON)).parents[1] / "lib" / Path(os.path.realpath(PYTHON)).name
    modules = [
        os.path.join(folder, name)
        for folder, folders, names in os.walk(library)
        for name in (names if _kept(folders) else ())
    ]
    for path in modules:
        _add_with_links(found, path)
    for folder in ("/lib", "/usr/lib", *glob.glob("/usr/lib/*-linux-gnu")):
        for name in _LIBRARIES:
            if os.path.exists(f"{folder}/{name}"):
                _add_with_links(found, f"{folder}/{name}")
    linked = [path for path in found if not os.path.islink(path) and (os.access(path, os.X_OK) or path.endswith(".so"))]
    for path in _libraries(linked):
        _add_with_links(found, path)
    return found


def _kept(folders: list[str]) -> bool:
    """Make os.walk pass by what nobody needs."""
    folders[:] = [name for name in folders if name not in _LEFT_OUT and not name.startswith("config-")]
    return True


def _add_with_links(found: set[str], path: str) -> None:
    """A path, and where it leads if it is a link; folders by their real names, since /bin may be one with /usr/bin."""
    folder, name = os.path.split(path)
    path = os.path.join(os.path.realpath(folder), name)
    found.add(path)
    if os.path.islink(path):
        _add_with_links(found, os.path.join(os.path.dirname(path), os.readlink(path)))


def _libraries(paths: list[str]) -> set[str]:
    # ldd complains about scripts, and of every file apart from the others; what it finds is what counts.
    said = subprocess.run(["ldd", *sorted(paths)], capture_output=True, text=True).stdout
    return set(re.findall(r"(/\S+) \(0x", said))


def _merged_folders() -> list[tuple[str, str]]:
    names = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
    return [(name, os.readlink(f"/{name}")) for name in names if os.path.islink(f"/{name}")]


def _add_link(archive: tarfile.TarFile, name: str, link: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, link
    archive.addfile(entry)


def _add_folders(archive: tarfile.TarFile, done: set[str], name: str) -> None:
    for number in range(1, len(parts := name.split("/")) + 1):
        folder = "/".join(parts[:number])
        if folder and folder not in done:
            done.add(folder)
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(text)
    archive.addfile(entry, io.BytesIO(text.encode()))


def _add_file(archive: tarfile.TarFile, path: str, name: str) -> None:
    if os.path.islink(path):
        _add_link(archive, name, os.readlink(path))
        return
    entry = tarfile.TarInfo(name)
    status = os.stat(path)
    entry.size, entry.mode, entry.mtime = status.st_size, status.st_mode & 0o755, int(status.st_mtime)
    with open(path, "rb") as file:
        archive.addfile(entry, file)
