"""Folders of ours on the host that the daemon shows in containers: scratch for each cell, and the files that psf makes up."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from executors import instance
from executors.paths import SCRATCH
from executors.profile import User
from store.files import Files

_PREFIX = "docker-"


class HostFolders:
    """All of one sandbox's, below a folder whose name says whose they are. What dead servers left beside it is removed."""

    def __init__(self, parent: Path, texts: dict[str, str], user: User) -> None:
        _sweep(parent)
        self._user, self._root = user, parent / f"{_PREFIX}{instance.own_name()}-{secrets.token_hex(4)}"
        self._root.mkdir(parents=True)
        self.texts = {path: self._written(number, text) for number, (path, text) in enumerate(texts.items())}
        """Where the files lie: path inside -> path on the host."""

    def make_scratch(self) -> Path:
        """A new folder with an empty one for each scratch folder, which belong to the programs' user."""
        folder = self._root / secrets.token_hex(8)
        folder.mkdir(mode=0o755)
        for name in SCRATCH.values():
            path = os.fsencode(folder) + b"/" + name
            os.mkdir(path, 0o755)
            if os.geteuid() == 0:
                os.chown(path, self._user.uid, self._user.gid)
        return folder

    def remove(self, folder: Path | None = None) -> None:
        """Remove a scratch folder, or all there is. Idempotent."""
        with contextlib.suppress(FileNotFoundError):
            Files().remove_tree(os.fsencode(folder or self._root))

    def _written(self, number: int, text: str) -> str:
        path = self._root / f"text-{number}"
        path.write_text(text)
        path.chmod(0o644)
        return str(path)


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        if instance.is_dead(folder.name.removeprefix(_PREFIX)):
            with contextlib.suppress(OSError):
                Files().remove_tree(os.fsencode(folder))
