"""The folders of live processes among the workspaces, and what is left of those that died.

    workspaces/.lock             held while a process sweeps and makes its own folder
    workspaces/<instance>/lock   flocked as long as its process lives; without that the folder is nobody's

A start that finds folders of nobody moves them into its own, to be removed beside its work: a large cache that a crash left
makes no start wait.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store import files as files_module
from store.files import PRIVATE_DIRECTORY_MODE, Files

TURN, LOCK, REMOVED = ".lock", "lock", "removed"


def make_instance(root: Path, files: Files) -> tuple[Path, int]:
    """A new folder of this process, with what dead ones left in its `removed`; the descriptor whose lock says that it lives."""
    root.mkdir(parents=True, exist_ok=True)
    with _turn(root):
        dead = [folder for folder in root.iterdir() if folder.name != TURN and not _is_alive(folder / LOCK)]
        path = root / secrets.token_hex(8)
        path.mkdir(mode=PRIVATE_DIRECTORY_MODE)
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        files_module.lock(descriptor, wait=False)
        (path / REMOVED).mkdir(mode=PRIVATE_DIRECTORY_MODE)
        for folder in dead:
            aside = path / REMOVED / folder.name
            files.rename(str(folder), str(aside), source_directory=None, target_directory=None)
    return path, descriptor


def remove_instance(path: Path, descriptor: int, files: Files) -> None:
    """Remove the folder of this process with all that is in it. The lock goes last: without it the folder is nobody's."""
    for item in path.iterdir():
        if item.name != LOCK:
            files.remove_tree(os.fsencode(item))
    with _turn(path.parent):
        files.remove_tree(os.fsencode(path))
        os.close(descriptor)


@contextmanager
def _turn(root: Path) -> Iterator[None]:
    descriptor = os.open(root / TURN, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        files_module.lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def _is_alive(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not files_module.lock(descriptor, wait=False)
    finally:
        os.close(descriptor)
