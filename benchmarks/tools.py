"""The other side: git, restic and borg as programs, pygit2 in this process. All look at the same directory, each into its own store.

Each syncs as it does by default, and git and pygit2 a second time with every object synced, which is what psf promises.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.trees import SourceTree


class Tool(ABC):
    """One store of one tool, for one source tree. `level` says what it makes durable before it answers."""

    name: ClassVar[str]
    level: ClassVar[str]
    package: ClassVar[str]
    """What to install where it is missing, and the command or module that shows it."""
    shown_by: ClassVar[str]

    def __init__(self, folder: Path, tree: SourceTree) -> None:
        self.store, self.tree = folder / self.name.replace(" ", "-").replace(",", ""), tree
        self.number = 0

    @classmethod
    def missing(cls) -> str | None:
        return None if shutil.which(cls.shown_by) else f"{cls.name}: `apt-get install {cls.package}`"

    def reset(self) -> None:
        """An empty store."""
        shutil.rmtree(self.store, ignore_errors=True)
        self.store.mkdir(parents=True)
        self.number = 0
        self.make()

    def run(self, *arguments: str, folder: Path | None = None) -> str:
        """Run the tool; its output. Raises CalledProcessError."""
        command = [self.shown_by, *arguments]
        done = subprocess.run(
            command, cwd=folder or self.tree.path, env=self.environment(), check=True, capture_output=True, text=True
        )
        return done.stdout

    def snapshot(self) -> None:
        self.number += 1
        self.take()

    @abstractmethod
    def environment(self) -> dict[str, str]: ...
    @abstractmethod
    def make(self) -> None: ...
    @abstractmethod
    def take(self) -> None: ...
    @abstractmethod
    def restore(self, target: Path, back: int = 0) -> None:
        """The last snapshot, or the one `back` before it, into a directory that is empty or holds another one."""

    @abstractmethod
    def diff(self) -> str: ...
    @abstractmethod
    def mark(self) -> None: ...
    @abstractmethod
    def check(self) -> None: ...
    def forget(self, target: Path) -> None:
        """Remove what `restore` made."""
        shutil.rmtree(target, ignore_errors=True)


class Git(Tool):
    name, level, package, shown_by = "git", "as git does: packs, not loose objects", "git", "git"
    settings: ClassVar[dict[str, str]] = {"gc.auto": "0", "maintenance.auto": "false"}

    def environment(self) -> dict[str, str]:
        who = {f"GIT_{role}_{what}": "psf@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        nobody = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        return {**os.environ, **who, **nobody, "GIT_DIR": str(self.store), "GIT_WORK_TREE": str(self.tree.path)}

    def make(self) -> None:
        self.run("init", "--quiet")
        for key, value in self.settings.items():
            self.run("config", key, value)

    def take(self) -> None:
        self.run("add", "-A")
        self.run("commit", "--quiet", "-m", str(self.number))

    def restore(self, target: Path, back: int = 0) -> None:
        if not target.exists():
            subprocess.run(
                ["git", "--git-dir", str(self.store), "worktree", "add", "--quiet", "--detach", str(target), "HEAD"],
                env=self._elsewhere(),
                check=True,
                capture_output=True,
            )
            return
        command = ["git", "checkout", "--quiet", "--detach", f"{self._newest()}~{back}"]
        subprocess.run(command, cwd=target, env=self._elsewhere(), check=True, capture_output=True)

    def _newest(self) -> str:
        return (self.store / (self.store / "HEAD").read_text().removeprefix("ref:").strip()).read_text().strip()

    def _elsewhere(self) -> dict[str, str]:
        return {key: value for key, value in self.environment().items() if key not in ("GIT_DIR", "GIT_WORK_TREE")}

    def forget(self, target: Path) -> None:
        super().forget(target)
        self.run("worktree", "prune")

    def diff(self) -> str:
        return self.run("diff-tree", "-r", "--name-status", "HEAD~1", "HEAD")

    def mark(self) -> None:
        self.run("rev-list", "--objects", "--all")

    def check(self) -> None:
        self.run("fsck", "--full", "--no-progress")


class GitSynced(Git):
    name, level = "git, synced", "every object (core.fsync=all, in batches)"
    settings: ClassVar[dict[str, str]] = {**Git.settings, "core.fsync": "all", "core.fsyncMethod": "batch"}


class PyGit2(Git):
    """libgit2 in this process, told which file changed: git's way of storing without its programs and its look at every file."""

    name, level, package, shown_by = "pygit2", "nothing", "pygit2", "git"
    synced: ClassVar[bool] = False

    @classmethod
    def missing(cls) -> str | None:
        if Git.missing():
            return Git.missing()
        try:
            importlib.import_module("pygit2")
        except ImportError:
            return "pygit2: `.venv/bin/python -m pip install -r benchmarks/requirements.lock`"
        return None

    def take(self) -> None:
        if self.number == 1:
            super().take()
            self._library: Any = importlib.import_module("pygit2")
            self._repository = self._library.Repository(str(self.store))
            return
        self._library.settings.enable_fsync_gitdir(self.synced)
        repository, index = self._repository, self._repository.index
        index.add(self.tree.changed)
        index.write()
        who = self._library.Signature("psf", "psf@localhost")
        repository.create_commit("HEAD", who, who, str(self.number), index.write_tree(), [repository.head.target])


