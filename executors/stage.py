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
    # By a relative name, so that the mount table inside the sandbox does not show where it lies on the host.
    os.makedirs(f"{stage}/nothing", exist_ok=True)
    os.chdir(source)
    try:
        kernel.mount("overlay", target, [("lowerdir+", "."), ("lowerdir+", f"{stage}/nothing"), ("userxattr", None)])
    except OSError:
        kernel.bind(source, target)
    finally:
        os.chdir("/")


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
