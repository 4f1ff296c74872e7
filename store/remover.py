"""Removing directories beside the work: whoever gives one up does not wait until it is gone."""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
from pathlib import Path

from store.files import PRIVATE_DIRECTORY_MODE, Files

WAITING_MAX = 10_000
"""Directories that may wait to be removed; whoever gives up one more waits for the first."""

_log = logging.getLogger(__name__)


class Remover:
    """One thread that removes what was moved into `folder`, one after the other. What is there already is removed first.

    What cannot be removed is said in the log and stays there; the next start of psf tries again.
    """

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder, self._files = folder, files
        folder.mkdir(mode=PRIVATE_DIRECTORY_MODE, exist_ok=True)
        self._numbers = itertools.count(1)
        self._waiting: queue.Queue[Path | None] = queue.Queue(WAITING_MAX)
        self._thread = threading.Thread(target=self._work, name="psf-remover", daemon=True)
        self._thread.start()
        for path in list(folder.iterdir()):
            self._waiting.put(path)

    def remove(self, path: Path) -> bool:
        """Take `path`, on the same file system, out of the way; what it holds goes later. False when it could not be moved."""
        aside = self._folder / str(next(self._numbers))
        try:
            self._files.rename(str(path), str(aside), source_directory=None, target_directory=None)
        except OSError as error:
            _log.error("%s cannot be moved out of the way: %s", path, error)
            return False
        self._waiting.put(aside)
        return True

    def wait(self) -> None:
        """Return when all that was given up before the call is gone, or was found to stay."""
        self._waiting.join()

    def close(self) -> None:
        """End the thread, when it has come to the end of what waits."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (path := self._waiting.get()) is not None:
            try:
                self._files.remove_tree(os.fsencode(path))
            except OSError as error:
                _log.error("%s cannot be removed: %s; the next start of psf tries again", path, error)
            finally:
                self._waiting.task_done()
        self._waiting.task_done()
