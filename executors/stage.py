"""The launcher's own corner of the file system: namespaces that nobody else sees, and a stage in them.

Standard library only. The stage is a small file system in memory, mounted over a folder that every machine has. On it lie what the
sandbox's user must reach although it lies below a private folder on the host, and the mount points of the cells.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from executors import kernel

CANDIDATES = ("/dev/shm", "/mnt", "/media", "/srv")


def enter_namespaces(privileged: bool) -> None:
    if privileged:
        kernel.unshare(kernel.CLONE_NEWNS)
    else:
        uid, gid = os.getuid(), os.getgid()
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path(f"/proc/self/{name}").write_text(text)
    kernel.make_mounts_private()


def mount_stage() -> str:
    """Our own file system over a folder that every machine has and any user can reach; seen in our namespace only."""
    for candidate in CANDIDATES:
        if os.path.isdir(candidate):
            kernel.mount("tmpfs", candidate, [("mode", "0755")])
            return candidate
    raise OSError(f"none of {', '.join(CANDIDATES)} exists, and one is needed as a mount point")


def copy_program(stage: str, program: str, libraries: list[str]) -> str:
    """Copy what confines to where the sandbox's user can reach it: a virtual environment may lie below a private home."""
    os.mkdir(f"{stage}/program")
    for source in (program, *libraries):
        target = f"{stage}/program/{os.path.basename(source)}"
        Path(target).write_bytes(Path(source).read_bytes())
        os.chmod(target, 0o755)
    return f"{stage}/program/{os.path.basename(program)}"


def cover(folder: str, uid: int, gid: int) -> None:
    """A small file system of the sandbox's user over a folder of the host; seen in our namespace only."""
    kernel.mount("tmpfs", folder, [("size", "1m"), ("mode", "0700"), ("uid", str(uid)), ("gid", str(gid))])


def show(stage: str, name: str, source: str) -> None:
    """Show a folder of the host on the stage, and through it to programs. Of a file, a copy: a mount less for each run."""
    target = f"{stage}/{name}"
    if not os.path.isdir(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).write_bytes(Path(source).read_bytes())
        found = os.stat(source)
        os.chmod(target, found.st_mode & 0o755)
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
        return
    os.makedirs(target, exist_ok=True)
    if target.endswith(source):
        kernel.bind(source, target)  # programs see it under its own name; with all that is mounted in it
        return
    if not _overlaid(stage, source, target):
        kernel.bind(source, target)


class Views:
    """Views of the system's folders on the stage, each for one cell at a time: what is watched or locked in one is so in no other.

    A program may watch and lock whatever file it can read. In the machine's own folders it would see which files others open
    there, and keep locks from them. Views are kept, since the kernel remembers what was looked up in them.
    """

    def __init__(self, stage: str, folders: list[str]) -> None:
        self._stage, self._folders = stage, folders
        self._free: list[str] = []
        self._count = 0

    def lend(self, cell: str) -> None:
        """Show one to a cell, as `system` in its folder."""
        view = self._free.pop() if self._free else self._made()
        os.symlink(f"../{view}", f"{cell}/system")

    def take_back(self, cell: str) -> None:
        self._free.append(os.path.basename(os.readlink(f"{cell}/system")))
        os.unlink(f"{cell}/system")

    def _made(self) -> str:
        self._count += 1
        view = f"view-{self._count}"
        for folder in self._folders:
            target = f"{self._stage}/{view}{folder}"
            os.makedirs(target)
            # With all that is mounted in it, which an overlay does not show.
            if _has_mounts(folder) or not _overlaid(self._stage, folder, target):
                kernel.bind(folder, target)
        return view


def _has_mounts(folder: str) -> bool:
    mounted = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return any(place.startswith(f"{folder}/") for place in mounted)


def _overlaid(stage: str, source: str, target: str) -> bool:
    """Mount an overlay of one folder, which shows nothing of what is mounted below it; whether that worked."""
    # By a relative name, so that the mount table inside the sandbox does not show where it lies on the host.
    os.makedirs(f"{stage}/nothing", exist_ok=True)
    os.chdir(source)
    try:
        kernel.mount("overlay", target, [("lowerdir+", "."), ("lowerdir+", f"{stage}/nothing"), ("userxattr", None)])
    except OSError:
        return False
    finally:
        os.chdir("/")
    return True


def mount_overlay(mount: dict[str, Any], target: str, *, privileged: bool) -> None:
    """Mount the overlay of a workspace (`OverlayMount`). Raises OSError."""
    # By names relative to the workspace, so that the mount table inside the sandbox shows no host path.
    os.chdir(mount["folder"])
    try:
        kernel.mount("overlay", target, overlay_options(mount, privileged=privileged))
    finally:
        os.chdir("/")


def overlay_options(mount: dict[str, Any], *, privileged: bool) -> list[tuple[str, str | None]]:
    """How the kernel is told of it, in names relative to its folder. Pure."""
    return [
        *(("lowerdir+", lower) for lower in mount["lowers"]),
        ("upperdir", mount["upper"]),
        ("workdir", mount["work"]),
        ("volatile", None),
        *([("redirect_dir", "on"), ("metacopy", "off")] if privileged else [("userxattr", None)]),
    ]


def write_text(stage: str, name: str, text: str) -> None:
    """A file, executable when it begins as a script; or, with `-> target`, a symlink."""
    path = f"{stage}/{name}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if text.startswith("-> "):
        os.symlink(text[3:], path)
        return
    Path(path).write_text(text)
    os.chmod(path, 0o755 if text.startswith("#!") else 0o644)
