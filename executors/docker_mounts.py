"""What the launcher mounts into a container, and takes out of it again. Standard library only.

Some functions here make mounts that nobody sees yet, in our own mount namespace; the others run in the container's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from executors import docker_kernel, kernel, stage

_TEXTS_AT = "/dev/shm"
"""Where the files are for a moment before they are shown where they belong: a folder that every container has."""


def work_mount(mount: dict[str, Any]) -> int:
    if "lowers" not in mount:
        return docker_kernel.mount_of(mount["folder"])
    # By names relative to the workspace, so that the mount table inside shows no host path.
    os.chdir(mount["folder"])
    try:
        return kernel.new_mount("overlay", stage.overlay_options(mount, privileged=True))
    finally:
        os.chdir("/")


def scratch_root(folders: dict[str, str]) -> str:
    """Where the whole of scratch is mounted, below one of its own folders, which hides it."""
    return next(reversed(folders))


def attach_scratch(room: int, folders: dict[str, str]) -> None:
    """One file system, so that all folders share its size, shown folder by folder."""
    root = scratch_root(folders)
    kernel.attach(room, root)
    for path, name in folders.items():
        if path != root:
            kernel.bind(f"{root}/{name}", path)
    kernel.bind(f"{root}/{folders[root]}", root)


def show_texts(texts: dict[str, str]) -> None:
    """Have files that psf makes up seen in place of the image's, where the image has such; for as long as the container lives."""
    room = kernel.new_mount("tmpfs", [("size", "256k"), ("mode", "0755")])
    kernel.attach(room, _TEXTS_AT)
    os.close(room)
    for number, (path, text) in enumerate(texts.items()):
        if os.path.isfile(path) and not os.path.islink(path):
            source = Path(f"{_TEXTS_AT}/{number}")
            source.write_text(text)
            kernel.bind(str(source), path)
    kernel.unmount(_TEXTS_AT, detach=True)


def take_away() -> None:
    """Take away what Docker shows beyond what programs need: the machine's devices and groups, and where queues lie.

    Queues would be those of the container's ipc namespace, which is no run's, and carry notes from one to the next.
    """
    kernel.unmount("/sys", detach=True)
    if os.path.ismount("/dev/mqueue"):
        kernel.unmount("/dev/mqueue", detach=True)
        os.rmdir("/dev/mqueue")


def unmount_all(targets: list[str]) -> None:
    """Unmount in this order, all of them. Raises OSError naming those that somebody holds; they are only detached."""
    busy = []
    for target in targets:
        try:
            kernel.unmount(target)
        except OSError:
            kernel.unmount(target, detach=True)
            busy.append(target)
    if busy:
        raise OSError(f"still in use: {', '.join(busy)}")