class PyGit2Synced(PyGit2):
    name, level, synced = "pygit2, synced", "every object (fsync_gitdir)", True


class Restic(Tool):
    name, level, package, shown_by = "restic", "everything", "restic", "restic"

    def environment(self) -> dict[str, str]:
        where = {"RESTIC_REPOSITORY": f"{self.store}/repository", "RESTIC_CACHE_DIR": f"{self.store}/cache"}
        return {**os.environ, **where, "RESTIC_PASSWORD": "benchmark"}

    def make(self) -> None:
        self._snapshots: list[str] = []
        self.run("init", "--quiet")

    def take(self) -> None:
        summary = json.loads(self.run("backup", "--json", ".").splitlines()[-1])
        self._snapshots.append(summary["snapshot_id"])

    def restore(self, target: Path, back: int = 0) -> None:
        self.run("restore", "--quiet", self._snapshots[-1 - back], "--target", str(target))

    def diff(self) -> str:
        return self.run("diff", *self._snapshots[-2:])

    def mark(self) -> None:
        self.run("prune", "--dry-run", "--quiet")

    def check(self) -> None:
        self.run("check", "--read-data", "--quiet")


class Borg(Tool):
    name, level, package, shown_by = "borg", "everything", "borgbackup", "borg"

    def environment(self) -> dict[str, str]:
        said = {f"BORG_{what}_REPO_ACCESS_IS_OK": "yes" for what in ("UNKNOWN_UNENCRYPTED", "RELOCATED")}
        return {**os.environ, **said, "BORG_REPO": f"{self.store}/repository", "BORG_BASE_DIR": str(self.store)}

    def make(self) -> None:
        self.run("init", "--encryption", "none")

    def take(self) -> None:
        self.run("create", f"::{self.number}", ".")

    def restore(self, target: Path, back: int = 0) -> None:
        target.mkdir(exist_ok=True)
        self.run("extract", f"::{self.number - back}", folder=target)

    def diff(self) -> str:
        return self.run("diff", f"::{self.number - 1}", str(self.number))

    def mark(self) -> None:
        raise NotImplementedError("borg counts references instead")

    def check(self) -> None:
        self.run("check", "--verify-data")


TOOLS: tuple[type[Tool], ...] = (Git, GitSynced, PyGit2, PyGit2Synced, Restic, Borg)
SLOW = {"git": 2, "git, synced": 2, "restic": 5, "borg": 5}
"""In each how manieth round a tool's step runs: in a hundred seconds there is no room for more of the slow ones."""
